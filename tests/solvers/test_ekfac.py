"""EK-FAC's own theorem, its bound, what it is worth as a preconditioner, and another library's numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from problems import Problem, from_model
from solvers import solve
from solvers.cg import ConjugateGradient
from solvers.ekfac import EKFAC
from solvers.kfac import KFAC
from solvers.kronecker import length_of_identity
from tests.solvers.test_kfac import DAMPING, data, inverse, network, relative


def random_problem(width: int, features: int, count: int, seed: int, damping: float) -> Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, 3)).double().eval()
    inputs, targets = torch.randn(count, features, dtype=torch.float64), torch.randint(3, (count,))
    queries = (inputs[:1], targets[:1])
    return from_model(model, "cross_entropy", (inputs, targets), queries, damping=damping)


random_networks = given(
    width=st.integers(1, 5), features=st.integers(1, 5), count=st.integers(1, 6), seed=st.integers(0, 99)
)


@settings(max_examples=8, deadline=None)
@random_networks
def test_is_nearer_to_the_blocks_of_h_than_kfac(width: int, features: int, count: int, seed: int) -> None:
    # George et al. 2018: of all diagonals in this basis the nearest in the Frobenius norm.
    problem = random_problem(width, features, count, seed, damping=1.0)
    dense, identity = problem.operator.dense(), torch.eye(problem.size, dtype=torch.float64)
    first = (features + 1) * width
    distances = []
    for solver in (EKFAC(), KFAC()):
        remainder = torch.linalg.inv(inverse(solver, problem)[1]) - identity - dense
        parts = (slice(first), slice(first, None))
        distances.append([float(remainder[part, part].norm()) for part in parts])
    for ours, theirs in zip(*distances, strict=True):
        assert ours <= theirs + 1e-12


@settings(max_examples=8, deadline=None)
@random_networks
def test_its_matrix_lies_between_0_and_the_largest_eigenvalue_of_h(
    width: int, features: int, count: int, seed: int
) -> None:
    problem = random_problem(width, features, count, seed, damping=0.1)
    values = torch.linalg.eigvalsh(torch.linalg.inv(inverse(EKFAC(labels="exact"), problem)[1])) - 0.1
    assert problem.eigenvalues is not None
    largest = float(problem.eigenvalues[-1])
    assert float(values.min()) >= -1e-12
    assert float(values.max()) <= largest * (1 + 1e-9)
    # Hence the bound of its docstring.
    solution = solve(problem, EKFAC(labels="exact"))
    assert solution.error is not None
    bound = largest / (largest + 0.1) * length_of_identity(problem)
    assert float(solution.error.max()) <= bound * (1 + 1e-9)


def test_preconditions_conjugate_gradients() -> None:
    # Of few examples H + λ has few different eigenvalues, and plain conjugate gradients are quick.
    problem = random_problem(width=8, features=8, count=500, seed=0, damping=1e-5)
    plain, with_ekfac = (
        solve(problem, ConjugateGradient(tolerance=1e-6, preconditioner=name)) for name in ("none", EKFAC())
    )
    assert plain.usable
    assert with_ekfac.usable
    assert with_ekfac.steps < 0.8 * plain.steps


def images() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
    layers = [first, nn.Tanh(), nn.Conv2d(3, 2, 2, dilation=2, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(18, 3, bias=False)).double().eval()


LOSSES = {"cross_entropy": nn.CrossEntropyLoss(), "mse": nn.MSELoss(), "bce": nn.BCEWithLogitsLoss()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["expand", "reduce", "ekfac"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", ["mlp", "images"])
def test_agrees_with_curvlinops(model: str, loss: str, kind: str) -> None:
    curvlinops = pytest.importorskip("curvlinops", reason="needs curvlinops-for-pytorch")
    module = network("mlp") if model == "mlp" else images()
    inputs, targets = data(model, loss)
    if loss == "bce":
        targets = targets.round()
    problem = from_model(module, loss, (inputs, targets), (inputs[:1], targets[:1]), damping=DAMPING)
    solver = EKFAC(labels="exact") if kind == "ekfac" else KFAC(labels="exact", approximation=kind)  # type: ignore[arg-type]
    # The inverse of the damped exact ("type-2") approximation, in their way to it.
    settings = {"fisher_type": "type-2", "separate_weight_and_bias": False, "check_deterministic": False}
    peer = curvlinops.EKFACLinearOperator
    if kind != "ekfac":
        peer, settings["kfac_approx"] = curvlinops.KFACLinearOperator, kind
    operator = peer(module, LOSSES[loss], list(module.parameters()), [(inputs, targets)], **settings)
    expected = curvlinops.KFACInverseLinearOperator(operator, damping=DAMPING, use_exact_damping=True)
    identity = torch.eye(problem.size, dtype=torch.float64)
    assert relative(inverse(solver, problem)[1], expected @ identity) <= 1e-9
