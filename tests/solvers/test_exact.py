"""The ways to the exact answer: against each other, SciPy, autograd's matrices, and their predicted cost."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import problems
import solvers
from problems import DenseOperator, GaussNewton, Problem
from solvers import Status, solve
from solvers.exact import METHODS, Exact, Method
from solvers.exact_ways import Counts, ways
from tests.conftest import dense_problem, random_psd_examples
from tests.problems.operators.small_networks import small


def cholesky_by_scipy(problem: Problem) -> Tensor:
    matrix = problem.operator.to(torch.float64).dense().numpy()
    matrix[range(len(matrix)), range(len(matrix))] += problem.damping
    factor = scipy.linalg.cho_factor(matrix)
    return torch.from_numpy(scipy.linalg.cho_solve(factor, problem.columns().double().numpy()))


def few_examples(curvature: str = "ggn", **parameters: float) -> Problem:
    """A network with fewer rows of R than parameters."""
    chosen = {"training_size": 12, "width": 4, "epochs": 3, "damping": 1e-3} | parameters
    return problems.load("image_classifier", curvature=curvature, **chosen)


def as_predicted(work: float, problem: Problem) -> object:
    """Every count of algebra is rounded up to a forward pass of one example, and there are nine at most."""
    return pytest.approx(work, abs=9 / (3 * problem.operator.num_draws))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 3), st.floats(-4, 2), st.sampled_from(METHODS))
def test_every_method_is_scipys_answer(
    size: int, num_examples: int, rank: int, log_damping: float, method: Method
) -> None:
    examples = random_psd_examples(num_examples, size, seed=size, rank=rank)
    problem = dense_problem(examples, 10**log_damping, columns=3)
    solution = solve(problem, Exact(method))
    assert solution.x is not None
    expected = cholesky_by_scipy(problem)
    assert problem.condition_number is not None
    error = (solution.x - expected).norm(dim=0) / expected.norm(dim=0)
    assert float(error.max()) <= 1e-14 * problem.condition_number * 10


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher", "monte_carlo_fisher"])
@pytest.mark.parametrize("training_size", [12, 60])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_agree_on_networks_with_few_and_with_many_examples(
    curvature: str, training_size: int, dtype: torch.dtype
) -> None:
    chosen = {"training_size": training_size, "width": 2, "epochs": 3, "damping": 1e-3}
    problem = problems.load("image_classifier", curvature=curvature, dtype=dtype, **chosen)
    expected = cholesky_by_scipy(problem)
    assert problem.condition_number is not None
    rounding = 1e-15 * problem.condition_number * 100 + torch.finfo(dtype).eps
    for method in METHODS:
        solution = solve(problem, Exact(method))
        assert solution.x is not None
        error = (solution.x.double() - expected).norm(dim=0) / expected.norm(dim=0)
        assert float(error.max()) <= rounding, method


@pytest.mark.parametrize(("model", "loss"), [("mlp", "mse"), ("language_model", "token_cross_entropy")])
@pytest.mark.parametrize("method", METHODS)
def test_all_solve_with_autograds_matrix(model: str, loss: str, method: Method) -> None:
    network = small(model, loss)
    operator = network.operator(GaussNewton())
    b = torch.randn(operator.shape[0], 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solution = solve(Problem("small", operator, 0.01, b), Exact(method))
    matrix = network.gauss_newton() + 0.01 * torch.eye(len(b)).double()
    assert solution.x is not None
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b), rtol=1e-9, atol=1e-9)


class NextToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).cumsum(dim=1).tanh())


def padded(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch whose sequences are as long as its longest."""
    tokens = pad_sequence([tokens for tokens, _ in items], batch_first=True)
    return tokens, pad_sequence([labels for _, labels in items], batch_first=True, padding_value=-100)


