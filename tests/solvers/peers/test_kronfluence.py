"""kronfluence against factors built by hand, one example and one position at a time, in float64."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from problems import DenseOperator, Problem, from_model
from problems.losses import as_loss
from problems.models.resnet import resnet
from solvers import Solver, load
from solvers.peers import kronfluence
from solvers.peers.kronfluence import LIBRARY, KronfluenceEKFAC
from tests.solvers.layer_oracle import LayerRows, ekfac_block, exact_vectors, layer_rows
from tests.solvers.peers.flops import counted_and_executed

pytestmark = pytest.mark.skipif(bool(LIBRARY.missing()), reason=str(LIBRARY.missing()))
COUNT, DAMPING = 9, 0.05
STRATEGIES = ["ekfac", "kfac", "diagonal"]
LOSSES = ["cross_entropy", "mse", "bce"]
strategies = pytest.mark.parametrize("strategy", STRATEGIES)


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    second = nn.Conv2d(3, 2, (2, 1), dilation=(2, 1), padding=1, bias=False)
    layers = [first, nn.ReLU(), second, nn.Tanh(), nn.Flatten(), nn.Linear(30, 3)]
    return nn.Sequential(*layers).double().eval()


def data(shape: tuple[int, ...], loss: str, count: int = COUNT) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return inputs, torch.randint(3, (count,), generator=generator)
    return inputs, torch.rand(count, 3, generator=generator, dtype=torch.float64)


def problem_of(model: nn.Module, loss: str = "cross_entropy", copies: int = 1, **settings: object) -> Problem:
    shape = (4,) if isinstance(model[0], nn.Linear) else (2, 6, 6)  # type: ignore[index]
    inputs, targets = data(shape, loss)
    queries = (inputs[:3], targets[:3])
    repeated = (inputs.repeat_interleave(copies, dim=0), targets.repeat_interleave(copies, dim=0))
    return from_model(model, loss, repeated, queries, **{"damping": DAMPING, **settings})  # type: ignore[arg-type]


def rows_of(model: nn.Module, loss: str, *, exact: bool) -> dict[str, LayerRows]:
    """Of all layers: gradients at the given targets, or the rows of ∇²ℓ."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    inputs, targets = data((4,) if isinstance(model[0], nn.Linear) else (2, 6, 6), loss)  # type: ignore[index]

    def vectors(index: int, outputs: Tensor) -> list[Tensor]:
        if exact:
            return exact_vectors(outputs, loss)
        return [as_loss(loss).gradient(outputs, targets[index][None])]

    return layer_rows(model, names, list(inputs), vectors)


def block(rows: LayerRows, strategy: str, columns: slice = slice(None)) -> Tensor:
    """A layer's matrix, its entries row by row (outputs, columns)."""
    matrices = rows.matrices()[:, :, columns]
    if strategy == "diagonal":
        return torch.diag(matrices.square().sum(dim=0).flatten() / COUNT)
    # Both factors are means over all positions; K-FAC's second is a sum over those of an example.
    inputs = torch.cat(rows.inputs)[:, columns]
    gradients = torch.cat([g for by_row in rows.gradients for g in by_row])
    a, g = inputs.T @ inputs / len(inputs), gradients.T @ gradients / len(inputs)
    return torch.kron(g, a) if strategy == "kfac" else ekfac_block(matrices, a, g, COUNT)


def by_hand(problem: Problem, rows: dict[str, LayerRows], strategy: str, share: float = 0.0) -> Tensor:
    """x = (Ĥ + λ)⁻¹ b, λ a `share` of each layer's mean eigenvalue where one is given."""
    assert problem.task is not None
    parameters, first = problem.task.function.parameters, 0
    places = {}
    for name, value in parameters.items():
        places[name] = torch.arange(first, first + value.numel()).reshape(len(value), -1)
        first += value.numel()
    damped = torch.zeros(first, first, dtype=torch.float64)
    for name, each in rows.items():
        parts = [places[f"{name}.{own}"] for own in ("weight", "bias") if f"{name}.{own}" in places]
        place = torch.cat(parts, dim=1)
        # The input of the bias, 1, is the last.
        matrix = block(each, strategy, slice(place.shape[1]))
        damping = share * matrix.trace() / len(matrix) if share else problem.damping
        own = place.flatten()
        damped[own[:, None], own] = matrix + damping * torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.solve(damped, problem.columns())


