"""curvlinops through its adapters: what it solves, what its settings mean, and what it costs."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import problems
from problems import Problem, from_model
from problems.models.mlp import mlp
from problems.models.resnet import resnet
from solvers import Solution, Status, load, solve
from solvers.peers import network
from solvers.peers.advice import Advice
from solvers.peers.curvlinops import LIBRARY, NO_EPS, CurvlinopsCG, CurvlinopsEKFAC, CurvlinopsNeumann
from solvers.solver import Solver
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.krylov_oracles import (
    damped_matrix,
    gaussian,
    iterates,
    krylov_basis,
    least_energy,
    true_residuals,
)
from tests.solvers.peers.flops import counted_and_executed

pytestmark = pytest.mark.skipif(bool(LIBRARY.missing()), reason=str(LIBRARY.missing()))

TIGHT_CG = CurvlinopsCG(mean_tolerance=1e-9, eps=NO_EPS)
EXACT_EKFAC = CurvlinopsEKFAC("type-2", separate_weight_and_bias=False)


@cache
def softmax(damping: float = 1e-2) -> Problem:
    """A convex problem, whose Hessian is the Gauss–Newton matrix; p = 50, κ = 23."""
    return problems.load("softmax_regression", pooling=4, training_size=151, num_queries=3, damping=damping)


@cache
def perceptron(loss: str = "cross_entropy", curvature: str = "ggn", damping: float = 0.5) -> Problem:
    generator = torch.Generator().manual_seed(0)
    model = mlp([4, 5, 3], generator)
    inputs = torch.randn(37, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(37, 3, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        targets = targets.argmax(dim=1)
    elif loss == "bce":
        targets = (targets > 0).double()
    data = (inputs, targets)
    return from_model(model, loss, data, (inputs[:2], targets[:2]), damping=damping, curvature=curvature)


def series(problem: Problem) -> CurvlinopsNeumann:
    """With as many terms as leave an error of e⁻²⁰."""
    assert problem.eigenvalues is not None
    assert problem.condition_number is not None
    step = 1 / (float(problem.eigenvalues[-1]) + problem.damping)
    return CurvlinopsNeumann(scale=step, num_terms=math.ceil(20 * problem.condition_number))


def worst(problem: Problem, solver: Solver) -> float:
    """Relative error against the dense solution."""
    solution = solve(problem, solver)
    assert solution.status is Status.FINISHED, solution.reason
    assert solution.error is not None
    return float(solution.error.max())


def test_solves_a_convex_problem() -> None:
    problem = softmax(damping=0.05)
    assert worst(problem, TIGHT_CG) <= 1e-8
    assert worst(problem, series(problem)) <= 1e-8


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_solves_with_either_matrix_and_every_loss(loss: str, curvature: str) -> None:
    problem = perceptron(loss, curvature, damping=1.5)
    assert worst(problem, TIGHT_CG) <= 1e-8
    assert worst(problem, series(problem)) <= 1e-8


def test_the_two_matrices_are_not_the_same() -> None:
    one, other = (perceptron("mse", curvature, damping=1.5) for curvature in ("ggn", "hessian"))
    answers = [solve(each, TIGHT_CG).x for each in (one, other)]
    assert float((answers[0] - answers[1]).norm() / answers[0].norm()) > 0.05


@pytest.fixture(scope="module")
def residual_network() -> Problem:
    """A ResNet-18 of width 1, p = 2,757."""
    generator = torch.Generator().manual_seed(0)
    model = resnet(18, generator, width=1, channels=1, classes=3, stem="cifar", dtype=torch.float64)
    images = torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64)
    data = (images, torch.arange(6) % 3)
    return from_model(
        model, "cross_entropy", data, (images[:2], data[1][:2]), damping=0.1,
        parameters="no_batchnorm_no_bias",
    )  # fmt: skip


def test_solves_for_the_weights_of_a_residual_network(residual_network: Problem) -> None:
    """By the residual of our own product, which torch's autograd checks elsewhere."""
    solution = solve(residual_network, TIGHT_CG, compare=False)
    assert solution.residual is not None
    assert float(solution.residual.max()) <= 1e-8


def test_ekfac_is_ours_for_a_residual_network(residual_network: Problem) -> None:
    assert_same(residual_network, EXACT_EKFAC, load("ekfac", labels="exact"))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_ekfac_is_ours_for_a_perceptron(loss: str) -> None:
    assert_same(perceptron(loss, damping=0.05), EXACT_EKFAC, load("ekfac", labels="exact"))


