"""What a solve returns: the answer, how it ended, and the way there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import Tensor


class Status(StrEnum):
    """How a solve ended."""

    CONVERGED = "converged"  # every column's recomputed residual is within the tolerance promised
    FINISHED = "finished"  # the schedule ended; no tolerance was promised
    BUDGET_SPENT = "budget_spent"  # steps, work or seconds ran out before the tolerance was reached
    DIVERGED = "diverged"  # the answer is worse than none, or not finite
    BREAKDOWN = "breakdown"  # the method could not go on
    SKIPPED = "skipped"  # the solver does not apply to the problem
    FAILED = "failed"  # the solver raised an exception


def largest(values: list[float]) -> float:
    """The largest, or NaN where one is NaN. Plain numbers: a tensor operation on k of them costs more."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def worst(values: Tensor | None) -> float | None:
    """The largest of the columns' values (k,), or None where there are none."""
    return None if values is None else largest(values.tolist())


@dataclass(frozen=True)
class Record:
    """One recorded iterate: cost since the solve began, set-up apart, and accuracy of the worst column.

    `residual` is the recurrence's own, `error` and `energy_error` are relative and against the reference;
    None where there is none.
    """

    step: int
    work: float
    seconds: float
    residual: float | None
    error: float | None
    energy_error: float | None


@dataclass(frozen=True, eq=False)
class Solution:
    """`x` (p, k), or None where no iterate was reached, with everything needed to judge it.

    `residual` (k,) is ‖b − (H + λI)x‖/‖b‖ recomputed at the end, apart from work and seconds; `error` and
    `energy_error` (k,) are against the reference, None where it is out of reach. Work is in gradient
    equivalents.
    """

    x: Tensor | None
    status: Status
    reason: str
    history: tuple[Record, ...] = ()
    steps: int = 0
    setup_work: float = 0.0
    work: float = 0.0
    setup_seconds: float = 0.0
    solve_seconds: float = 0.0
    residual: Tensor | None = None
    error: Tensor | None = None
    energy_error: Tensor | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    traceback: str = ""

    @property
    def usable(self) -> bool:
        """Whether x may be used for anything: the solver neither diverged nor failed to give one."""
        return self.x is not None and self.status in (
            Status.CONVERGED,
            Status.FINISHED,
            Status.BUDGET_SPENT,
        )
