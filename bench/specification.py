"""`name:param=value,...`: how a solver or a problem is written on the command line."""

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
    """Read `lissa:step_size=0.1,num_steps=100`; ValueError shows the form where the text has another."""
    # A path may hold a colon of its own, so that of a plug-in file ends after ".py".
    path = re.match(r"(.*?\.py)(?::|$)", text)
    name = path[1] if path else text.partition(":")[0]
    rest = text[len(name) + 1 :]
    if not name:
        raise ValueError(f"{text!r} names nothing; write NAME or NAME:param=value,param=value")
    settings: dict[str, Any] = {}
    # The commas of a list, [1,4,16], part nothing.
    for part in re.split(r",(?![^\[\]]*\])", rest) if rest else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not key or not equals or not value:
            raise ValueError(f"{part!r} in {text!r} is not param=value; write NAME:param=value,param=value")
        if key in settings:
            raise ValueError(f"{key} is set twice in {text!r}")
        settings[key] = _value(value)
    return Specification(name, settings)


def _value(text: str) -> Any:
    """Numbers, lists, true, false and null as in JSON; anything else is a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
