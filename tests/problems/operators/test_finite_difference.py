"""Gauss–Newton products by central differences: their error, and that nothing else is approximate."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from problems import FiniteDifference, GaussNewton, Problem, from_model, ground_truth
from problems.operators.micro_batches import Size
from problems.operators.recording import RECORD_AFTER
from problems.spectrum.lanczos import extreme_eigenvalues
from solvers.certify import certify
from solvers.cg import ConjugateGradient
from solvers.driver import solve
from solvers.solution import Status
from tests.problems.operators.small_networks import Small, small

SMOOTH = [
    ("mlp", "cross_entropy"),
    ("convolutional", "bce"),
    ("mlp", "mse"),
    ("language_model", "token_cross_entropy"),
    ("language_model", "next_token_cross_entropy"),
]
BOTH = pytest.mark.parametrize("normalised", [False, True])


def vectors_for(network: Small, columns: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(len(network.flat), columns, generator=generator, dtype=torch.float64)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@BOTH
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_exact_where_outputs_are_linear_in_the_parameters(loss: str, normalised: bool) -> None:
    network = small("linear", loss)
    operator = network.operator(FiniteDifference(normalised=normalised))
    v = vectors_for(network)
    # Rounding of f, some 1e-16, over the step of 0.01.
    torch.testing.assert_close(operator @ v, network.gauss_newton() @ v, rtol=1e-11, atol=1e-12)


@BOTH
@pytest.mark.parametrize(("model", "loss"), SMOOTH)
def test_the_error_falls_with_the_square_of_delta(model: str, loss: str, normalised: bool) -> None:
    network = small(model, loss)
    v = vectors_for(network)
    expected = network.gauss_newton() @ v
    coarse, fine = (
        relative(network.operator(FiniteDifference(delta, normalised)) @ v, expected)
        for delta in (2e-2, 1e-2)
    )
    assert coarse / fine == pytest.approx(4, rel=0.02)
    assert fine < 0.02


def sine(normalised: bool = False, delta: float = 0.1) -> tuple[Problem, Tensor, float]:
    """f(θ) = sin θx with squared loss, for x of some examples at one θ."""

    class Sine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return (self.weight * inputs).sin()

    x = torch.tensor([[0.4], [-1.1], [2.0]], dtype=torch.float64)
    data = (x, torch.zeros_like(x))
    curvature = FiniteDifference(delta, normalised)
    return from_model(Sine().eval(), "mse", data, data, damping=1.0, curvature=curvature), x, 0.7


@pytest.mark.parametrize("length", [0.3, 1.0, 4.0])
def test_of_one_parameter_it_is_the_closed_form(length: float) -> None:
    problem, x, theta = sine(delta=0.1)
    v = torch.tensor([length], dtype=torch.float64)
    slope = (theta * x).cos()
    # (sin(θ + δv)x − sin(θ − δv)x) / 2δ = cos θx · sin δvx / δ, and ∇²ℓ = 2.
    exactly = (2 * x * slope * slope * (0.1 * length * x).sin() / 0.1).mean()
    torch.testing.assert_close(problem.operator @ v, exactly[None], rtol=1e-12, atol=0)
    # Its error begins with δ²/6 · J S f‴v³, f‴ = −x³ cos θx; the next term is (δvx)²/20 of it at most.
    error = (problem.operator @ v - problem.operator.exact @ v).item()
    leading = (0.1**2 / 6 * x * slope * 2 * (-(x**3) * slope) * length**3).mean().item()
    assert error == pytest.approx(leading, rel=(0.1 * length * 2) ** 2 / 20)


def test_the_longer_the_vector_the_further_off_unless_it_is_normalised() -> None:
    network = small("mlp", "cross_entropy")
    v = vectors_for(network, 1)
    v /= v.norm()
    expected = network.gauss_newton() @ v

    def errors(normalised: bool) -> list[float]:
        operator = network.operator(FiniteDifference(normalised=normalised))
        return [relative(operator @ (scale * v), scale * expected) for scale in (1.0, 2.0, 4.0)]

    one, two, four = errors(normalised=False)
    assert two / one == pytest.approx(4, rel=0.02)
    assert four / one == pytest.approx(16, rel=0.05)
    assert errors(normalised=True) == pytest.approx([one] * 3, rel=1e-6)


@BOTH
def test_nothing_comes_of_nothing(normalised: bool) -> None:
    network = small("mlp", "cross_entropy")
    zeros = torch.zeros(len(network.flat), 2, dtype=torch.float64)
    assert torch.equal(network.operator(FiniteDifference(normalised=normalised)) @ zeros, zeros)


@pytest.mark.parametrize(
    ("model", "loss", "normalised"), [(*SMOOTH[0], False), (*SMOOTH[0], True), (*SMOOTH[-1], True)]
)
def test_columns_passes_and_recording_change_nothing(model: str, loss: str, normalised: bool) -> None:
    network, curvature = small(model, loss), FiniteDifference(normalised=normalised)
    v = vectors_for(network)
    together = network.operator(curvature)
    first = together @ v
    singles = torch.stack([network.operator(curvature) @ column for column in v.T], dim=1)
    torch.testing.assert_close(first, singles, rtol=1e-9, atol=1e-12)
    for size in (1, 4):
        parts = network.operator(curvature)
        parts.micro_batches.largest = Size(size, 64)
        torch.testing.assert_close(parts @ v, first, rtol=1e-9, atol=1e-12)
    for _ in range(RECORD_AFTER + 3):
        assert torch.equal(together @ v, first)
    recordings = together.shared.recorder._recordings
    assert recordings
    assert all(recordings.values())
    # What is kept of a forward pass is of θ alone.
    assert together._kept.passes
    assert torch.equal(together @ (2 * v), network.operator(curvature) @ (2 * v))


@BOTH
def test_in_float32_rounding_is_divided_by_the_step(normalised: bool) -> None:
    network = small("mlp", "cross_entropy")
    single = Small(copy.deepcopy(network.model).float(), network.loss, network.inputs, network.targets)
    operator = single.operator(FiniteDifference(normalised=normalised))
    v = vectors_for(network)
    v /= v.norm(dim=0)
    found = operator @ v.float()
    assert found.dtype == torch.float32
    error = relative(found.double(), operator.to(torch.float64) @ v)
    assert 1e-6 < error < 1e-3


def test_a_product_costs_three_forward_passes_and_one_backward() -> None:
    """By torch's own count of operations, and of gradient equivalents as of an exact product."""
    network = small("mlp", "cross_entropy")
    operator = network.operator(FiniteDifference())
    v = vectors_for(network)

    def operations(run: object) -> int:
        with FlopCounterMode(display=False) as counter:
            run()  # type: ignore[operator]
        return counter.get_total_flops()

    with torch.no_grad():
        forward = operations(lambda: network.model(network.inputs))
    parameters = list(network.model.parameters())
    gradient = operations(lambda: torch.autograd.grad(network.model(network.inputs).sum(), parameters))
    _ = operator @ v[:, 0]  # measures its memory, by products of its own
    assert operations(lambda: operator @ v[:, 0]) == 3 * forward + (gradient - forward)
    before = operator.work.total
    _ = operator @ v
    assert operator.work.total - before == pytest.approx((1 + 4 * 3) / 3)


