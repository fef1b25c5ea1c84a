from dataclasses import replace

import pytest
import torch
from torch import nn

import problems
from problems import Columns, DenseOperator, Problem, from_model
from tests.conftest import dense_problem, random_psd_examples

INPUTS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.arange(20) % 3


def linear_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3).double().eval()


def wrapped(model: nn.Module | None = None, **changes: object) -> Problem:
    arguments: dict = {"damping": 0.1} | changes
    return from_model(
        model or linear_model(), "cross_entropy", (INPUTS, TARGETS), (INPUTS[:2], TARGETS[:2]), **arguments
    )


def test_reference_solves_the_system() -> None:
    problem = dense_problem(random_psd_examples(6, 4, seed=0), damping=0.3)
    matrix = problem.operator.dense() + 0.3 * torch.eye(4)
    torch.testing.assert_close(problem.reference, torch.linalg.solve(matrix, problem.rhs))
    assert problem.reference_residual is not None
    assert problem.reference_residual < 1e-13


def test_reference_of_a_float32_problem_is_in_float64() -> None:
    per_example = random_psd_examples(6, 4, seed=0).float()
    problem = dense_problem(per_example, damping=1e-3)
    matrix = per_example.double().mean(dim=0) + 1e-3 * torch.eye(4, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, problem.columns().double())
    assert problem.reference is not None
    assert problem.reference.dtype == torch.float64
    torch.testing.assert_close(problem.reference, expected, rtol=1e-10, atol=1e-12)


def test_errors_are_what_they_say() -> None:
    problem = dense_problem(random_psd_examples(6, 4, seed=0), damping=0.3)
    reference = problem.reference
    assert reference is not None
    matrix = problem.operator.dense() + 0.3 * torch.eye(4)
    x = reference + torch.randn(4, 2, dtype=torch.float64)
    difference = x - reference
    energy = ((difference * (matrix @ difference)).sum(0) / (reference * (matrix @ reference)).sum(0)).sqrt()
    torch.testing.assert_close(problem.error(x), difference.norm(dim=0) / reference.norm(dim=0))
    torch.testing.assert_close(problem.energy_error(x), energy)
    b = problem.columns()
    torch.testing.assert_close(problem.residual(x, b), (b - matrix @ x).norm(dim=0) / b.norm(dim=0))
    torch.testing.assert_close(problem.error(x[:, 1:], slice(1, 2)), problem.error(x)[1:])


def test_another_damping_shares_the_eigendecomposition() -> None:
    problem = dense_problem(random_psd_examples(6, 4, seed=0), damping=0.3)
    _ = problem.reference
    other = problem.with_damping(2.0)
    assert other.operator is problem.operator
    assert other.eigenvalues is problem.eigenvalues
    matrix = problem.operator.dense() + 2.0 * torch.eye(4)
    torch.testing.assert_close(other.reference, torch.linalg.solve(matrix, problem.rhs))


def test_another_operator_has_a_ground_truth_of_its_own() -> None:
    problem = dense_problem(random_psd_examples(6, 4, seed=0), damping=0.3)
    _ = problem.reference
    other = replace(problem, operator=DenseOperator(random_psd_examples(6, 4, seed=1)))
    matrix = other.operator.dense() + 0.3 * torch.eye(4)
    torch.testing.assert_close(other.reference, torch.linalg.solve(matrix, problem.rhs))


def test_a_closed_form_that_is_wrong_is_found_out() -> None:
    operator = DenseOperator(random_psd_examples(6, 4, seed=0))
    rhs = torch.ones(4, 1, dtype=torch.float64)
    problem = Problem("wrong", operator, 0.1, rhs, closed_form=lambda: 1.001 * operator.dense())
    with pytest.raises(ArithmeticError, match="relative residual"):
        _ = problem.reference


def test_lazy_columns_give_the_same_answer() -> None:
    whole = dense_problem(random_psd_examples(6, 4, seed=0), damping=0.3, columns=5)
    b = whole.columns()
    lazy = Problem("lazy", whole.operator, 0.3, Columns((4, 5), lambda i, j: b[:, i:j]))
    torch.testing.assert_close(lazy.columns(slice(1, 3)), b[:, 1:3])
    torch.testing.assert_close(lazy.reference, whole.reference)
    wrong = Problem("wrong", whole.operator, 0.3, Columns((4, 5), lambda i, j: b[:, :2]))
    with pytest.raises(ValueError, match="rhs built 2 columns"):
        wrong.columns(slice(1, 4))


def test_rhs_are_the_gradients_of_the_queries() -> None:
    model = linear_model()
    problem = wrapped(model)
    for column in range(2):
        loss = nn.functional.cross_entropy(model(INPUTS[[column]]), TARGETS[[column]])
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        expected = torch.cat([part.flatten() for part in gradient])
        torch.testing.assert_close(problem.columns()[:, column], expected)


