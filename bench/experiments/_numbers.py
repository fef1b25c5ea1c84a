"""Numbers of rows, where there may be none."""

from __future__ import annotations

from typing import Any

NAN = float("nan")


def number(value: Any) -> float:
    """The number as a float; NaN for None, or for a word such as "full"."""
    return float(value) if isinstance(value, int | float) else NAN
