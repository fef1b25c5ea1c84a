"""Checks that more than one file makes, and what their errors say."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

# What pydantic's kinds of errors ask for, by how their names begin.
_KINDS: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string_type": "text",
    "tuple": "a list, as in [1,2]",
    "list": "a list, as in [1,2]",
    "dict": "a table of names and values",
    "model": "a table of names and values",
}
# Types as pydantic names them in the place of a value that may be of one or another.
_TYPES = {"int", "float", "str", "bool", "tuple", "list", "dict", "literal", "constrained", "finite"}


def check_finite(name: str, values: Tensor) -> None:
    """Raise ValueError, naming the values, if any of them is NaN or inf."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name}: {bad} of {values.numel()} numbers are NaN or inf; all must be finite")


def check_damping(damping: float) -> None:
    """Raise ValueError unless λ is a finite number > 0."""
    if not 0 < damping < float("inf"):
        raise ValueError(f"damping is {damping}; λ must be a finite number > 0, in units of H")


def check_counts(**counts: int) -> None:
    """Raise ValueError for the first count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")


def explain(error: ValidationError) -> str:
    """What pydantic found wrong, in one line: each value's place, what was given and what is allowed."""
    parts: list[str] = []
    for where, details in _by_value(error).items():
        kind, given = details[0]["type"], details[0]["input"]
        if kind == "missing":
            parts.append(f"{where} is missing and has no default")
        elif kind == "value_error":
            reason = str(details[0]["ctx"]["error"])
            parts.append(f"{where}: {reason}" if where else reason)
        elif kind == "extra_forbidden":
            parts.append(f"{where} is {given!r}, but there is nothing of that name: correct or remove it")
        else:
            needed = [_needed(detail) for detail in details]
            told = f"it must be {' or '.join(dict.fromkeys(needed))}" if all(needed) else details[0]["msg"]
            parts.append(f"{where} is {given!r}; {told}")
    return "; ".join(parts)


def _by_value(error: ValidationError) -> dict[str, list[Any]]:
    """What is wrong with each value, by its place: all that it might have been, where it might be several."""
    details = error.errors()
    of_union = Counter(detail["loc"][:-1] for detail in details if _is_alternative(detail))
    found: dict[str, list[Any]] = {}
    for detail in details:
        place = detail["loc"]
        if _is_alternative(detail) and of_union[place[:-1]] > 1:
            place = place[:-1]
        found.setdefault(".".join(str(part) for part in place), []).append(detail)
    return found


def _is_alternative(detail: Any) -> bool:
    """Whether the last part of its place may be a type of a union, which pydantic writes there."""
    place = detail["loc"]
    return len(place) > 1 and isinstance(place[-1], str) and re.split(r"\W", place[-1])[0] in _TYPES


def _needed(detail: Any) -> str:
    """What a value must be, in words; "" where pydantic's own have to do."""
    kind, told = detail["type"], detail.get("ctx", {})
    for name, words in _KINDS.items():
        if kind.startswith(name):
            return words
    bounds = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [f"{sign} {told[name]:g}" for name, sign in bounds.items() if name in told]
    if limits:
        return limits[0]
    if kind == "literal_error":
        return str(told["expected"])
    if kind == "too_short":
        return f"a list of at least {told['min_length']}"
    if kind == "string_too_short":
        return "some text"
    if kind == "string_pattern_mismatch":
        return f"text of the form {told['pattern']}"
    return ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that does not exist: the nearest one that does, and all that do."""
    known = sorted(known)
    # CIFAR10 is cifar10, though the two have no letter in common.
    folded = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    suggestion = f"; did you mean {folded[near[0]]!r}?" if near else "."
    return f"there is no {kind} {name!r}{suggestion} Known: {', '.join(known) or 'none'}"
