"""torch-influence (Bae et al. 2022): the inverse formed, SciPy's CG, and LiSSA, one column at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from problems import Problem
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator
from problems.validation import check_counts
from problems.work import ProductCost
from solvers.callbacks import iterate_callbacks
from solvers.peers import network
from solvers.peers.advice import Advice
from solvers.peers.library import Library
from solvers.peers.network import PeerNetwork, network_for, skip_reason
from solvers.solver import Example, Iterate, Solver, State, check_positive

LIBRARY = Library(
    "torch_influence",
    "torch-influence",
    ">=0.1",
    install="it is not in the package index: pip install git+https://github.com/alstonlo/torch-influence",
)
# Of each forward pass. It has no tangents: a Gauss–Newton product runs two of them, a backward pass after
# each, and backwards once more through the first, 8 in all. The Hessian's runs a gradient (3), backwards
# through it (6) and through that (6); formed whole it is a gradient, and backwards through it for each row.
GNH_COST = ProductCost(1, 3)
HESSIAN_COST = ProductCost(3, 12)
ROW_COST = Hessian.cost
GIB = 2**30
# What the matrix may take, of which it holds four: H, its sum with λI, the inverse, and what that needs.
MOST_GIB = 4.0


@dataclass(frozen=True)
class TorchInfluenceDirect(Solver):
    """`AutogradInfluenceModule`: H, the Hessian, row by row, and the inverse of H + λI.

    It makes λI in float32 whatever the dtype of H: λ itself is rounded, by up to 6e-8 of it.
    """

    variant: ClassVar[str] = "direct"

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem, matrices=("hessian",)) or _too_large(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Any:
        peer = network_for(problem)
        with peer.counting(ROW_COST, columns=problem.size):
            module = _module("AutogradInfluenceModule", problem, peer)
        peer.work.count_algebra(problem.size**3)
        return module

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        problem.operator.work.count_algebra(problem.size * b.numel())
        yield Iterate(torch.stack([state.inverse_hvp(column) for column in b.T], dim=1))

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """There is nothing to set."""
        return cls()

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        smallest = float((problem.eigenvalues + problem.damping).abs().min())
        return [Example(cls(), max(1e-8, 2**-24 * problem.damping / smallest))]


@dataclass(frozen=True)
class TorchInfluenceCG(Solver):
    """`CGInfluenceModule`: `scipy.sparse.linalg.cg` with Gauss–Newton products, or the Hessian's.

    `tolerance` and `num_steps` are what it hands to SciPy as rtol, by default 1e-5, and maxiter, 10p; whether
    that many sufficed it does not say.
    """

    tolerance: float = 1e-5
    num_steps: int | None = None

    variant: ClassVar[str] = "cg"
    remedy: ClassVar[str] = "raise damping until H + λI is positive definite"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)
        if self.num_steps is not None:
            check_counts(num_steps=self.num_steps)

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> PeerNetwork:
        return network_for(problem)

    def iterates(
        self, problem: Problem, state: PeerNetwork, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        def run(column: Tensor, report: Callable[[Tensor], None]) -> None:
            def callback(x: np.ndarray) -> None:
                report(torch.from_numpy(x))

            limits = {"rtol": self.tolerance, "atol": 0.0, "maxiter": self.num_steps}
            _solve("CGInfluenceModule", problem, state, column, callback=callback, **limits)

        yield from _column_by_column(b, run)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With the residual at which CG has the target's error."""
        return cls(tolerance=advice.tolerance)


