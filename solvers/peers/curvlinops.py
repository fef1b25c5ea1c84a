"""curvlinops (Dangel et al. 2025): inverses of its own curvature operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from problems import Problem
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator
from problems.work import ProductCost
from solvers.kronecker import length_of_identity
from solvers.peers.advice import Advice
from solvers.peers.library import Library
from solvers.peers.network import PeerNetwork, listening, network_for, skip_reason
from solvers.solver import Example, Iterate, Solver, State, check_positive

LIBRARY = Library("curvlinops", "curvlinops-for-pytorch", ">=3.0.1,<3.1")
# Of each forward pass: a Gauss–Newton product runs two of them, one with tangents and one for the backward
# pass; the Hessian's has a backward pass, and the tangents of both.
GGN_COST = ProductCost(1, 2)
HESSIAN_COST = Hessian.cost
# Of EK-FAC: it runs the network once for the factors and once for the eigenvalues, each time with a backward
# pass for each row of ∇²ℓ's root, or for each label that it draws.
FisherType = Literal["type-2", "mc"]


@dataclass(frozen=True)
class CurvlinopsCG(Solver):
    """`CGInverseLinearOperator`: linear_operator's CG, all columns together.

    It ends where the *mean* over the columns of ‖r‖/‖b‖ falls below `tolerance`, whose default there is 1,
    and not before 11 steps; it warns where it never does. `num_steps` is its max_iter; below `eps` it takes
    squared residuals for 0, so that with its default none falls much below 1e-5.
    """

    tolerance: float = 1.0
    num_steps: int = 1000
    eps: float = 1e-10

    variant: ClassVar[str] = "cg"
    remedy: ClassVar[str] = "raise damping until H + λI is positive definite"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance, num_steps=self.num_steps)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(LIBRARY, problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> PeerNetwork:
        return network_for(problem)

    def iterates(
        self, problem: Problem, state: PeerNetwork, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        import curvlinops

        limits = {"tolerance": self.tolerance, "max_iter": self.num_steps, "eps": self.eps}
        with listening(LIBRARY) as said:
            inverse = curvlinops.CGInverseLinearOperator(
                _damped(problem, state), max_tridiag_iter=0, **limits
            )
            x = _apply(inverse, problem, state, b)
        yield Iterate(x, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With the residual at which CG has the target's error."""
        return cls(tolerance=advice.tolerance, eps=0.0)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.condition_number is not None
        # The mean over the columns is below it, so the largest is below as many times it as there are.
        tolerance = 1e-8
        claim = 2 * problem.condition_number * tolerance * problem.num_columns
        return [Example(cls(tolerance=tolerance, num_steps=10 * problem.size, eps=0.0), max(1e-8, claim))]


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
        check_positive(scale=self.scale, num_terms=self.num_terms)

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
            x = _apply(inverse, problem, state, b)
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
        claim = (1 - 1 / problem.condition_number) ** 201
        return [Example(cls(scale=scale, num_terms=200), max(1e-8, claim))]


@dataclass(frozen=True)
class CurvlinopsEKFAC(Solver):
    """`EKFACLinearOperator` with exact damping, of linear layers and convolutions (George et al. 2018).

    `fisher_type` "mc", its default, draws `mc_samples` labels from the model; "type-2" takes all rows of ∇²ℓ.
    """

    fisher_type: FisherType = "mc"
    mc_samples: int = 1

    variant: ClassVar[str] = "ekfac"
    remedy: ClassVar[str] = "raise damping"

    def __post_init__(self) -> None:
        if self.fisher_type not in get_args(FisherType):
            raise ValueError(f"fisher_type is {self.fisher_type!r}; it must be 'type-2' or 'mc'")
        check_positive(mc_samples=self.mc_samples)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(LIBRARY, problem, layers=(nn.Linear, nn.Conv2d))

    def prepare(self, problem: Problem, generator: torch.Generator) -> tuple[PeerNetwork, Any, list[str]]:
        import curvlinops

        network = network_for(problem)
        rows = self.mc_samples if self.fisher_type == "mc" else network.num_outputs()
        with listening(LIBRARY) as said, network.counting(ProductCost(1, 2 * rows)):
            factored = curvlinops.EKFACLinearOperator(
                network.model,
                network.loss,
                network.parameters,
                network.batches(),
                fisher_type=self.fisher_type,
                mc_samples=self.mc_samples,
                seed=int(torch.randint(2**31, (1,), generator=generator)),
                separate_weight_and_bias=False,
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
        _, inverse, said = state
        yield Iterate(inverse @ b, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With all rows of ∇²ℓ, as accurate as it gets."""
        return cls(fisher_type="type-2")

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        claim = length_of_identity(problem) if problem.operator.is_psd else None
        return [Example(cls(), claim), Example(cls(fisher_type="type-2"), claim)]


def _damped(problem: Problem, network: PeerNetwork) -> Any:
    """H + λI; a vector's products are counted by `_apply`."""
    import curvlinops
    from curvlinops.examples import IdentityLinearOperator

    kind = curvlinops.HessianLinearOperator if _is_hessian(problem) else curvlinops.GGNLinearOperator
    # Its probes for what is not deterministic would be work on top.
    matrix = kind(
        network.model, network.loss, network.parameters, network.batches(), check_deterministic=False
    )
    shapes = [each.shape for each in network.parameters]
    identity = IdentityLinearOperator(shapes, problem.operator.device, problem.operator.dtype)
    return matrix + problem.damping * identity


def _apply(inverse: Any, problem: Problem, network: PeerNetwork, b: Tensor) -> Tensor:
    cost = HESSIAN_COST if _is_hessian(problem) else GGN_COST
    with network.counting(cost, b.shape[1]):
        return inverse @ b


def _is_hessian(problem: Problem) -> bool:
    operator = problem.operator
    return isinstance(operator, NetworkOperator) and isinstance(operator.curvature, Hessian)
