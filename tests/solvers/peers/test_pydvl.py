"""pyDVL against dense solves of torch's own Hessian, and against its formulas written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import problems
import solvers.peers.network
import solvers.peers.pydvl
from problems import Problem
from problems.models.mlp import mlp
from problems.scaling import relative_norms
from solvers import Solver, Status, solve
from solvers.peers.advice import Advice
from solvers.peers.network import LOSSES
from solvers.peers.pydvl import (
    LIBRARY,
    PydvlArnoldi,
    PydvlBlockCG,
    PydvlCG,
    PydvlDirect,
    PydvlEKFAC,
    PydvlLiSSA,
    PydvlNystrom,
)
from tests.solvers.peers.flops import counted_and_executed

pytestmark = pytest.mark.skipif(bool(LIBRARY.missing()), reason=str(LIBRARY.missing()))

FULL = 10_000  # more examples than any problem here has
SCALE = 2.0  # above (λ_max + λ)/2 of every problem here
OF_THE_HESSIAN: tuple[Solver, ...] = (
    PydvlDirect(),
    PydvlCG(rtol=0.0, atol=1e-6),
    PydvlBlockCG(rtol=0.0, atol=1e-6, maxiter=200),
    PydvlLiSSA(scale=SCALE, maxiter=100, rtol=0.0, batch_size=FULL),
    PydvlArnoldi(rank=14, tol=1e-10, use_woodbury=True),
    PydvlNystrom(rank=15),
)
NAMES = [each.name for each in OF_THE_HESSIAN]


def of_model(
    model: nn.Module,
    loss: str = "cross_entropy",
    *,
    num_examples: int = 24,
    damping: float = 0.5,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Problem:
    """The network on random data, three queries."""
    generator = torch.Generator().manual_seed(1)
    width = next(each.in_features for each in model.modules() if isinstance(each, nn.Linear))
    outputs = [each.out_features for each in model.modules() if isinstance(each, nn.Linear)][-1]

    def draw(count: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(count, width, generator=generator, dtype=torch.float64)
        if loss == "cross_entropy":
            return inputs.to(dtype), torch.randint(outputs, (count,), generator=generator)
        targets = torch.randn(count, outputs, generator=generator, dtype=torch.float64)
        return inputs.to(dtype), (targets if loss == "mse" else (targets > 0)).to(dtype)

    data, queries = draw(num_examples), draw(3)
    return problems.from_model(model.to(dtype).eval(), loss, data, queries, damping=damping, **options)


def linear(inputs: int = 4, outputs: int = 3, *, bias: bool = True) -> nn.Linear:
    """A linear map at random weights."""
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)


def perceptron(*widths: int) -> nn.Sequential:
    """A perceptron at random weights."""
    return mlp(list(widths), torch.Generator().manual_seed(0))


def dense_hessian(problem: Problem) -> Tensor:
    """Of torch's loss over all data, by torch's double backward pass, float64."""
    assert problem.task is not None
    task = problem.task
    function = task.function
    values = {name: value.detach().double() for name, value in function.parameters.items()}
    sizes = [value.numel() for value in values.values()]
    inputs, targets = task.training.batch(torch.arange(len(task.training)))
    assert isinstance(inputs, Tensor)
    loss = LOSSES[type(task.loss)]()
    double = copy.deepcopy(function.model).double()

    def mean_loss(flat: Tensor) -> Tensor:
        parts = zip(values.items(), flat.split(sizes), strict=True)
        parameters = {name: part.reshape(value.shape) for (name, value), part in parts}
        outputs = functional_call(double, parameters, (inputs.double(),))
        return loss(outputs, targets if targets.dtype == torch.int64 else targets.double())

    flat = torch.cat([value.flatten() for value in values.values()])
    return torch.autograd.functional.hessian(mean_loss, flat)


def dense_solution(problem: Problem, b: Tensor | None = None) -> Tensor:
    matrix = dense_hessian(problem)
    matrix.diagonal().add_(problem.damping)
    return torch.linalg.solve(matrix, problem.columns().double() if b is None else b)


def error(x: Tensor | None, exact: Tensor) -> float:
    """The largest relative error of the columns."""
    assert x is not None
    return float(relative_norms(x.double() - exact, exact).max())


def raw(influence: Any, data: Any, b: Tensor) -> Tensor:
    """What pyDVL itself gives for columns."""
    (block,) = influence.fit(data).block_mapper.composable_block_dict.values()
    return block.op.apply(b.T).T


@pytest.fixture(scope="module")
def convex() -> Problem:
    """Softmax regression, p = 15, where the Gauss–Newton matrix is the Hessian."""
    return of_model(linear())


@pytest.mark.parametrize("solver", OF_THE_HESSIAN, ids=NAMES)
def test_it_solves_a_convex_problem(solver: Solver, convex: Problem) -> None:
    solution = solve(convex, solver)
    assert solution.status is Status.FINISHED
    assert error(solution.x, dense_solution(convex)) < 1e-10


@pytest.mark.parametrize("solver", OF_THE_HESSIAN, ids=NAMES)
def test_it_solves_with_the_hessian_of_a_perceptron(solver: Solver) -> None:
    problem = of_model(perceptron(2, 2, 3), curvature="hessian", damping=0.5)  # p = 15, H + λI ≻ 0
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(problem))
    assert -0.4 < float(eigenvalues[0]) < -0.01
    solution = solve(problem, solver)
    off = error(solution.x, dense_solution(problem))
    if isinstance(solver, PydvlNystrom):
        # Its sketch is of matrices ⪰ 0, and it says so.
        assert "cholesky" in str(solution.diagnostics["said"])
        assert off > 0.01
    elif isinstance(solver, PydvlArnoldi):
        # The eigenvalue nearest to 0 is the one that is left out.
        assert off < float(eigenvalues.abs().min()) / problem.damping + 1e-8
    else:
        assert off < 1e-8


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("solver", OF_THE_HESSIAN, ids=NAMES)
def test_losses_of_several_targets_are_means(solver: Solver, loss: str) -> None:
    problem = of_model(linear(), loss)
    # This H has rank 15, and ARPACK finds no more than 14 of its eigenvalues.
    least = float(torch.linalg.eigvalsh(dense_hessian(problem))[0])
    off = error(solve(problem, solver).x, dense_solution(problem))
    assert off < (least / problem.damping if isinstance(solver, PydvlArnoldi) else 1e-10)


@pytest.mark.parametrize("solver", OF_THE_HESSIAN, ids=NAMES)
def test_parameters_that_are_not_chosen_are_left_out(solver: Solver) -> None:
    """The last layer's alone, in which the network is linear: the Gauss–Newton matrix will do."""
    problem = of_model(perceptron(3, 4, 3), parameters="2.*")
    assert problem.size == 15
    assert error(solve(problem, solver).x, dense_solution(problem)) < 1e-10


