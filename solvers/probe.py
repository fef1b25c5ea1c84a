"""Whether a step and a batch size are stable: the recursion with b = 0 must shrink sharp directions."""

from __future__ import annotations

import math

import torch

from problems.operators.base import CurvatureOperator
from solvers.prediction import Schedule

# Enough for what grows at a rate that matters to be seen.
PROBE_STEPS = 32
PROBE_COLUMNS = 2


def probe(
    operator: CurvatureOperator, damping: float, schedule: Schedule, generator: torch.Generator
) -> float:
    """How many times longer up to PROBE_STEPS steps with b = 0 make a vector of sharp directions."""
    assert schedule.batch_size is not None
    z = torch.randn(operator.shape[0], PROBE_COLUMNS, generator=generator, dtype=torch.float64)
    # One product turns it toward large eigenvalues.
    z = operator.minibatch(schedule.batch_size, generator) @ z.to(operator.device, operator.dtype)
    length = z.norm(dim=0)
    # No more than the run itself will make.
    for _ in range(min(PROBE_STEPS, schedule.last)):
        batch = operator.minibatch(schedule.batch_size, generator)
        z = z - schedule.step_size * (batch @ z + damping * z)
    growth = float((z.norm(dim=0) / length.where(length > 0, 1)).max())
    return growth if math.isfinite(growth) else math.inf
