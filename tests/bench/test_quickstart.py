"""What the quickstart shows of accuracy, on the problems and with the settings it uses."""

import pytest
import torch

import solvers
from bench.experiment import load_experiment, plan
from solvers import solve

FAMILIES = plan(load_experiment("quickstart")).families


@pytest.mark.parametrize("label", list(FAMILIES))
def test_direct_and_krylov_solvers_agree_with_the_reference(label: str) -> None:
    """To max(1e-8, 2κ·tolerance): a relative residual r means a relative error of at most κ·r."""
    tolerance = 1e-10
    problem = FAMILIES[label].build(device=torch.device("cpu"), dtype=torch.float64, seed=0)
    assert problem.condition_number is not None
    bound = max(1e-8, 2 * problem.condition_number * tolerance)
    settings = {"exact": {}, "cg": {"tolerance": tolerance}, "scipy_minres": {"tolerance": tolerance}}
    for name, values in settings.items():
        solution = solve(problem, solvers.load(name, **values))
        assert solution.usable, solution.reason
        assert solution.error is not None
        assert solution.error.max() <= bound, name