@pytest.mark.parametrize("memory_gib", [4.0, 1.1e-4])
def test_sequences_of_unequal_lengths_have_unequal_rows(memory_gib: float) -> None:
    torch.manual_seed(0)
    sequences = [torch.randint(5, (length,)) for length in (3, 2, 4, 2)]
    data = DataLoader([(tokens, tokens) for tokens in sequences], collate_fn=padded)
    queries = DataLoader([(tokens, tokens) for tokens in sequences[:2]], collate_fn=padded)
    model = NextToken().double().eval()
    problem = problems.from_model(model, "next_token_cross_entropy", data, queries, damping=0.1)
    solver = Exact("dual", memory_gib)
    assert solver.ways(problem)[0].examples_together == (4 if memory_gib == 4.0 else 3)
    solution = solve(problem, solver)
    assert solution.diagnostics["rows"] == (3 + 2 + 4 + 2) * 5
    assert solution.x is not None
    torch.testing.assert_close(solution.x, cholesky_by_scipy(problem), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("together", [1, 5, 6, 11, 12])
def test_rows_that_do_not_fit_are_computed_anew(together: int) -> None:
    problem = few_examples()
    counts = Counts.of(problem)
    assert (counts.rows, counts.root_rank) == (120, 10)
    memory = (16 * counts.rows**2 + (together + 0.5) * 8 * 10 * problem.size) / 2**30
    solver = Exact("dual", memory)
    way = solver.chosen(problem)
    assert way is not None
    assert way.examples_together == together
    assert way.bytes <= memory * 2**30
    solution = solve(problem, solver)
    assert solution.x is not None
    expected = cholesky_by_scipy(problem)
    assert float((solution.x - expected).norm() / expected.norm()) <= 1e-12
    assert solution.setup_work == as_predicted(way.setup_work, problem)
    assert solution.work == as_predicted(way.solve_work, problem)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training_size", [12, 60])
def test_cost_is_as_predicted(method: Method, training_size: int) -> None:
    problem = few_examples(training_size=training_size)
    solution = solve(problem, Exact(method))
    way = Exact(method).chosen(problem)
    assert way is not None
    assert solution.setup_work == as_predicted(way.setup_work, problem)
    assert solution.work == as_predicted(way.solve_work, problem)


def test_cost_is_that_of_the_formulas() -> None:
    counts = Counts(size=1000, num_examples=20, root_rank=2, columns=5, forward_multiplications=5000)
    unit = 3 * 20 * 5000
    found = {way.name: way for way in ways(counts, memory_gib=1.0)}
    rows = (1 + 2 * 2) / 3 + 40 * 1000**2 / 2 / unit
    assert found["cholesky"].setup_work == pytest.approx(rows + 1000**3 / 6 / unit)
    assert found["cholesky"].solve_work == pytest.approx(1000**2 * 5 / unit)
    assert found["eigen"].setup_work == pytest.approx(rows + 10 * 1000**3 / unit)
    assert found["dual"].setup_work == pytest.approx((1 + 2 * 2) / 3 + (40**2 * 1000 / 2 + 40**3 / 6) / unit)
    assert found["dual"].solve_work == pytest.approx((6 * 40 * 1000 + 2 * 40**2) * 5 / unit)
    assert found["dual"].bytes == 8 * 40 * 1000 + 16 * 40**2


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_h_is_formed_in_the_way_that_is_counted_cheaper(curvature: str) -> None:
    problem = few_examples(curvature, damping=5.0)
    for multiplications, source in ((1, "products"), (10**9, "the rows of its root")):
        problem.operator.work.forward_multiplications = multiplications
        solution = solve(problem, Exact("cholesky"))
        assert solution.diagnostics["H from"] == ("products" if curvature == "hessian" else source)
        way = Exact("cholesky").chosen(problem)
        assert way is not None
        assert solution.setup_work == as_predicted(way.setup_work, problem)
        assert solution.x is not None
        torch.testing.assert_close(solution.x, cholesky_by_scipy(problem), rtol=1e-9, atol=1e-12)


def test_auto_takes_the_dual_for_few_examples_and_cholesky_for_many() -> None:
    for size, method in ((12, "dual"), (200, "cholesky")):
        problem = few_examples(training_size=size)
        assert solve(problem, Exact()).diagnostics["method"] == method
        both = {way.name: way.work for way in Exact().ways(problem)}
        assert min(both, key=lambda name: both[name]) == method


def test_auto_takes_what_fits() -> None:
    problem = few_examples(training_size=60)
    found = {way.name: way.bytes for way in ways(Counts.of(problem), 4.0)}
    assert found["cholesky"] < found["dual"]
    assert solve(problem, Exact(memory_gib=found["cholesky"] / 2**30)).usable
    neither = Exact(memory_gib=found["cholesky"] / 2**31).skip(problem)
    assert neither is not None
    assert "cholesky" in neither
    assert "dual" in neither
    assert f"p = {problem.size}" in neither


def test_works_in_float64_on_float32_problems() -> None:
    problem = problems.load("quadratic", dtype=torch.float32, exponent=3, damping=1e-4)
    solution = solve(problem, solvers.load("exact"))
    assert solution.x is not None
    # float64 inside: what remains is rounding x itself to float32, not κ times that.
    assert problem.condition_number is not None
    assert problem.condition_number > 100
    assert solution.error is not None
    assert solution.error.max() < 1e-7


def test_counts_its_products_as_set_up() -> None:
    solution = solve(problems.load("quadratic", dimension=7, num_examples=9), solvers.load("exact"))
    # Seven products and a Cholesky factorisation; a forward pass of one of the 9 takes 7 multiplications.
    assert solution.setup_work == pytest.approx((1 + 4 * 7) / 3 + 7**3 / 6 / (3 * 63), abs=1 / 27)
    assert solution.work == pytest.approx(4 * 7**2 / (3 * 63), abs=1 / 27)


def test_an_indefinite_matrix_is_a_breakdown_that_names_the_damping_it_needs() -> None:
    operator = DenseOperator.from_matrix(torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64)))
    problem = Problem("indefinite", operator, 0.5, torch.ones(2, 1, dtype=torch.float64))
    solution = solve(problem, solvers.load("exact"))
    assert solution.status is Status.BREAKDOWN
    assert "lowest eigenvalue -1.5" in solution.reason
    assert "above 2" in solution.reason
    assert "method=eigen" in solution.reason


