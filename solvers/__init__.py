"""How it is solved: one file per solver, one interface, one driver."""

from __future__ import annotations

import sys
from typing import Any

from problems import discovery
from solvers.driver import Budget, solve
from solvers.solution import Record, Solution, Status
from solvers.solver import Breakdown, Divergence, Example, Iterate, Solver, State

__all__ = [
    "Breakdown",
    "Budget",
    "Divergence",
    "Example",
    "Iterate",
    "Record",
    "Solution",
    "Solver",
    "State",
    "Status",
    "available",
    "find",
    "load",
    "solve",
]

ENTRY_POINTS = "ihvp_bench.solvers"


def available() -> dict[str, type[Solver]]:
    """Every solver there is, by name."""
    return discovery.discover(sys.modules[__name__], Solver, ENTRY_POINTS)  # type: ignore[type-abstract]


def find(name: str) -> type[Solver]:
    """The class of the solver `name`, or of the one in the file `name`.py; ValueError names the nearest."""
    return discovery.find(name, sys.modules[__name__], Solver, ENTRY_POINTS, "solver")  # type: ignore[type-abstract]


def load(name: str, **settings: Any) -> Solver:
    """The solver `name` with `settings`; ValueError names an unknown or missing one."""
    return discovery.construct(find(name), settings, f"solver {name}")
