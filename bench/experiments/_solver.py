"""The solver that a study's text names."""

from __future__ import annotations

import solvers
from problems.specification import parse
from solvers import Solver


def solver_of(text: str) -> Solver:
    """The solver that `text` names as on the command line; ValueError where there is none such."""
    asked = parse(text)
    return solvers.load(asked.name, **asked.settings)
