"""curvlinops (Dangel et al. 2025): inverses of its own curvature operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from problems import Problem
from problems.losses import BinaryCrossEntropy
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator
from problems.validation import check_counts
from problems.work import ProductCost
from solvers.kronecker import length_of_identity
from solvers.peers.advice import Advice
from solvers.peers.library import Library
from solvers.peers.network import PeerNetwork, listening, network_for, skip_reason
from solvers.solver import Divergence, Example, Iterate, Solver, State, check_positive

LIBRARY = Library("curvlinops", "curvlinops-for-pytorch", ">=3.0.1,<3.1")
# Of each forward pass: a Gauss–Newton product runs two of them, one with tangents and one for the backward
# pass; the Hessian's has a backward pass, and the tangents of both.
GGN_COST = ProductCost(1, 2)
HESSIAN_COST = Hessian.cost
# So small that no squared residual is taken for 0, and yet a float32: a column b = 0 is divided by it.
NO_EPS = 1e-36
FisherType = Literal["type-2", "mc"]


@dataclass(frozen=True)
class CurvlinopsCG(Solver):
    """`CGInverseLinearOperator`: linear_operator's CG, all columns together.

    It ends where the mean over the columns of ‖r‖/‖b‖ falls below `mean_tolerance`, its tolerance, whose
    default there is 1, and not before 11 steps; a column stands still from 1e-10 on. `num_steps` is its
    max_iter. A column also stands still where pᵀ(H + λ)p is below `eps`, ‖b‖ being 1, and forgets its last
    direction where ‖r‖² is: with the default few get much below 1e-5, and none where H + λ is small.
    """

    mean_tolerance: float = 1.0
    num_steps: int = 1000
    eps: float = 1e-10

    variant: ClassVar[str] = "cg"
    remedy: ClassVar[str] = "raise damping until H + λI is positive definite"

    def __post_init__(self) -> None:
        check_positive(mean_tolerance=self.mean_tolerance, eps=self.eps)
        check_counts(num_steps=self.num_steps)

    @property
    def columns_are_independent(self) -> bool:
        """They share the step at which all end."""
        return False

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(LIBRARY, problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> PeerNetwork:
        return network_for(problem)

    def iterates(
        self, problem: Problem, state: PeerNetwork, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        import curvlinops

        limits = {"tolerance": self.mean_tolerance, "max_iter": self.num_steps, "eps": self.eps}
        with listening(LIBRARY) as said:
            inverse = curvlinops.CGInverseLinearOperator(
                _damped(problem, state), max_tridiag_iter=0, **limits
            )
            x = _apply(inverse, problem, state, b)
        short = any("larger than the tolerance" in each for each in said)
        reason = f"num_steps = {self.num_steps} reached" if short else "mean_tolerance reached"
        yield Iterate(x, diagnostics={"said": said}, reason=reason)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With the residual at which CG has the target's error."""
        return cls(mean_tolerance=advice.tolerance, eps=NO_EPS)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.condition_number is not None
        # Of the columns the largest residual is at most as many times their mean as there are.
        tolerance = 1e-8
        claim = 2 * problem.condition_number * tolerance * problem.num_columns
        solver = cls(mean_tolerance=tolerance, num_steps=10 * problem.size, eps=NO_EPS)
        return [Example(solver, max(1e-8, claim))]