def test_eigenvectors_solve_an_indefinite_system() -> None:
    problem = few_examples("hessian", damping=1e-3, training_size=40)
    assert problem.eigenvalues is not None
    assert float(problem.eigenvalues[0]) < -1e-3
    solution = solve(problem, Exact("eigen"))
    matrix = problem.operator.dense() + 1e-3 * torch.eye(problem.size).double()
    expected = torch.linalg.solve(matrix, problem.columns())
    assert solution.x is not None
    assert float((solution.x - expected).norm() / expected.norm()) <= 1e-9
    told = solution.diagnostics
    assert told["smallest eigenvalue"] == pytest.approx(float(problem.eigenvalues[0]))
    assert told["largest eigenvalue"] == pytest.approx(float(problem.eigenvalues[-1]))
    assert told["condition"] == pytest.approx(problem.condition_number)


def test_a_singular_system_is_a_breakdown() -> None:
    operator = DenseOperator.from_matrix(torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64)))
    problem = Problem("singular", operator, 2.0, torch.ones(2, 1, dtype=torch.float64))
    broken = solve(problem, Exact("eigen"), compare=False)
    assert broken.status is Status.BREAKDOWN
    assert "singular" in broken.reason


def test_the_dual_needs_a_root() -> None:
    solution = solve(few_examples("hessian", damping=5.0), Exact("dual"))
    assert solution.status is Status.SKIPPED
    assert "root" in solution.reason


def test_skips_what_does_not_fit() -> None:
    problem = problems.load("quadratic")
    solution = solve(problem, solvers.load("exact", memory_gib=1e-6))
    assert solution.status is Status.SKIPPED
    assert "p = 64" in solution.reason


@pytest.mark.parametrize("chosen", [{"method": "lu"}, {"memory_gib": 0}])
def test_bad_settings_are_named(chosen: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(chosen))):
        solvers.load("exact", **chosen)
