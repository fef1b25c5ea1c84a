"""pyDVL: its influence functions' ways to H⁻¹b, of which H is the Hessian; EK-FAC's of the Fisher matrix."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self
from unittest import mock

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from problems import Problem
from problems.losses import CrossEntropy
from problems.operators.hessian import Hessian
from problems.validation import check_counts
from problems.work import ProductCost
from solvers import theory
from solvers.kronecker import length_of_identity
from solvers.peers.advice import Advice
from solvers.peers.library import Library
from solvers.peers.network import PeerNetwork, listening, network_for, skip_reason
from solvers.peers.surroundings import default_dtype, drawing_from
from solvers.solver import Divergence, Example, Iterate, Solver, check_positive

LIBRARY = Library("pydvl", "pyDVL", ">=0.10.0,<0.11")
# Of each forward pass: a product runs backwards through a gradient, the direct solver forwards, at one price.
HESSIAN_COST = Hessian.cost
GIB = 2**30
# What a solver may hold of vectors and matrices, beside the network's own.
MOST_GIB = 4.0

Batches = Sequence[tuple[Tensor, Tensor]] | DataLoader[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Fitted:
    """What was fitted to the data: `operator` maps rows (k, p), and `said` is what pyDVL said meanwhile."""

    network: PeerNetwork
    operator: Any
    said: list[str]


@dataclass(frozen=True)
class PydvlDirect(Solver):
    """`DirectInfluence`: H + λI formed and solved by LU, anew for all columns each time.

    `batch_size` is its loader's: all parameters' tangents go through a batch at once. Set-up: p products;
    memory: 3p² numbers.
    """

    batch_size: int = 32  # of its notebook on wine

    variant: ClassVar[str] = "direct"

    def __post_init__(self) -> None:
        check_counts(batch_size=self.batch_size)

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem) or _too_large(problem, 3 * problem.size**2, "use pydvl_cg")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Fitted:
        network = network_for(problem)
        data = zip(network.inputs.split(self.batch_size), network.targets.split(self.batch_size), strict=True)
        make = functools.partial(_pydvl().DirectInfluence, regularization=problem.damping)
        return _fit(problem, network, make, list(data), generator, columns=problem.size)

    def iterates(
        self, problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        state.network.work.count_algebra(problem.size**3 / 3 + problem.size**2 * b.shape[1])
        yield _applied(problem, state, b, generator)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """There is nothing to set."""
        return cls()

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.condition_number is not None
        return [Example(cls(), max(1e-8, 1e-12 * problem.condition_number))]


@dataclass(frozen=True)
class PydvlCG(Solver):
    """`CgInfluence`, one column after the other.

    Column j ends where ‖r‖ < max(rtol² · ‖row j of b‖, atol²), the squares and the row being pyDVL's, or
    after `maxiter` steps, by default 10p. It is given columns of length 1, so that `atol` is relative.
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    maxiter: int | None = None

    variant: ClassVar[str] = "cg"
    remedy: ClassVar[str] = "raise damping until H + λI is positive definite"

    def __post_init__(self) -> None:
        _check_stopping(self.rtol, self.atol, self.maxiter)

    @property
    def columns_are_independent(self) -> bool:
        """`rtol` is compared with a row of all columns."""
        return self.rtol == 0

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Fitted:
        limits = {"rtol": self.rtol, "atol": self.atol, "maxiter": self.maxiter}
        make = functools.partial(_pydvl().CgInfluence, regularization=problem.damping, **limits)
        return _fit(problem, network_for(problem), make, None, generator)

    def iterates(
        self, problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield _by_cg(problem, state, b, generator)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With the residual at which CG has the target's error, of the columns and not of rows."""
        return cls(rtol=0.0, atol=math.sqrt(advice.tolerance))

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        return [
            Example(cls(), _cg_claim(problem, 1e-4)),
            Example(cls(rtol=0.0, atol=1e-5), _cg_claim(problem, 1e-10)),
        ]


@dataclass(frozen=True)
class PydvlBlockCG(Solver):
    """`CgInfluence(solve_simultaneously=True)`: block CG, with a Nyström preconditioner of `rank` or None.

    Ends where every column has ‖r‖ ≤ max(rtol² · ‖b‖, atol²), the squares being pyDVL's, or after `maxiter`
    steps, by default 10 for every column. It is given columns of length 1. The preconditioner, which takes a
    product with `rank` columns, pyDVL 0.10.0 makes and leaves out.
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    maxiter: int | None = None
    rank: int | None = 10  # of its documentation's example

    variant: ClassVar[str] = "block_cg"
    remedy: ClassVar[str] = "raise damping until H + λI is positive definite"

    def __post_init__(self) -> None:
        _check_stopping(self.rtol, self.atol, self.maxiter)
        if self.rank is not None:
            check_counts(rank=self.rank)

    @property
    def columns_are_independent(self) -> bool:
        """They share their search directions."""
        return False

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem) or _too_large(problem, 4 * problem.size * (self.rank or 0), "lower rank")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Fitted:
        pydvl = _pydvl()
        rank = min(self.rank or 0, problem.size)
        make = functools.partial(
            pydvl.CgInfluence,
            regularization=problem.damping,
            rtol=self.rtol,
            atol=self.atol,
            maxiter=self.maxiter,
            solve_simultaneously=True,
            preconditioner=pydvl.NystroemPreconditioner(rank) if rank else None,
        )
        fitted = _fit(problem, network_for(problem), make, None, generator, columns=rank)
        fitted.network.work.count_algebra(6 * problem.size * rank**2)
        return fitted

    def iterates(
        self, problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield _by_cg(problem, state, b, generator)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With the residual at which CG has the target's error, steps enough, and no preconditioner."""
        root = math.sqrt(advice.tolerance)
        return cls(rtol=root, atol=root, maxiter=10 * max(1, advice.cg_steps), rank=None)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        # With its own limit of steps it need not end at its tolerance.
        enough = 10 * problem.size + 10
        return [Example(cls(rtol=0.0, atol=1e-5, maxiter=enough), _cg_claim(problem, 1e-10))]


@dataclass(frozen=True)
class PydvlLiSSA(Solver):
    """`LissaInfluence`: h ← b + h − (H̃ + λ)h/scale from h = b, H̃ of a fresh batch; x = h/scale.

    LiSSA with step size 1/scale, which on all data converges iff scale > (λ_max + λ)/2. All columns share
    the batches, which are drawn without replacement within each; ends where no entry of h moves by more
    than `rtol` of itself in a step, or after `maxiter` steps. A step costs (3 + 6k)/3 · b/n gradients.
    """

    scale: float = 10.0
    maxiter: int = 1000
    rtol: float = 1e-4
    batch_size: int = 32  # of its notebook on wine

    variant: ClassVar[str] = "lissa"
    remedy: ClassVar[str] = "raise scale, or batch_size"

    def __post_init__(self) -> None:
        check_positive(scale=self.scale)
        check_counts(maxiter=self.maxiter, batch_size=self.batch_size)
        _check_not_negative(rtol=self.rtol)

    @property
    def columns_are_independent(self) -> bool:
        """With `rtol` they share the step at which all end."""
        return self.rtol == 0

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Fitted:
        network = network_for(problem)
        data = DataLoader(TensorDataset(network.inputs, network.targets), self.batch_size)
        make = functools.partial(
            _pydvl().LissaInfluence,
            regularization=problem.damping,
            scale=self.scale,
            maxiter=self.maxiter,
            rtol=self.rtol,
        )
        return _fit(problem, network, make, data, generator)

    def iterates(
        self, problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        try:
            with state.network.counting(HESSIAN_COST, b.shape[1]):
                found = _applied(problem, state, b, generator)
        except RuntimeError as error:
            if "NaNs in h_estimate" not in str(error):
                raise
            raise Divergence("h held NaN") from error
        yield found

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """Self-tuned LiSSA's step size, batch size and steps, all of them."""
        return cls(
            scale=1 / advice.step_size, maxiter=advice.num_steps, rtol=0.0, batch_size=advice.batch_size
        )

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        scale = float(problem.eigenvalues.abs().max()) + problem.damping
        # On all data a step takes at least 1/κ of the error away; before the first it is 1 − η(H + λ) of x*.
        claim = (1 - 1 / problem.condition_number) ** 201
        size = problem.operator.num_draws
        return [Example(cls(scale=scale, maxiter=200, rtol=0.0, batch_size=size), max(1e-8, claim))]


@dataclass(frozen=True)
class PydvlArnoldi(Solver):
    """`ArnoldiInfluence`: of the `rank` eigenvalues of largest modulus, by ARPACK, V(D + λ)⁻¹Vᵀb.

    That is all of x by default; with `use_woodbury` (b − VVᵀb)/λ is added, and ‖x − x*‖ ≤ |μ|/λ · ‖x*‖, μ the
    next eigenvalue. `tol` is the eigenvalues' relative accuracy.
    """

    rank: int = 10
    tol: float = 1e-6
    use_woodbury: bool = False

    variant: ClassVar[str] = "arnoldi"
    remedy: ClassVar[str] = "raise damping above the negative eigenvalues"

    def __post_init__(self) -> None:
        check_counts(rank=self.rank)
        _check_not_negative(tol=self.tol)

    def skip(self, problem: Problem) -> str | None:
        basis = max(2 * self.rank + 1, 20) + self.rank
        return _skip(problem) or _too_large(problem, basis * problem.size, "lower rank")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Fitted:
        settings = {"rank": self.rank, "tol": self.tol, "use_woodbury": self.use_woodbury}
        make = functools.partial(_pydvl().ArnoldiInfluence, regularization=problem.damping, **settings)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        start = np.random.default_rng(seed).uniform(-1, 1, problem.size)
        # pyDVL gives it no start, and SciPy draws one that no seed fixes.
        eigsh = functools.partial(scipy.sparse.linalg.eigsh, v0=start)
        with mock.patch.object(scipy.sparse.linalg, "eigsh", eigsh):
            return _fit(problem, network_for(problem), make, None, generator)

    def iterates(
        self, problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        state.network.work.count_algebra(2 * self.rank * b.numel())
        yield _applied(problem, state, b, generator)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With the eigenvalues above λ, and λ on the complement."""
        return cls(rank=max(1, advice.rank), use_woodbury=True)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        sizes = problem.eigenvalues.abs().sort(descending=True).values.tolist()
        size, damping = problem.size, problem.damping

        def inexact(tol: float) -> float:
            # ‖HV − VD‖ ≤ p · tol · |μ|_max.
            return size * tol * (problem.condition_number + sizes[0] / damping)

        # The default gives x* projected; the least eigenvalue is one that ARPACK cannot find.
        rank = max(1, size - 1)
        return [
            Example(cls(), 1 + inexact(1e-6)),
            Example(
                cls(rank, tol=1e-10, use_woodbury=True),
                max(1e-8, sizes[-1] / damping * (size > 1) + inexact(1e-10)),
            ),
        ]


@dataclass(frozen=True)
class PydvlNystrom(Solver):
    """`NystroemSketchInfluence`: Ĥ of a sketch with `rank` columns, x = (Ĥ + λ)⁻¹b.

    For H ⪰ 0, where ‖x − x*‖ ≤ s/(s + λ) · ‖b‖/λ with s = ‖H − Ĥ‖; of another H it makes one ⪰ 0, and warns.
    """

    rank: int = 10  # of its documentation's example

    variant: ClassVar[str] = "nystrom"

    def __post_init__(self) -> None:
        check_counts(rank=self.rank)

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem) or _too_large(problem, 4 * problem.size * self.rank, "lower rank")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Fitted:
        rank = min(self.rank, problem.size)
        make = functools.partial(_pydvl().NystroemSketchInfluence, regularization=problem.damping, rank=rank)
        fitted = _fit(problem, network_for(problem), make, None, generator, columns=rank)
        fitted.network.work.count_algebra(6 * problem.size * rank**2)
        return fitted

    def iterates(
        self, problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        state.network.work.count_algebra(2 * min(self.rank, problem.size) * b.numel())
        yield _applied(problem, state, b, generator)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With the columns that theory asks for where `advice.rank` eigenvalues are above λ."""
        return cls(rank=theory.nystrom_rank(advice.rank))

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        if not problem.operator.is_psd:
            return [Example(cls(), None)]
        assert problem.condition_number is not None
        return [
            Example(cls(), length_of_identity(problem)),
            Example(cls(problem.size), max(1e-8, 1e-12 * problem.condition_number)),
        ]


@dataclass(frozen=True)
class PydvlEKFAC(Solver):
    """`EkfacInfluence` of linear layers with a bias under cross-entropy: K-FAC, the Fisher matrix's.

    `update_diagonal` takes the eigenvalues anew from the data, which makes it EK-FAC.
    """

    update_diagonal: bool = False

    variant: ClassVar[str] = "ekfac"

    def skip(self, problem: Problem) -> str | None:
        reason = skip_reason(LIBRARY, problem, losses=(CrossEntropy,), layers=(nn.Linear,))
        return reason or _half_a_layer(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Fitted:
        network = network_for(problem)
        influence = _pydvl().EkfacInfluence(
            network.model, update_diagonal=self.update_diagonal, hessian_regularization=problem.damping
        )
        layers = list(influence.active_layers.values())
        with (
            listening(LIBRARY) as said,
            default_dtype(problem.operator.dtype),
            network.counting(ProductCost(1, 2)),
            _counting_factors(network, layers, self.update_diagonal),
        ):
            influence.fit(network.batches())
        return Fitted(network, influence, said)

    def iterates(
        self, problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        rotations = sum(2 * a * g * (a + g) for a, g in map(_sizes, state.operator.active_layers.values()))
        state.network.work.count_algebra(rotations * b.shape[1])
        # Its public calls do this to gradients of examples.
        yield Iterate(state.operator._solve_hvp(b.T).T, diagnostics={"said": state.said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """EK-FAC."""
        return cls(update_diagonal=True)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        claim = length_of_identity(problem) if problem.operator.is_psd else None
        return [Example(cls(update_diagonal), claim) for update_diagonal in (False, True)]


@functools.cache
def _pydvl() -> Any:
    """Its module for torch; what the import warns of is about other libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pydvl.influence.torch

    return pydvl.influence.torch


def _skip(problem: Problem) -> str | None:
    # What it calls the Gauss–Newton matrix is the mean of ∇ℓ ∇ℓᵀ, up to factors.
    return skip_reason(LIBRARY, problem, matrices=("hessian",))


def _too_large(problem: Problem, numbers: int, remedy: str) -> str | None:
    needed = numbers * problem.operator.dtype.itemsize / GIB
    if needed <= MOST_GIB:
        return None
    return f"pyDVL would hold {needed:.2g} GiB for p = {problem.size}, more than {MOST_GIB:g}: {remedy}"


def _half_a_layer(problem: Problem) -> str | None:
    """Which layer has no bias, or not all its parameters in H."""
    assert problem.task is not None
    function = problem.task.function
    for path, module in function.model.named_modules():
        own = {f"{path}.{name}".lstrip(".") for name in ("weight", "bias")}
        chosen = own & set(function.names)
        if isinstance(module, nn.Linear) and chosen and (module.bias is None or chosen != own):
            return (
                f"pyDVL factors layers with weight and bias, and of {path or 'the model'} there is "
                f"{' and '.join(sorted(chosen))}: leave it out of the parameters, or add the other"
            )
    return None


def _fit(
    problem: Problem,
    network: PeerNetwork,
    make: Callable[..., Any],
    data: Batches | None,
    generator: torch.Generator,
    columns: int = 1,
) -> Fitted:
    """An influence of the network, fitted to `data`, by default all in equal batches.

    Of ragged ones its operators would weight the last as much as a full one. `columns` have the products.
    """
    with (
        listening(LIBRARY) as said,
        drawing_from(generator, problem.operator.device),
        network.counting(HESSIAN_COST, columns),
    ):
        influence = make(network.model, network.loss)
        influence.fit(network.batches() if data is None else data)
    # Its public calls apply it to gradients of examples alone.
    (block,) = influence.block_mapper.composable_block_dict.values()
    return Fitted(network, block.op, said)


def _applied(problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator) -> Iterate:
    with listening(LIBRARY) as said, drawing_from(generator, problem.operator.device):
        x = state.operator.apply(b.T).T
    short = any("max number of iterations" in each for each in said)
    reason = "its maxiter reached" if short else ""
    return Iterate(x, diagnostics={"said": [*state.said, *said]}, reason=reason)


def _by_cg(problem: Problem, state: Fitted, b: Tensor, generator: torch.Generator) -> Iterate:
    lengths = torch.linalg.vector_norm(b, dim=0)
    hessian = state.operator.operator
    product = hessian.apply

    def counted(rows: Tensor) -> Tensor:
        # Of a block, columns that have ended are left out.
        with state.network.counting(HESSIAN_COST, 1 if rows.ndim == 1 else len(rows)):
            return product(rows)

    with mock.patch.object(hessian, "apply", counted):
        found = _applied(problem, state, b / lengths.where(lengths > 0, 1), generator)
    return replace(found, x=found.x * lengths)


def _cg_claim(problem: Problem, residual: float) -> float:
    assert problem.condition_number is not None
    return max(1e-8, 2 * problem.condition_number * residual)


@contextmanager
def _counting_factors(network: PeerNetwork, layers: Sequence[nn.Module], update: bool) -> Iterator[None]:
    """Count what EK-FAC multiplies beside passes: covariances, their eigenvectors, squares in these."""

    def count(layer: nn.Module, arguments: Any, output: Tensor) -> None:
        inputs, outputs = _sizes(layer)
        # A second run rotates where the first makes covariances, and multiplies squares.
        squares = inputs * outputs / 2 if update else 0
        network.work.count_algebra(output.numel() / outputs * (inputs**2 + outputs**2 + squares))

    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    network.work.count_algebra(sum(10 * (a**3 + g**3) for a, g in map(_sizes, layers)))


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs, with the bias, and outputs."""
    assert isinstance(layer, nn.Linear)
    return layer.in_features + 1, layer.out_features


def _check_stopping(rtol: float, atol: float, maxiter: int | None) -> None:
    _check_not_negative(rtol=rtol)
    # At 0 a residual that is 0 would be divided by.
    check_positive(atol=atol)
    if maxiter is not None:
        check_counts(maxiter=maxiter)


def _check_not_negative(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be a finite number ≥ 0")
