"""K-FAC and EK-FAC against factors built by hand, and where they are exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import solvers.symmetric_eigen
from problems import MonteCarloFisher, NetworkOperator, Problem, from_model
from problems.losses import TokenCrossEntropy
from solvers import Status, solve
from solvers.ekfac import EKFAC
from solvers.kfac import KFAC
from solvers.kronecker import GIB, KroneckerInverse, memory_bytes
from solvers.solver import Breakdown
from solvers.symmetric_eigen import symmetric_eigen
from tests.conftest import dense_problem, random_psd_examples
from tests.problems.operators.small_networks import LanguageModel
from tests.solvers.layer_oracle import (
    LayerRows,
    dense_inverse,
    ekfac_block,
    exact_vectors,
    kfac_block,
    layer_rows,
)

DAMPING = 0.05
COUNT = 7


class Images(nn.Module):
    """Convolutions with stride, dilation and kinds of padding; one layer called twice.

    Not circular padding, whose A has eigenvalues that are equal: EK-FAC then depends on their eigenvectors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(3, 3, 2, dilation=2, padding="same")
        self.third = nn.Conv2d(3, 2, (1, 3), padding=(0, 1), padding_mode="reflect")
        self.shared = nn.Linear(9, 9)
        self.head = nn.Linear(18, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.third(self.second(self.first(images).tanh()).tanh()).flatten(2)
        return self.head(self.shared(self.shared(hidden).tanh()).flatten(1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
    "images": Images,
    "language_model": LanguageModel,
}
LAYERS = {"mlp": ["0", "2"], "images": ["first", "second", "third", "shared", "head"]}
LAYERS["language_model"] = ["mix", "head"]
SHAPES = {"mlp": (4,), "images": (2, 6, 6)}
CASES = [
    ("mlp", "cross_entropy"),
    ("mlp", "mse"),
    ("mlp", "bce"),
    ("images", "cross_entropy"),
    ("images", "mse"),
    ("language_model", "next_token_cross_entropy"),
]
cases = pytest.mark.parametrize(("model", "loss"), CASES)


def data(model: str, loss: str, count: int = COUNT) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if model == "language_model":
        tokens = torch.randint(5, (count, 6), generator=generator)
        targets = tokens.clone()
        # Sequences of unequal lengths, padded, and one with a prompt.
        targets[1, 3:], targets[2, :3], targets[4, 2:] = -100, -100, -100
        return tokens, targets
    inputs = torch.randn(count, *SHAPES[model], generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return inputs, torch.randint(3, (count,), generator=generator)
    return inputs, torch.rand(count, 3, generator=generator, dtype=torch.float64)


def network(model: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[model]().double().eval()


def problem_of(model: str, loss: str, **settings: object) -> Problem:
    inputs, targets = data(model, loss)
    queries = (inputs[:2], targets[:2])
    return from_model(network(model), loss, (inputs, targets), queries, damping=DAMPING, **settings)  # type: ignore[arg-type]


def inverse(solver: KFAC | EKFAC, problem: Problem, seed: int = 0) -> tuple[KroneckerInverse, Tensor]:
    """The solver's state and P⁻¹ as a matrix."""
    state = solver.prepare(problem, torch.Generator().manual_seed(seed))
    return state, state.solve(torch.eye(problem.size, dtype=problem.operator.dtype))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def exact_rows(model: str, loss: str) -> dict[str, LayerRows]:
    inputs, targets = data(model, loss)

    def vectors(index: int, outputs: Tensor) -> list[Tensor]:
        found = exact_vectors(outputs, loss)
        if model != "language_model":
            return found
        # Position t is judged by the token after it; the mean is over all that are.
        judged = [(row[1:] != -100).sum() for row in targets]
        mean = float(torch.stack(judged).double().mean())
        counts = [t for t in range(5) if targets[index, t + 1] != -100]
        return [each / mean**0.5 for each in found if any(bool(each[0, t].any()) for t in counts)]

    return layer_rows(network(model), LAYERS[model], list(inputs), vectors)


def by_hand(problem: Problem, model: str, rows: dict[str, LayerRows], kind: str, diagonal: Tensor) -> Tensor:
    blocks = {}
    for name, each in rows.items():
        a, g = each.reduce() if kind == "reduce" else each.expand()
        count = len(each.inputs)
        blocks[name] = ekfac_block(each.matrices(), a, g, count) if kind == "ekfac" else kfac_block(a, g)
    return dense_inverse(network(model), blocks, diagonal, problem.damping)


SOLVERS = {
    "expand": KFAC(labels="exact"),
    "reduce": KFAC(labels="exact", approximation="reduce"),
    "ekfac": EKFAC(labels="exact"),
}


@pytest.mark.parametrize("kind", SOLVERS)
@cases
def test_equals_the_inverse_of_factors_built_by_hand(model: str, loss: str, kind: str) -> None:
    problem = problem_of(model, loss)
    state, found = inverse(SOLVERS[kind], problem)
    assert len(state.blocks) == len(LAYERS[model])
    expected = by_hand(problem, model, exact_rows(model, loss), kind, problem.operator.dense().diagonal())
    assert relative(found, expected) <= 1e-9
    halved = state.half_solve(state.half_solve(torch.eye(problem.size, dtype=torch.float64)))
    assert relative(halved, expected) <= 1e-9


@pytest.mark.parametrize("kind", ["expand", "reduce", "ekfac"])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_sampled_labels_of_a_sequence_are_pulled_back_together(kind: str, num_samples: int) -> None:
    model, loss = "language_model", "next_token_cross_entropy"
    problem = problem_of(model, loss)
    operator = problem.operator
    assert isinstance(operator, NetworkOperator)
    # The draws by the generator's first number, as their own tests have it.
    seed = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(4)))
    drawn = operator.with_curvature(MonteCarloFisher(num_samples, seed)).batch(torch.arange(COUNT)).sampled
    inputs, targets = data(model, loss)
    criterion = TokenCrossEntropy(shift=1)
    judged = criterion.counted(targets)
    mean = float(judged.sum(dim=1).double().mean())

    def vectors(index: int, outputs: Tensor) -> list[Tensor]:
        found = []
        for sample in drawn:
            labels = sample[index].roll(-1)
            gradient = outputs.softmax(dim=-1) - torch.eye(5, dtype=torch.float64)[labels]
            found.append(gradient * judged[index][:, None] / (mean * num_samples) ** 0.5)
        return found

    rows = layer_rows(network(model), LAYERS[model], list(inputs), vectors)
    # The embedding's diagonal, from gradients of the same rows.
    module = network(model)
    squares = torch.zeros(problem.size, dtype=torch.float64)
    for index, tokens in enumerate(inputs):
        outputs = module(tokens[None])
        for vector in vectors(index, outputs.detach()):
            gradients = torch.autograd.grad(outputs, list(module.parameters()), vector, retain_graph=True)
            squares += torch.cat([each.flatten() for each in gradients]).square() / COUNT
    cls, given = (EKFAC, {}) if kind == "ekfac" else (KFAC, {"approximation": kind})
    state, found = inverse(cls(labels="sampled", num_samples=num_samples, **given), problem, seed=4)  # type: ignore[arg-type]
    assert relative(found, by_hand(problem, model, rows, kind, squares)) <= 1e-9
    assert state.diagnostics["solved as diagonal"].startswith("embed.weight")


def test_sampled_labels_tend_to_the_exact_ones() -> None:
    problem = problem_of("mlp", "cross_entropy")
    _, exact = inverse(EKFAC(labels="exact"), problem)
    errors = [
        relative(inverse(EKFAC(labels="sampled", num_samples=samples), problem)[1], exact)
        for samples in (1, 2000)
    ]
    assert errors[1] < 0.2 * errors[0]


@settings(max_examples=8, deadline=None)
@given(outputs=st.integers(1, 4), features=st.integers(1, 5), bias=st.booleans(), seed=st.integers(0, 99))
def test_exact_for_one_linear_layer_under_squared_loss(
    outputs: int, features: int, bias: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(features, outputs, bias=bias).double().eval()
    inputs = torch.randn(6, features, generator=generator, dtype=torch.float64)
    targets = torch.randn(6, outputs, generator=generator, dtype=torch.float64)
    problem = from_model(model, "mse", (inputs, targets), (inputs[:2], targets[:2]), damping=0.01)
    for solver in (KFAC(), EKFAC()):
        solution = solve(problem, solver)
        assert solution.error is not None
        assert float(solution.error.max()) <= 1e-10


@pytest.mark.parametrize(
    "solver", [KFAC(), KFAC(approximation="reduce"), EKFAC(), EKFAC(labels="sampled")], ids=str
)
@cases
def test_batches_and_order_of_examples_change_nothing(model: str, loss: str, solver: KFAC | EKFAC) -> None:
    problem = problem_of(model, loss)
    _, whole = inverse(solver, problem)
    assert isinstance(problem.operator, NetworkOperator)
    cut = problem_of(model, loss)
    assert isinstance(cut.operator, NetworkOperator)
    cut.operator.micro_batches.max_bytes = 64_000
    assert relative(inverse(solver, cut)[1], whole) <= 1e-9
    if solver.labels == "sampled":
        return
    inputs, targets = data(model, loss)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    queries = (inputs[:2], targets[:2])
    other = from_model(network(model), loss, (inputs[order], targets[order]), queries, damping=DAMPING)
    assert relative(inverse(solver, other)[1], whole) <= 1e-9


@pytest.mark.parametrize("solver", [KFAC(), EKFAC()], ids=str)
@cases
def test_float32_is_as_near_as_rounding_allows(model: str, loss: str, solver: KFAC | EKFAC) -> None:
    _, expected = inverse(solver, problem_of(model, loss))
    inputs, targets = data(model, loss)
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    targets = targets.float() if targets.is_floating_point() else targets
    problem = from_model(
        network(model).float(), loss, (inputs, targets), (inputs[:2], targets[:2]), damping=DAMPING
    )
    _, found = inverse(solver, problem)
    assert found.dtype == torch.float32
    assert relative(found, expected) <= 1e-4


@pytest.mark.parametrize("solver", [KFAC(), EKFAC()], ids=str)
@pytest.mark.parametrize("curvature", ["empirical_fisher", "monte_carlo_fisher"])
def test_a_fisher_matrix_keeps_its_own_root(curvature: str, solver: KFAC | EKFAC) -> None:
    problem = problem_of("mlp", "cross_entropy", curvature=curvature)
    operator = problem.operator
    assert isinstance(operator, NetworkOperator)
    batch = operator.batch(torch.arange(COUNT))
    labels = batch.targets if curvature == "empirical_fisher" else batch.sampled[0]

    def vectors(index: int, outputs: Tensor) -> list[Tensor]:
        return [outputs.softmax(dim=-1) - torch.eye(3, dtype=torch.float64)[labels[index]]]

    rows = layer_rows(network("mlp"), LAYERS["mlp"], list(batch.inputs), vectors)
    kind = "ekfac" if isinstance(solver, EKFAC) else "expand"
    expected = by_hand(problem, "mlp", rows, kind, torch.zeros(problem.size, dtype=torch.float64))
    assert relative(inverse(solver, problem)[1], expected) <= 1e-9


def test_the_hessian_is_taken_for_the_gauss_newton_matrix() -> None:
    state, found = inverse(EKFAC(), problem_of("mlp", "cross_entropy", curvature="hessian"))
    assert relative(found, inverse(EKFAC(), problem_of("mlp", "cross_entropy"))[1]) <= 1e-12
    assert state.diagnostics["curvature"] == "Gauss–Newton, in place of the Hessian"


@pytest.mark.parametrize("cls", [KFAC, EKFAC])
def test_heuristic_damping_is_a_tenth_of_a_layers_mean(cls: type[KFAC] | type[EKFAC]) -> None:
    problem = problem_of("mlp", "cross_entropy")
    given, _ = inverse(cls(), problem)
    heuristic, _ = inverse(cls(layer_damping="heuristic"), problem)
    for before, after in zip(given.blocks, heuristic.blocks, strict=True):
        values = before.values - DAMPING
        torch.testing.assert_close(after.values, values + 0.1 * values.mean(), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("solver", [KFAC(), EKFAC()], ids=str)
@pytest.mark.parametrize("selected", ["weight", "bias", "0.bias|2.weight", "0"])
def test_parameters_that_are_filtered_out_are_not_in_the_factors(selected: str, solver: KFAC | EKFAC) -> None:
    whole = exact_rows("mlp", "cross_entropy")
    problem = problem_of("mlp", "cross_entropy", parameters=selected)
    _, found = inverse(solver, problem)
    blocks = []
    for name, each in whole.items():
        own = [o for o in ("weight", "bias") if f"{name}.{o}" in problem.task.function.names]  # type: ignore[union-attr]
        if not own:
            continue
        columns = slice(None) if len(own) == 2 else slice(None, -1) if own == ["weight"] else slice(-1, None)
        kept = LayerRows(name, [a[:, columns] for a in each.inputs], each.gradients)
        a, g = kept.expand()
        block = kfac_block(a, g) if isinstance(solver, KFAC) else ekfac_block(kept.matrices(), a, g, COUNT)
        size = len(g) * (a.shape[0] - 1) if len(own) == 2 else 0
        if size:
            # From (outputs, columns) row by row to weight and then bias.
            order = torch.arange(len(block)).reshape(len(g), -1)
            order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
            block = block[order][:, order]
        blocks.append(block)
    matrix = torch.block_diag(*blocks) + DAMPING * torch.eye(problem.size, dtype=torch.float64)
    assert relative(found, torch.linalg.inv(matrix)) <= 1e-9


def test_work_of_a_pass_and_of_the_algebra() -> None:
    problem = problem_of("mlp", "cross_entropy")
    work = problem.operator.work
    before = work.passes
    KFAC().prepare(problem, torch.Generator())
    # A look at two examples with two rows each, the pass with 3 rows, then by multiplications: sums of
    # outer products, and 10 d³ for each factor.
    sums = COUNT * (25 + 36) + 3 * COUNT * (25 + 9)
    algebra = [sums, 10 * (125 + 125), 10 * (216 + 27)]
    forward = work.forward_multiplications
    assert forward == 35
    expected = (1 + 2 * 4) * 2 + (1 + 2 * 3) * COUNT + sum(-(-each // forward) for each in algebra)
    assert work.passes - before == expected
    state = KFAC().prepare(problem, torch.Generator())
    assert state.multiplications == 2 * 25 * 10 + 2 * 18 * 9


def test_memory_is_stated_before_anything_runs() -> None:
    problem = problem_of("mlp", "cross_entropy")
    reason = EKFAC(memory_gib=1e-9).skip(problem)
    assert reason is not None
    assert "GiB" in reason
    assert "memory_gib" in reason
    assert solve(problem, KFAC(memory_gib=1e-9)).status is Status.SKIPPED
    tokens = problem_of("language_model", "next_token_cross_entropy")
    operator = tokens.operator
    assert isinstance(operator, NetworkOperator)
    # Six tokens of a vocabulary that is large for what is left.
    operator.shared.outputs = 100_000
    assert "set labels=sampled" in str(KFAC(labels="exact").skip(tokens))
    assert KFAC().skip(tokens) is None
    # He et al. 2016: 25.50M parameters of convolutions and head.
    shapes, inputs = [(64, 3 * 49)], 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(count):
            shapes += [(width, inputs), (width, 9 * width), (4 * width, width)]
            shapes += [(4 * width, inputs)] if block == 0 else []
            inputs = 4 * width
    shapes.append((1000, 2049))
    assert sum(a * b for a, b in shapes) == 25_503_912
    assert round(memory_bytes(shapes, 53_120, 4) / GIB, 1) == 2.4
    # Zhang et al. 2022: 12 layers, 768 wide; embeddings and norms are diagonal.
    shapes = 12 * [*4 * [(768, 769)], (3072, 769), (768, 3073)]
    others = 125_239_296 - sum(a * b for a, b in shapes)
    assert round(memory_bytes(shapes, others, 4) / GIB, 1) == 4.2


def test_what_has_no_layers_is_skipped() -> None:
    bare = dense_problem(random_psd_examples(4, 3, seed=0), 0.1)
    model = nn.Sequential(nn.LayerNorm(4), nn.Flatten()).double().eval()
    data_of = (torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64))
    without = from_model(model, "mse", data_of, data_of, damping=0.1)
    for solver in (KFAC(), EKFAC()):
        assert "bare matrix" in str(solver.skip(bare))
        assert "no layer can be factored (0.weight belongs to no linear layer" in str(solver.skip(without))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "given"}, "labels is 'given'; it must be one of auto, exact, sampled"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"layer_damping": "none"}, "layer_damping is 'none'; it must be one of given, heuristic"),
        ({"memory_gib": -1}, "memory_gib is -1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    for cls in (KFAC, EKFAC):
        with pytest.raises(ValueError, match=message):
            cls(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="approximation is 'both'; it must be one of expand, reduce"):
        KFAC(approximation="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("how", ["raises", "not finite"])
def test_an_eigendecomposition_that_fails_is_tried_again(
    failures: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.T
    true, calls = torch.linalg.eigh, []

    def failing(given: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        if len(calls) > failures:
            return true(given)
        if how == "raises":
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return given[0] * float("nan"), given

    monkeypatch.setattr(solvers.symmetric_eigen.torch.linalg, "eigh", failing)
    values, vectors = symmetric_eigen(matrix)
    assert len(calls) == 2
    assert float(values.min()) >= 0
    torch.testing.assert_close((vectors * values) @ vectors.T, matrix, rtol=1e-10, atol=1e-12)


def test_a_factor_that_is_not_finite_breaks_down() -> None:
    with pytest.raises(Breakdown, match="NaN or inf"):
        symmetric_eigen(torch.full((2, 2), float("nan")))