def make_problem(curvature: FiniteDifference | str, damping: float = 0.1) -> tuple[Small, Problem]:
    network = small("mlp", "cross_entropy")
    data = (network.inputs, network.targets)
    queries = tuple(part[:2] for part in data)
    return network, from_model(
        network.model, network.loss, data, queries, damping=damping, curvature=curvature
    )


def test_answers_are_judged_by_the_gauss_newton_matrix_itself() -> None:
    network, problem = make_problem(FiniteDifference(delta=0.3))
    shifted = network.gauss_newton() + 0.1 * torch.eye(problem.size, dtype=torch.float64)
    b = problem.columns()
    reference = torch.linalg.solve(shifted, b)
    assert problem.reference is not None
    torch.testing.assert_close(problem.reference, reference, rtol=1e-9, atol=1e-11)
    solution = solve(problem, ConjugateGradient(tolerance=1e-6), max_steps=50)
    # A step so coarse takes it nowhere near: that is said, whatever its own recurrence holds.
    assert solution.x is not None
    left = (b - shifted @ solution.x).norm(dim=0) / b.norm(dim=0)
    torch.testing.assert_close(solution.residual, left)
    assert solution.status is not Status.CONVERGED
    assert float(left.max()) > 1e-4
    error = (solution.x - reference).norm(dim=0) / reference.norm(dim=0)
    torch.testing.assert_close(solution.error, error, rtol=1e-6, atol=0)


