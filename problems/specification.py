"""`name:param=value,...`: how a solver or a problem is written, on the command line and in a setting."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Specification:
    """A name, or the path of a Python file, with settings."""

    name: str
    settings: dict[str, Any]


def parse(text: str) -> Specification:
    """Read `lissa:step_size=0.1,num_steps=100`, or the same as `lissa(step_size=0.1,num_steps=100)`.

    The second form may stand within the first, as in `cg:preconditioner=nystrom(rank=50)`. ValueError shows
    the form where the text has another.
    """
    # A path may hold a colon of its own, so that of a plug-in file ends after ".py".
    path = re.match(r"(.*?\.py)(?=:|\(|$)", text)
    name = path[1] if path else re.split("[:(]", text, maxsplit=1)[0]
    rest = text[len(name) :]
    if not name:
        raise ValueError(f"{text!r} names nothing; write NAME or NAME:param=value,param=value")
    if rest.startswith("("):
        if not rest.endswith(")"):
            raise ValueError(f"{text!r} lacks the closing bracket; write NAME(param=value,param=value)")
        rest = rest[:-1]
    rest = rest[1:]
    settings: dict[str, Any] = {}
    for part in _parts(rest):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not key or not equals or not value:
            raise ValueError(f"{part!r} in {text!r} is not param=value; write NAME:param=value,param=value")
        if key in settings:
            raise ValueError(f"{key} is set twice in {text!r}")
        settings[key] = _value(value)
    return Specification(name, settings)


def written(specification: Specification) -> str:
    """As `parse` reads it."""
    settings = ",".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for name, value in specification.settings.items()
    )
    return f"{specification.name}:{settings}" if settings else specification.name


def _parts(text: str) -> list[str]:
    """`text` cut at its commas, but not at those of a list, [1,4,16], or of a name's own settings."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts if text else []


def _value(text: str) -> Any:
    """Numbers, lists, true, false and null as in JSON; anything else is a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
