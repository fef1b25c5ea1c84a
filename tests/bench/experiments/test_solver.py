"""The solver that a study's text names."""

from __future__ import annotations

import pytest

import solvers
from bench.experiments._solver import solver_of


def test_a_text_names_a_solver_with_its_settings() -> None:
    assert solver_of("cg:tolerance=0.25") == solvers.load("cg", tolerance=0.25)
    assert solver_of("cg") == solvers.load("cg")
    with pytest.raises(ValueError, match="no solver 'gc'"):
        solver_of("gc")