@dataclass(frozen=True)
class TorchInfluenceLiSSA(Solver):
    """`LiSSAInfluenceModule`: h ← b + h − (H̃ + λ)h/scale from h = b; x = h/scale, the mean over `repeat`.

    In our terms η = 1/scale, whatever λ: its damping is not divided by scale. H̃ is of `batch_size` examples
    drawn with replacement. The mean converges iff scale > (λ_max + λ)/2. After the first repetition an
    iterate is the mean of those so far.
    """

    # It sets none of these; so do its own tests, on a logistic regression.
    repeat: int = 1
    depth: int = 5000
    scale: float = 10.0
    batch_size: int = 100

    variant: ClassVar[str] = "lissa"
    remedy: ClassVar[str] = "raise scale above (λ_max + λ)/2, or batch_size if mini-batches alone diverge"

    def __post_init__(self) -> None:
        check_counts(repeat=self.repeat, depth=self.depth, batch_size=self.batch_size)
        check_positive(scale=self.scale)

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> PeerNetwork:
        return network_for(problem)

    def iterates(
        self, problem: Problem, state: PeerNetwork, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        # One for all columns, so that they share their mini-batches.
        seed = int(torch.randint(2**63 - 1, (1,), generator=generator))

        def run(column: Tensor, report: Callable[[Tensor], None]) -> None:
            ended = torch.zeros_like(column)

            def callback(repetition: int, step: int, h: Tensor) -> None:
                report((ended + h) / (self.scale * (repetition + 1)))
                if step == self.depth - 1:
                    ended.add_(h)

            settings = {"repeat": self.repeat, "depth": self.depth, "scale": self.scale}
            # It draws from torch's own generator.
            with torch.random.fork_rng([]):
                torch.manual_seed(seed)
                _solve(
                    "LiSSAInfluenceModule", problem, state, column,
                    batch_size=self.batch_size, debug_callback=callback, **settings,
                )  # fmt: skip

        yield from _column_by_column(b, run)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """Self-tuned LiSSA's step size, batch size and number of steps."""
        return cls(depth=advice.num_steps, scale=1 / advice.step_size, batch_size=advice.batch_size)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        scale = 2 * (float(problem.eigenvalues.abs().max()) + problem.damping)
        # Its noise is not known beforehand.
        return [Example(cls(depth=100, scale=scale, batch_size=50), None)]


def _skip(problem: Problem, **known: Any) -> str | None:
    return skip_reason(LIBRARY, problem, **known) or _tied(problem)


def _tied(problem: Problem) -> str | None:
    """It replaces a parameter under one name, and leaves it as a constant under others."""
    assert problem.task is not None
    function = problem.task.function
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in function.model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    for same in names.values():
        if len(same) > 1 and set(same) & set(function.names):
            return (
                f"{LIBRARY.distribution} takes a parameter under one name, and {' and '.join(same)} are one: "
                "leave it out of the parameters"
            )
    return None


def _too_large(problem: Problem) -> str | None:
    needed = 4 * problem.size**2 * problem.operator.dtype.itemsize / GIB
    if needed <= MOST_GIB:
        return None
    return (
        f"{LIBRARY.distribution} would hold {needed:.2g} GiB for p = {problem.size}, more than {MOST_GIB:g}: "
        "use torch_influence_cg"
    )


def _column_by_column(
    b: Tensor, run: Callable[[Tensor, Callable[[Tensor], None]], None]
) -> Iterator[Iterate]:
    """Each column's iterates in turn, `run(column, report)` reporting them; a column of zeros has none."""
    x = torch.zeros_like(b)
    if not b.any():
        yield Iterate(x)
    for index in b.any(dim=0).nonzero().flatten().tolist():

        def solve(report: Callable[[Tensor], None], column: Tensor = b[:, index]) -> None:
            run(column.contiguous(), report)

        for found in iterate_callbacks(solve):
            x[:, index] = found.to(x)
            yield Iterate(x)


def _solve(name: str, problem: Problem, peer: PeerNetwork, column: Tensor, **settings: Any) -> None:
    # A copy for each column: a network that is left early has lost its parameters.
    own = replace(peer, model=copy.deepcopy(peer.model))
    gnh = not _is_hessian(problem)
    with own.counting(GNH_COST if gnh else HESSIAN_COST):
        _module(name, problem, own, gnh=gnh, **settings).inverse_hvp(column)


def _module(
    name: str, problem: Problem, peer: PeerNetwork, batch_size: int | None = None, **settings: Any
) -> Any:
    import torch_influence

    class Objective(torch_influence.BaseObjective):
        def train_outputs(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
            return model(batch[0])

        def train_loss_on_outputs(self, outputs: Tensor, batch: Sequence[Tensor]) -> Tensor:
            return peer.loss(outputs, batch[1])

        def train_regularization(self, params: Tensor) -> Tensor:
            # None, for λ is given as `damp`; but of the parameters, by which it is differentiated twice.
            return 0.0 * params.square().sum()

        def test_loss(self, model: nn.Module, params: Tensor, batch: Sequence[Tensor]) -> Tensor:
            return peer.loss(model(batch[0]), batch[1])

    # It weights a smaller last batch by its size.
    loader = DataLoader(TensorDataset(peer.inputs, peer.targets), batch_size or network.MOST_AT_ONCE)
    return getattr(torch_influence, name)(
        model=peer.model,
        objective=Objective(),
        train_loader=loader,
        test_loader=loader,
        device=problem.operator.device,
        damp=problem.damping,
        **settings,
    )


def _is_hessian(problem: Problem) -> bool:
    operator = problem.operator
    return isinstance(operator, NetworkOperator) and isinstance(operator.curvature, Hessian)