@dataclass(frozen=True)
class CurvlinopsNeumann(Solver):
    """`NeumannInverseLinearOperator`: η Σ_{j ≤ K} (I − η(H + λ))ʲ b, η its `scale` and K its `num_terms`.

    Converges iff 0 < η < 2/(λ_max + λ). Its scale multiplies, where LiSSA's of other libraries divides.
    """

    scale: float = 1.0
    num_terms: int = 100

    variant: ClassVar[str] = "neumann"
    remedy: ClassVar[str] = "lower scale below 2/(λ_max + λ)"

    def __post_init__(self) -> None:
        check_positive(scale=self.scale)
        check_counts(num_terms=self.num_terms)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(LIBRARY, problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> PeerNetwork:
        return network_for(problem)

    def iterates(
        self, problem: Problem, state: PeerNetwork, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        import curvlinops

        with listening(LIBRARY) as said:
            inverse = curvlinops.NeumannInverseLinearOperator(
                _damped(problem, state), num_terms=self.num_terms, scale=self.scale
            )
            try:
                x = _apply(inverse, problem, state, b)
            except ValueError as error:
                if "NaN" not in str(error):
                    raise
                raise Divergence(str(error).partition(".")[0]) from None
        yield Iterate(x, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """η = 1/(λ_max + λ), and as many terms as take it to the target's error."""
        # It adds one more than it is asked for: the first, j = 0.
        scale = 1 / (advice.largest_eigenvalue + advice.damping)
        return cls(scale=scale, num_terms=max(1, advice.series_terms - 1))

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        scale = 1 / (float(problem.eigenvalues.abs().max()) + problem.damping)
        # After K terms the error is at most (1 − 1/κ)ᴷ⁺¹ of x*.
        claim = (1 - 1 / problem.condition_number) ** 101
        return [Example(cls(scale=scale), max(1e-8, claim))]


@dataclass(frozen=True)
class CurvlinopsEKFAC(Solver):
    """`EKFACLinearOperator` with exact damping, of linear layers and convolutions (George et al. 2018).

    `fisher_type` "mc", its default, draws `mc_samples` labels from the model; "type-2" takes all rows of ∇²ℓ.
    With `separate_weight_and_bias`, its default too, a layer's bias is a block of its own.
    """

    fisher_type: FisherType = "mc"
    mc_samples: int = 1
    separate_weight_and_bias: bool = True

    variant: ClassVar[str] = "ekfac"
    remedy: ClassVar[str] = "raise damping"

    def __post_init__(self) -> None:
        if self.fisher_type not in get_args(FisherType):
            raise ValueError(f"fisher_type is {self.fisher_type!r}; it must be 'type-2' or 'mc'")
        check_counts(mc_samples=self.mc_samples)
        if self.fisher_type == "type-2" and self.mc_samples != 1:
            raise ValueError(
                f"mc_samples is {self.mc_samples}, and fisher_type 'type-2' draws none: leave it at 1"
            )

    def skip(self, problem: Problem) -> str | None:
        reason = skip_reason(LIBRARY, problem, layers=(nn.Linear, nn.Conv2d))
        if reason or problem.task is None:
            return reason
        _, targets = problem.task.training.batch(torch.arange(len(problem.task.training)))
        if targets.ndim > 2:
            return f"EK-FAC is of outputs (m, outputs) here, and the targets are {tuple(targets.shape)}"
        binary = isinstance(problem.task.loss, BinaryCrossEntropy)
        if binary and self.fisher_type == "type-2" and bool((targets * (1 - targets)).any()):
            return "fisher_type 'type-2' takes targets of 0 and 1 alone: set fisher_type=mc"
        return None

    def prepare(self, problem: Problem, generator: torch.Generator) -> tuple[PeerNetwork, Any, list[str]]:
        import curvlinops

        network = network_for(problem)
        rows = self.mc_samples if self.fisher_type == "mc" else network.num_outputs()
        with listening(LIBRARY) as said, _counting_factors(network, rows):
            factored = curvlinops.EKFACLinearOperator(
                network.model,
                network.loss,
                network.parameters,
                network.batches(equal=False),
                fisher_type=self.fisher_type,
                mc_samples=self.mc_samples,
                seed=int(torch.randint(2**31, (1,), generator=generator)),
                separate_weight_and_bias=self.separate_weight_and_bias,
                check_deterministic=False,
            )
            inverse = curvlinops.KFACInverseLinearOperator(
                factored, damping=problem.damping, use_exact_damping=True
            )
            # Factors are computed when first asked for.
            inverse @ torch.zeros(problem.size, 1).to(problem.columns(slice(0, 1)))
        return network, inverse, said

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        network, inverse, said = state
        x = inverse @ b
        rotations = sum(2 * outputs * inputs * (outputs + inputs) for outputs, inputs in _shapes(network))
        network.work.count_algebra(rotations * b.shape[1])
        yield Iterate(x, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With all rows of ∇²ℓ and blocks of whole layers, as accurate as it gets."""
        return cls(fisher_type="type-2", separate_weight_and_bias=False)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        claim = length_of_identity(problem) if problem.operator.is_psd else None
        return [Example(cls(), claim), Example(cls("type-2", separate_weight_and_bias=False), claim)]


def _damped(problem: Problem, network: PeerNetwork) -> Any:
    """H + λI; a vector's products are counted by `_apply`."""
    import curvlinops
    from curvlinops.examples import IdentityLinearOperator

    kind = curvlinops.HessianLinearOperator if _is_hessian(problem) else curvlinops.GGNLinearOperator
    batches = network.batches(equal=False)
    # Its probes for what is not deterministic would be work on top.
    matrix = kind(network.model, network.loss, network.parameters, batches, check_deterministic=False)
    shapes = [each.shape for each in network.parameters]
    identity = IdentityLinearOperator(shapes, problem.operator.device, problem.operator.dtype)
    return matrix + problem.damping * identity


def _apply(inverse: Any, problem: Problem, network: PeerNetwork, b: Tensor) -> Tensor:
    cost = HESSIAN_COST if _is_hessian(problem) else GGN_COST
    with network.counting(cost, b.shape[1]):
        return inverse @ b


@contextmanager
def _counting_factors(network: PeerNetwork, rows: int) -> Iterator[None]:
    """Count EK-FAC's two runs of the network, and its matrix algebra.

    One run is for the factors and one for the eigenvalues, both with `rows` backward passes: as many as ∇²ℓ's
    root has rows, or as labels are drawn.
    """

    def count(layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        outputs, inputs = layer.weight.flatten(1).shape
        places = output[0].numel() // outputs
        factors = places * (inputs**2 + rows * outputs**2)
        # Of each row Q_Gᵀ(Σ g aᵀ)Q_A, squared: by Gram matrices over places, or as it stands.
        rotations = places * (outputs**2 + inputs**2)
        if places**2 * (outputs + inputs) < outputs * inputs:
            squares = rotations + places**2 * outputs * inputs
        else:
            squares = places * outputs * inputs + min(rotations, outputs * inputs * (outputs + inputs))
        # A run does the one or the other.
        network.work.count_algebra(len(output) * (factors + rows * squares) / 2)

    handles = [layer.register_forward_hook(count) for layer in _layers(network)]
    try:
        with network.counting(ProductCost(1, 2 * rows)):
            yield
    finally:
        for handle in handles:
            handle.remove()
    # Eigenvectors of the factors.
    network.work.count_algebra(sum(10 * (outputs**3 + inputs**3) for outputs, inputs in _shapes(network)))


def _layers(network: PeerNetwork) -> list[nn.Module]:
    """Those whose weight H is of."""
    return [
        each
        for each in network.model.modules()
        if isinstance(each, nn.Linear | nn.Conv2d) and each.weight.requires_grad
    ]


def _shapes(network: PeerNetwork) -> list[tuple[int, int]]:
    """Outputs and inputs of the layers' matrices."""
    weights = [layer.weight for layer in _layers(network)]
    return [(len(weight), weight[0].numel()) for weight in weights if isinstance(weight, Tensor)]


def _is_hessian(problem: Problem) -> bool:
    operator = problem.operator
    return isinstance(operator, NetworkOperator) and isinstance(operator.curvature, Hessian)