@pytest.mark.parametrize("solver", OF_THE_HESSIAN, ids=NAMES)
def test_float32_stays_float32(solver: Solver) -> None:
    problem = of_model(linear(), dtype=torch.float32)
    x = solve(problem, solver).x
    assert x is not None
    assert x.dtype == torch.float32
    assert error(x, dense_solution(problem)) < 1e-5


@pytest.mark.parametrize("solver", OF_THE_HESSIAN, ids=NAMES)
def test_all_examples_weigh_alike(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten examples of which at most four go through at once: in twos, and not as 4 + 4 + 2."""
    monkeypatch.setattr(solvers.peers.network, "MOST_AT_ONCE", 4)
    problem = of_model(linear(), num_examples=10)
    exact = dense_solution(problem)
    if isinstance(solver, PydvlDirect):
        solver = PydvlDirect(batch_size=4)
    assert error(solve(problem, solver).x, exact) < 1e-10


def test_pydvl_weighs_batches_alike() -> None:
    """Why `_fit` makes them equal."""
    from pydvl.influence.torch import CgInfluence

    problem = of_model(linear(), num_examples=10)
    network = solvers.peers.network.network_for(problem)
    influence = CgInfluence(network.model, network.loss, regularization=problem.damping, rtol=1e-6)
    ragged = list(zip(network.inputs.split(4), network.targets.split(4), strict=True))
    assert error(raw(influence, ragged, problem.columns()), dense_solution(problem)) > 1e-3


def test_the_regularization_of_lissa_is_damping_and_its_dampen_is_not(convex: Problem) -> None:
    from pydvl.influence.torch import LissaInfluence

    network = solvers.peers.network.network_for(convex)
    data = DataLoader(TensorDataset(network.inputs, network.targets), FULL)

    def with_dampen(dampen: float) -> float:
        settings = {"scale": SCALE, "maxiter": 100, "rtol": 0.0, "warn_on_max_iteration": False}
        influence = LissaInfluence(network.model, network.loss, dampen=dampen, **settings)
        return error(raw(influence, data, convex.columns()), dense_solution(convex))

    assert with_dampen(convex.damping / SCALE) < 1e-10
    assert with_dampen(convex.damping) > 0.1


def test_the_scale_of_lissa_divides(convex: Problem) -> None:
    """η = 1/scale: after T steps from h = b, x is what T + 1 steps of η from 0 give."""
    matrix = dense_hessian(convex) + convex.damping * torch.eye(convex.size, dtype=torch.float64)
    advice = Advice(
        0.1, convex.damping, 1.0, 1e-3, 10, 20, step_size=0.4, batch_size=FULL, num_steps=7, rank=5
    )
    x, b = torch.zeros_like(convex.columns()), convex.columns()
    for _ in range(8):
        x = x + 0.4 * (b - matrix @ x)
    assert error(solve(convex, PydvlLiSSA.tuned(advice)).x, x) < 1e-12


def test_small_batches_of_lissa_follow_the_seed_alone(convex: Problem) -> None:
    """And leave torch's own generator as it was."""
    solver = PydvlLiSSA(scale=5.0, maxiter=30, rtol=0.0, batch_size=4)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = solve(convex, solver).x
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, other = solve(convex, solver).x, solve(convex, solver, seed=1).x
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_small_batches_of_lissa_are_right_on_average(convex: Problem) -> None:
    """One step from b is b + b − (H̃ + λ)b/scale, of which the mean over batches is H's."""
    solver = PydvlLiSSA(scale=SCALE, maxiter=1, rtol=0.0, batch_size=6)
    generator = torch.Generator().manual_seed(0)
    state, b = solver.prepare(convex, generator), convex.columns()
    runs = torch.stack([next(solver.iterates(convex, state, b, generator)).x for _ in range(200)])
    matrix = dense_hessian(convex) + convex.damping * torch.eye(convex.size, dtype=torch.float64)
    expected = (2 * b - matrix @ b / SCALE) / SCALE
    # The sum of 45 squares whose mean is 1.
    deviation = (runs.mean(dim=0) - expected).norm() / (runs.std(dim=0).norm() / 200**0.5)
    assert 0 < float(deviation) < 2


@pytest.mark.parametrize("solver", [PydvlCG, PydvlBlockCG])
def test_cg_ends_where_tolerances_squared_say(solver: type[PydvlCG | PydvlBlockCG]) -> None:
    """Residuals below the tolerance, and not by more than a step or two of CG's."""
    problem = of_model(linear(12, 4), num_examples=60, damping=1e-3)
    matrix = dense_hessian(problem) + problem.damping * torch.eye(problem.size, dtype=torch.float64)
    advice = Advice(0.1, problem.damping, 1.0, 1e-3, 40, 20, 0.4, 4, 7, rank=5)
    x = solve(problem, solver.tuned(advice)).x
    assert x is not None
    residual = relative_norms(problem.columns() - matrix @ x, problem.columns())
    assert 1e-5 < float(residual.max()) <= 1e-3


def test_columns_of_other_lengths_do_not_stop_cg(convex: Problem) -> None:
    """It compares ‖r‖ with rows of b, where a long column drowns a short one."""
    from pydvl.influence.torch import CgInfluence

    b = convex.columns()[:, :2] * torch.tensor([1.0, 1e6])
    solver = PydvlCG(rtol=0.0, atol=1e-4)
    generator = torch.Generator()
    (iterate,) = solver.iterates(convex, solver.prepare(convex, generator), b, generator)
    assert error(iterate.x, dense_solution(convex, b)) < 1e-6
    network = solvers.peers.network.network_for(convex)
    influence = CgInfluence(network.model, network.loss, regularization=convex.damping, rtol=1e-2, atol=0.0)
    naive = raw(influence, network.batches(), b)
    assert error(naive, dense_solution(convex, b)) > 0.1


def test_block_cg_pays_for_a_preconditioner_that_it_leaves_out(convex: Problem) -> None:
    """By one of rank p it would end after a step, 9 gradients each, from which 9 are the residual at b."""
    with_one, without = (solve(convex, PydvlBlockCG(rank=rank)) for rank in (convex.size, None))
    assert with_one.setup_work > without.setup_work == 0
    assert with_one.work == without.work > 2 * 9
    assert with_one.x is not None
    assert without.x is not None
    assert torch.equal(with_one.x, without.x)


def test_a_limit_of_steps_is_told(convex: Problem) -> None:
    short = solve(convex, PydvlCG(rtol=0.0, atol=1e-6, maxiter=2))
    assert "maxiter reached" in short.reason
    assert "Reached max number of iterations" in str(short.diagnostics["said"])
    assert "maxiter" not in solve(convex, PydvlCG()).reason


def test_arnoldi_leaves_out_the_complement_but_with_woodbury(convex: Problem) -> None:
    matrix = dense_hessian(convex)
    values, vectors = torch.linalg.eigh(matrix)
    top, basis, b = values[-4:], vectors[:, -4:], convex.columns()
    inside = basis @ ((basis.T @ b) / (top + convex.damping)[:, None])
    outside = (b - basis @ (basis.T @ b)) / convex.damping
    plain, whole = (
        solve(convex, PydvlArnoldi(rank=4, tol=1e-12, use_woodbury=woodbury)).x for woodbury in (False, True)
    )
    assert error(plain, inside) < 1e-10
    assert error(whole, inside + outside) < 1e-10
    assert error(plain, dense_solution(convex)) > 0.5


def test_the_start_of_arnoldi_follows_the_seed() -> None:
    """Of eigenvalues that are alike it finds some vector, which depends on the start."""
    problem = of_model(linear(3, 2), "mse")  # each of its eigenvalues twice
    first, again, other = (solve(problem, PydvlArnoldi(rank=3), seed=seed).x for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, rtol=1e-3)


def test_nystrom_of_low_rank_keeps_damping_on_the_complement(convex: Problem) -> None:
    """0 ⪯ Ĥ ⪯ H, so that b/λ ⪰ (Ĥ + λ)⁻¹b ⪰ x* in H's order: ‖x − x*‖ ≤ s/(s + λ) · ‖b‖/λ, s ≤ λ_max."""
    x = solve(convex, PydvlNystrom(rank=4)).x
    assert x is not None
    largest = float(torch.linalg.eigvalsh(dense_hessian(convex))[-1])
    b, exact = convex.columns(), dense_solution(convex)
    limit = largest / (largest + convex.damping) * b.norm(dim=0) / convex.damping
    assert bool(((x - exact).norm(dim=0) <= limit).all())
    forms = [(b * each).sum(dim=0) for each in (exact, x, b / convex.damping)]
    assert bool((forms[0] < forms[1]).all())
    assert bool((forms[1] < forms[2]).all())


def kronecker_solution(problem: Problem, model: nn.Linear, update: bool) -> Tensor:
    """(B diag(Λ) Bᵀ + λ)⁻¹b of one layer, of pyDVL's backward passes: those of Σ_c √p_c log p_c."""
    assert problem.task is not None
    inputs, _ = problem.task.training.batch(torch.arange(len(problem.task.training)))
    assert isinstance(inputs, Tensor)
    rows = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
    p = model(inputs).detach().softmax(dim=1)
    passed = p.sqrt() - p * p.sqrt().sum(dim=1, keepdim=True)
    a_values, a = torch.linalg.eigh(rows.T @ rows / len(rows))
    g_values, g = torch.linalg.eigh(passed.T @ passed / len(rows))
    values = torch.outer(g_values, a_values)
    if update:
        values = ((passed @ g) ** 2).T @ ((rows @ a) ** 2) / len(rows)
    columns = problem.columns().T
    weights = columns[:, : model.weight.numel()].reshape(-1, *model.weight.shape)
    joined = torch.cat([weights, columns[:, model.weight.numel() :, None]], dim=2)
    found = g @ ((g.T @ joined @ a) / (values + problem.damping)) @ a.T
    return torch.cat([found[:, :, :-1].flatten(1), found[:, :, -1]], dim=1).T


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ekfac_is_that_of_its_own_backward_passes(update: bool, dtype: torch.dtype) -> None:
    model = linear()
    problem = of_model(model, num_examples=30, dtype=torch.float64)
    exact = kronecker_solution(problem, model, update)
    if dtype == torch.float32:
        problem = of_model(linear(), num_examples=30, dtype=dtype)
    before = torch.get_default_dtype()
    x = solve(problem, PydvlEKFAC(update_diagonal=update)).x
    assert torch.get_default_dtype() == before
    assert error(x, exact) < (1e-10 if dtype == torch.float64 else 1e-4)


def test_ekfac_takes_layers_with_their_bias_under_cross_entropy() -> None:
    ekfac = PydvlEKFAC()
    assert ekfac.skip(of_model(perceptron(3, 4, 3))) is None
    assert ekfac.skip(of_model(perceptron(3, 4, 3), parameters="2.*")) is None
    assert "there is weight: leave" in str(ekfac.skip(of_model(linear(bias=False))))
    assert "there is 2.weight: leave" in str(ekfac.skip(of_model(perceptron(3, 4, 3), parameters="2.weight")))
    assert "SquaredLoss" in str(ekfac.skip(of_model(linear(), "mse")))


def test_what_it_does_not_know_is_skipped(convex: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    network = of_model(perceptron(3, 4, 3))
    matrix = Problem("dense", problems.DenseOperator(torch.eye(3)[None]), 0.1, torch.ones(3, 1))
    for solver in OF_THE_HESSIAN:
        assert "solves with the hessian here, and H is the ggn" in str(solver.skip(network))
        assert "bare matrix" in str(solver.skip(matrix))
        assert solver.skip(convex) is None
    monkeypatch.setattr(solvers.peers.pydvl, "MOST_GIB", 1e-7)
    too_large = {each.name for each in OF_THE_HESSIAN if "would hold" in str(each.skip(convex))}
    assert too_large == {"pydvl_direct", "pydvl_block_cg", "pydvl_arnoldi", "pydvl_nystrom"}


@pytest.mark.parametrize("share", [0.3, 0.01])
def test_a_scale_too_small_diverges(convex: Problem, share: float) -> None:
    """Below half of λ_max + λ; at a hundredth h overflows, and pyDVL raises."""
    largest = float(torch.linalg.eigvalsh(dense_hessian(convex))[-1]) + convex.damping
    solution = solve(convex, PydvlLiSSA(scale=share * largest, maxiter=300, batch_size=FULL))
    assert solution.status is Status.DIVERGED
    assert "raise scale" in solution.reason
    assert ("NaN" in solution.reason) == (share == 0.01)


def test_lissa_diverges_on_an_indefinite_matrix() -> None:
    problem = of_model(perceptron(2, 2, 3), curvature="hessian", damping=0.01)
    values = torch.linalg.eigvalsh(dense_hessian(problem)) + problem.damping
    assert float(values[0]) < -0.01
    solution = solve(problem, PydvlLiSSA(scale=float(values[-1]), maxiter=300, rtol=0.0, batch_size=FULL))
    assert solution.status is Status.DIVERGED


@pytest.mark.parametrize("solver", OF_THE_HESSIAN, ids=NAMES)
def test_work_is_what_torch_executes(solver: Solver) -> None:
    if isinstance(solver, PydvlLiSSA):
        solver = PydvlLiSSA(maxiter=20, rtol=0.0, batch_size=16)
    problem = of_model(perceptron(6, 6, 6, 6, 3), curvature="hessian", num_examples=64, damping=1.0)
    counted, executed = counted_and_executed(problem, solver)
    assert counted == pytest.approx(executed, rel=0.35)


@pytest.mark.parametrize("update", [False, True])
def test_work_of_ekfac_is_what_torch_executes(update: bool) -> None:
    problem = of_model(perceptron(12, 12, 12, 12, 3), num_examples=256)
    counted, executed = counted_and_executed(problem, PydvlEKFAC(update))
    assert counted == pytest.approx(executed, rel=0.35)


def test_tuned_settings_are_the_advice_in_its_terms() -> None:
    advice = Advice(0.1, 0.01, 5.0, 1e-4, 30, 70, step_size=0.2, batch_size=8, num_steps=90, rank=25)
    assert PydvlDirect.tuned(advice) == PydvlDirect()
    assert PydvlCG.tuned(advice) == PydvlCG(rtol=0.0, atol=1e-2)
    assert PydvlBlockCG.tuned(advice) == PydvlBlockCG(rtol=1e-2, atol=1e-2, maxiter=300, rank=None)
    assert PydvlLiSSA.tuned(advice) == PydvlLiSSA(scale=5.0, maxiter=90, rtol=0.0, batch_size=8)
    assert PydvlArnoldi.tuned(advice) == PydvlArnoldi(rank=25, use_woodbury=True)
    assert PydvlNystrom.tuned(advice) == PydvlNystrom(rank=2 * 38 + 1)  # 2⌈1.5 · 25⌉ + 1
    assert PydvlEKFAC.tuned(advice) == PydvlEKFAC(update_diagonal=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PydvlCG(atol=0.0), "atol is 0.0"),
        (lambda: PydvlBlockCG(rtol=-1.0), "rtol is -1.0"),
        (lambda: PydvlBlockCG(rank=0), "rank is 0"),
        (lambda: PydvlCG(maxiter=0), "maxiter is 0"),
        (lambda: PydvlLiSSA(scale=0.0), "scale is 0.0"),
        (lambda: PydvlArnoldi(tol=float("nan")), "tol is nan"),
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
