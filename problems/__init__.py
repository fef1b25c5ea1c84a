"""What is solved: (H + λI) X = B, with H a curvature matrix that is never formed."""

from __future__ import annotations

import sys
from typing import Any

import torch

from problems import discovery
from problems.named import NAMED, resolve
from problems.operators.base import CurvatureOperator
from problems.operators.dense import DenseOperator
from problems.operators.finite_difference import FiniteDifference
from problems.operators.fisher import EmpiricalFisher, MonteCarloFisher
from problems.operators.ggn import GaussNewton
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator
from problems.problem import Columns, Problem, ProblemFamily, from_model
from problems.task import Task
from problems.validation import unknown

__all__ = [
    "Columns",
    "CurvatureOperator",
    "DenseOperator",
    "EmpiricalFisher",
    "FiniteDifference",
    "GaussNewton",
    "Hessian",
    "MonteCarloFisher",
    "NetworkOperator",
    "Problem",
    "ProblemFamily",
    "Task",
    "available",
    "family",
    "from_model",
    "load",
]

ENTRY_POINTS = "ihvp_bench.problems"


def available() -> dict[str, type[ProblemFamily]]:
    """Every problem family there is, by name."""
    return discovery.discover(sys.modules[__name__], ProblemFamily, ENTRY_POINTS)  # type: ignore[type-abstract]


def family(name: str, **parameters: Any) -> ProblemFamily:
    """The family or network `name`, or the family in the file `name`.py, with checked `parameters`.

    Builds nothing; ValueError names what is unknown and suggests the nearest.
    """
    where = f"problem {name}"
    if name not in NAMED and not name.endswith(".py") and name not in (known := available()):
        raise ValueError(unknown("problem", name, [*known, *NAMED]))
    name, parameters = resolve(name, parameters)
    cls = discovery.find(name, sys.modules[__name__], ProblemFamily, ENTRY_POINTS, "problem")  # type: ignore[type-abstract]
    return discovery.construct(cls, parameters, where)


def load(
    name: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **parameters: Any,
) -> Problem:
    """Build the problem `name`; ValueError names what is unknown and suggests the nearest."""
    return family(name, **parameters).build(device=torch.device(device), dtype=dtype, seed=seed)