def answer(problem: Problem, solver: Solver, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    state = solver.prepare(problem, generator)
    return next(solver.iterates(problem, state, problem.columns(), generator)).x


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@strategies
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("make", [perceptron, convolutions])
def test_is_the_one_built_by_hand(make: Callable[[], nn.Module], loss: str, strategy: str) -> None:
    problem, rows = problem_of(make(), loss), rows_of(make(), loss, exact=False)
    x = answer(problem, load(f"kronfluence_{strategy}", use_empirical_fisher=True))
    assert relative(x, by_hand(problem, rows, strategy)) <= 1e-9


@strategies
def test_takes_weights_without_their_biases(strategy: str) -> None:
    problem = problem_of(convolutions(), parameters="weight")
    x = answer(problem, load(f"kronfluence_{strategy}", use_empirical_fisher=True))
    rows = rows_of(convolutions(), "cross_entropy", exact=False)
    assert relative(x, by_hand(problem, rows, strategy)) <= 1e-9


@strategies
@pytest.mark.parametrize("loss", LOSSES)
def test_sampled_targets_are_those_of_h(loss: str, strategy: str) -> None:
    problem = problem_of(perceptron(), loss, copies=1000)
    expected = by_hand(problem, rows_of(perceptron(), loss, exact=True), strategy)
    # Of 9000 draws; without the power of the likelihood that bce is, Ĥ would be a third.
    found = answer(problem, load(f"kronfluence_{strategy}"))
    assert relative(found, expected) <= 0.05


@strategies
def test_a_seed_decides_what_is_drawn(strategy: str) -> None:
    problem, solver = problem_of(perceptron()), load(f"kronfluence_{strategy}")
    before = torch.random.get_rng_state()
    one, same, other = (answer(problem, solver, seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert relative(other, one) > 1e-3
    assert torch.equal(torch.random.get_rng_state(), before)


@strategies
def test_the_size_of_batches_does_not_matter(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of means over batches it would: gradients would be divided by 4, and by 1 in the last.
    problem, solver = problem_of(perceptron()), load(f"kronfluence_{strategy}", use_empirical_fisher=True)
    whole = answer(problem, solver)
    monkeypatch.setattr(kronfluence, "MOST_AT_ONCE", 4)
    torch.testing.assert_close(answer(problem, solver), whole, rtol=1e-9, atol=1e-12)


@strategies
def test_the_heuristic_damping_is_a_tenth_of_the_mean_eigenvalue(strategy: str) -> None:
    problem, rows = problem_of(perceptron()), rows_of(perceptron(), "cross_entropy", exact=False)
    solver = load(f"kronfluence_{strategy}", use_empirical_fisher=True, layer_damping="heuristic")
    assert relative(answer(problem, solver), by_hand(problem, rows, strategy, share=0.1)) <= 1e-9


def test_ekfac_is_exact_for_one_layer_under_squared_loss() -> None:
    # H = (2/C) I ⊗ mean aaᵀ, and gradients at sampled targets have its eigenvectors up to sampling.
    inputs, targets = data((4,), "mse")
    model = nn.Linear(4, 3).double().eval()
    repeated = (inputs.repeat(1000, 1), targets.repeat(1000, 1))
    problem = from_model(model, "mse", repeated, (inputs[:2], targets[:2]), damping=DAMPING)
    matrix = problem.operator.dense() + DAMPING * torch.eye(problem.size, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, problem.columns())
    found = answer(problem, load("kronfluence_ekfac"))
    assert relative(found, expected) <= 0.05
    assert relative(answer(problem, load("kronfluence_diagonal")), expected) > 0.1


def test_runs_on_a_resnet_without_batchnorm_and_biases() -> None:
    generator = torch.Generator().manual_seed(0)
    model = resnet(18, generator, width=2, channels=1, classes=3, stem="cifar", dtype=torch.float32)
    images, targets = torch.randn(6, 1, 8, 8, generator=generator), torch.arange(6) % 3
    given = ((images, targets), (images[:2], targets[:2]))
    problem = from_model(model, "cross_entropy", *given, damping=1.0, parameters="no_batchnorm_no_bias")
    solver = load("kronfluence_ekfac")
    assert solver.skip(problem) is None
    x = answer(problem, solver)
    assert x.dtype == torch.float32
    # 0 ⪯ Ĥ: x lies on b's side, and within ‖b‖/λ.
    assert float((x * problem.columns()).sum(dim=0).min()) > 0
    assert (x.norm(dim=0) <= problem.columns().norm(dim=0) * (1 + 1e-5)).all()


@strategies
def test_work_is_what_torch_executes(strategy: str) -> None:
    # Of so many examples that eigenvectors, which are not among the operations it counts, are little.
    problem = problem_of(convolutions(), copies=200)
    counted, executed = counted_and_executed(problem, load(f"kronfluence_{strategy}"))
    assert counted == pytest.approx(executed, rel=0.35)


def test_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    problem = problem_of(perceptron())
    before = {name: value.clone() for name, value in perceptron().state_dict().items()}
    answer(problem, load("kronfluence_ekfac"))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert problem.task is not None
    model = problem.task.function.model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.requires_grad for value in model.parameters())


def test_says_why_it_skips_a_problem() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)
            self.around = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
            self.grouped = nn.Conv2d(2, 2, 1, groups=2)

        def forward(self, rows: Tensor) -> Tensor:
            pairs = self.grouped(rows.reshape(-1, 2, 1, 2)).reshape(-1, 1, 2, 2)
            return self.head(self.norm(self.around(pairs).flatten(1)))

    solver = load("kronfluence_ekfac")
    bare = Problem("bare", DenseOperator(torch.eye(2)[None]), 0.1, torch.ones(2, 1))
    assert "bare matrix" in str(solver.skip(bare))
    torch.manual_seed(0)
    inputs, targets = torch.randn(5, 4), torch.arange(5) % 3
    for parameters, reason in {
        r"^(norm|head)\.": "norm is a LayerNorm",
        r"^grouped\.": "grouped.weight is of a convolution in 2 groups",
        r"^around\.": "padding_mode of around is 'circular'",
        r"^head\.bias": "of head the bias alone is a parameter",
    }.items():
        problem = from_model(
            Mixed(), "cross_entropy", (inputs, targets), (inputs, targets), damping=0.1, parameters=parameters
        )
        assert reason in str(solver.skip(problem))


def test_refuses_another_damping() -> None:
    with pytest.raises(ValueError, match="layer_damping is 'mean'; it must be one of given, heuristic"):
        KronfluenceEKFAC(layer_damping="mean")  # type: ignore[arg-type]