def assert_same(problem: Problem, one: Solver, other: Solver) -> None:
    first, second = (solve(problem, solver, compare=False).x for solver in (one, other))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9 * float(second.abs().max()))


def linear_layer(count: int = 30, damping: float = 0.2) -> tuple[Problem, Tensor]:
    """One layer of 4 inputs and 3 outputs without a bias under squared loss, and its x* in closed form."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    inputs *= torch.tensor([3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    targets = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 3, bias=False).double()
    problem = from_model(model, "mse", (inputs, targets), (inputs[:2], targets[:2]), damping=damping)
    # H = (2/3) I ⊗ mean aaᵀ, torch's squared loss being a mean over the outputs.
    block = 2 / 3 * inputs.T @ inputs / count + damping * torch.eye(4, dtype=torch.float64)
    b = problem.columns().T.reshape(-1, 3, 4)
    return problem, torch.linalg.solve(block, b, left=False).reshape(len(b), -1).T


def test_ekfac_is_exact_for_one_linear_layer_under_squared_loss() -> None:
    problem, expected = linear_layer()
    solution = solve(problem, EXACT_EKFAC)
    torch.testing.assert_close(solution.x, expected, rtol=1e-12, atol=1e-12)
    # Its default draws a label for each example: G is the identity times 2/3 only on average.
    few, many = (worst(problem, CurvlinopsEKFAC(mc_samples=count)) for count in (1, 400))
    assert few > 1e-2
    assert many < 0.2 * few


def test_biases_are_blocks_of_their_own_by_default() -> None:
    problem = perceptron()
    x = {}
    for separate in (True, False):
        x[separate] = iterates(problem, CurvlinopsEKFAC("type-2", separate_weight_and_bias=separate), 1)[0]
    assert float((x[True] - x[False]).norm()) > 1e-3 * float(x[False].norm())
    assert CurvlinopsEKFAC().separate_weight_and_bias
    # A bias that is a block of its own moves nothing but itself.
    generator = torch.Generator().manual_seed(0)
    _, inverse, _ = CurvlinopsEKFAC("type-2").prepare(problem, generator)
    bias = torch.zeros(problem.size, 1, dtype=torch.float64)
    bias[20:25] = 1.0
    moved = (inverse @ bias).flatten().nonzero().flatten().tolist()
    assert moved == [20, 21, 22, 23, 24]


def test_the_series_takes_its_scale_times_h_and_counts_terms_after_the_first() -> None:
    problem, step, terms = softmax(), 3.0, 4
    damped, b = damped_matrix(problem), problem.columns()
    term = total = step * b
    for _ in range(terms):
        term = term - step * damped @ term
        total = total + term
    x = iterates(problem, CurvlinopsNeumann(scale=step, num_terms=terms), 1)[0]
    torch.testing.assert_close(x, total, rtol=1e-12, atol=1e-12 * float(total.abs().max()))
    # What it would be if its scale divided, as in LiSSA of other libraries, or if all terms were counted.
    assert float((x - b / step).norm() / x.norm()) > 0.5
    assert float((x - (total - term)).norm() / x.norm()) > 1e-2


def test_cg_ends_by_the_mean_over_the_columns() -> None:
    problem = softmax(1e-3)
    _, vectors = torch.linalg.eigh(problem.operator.dense())
    # Of eigenvectors it is done after a step.
    columns = torch.cat([gaussian(problem.size, 1), vectors[:, -9:]], dim=1)
    problem = from_columns(problem, columns)
    residuals = true_residuals(problem, iterates(problem, CurvlinopsCG(1e-6, eps=NO_EPS), 1)[0])
    assert float(residuals.mean()) < 1e-6 < float(residuals[0])
    alone = from_columns(problem, columns[:, :1])
    assert float(true_residuals(alone, iterates(alone, CurvlinopsCG(1e-6, eps=NO_EPS), 1)[0])) < 1e-6


def from_columns(problem: Problem, columns: Tensor) -> Problem:
    return replace(problem, rhs=columns, certified=None)


def test_cg_makes_11_steps_whatever_its_tolerance() -> None:
    problem = softmax(1e-4)
    b = problem.columns()[:, :1]
    damped = damped_matrix(problem)
    expected = least_energy(damped, b, krylov_basis(damped, b, 11))
    alone = from_columns(problem, b)
    x = iterates(alone, CurvlinopsCG(), 1)[0]
    assert CurvlinopsCG().mean_tolerance == 1
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6 * float(expected.norm()))
    x = iterates(alone, CurvlinopsCG(num_steps=3), 1)[0]
    expected = least_energy(damped, b, krylov_basis(damped, b, 3))
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6 * float(expected.norm()))


def test_cg_stands_still_at_its_default_eps() -> None:
    problem = softmax(1e-3)
    by_default, without = (
        solve(problem, CurvlinopsCG(mean_tolerance=1e-9, num_steps=200, eps=eps)) for eps in (1e-10, NO_EPS)
    )
    assert float(by_default.residual.max()) > 1e-7
    assert float(without.residual.max()) < 1e-8
    assert by_default.reason.startswith("num_steps = 200 reached")
    assert without.reason.startswith("mean_tolerance reached")
    assert "larger than the tolerance" in by_default.diagnostics["said"][0]
    assert without.diagnostics["said"] == []


@pytest.mark.parametrize("most", [5, 16, 36])
def test_a_smaller_last_batch_changes_nothing(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = perceptron()
    solvers = (TIGHT_CG, CurvlinopsNeumann(scale=0.5, num_terms=9), EXACT_EKFAC)
    whole = [iterates(problem, each, 1)[0] for each in solvers]
    monkeypatch.setattr(network, "MOST_AT_ONCE", most)
    assert len(network.network_for(problem).batches(equal=False)[-1][0]) == 37 % most
    for each, expected in zip(solvers, whole, strict=True):
        torch.testing.assert_close(iterates(problem, each, 1)[0], expected, rtol=1e-9, atol=1e-10)


def test_a_column_of_zeros_gives_zeros() -> None:
    problem = from_columns(softmax(), torch.cat([softmax().columns()[:, :1], torch.zeros(50, 1)], dim=1))
    for solver in (TIGHT_CG, CurvlinopsNeumann(scale=3.0), EXACT_EKFAC):
        x = iterates(problem, solver, 1)[0]
        assert torch.isfinite(x).all()
        assert not x[:, 1].any()


@pytest.mark.parametrize("terms", [20, 1000])
def test_a_series_that_runs_away_is_said_to(terms: int) -> None:
    """Where it is still finite, and where the library finds NaN."""
    problem = softmax()
    solution = solve(problem, CurvlinopsNeumann(10 * largest_scale(problem), terms))
    assert solution.status is Status.DIVERGED
    assert solution.reason.endswith("lower scale below 2/(λ_max + λ)")


@pytest.mark.parametrize(("share", "grows"), [(0.98, False), (1.02, True)])
def test_the_series_converges_up_to_twice_the_inverse(share: float, grows: bool) -> None:
    problem = softmax()
    x = (iterates(problem, CurvlinopsNeumann(share * largest_scale(problem), n), 1)[0] for n in (20, 60))
    first, second = (float(true_residuals(problem, each).max()) for each in x)
    assert (second > first) == grows


def largest_scale(problem: Problem) -> float:
    """2/(λ_max + λ)."""
    assert problem.eigenvalues is not None
    return 2 / (float(problem.eigenvalues[-1]) + problem.damping)


def test_an_indefinite_hessian_is_not_silent() -> None:
    problem = perceptron("mse", "hessian", damping=1e-3)
    assert problem.eigenvalues is not None
    assert float(problem.eigenvalues[0]) < -0.01
    assert solve(problem, CurvlinopsNeumann(scale=0.5, num_terms=80)).status is Status.DIVERGED
    solution = solve(problem, CurvlinopsCG(mean_tolerance=1e-6, num_steps=100))
    assert solution.reason.startswith("num_steps = 100 reached")
    assert float(solution.residual.max()) > 1e-3


def test_what_it_cannot_take_is_said_beforehand() -> None:
    bare = dense_problem(random_psd_examples(5, 4, seed=0), damping=0.1)
    for solver in (CurvlinopsCG(), CurvlinopsNeumann(), CurvlinopsEKFAC()):
        assert "bare matrix" in skipped(bare, solver)
    assert "EmpiricalFisher" in skipped(perceptron(curvature="empirical_fisher"), CurvlinopsCG())
    normalised = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).double().eval()
    inputs = torch.randn(4, 3, dtype=torch.float64)
    data = (inputs, inputs.abs().clamp(max=1))
    problem = from_model(normalised, "bce", data, data, damping=0.1)
    assert skipped(problem, CurvlinopsEKFAC()) == (
        "curvlinops-for-pytorch factors Linear and Conv2d; 1 is a LayerNorm: leave it out of the parameters"
    )
    assert CurvlinopsCG().skip(problem) is None
    problem = from_model(normalised, "bce", data, data, damping=0.1, parameters=r"0\.")
    assert skipped(problem, EXACT_EKFAC) == (
        "fisher_type 'type-2' takes targets of 0 and 1 alone: set fisher_type=mc"
    )
    assert CurvlinopsEKFAC().skip(problem) is None
    tokens = inputs[:, None].expand(4, 2, 3).contiguous()
    problem = from_model(nn.Linear(3, 3).double(), "mse", (tokens, tokens), (tokens, tokens), damping=0.1)
    assert skipped(problem, CurvlinopsEKFAC()) == (
        "EK-FAC is of outputs (m, outputs) here, and the targets are (4, 2, 3)"
    )
    assert worst(problem, TIGHT_CG) <= 1e-8


def skipped(problem: Problem, solver: Solver) -> str:
    solution: Solution = solve(problem, solver)
    assert solution.status is Status.SKIPPED
    return solution.reason


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("curvlinops_cg", {"mean_tolerance": 0}, "mean_tolerance is 0"),
        ("curvlinops_cg", {"eps": 0}, "eps is 0"),
        ("curvlinops_cg", {"num_steps": 0}, "num_steps is 0"),
        ("curvlinops_neumann", {"scale": -1}, "scale is -1"),
        ("curvlinops_neumann", {"num_terms": 0}, "num_terms is 0"),
        ("curvlinops_ekfac", {"fisher_type": "type-2", "mc_samples": 2}, "mc_samples is 2, and fisher_type"),
        ("curvlinops_ekfac", {"mc_samples": 0}, "mc_samples is 0"),
    ],
)
def test_settings_are_checked(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name, **settings)


def test_is_tuned_to_the_error_that_is_asked_for() -> None:
    problem = softmax()
    assert problem.eigenvalues is not None
    assert problem.condition_number is not None
    target, largest = 0.01, float(problem.eigenvalues[-1])
    # (1 − 1/κ)ᵀ bounds the error of the series, and κ times the residual that of CG.
    terms = math.ceil(-math.log(target) * problem.condition_number)
    advice = Advice(
        target=target, damping=problem.damping, largest_eigenvalue=largest,
        tolerance=target / problem.condition_number, cg_steps=50, series_terms=terms,
        step_size=0.1, batch_size=1, num_steps=1, rank=1,
    )  # fmt: skip
    for cls in (CurvlinopsCG, CurvlinopsNeumann):
        assert worst(problem, cls.tuned(advice)) <= target
    damped, b = damped_matrix(problem), problem.columns()
    # T terms in all: the error's part along each eigenvector is (1 − μ/(λ_max + λ))ᵀ.
    power = torch.matrix_power(
        torch.eye(50, dtype=torch.float64) - damped / (largest + problem.damping), terms
    )
    expected = torch.linalg.solve(damped, b - power @ b)
    torch.testing.assert_close(
        iterates(problem, CurvlinopsNeumann.tuned(advice), 1)[0], expected, rtol=1e-9, atol=1e-9
    )
    assert CurvlinopsEKFAC.tuned(advice) == EXACT_EKFAC


def deep(curvature: str = "ggn") -> Problem:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    data = (inputs, torch.arange(200) % 4)
    queries = (inputs[:3], data[1][:3])
    return from_model(
        mlp([8, 16, 16, 4], generator), "cross_entropy", data, queries, damping=1.0, curvature=curvature
    )


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize(
    "solver", [CurvlinopsCG(), CurvlinopsNeumann(0.1, 3), CurvlinopsEKFAC(), EXACT_EKFAC], ids=str
)
def test_work_is_what_torch_executes(solver: Solver, curvature: str) -> None:
    counted, executed = counted_and_executed(deep(curvature), solver)
    assert counted == pytest.approx(executed, rel=0.15)


@pytest.mark.parametrize("solver", [CurvlinopsCG(num_steps=2), CurvlinopsEKFAC(), EXACT_EKFAC], ids=str)
def test_work_is_what_torch_executes_of_convolutions(solver: Solver) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, stride=3), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).double().eval()
    images = torch.randn(100, 3, 8, 8, generator=generator, dtype=torch.float64)
    data = (images, torch.arange(100) % 3)
    problem = from_model(model, "cross_entropy", data, (images[:2], data[1][:2]), damping=1.0)
    counted, executed = counted_and_executed(problem, solver)
    assert counted == pytest.approx(executed, rel=0.35)
