"""A check that studies share."""

from __future__ import annotations

from problems.spectrum.summary import SMALLEST_BUDGET


def check_budget(budget: float) -> None:
    """Raise ValueError for fewer gradient equivalents than a measured spectrum takes."""
    if not SMALLEST_BUDGET <= budget < float("inf"):
        raise ValueError(
            f"budget is {budget:g} gradient equivalents; a spectrum takes at least {SMALLEST_BUDGET:g}"
        )