class Scaled(nn.Module):
    """A learnt scale without dimensions, tied weights, and integer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.scale * self.head(self.embedding(tokens))


def test_many_large_query_gradients_are_built_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets = torch.randn(7, 3).double(), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    model = nn.Linear(3, 2).double().eval()

    def built() -> Problem:
        return from_model(model, "cross_entropy", (inputs, targets), (inputs[:4], targets[:4]), damping=0.1)

    whole = built()
    assert isinstance(whole.rhs, torch.Tensor)
    monkeypatch.setattr("problems.problem.HELD_BYTES", 4 * 8 * 8 - 1)
    assert isinstance(built().rhs, torch.Tensor)  # few
    monkeypatch.setattr("problems.problem.HELD_QUERIES", 3)
    lazy = built()
    assert isinstance(lazy.rhs, Columns)
    torch.testing.assert_close(lazy.columns(), whole.rhs)
    torch.testing.assert_close(lazy.columns(slice(1, 3)), whole.rhs[:, 1:3])
    monkeypatch.setattr("problems.problem.HELD_BYTES", 4 * 8 * 8)
    assert isinstance(built().rhs, torch.Tensor)


def test_scalars_tied_weights_and_integer_inputs() -> None:
    torch.manual_seed(0)
    model = Scaled().double().eval()
    tokens, targets = torch.arange(12) % 5, torch.arange(12) % 3
    problem = from_model(model, "cross_entropy", (tokens, targets), (tokens[:2], targets[:2]), damping=0.1)
    values = [value.detach() for value in model.parameters()]
    assert problem.size == sum(value.numel() for value in values) == 21

    def network(scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return scale * nn.functional.embedding(tokens, weight) @ weight.T

    blocks = torch.autograd.functional.jacobian(network, tuple(values))
    jacobian = torch.cat([block.reshape(12, 5, -1) for block in blocks], dim=2)
    p = network(*values).softmax(dim=1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = (jacobian.mT @ curvature @ jacobian).mean(dim=0)
    torch.testing.assert_close(problem.operator.dense(), expected, rtol=1e-10, atol=1e-13)


def test_inputs_that_require_gradients_leave_no_graph_behind() -> None:
    inputs = INPUTS.clone().requires_grad_()
    problem = from_model(
        linear_model(), "cross_entropy", (inputs, TARGETS), (inputs[:2], TARGETS[:2]), damping=1
    )
    assert not problem.columns().requires_grad
    assert not (problem.operator @ problem.columns()).requires_grad


def test_training_gradient_is_the_mean_over_all_data() -> None:
    model = linear_model()
    task = wrapped(model).task
    assert task is not None
    loss = nn.functional.cross_entropy(model(INPUTS), TARGETS)
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(task.training_gradient()[:, 0], expected)


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_damping_must_be_positive(damping: float) -> None:
    with pytest.raises(ValueError, match=f"damping is {damping}"):
        dense_problem(random_psd_examples(2, 3, seed=0), damping=damping)
    with pytest.raises(ValueError, match=f"damping is {damping}"):
        wrapped(damping=damping)


@pytest.mark.parametrize(
    ("rhs", "message"),
    [
        (torch.ones(4, 1), r"shape \(4, 1\); it must be \(3, k\)"),
        (torch.ones(3), r"shape \(3,\)"),
        (torch.ones(3, 0), "k ≥ 1"),
        (torch.ones(3, 1, dtype=torch.float32), "torch.float32"),
        (torch.ones(3, 1, device="meta", dtype=torch.float64), "on meta"),
        (torch.tensor([[1.0], [float("nan")], [0.0]], dtype=torch.float64), "rhs: 1 of 3 numbers are NaN"),
    ],
)
def test_wrong_rhs_are_refused(rhs: torch.Tensor, message: str) -> None:
    operator = DenseOperator(random_psd_examples(2, 3, seed=0))
    with pytest.raises(ValueError, match=message):
        Problem("wrong", operator, 0.1, rhs)


def test_a_model_that_is_not_finite_is_refused_by_the_parameters_name() -> None:
    model = linear_model()
    with torch.no_grad():
        model.bias[1] = float("inf")  # type: ignore[index]
    with pytest.raises(ValueError, match="parameter bias: 1 of 3"):
        wrapped(model)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'quadratic'"):
        problems.load("quadratik")
    with pytest.raises(ValueError, match="did you mean 'dimension'"):
        problems.load("quadratic", dimensions=3)
    with pytest.raises(ValueError, match="no curvature 'hesian'; did you mean 'hessian'"):
        wrapped(curvature="hesian")


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="dimension is 'many'"):
        problems.load("quadratic", dimension="many")
    with pytest.raises(ValueError, match="spectrum is 'white'"):
        problems.load("quadratic", spectrum="white")
    with pytest.raises(ValueError, match="num_columns is 0"):
        problems.load("quadratic", num_columns=0)