def test_with_small_steps_solvers_converge_on_it() -> None:
    _, problem = make_problem(FiniteDifference(delta=1e-4, normalised=True))
    solution = solve(problem, ConjugateGradient(tolerance=1e-5))
    assert solution.status is Status.CONVERGED
    assert solution.error is not None
    assert problem.condition_number is not None
    assert float(solution.error.max()) < problem.condition_number * 1e-5


def test_what_is_no_product_is_the_gauss_newton_matrix_own() -> None:
    network, problem = make_problem(FiniteDifference(delta=0.3))
    operator, exact = problem.operator, network.operator(GaussNewton())
    v = vectors_for(network)
    assert operator.is_psd
    assert torch.equal(operator.mean_square(v), exact.mean_square(v))
    assert torch.equal(operator.example_forms(v), exact.example_forms(v))
    assert torch.equal(operator.root_product(v), exact.root_product(v))
    assert torch.equal(operator.diagonal(), exact.diagonal())
    assert not torch.allclose(operator @ v, exact @ v, rtol=1e-3)


def test_a_certified_reference_is_the_gauss_newton_matrix_own(monkeypatch: pytest.MonkeyPatch) -> None:
    network, problem = make_problem(FiniteDifference(delta=0.3))
    shifted = network.gauss_newton() + 0.1 * torch.eye(problem.size, dtype=torch.float64)
    expected = torch.linalg.solve(shifted, problem.columns())
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 10)
    certified = certify(problem, error=1e-6)
    assert certified.certified is not None
    assert relative(certified.certified.x, expected) < 1e-6
    assert certified.operator is problem.operator


def test_forgetting_leaves_nothing_of_either_product() -> None:
    _, problem = make_problem("finite_difference")
    operator = problem.operator
    exact = operator.exact
    assert exact is operator.exact
    assert isinstance(exact.curvature, GaussNewton)  # type: ignore[attr-defined]
    assert exact.work is operator.work
    operator.forget()
    assert operator.exact is not exact


def test_its_spectrum_is_the_matrix_own_to_the_error_of_its_products() -> None:
    network, problem = make_problem("finite_difference")
    expected = float(torch.linalg.eigvalsh(network.gauss_newton())[-1])
    found = extreme_eigenvalues(problem.operator, torch.Generator().manual_seed(0))
    assert found.largest.value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("delta", [0.0, -0.01, math.inf, math.nan])
def test_a_step_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match=r"delta is .*; it must be a finite number > 0"):
        FiniteDifference(delta=delta)


def test_a_network_without_a_forward_mode_cannot_be_judged_and_is_refused() -> None:
    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(inputs: Tensor) -> Tensor:
            return inputs.tanh()

        @staticmethod
        def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
            ctx.save_for_backward(output)  # type: ignore[attr-defined]

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            (output,) = ctx.saved_tensors  # type: ignore[attr-defined]
            return gradient * (1 - output**2)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, inputs: Tensor) -> Tensor:
            return Custom.apply(self.linear(inputs))

    network = small("mlp", "cross_entropy")
    data = (network.inputs, network.targets)
    with pytest.raises(ValueError, match="forward mode"):
        from_model(Model().eval(), "cross_entropy", data, data, damping=1, curvature="finite_difference")
