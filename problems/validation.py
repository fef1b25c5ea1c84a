"""Checks that more than one file makes, and what their errors say."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from pydantic import ValidationError
from torch import Tensor


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
    parts = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "missing":
            parts.append(f"{where} is missing and has no default")
        elif detail["type"] == "value_error":
            reason = str(detail["ctx"]["error"])
            parts.append(f"{where}: {reason}" if where else reason)
        else:
            parts.append(f"{where} is {detail['input']!r}: {detail['msg']}")
    return "; ".join(parts)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that does not exist: the nearest one that does, and all that do."""
    known = sorted(known)
    # CIFAR10 is cifar10, though the two have no letter in common.
    folded = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    suggestion = f"; did you mean {folded[near[0]]!r}?" if near else "."
    return f"there is no {kind} {name!r}{suggestion} Known: {', '.join(known) or 'none'}"
