"""The coordinates in which LiSSA runs: those of H + λI as it is, or of P^-½(H + λI)P^-½."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from problems import CurvatureOperator, Problem
from solvers.measured import Measured, measure_curvature
from solvers.preconditioner import Apply, Preconditioner
from solvers.solver import Breakdown


@dataclass(frozen=True)
class Geometry:
    """u ← u − ηP⁻¹((H̃ + λ)u − b) is plain LiSSA, with `operator` and `damping`, on P^½u.

    Without a preconditioner `operator` is H and `damping` λ; with one they are P^-½(H + λI)P^-½ − I and 1,
    so that a start at b/damping is P⁻¹b. `solve` applies P⁻¹ and `half` P^-½, or nothing. A step takes as
    much as `overhead` examples more. `margin` gives what λ_min(H + λI) is at least from that measured here.
    """

    problem: Problem
    operator: CurvatureOperator
    damping: float
    solve: Apply
    half: Apply
    overhead: float
    margin: Callable[[float], float]

    @property
    def is_preconditioned(self) -> bool:
        """Whether there is a P."""
        return self.operator is not self.problem.operator

    def start(self, b: Tensor) -> Tensor:
        """b/λ, or P⁻¹b."""
        return self.solve(b) if self.is_preconditioned else b / self.problem.damping

    def measure(self, generator: torch.Generator) -> Measured:
        """What LiSSA's settings follow from; Breakdown where H + λI is found not to be positive definite."""
        try:
            return measure_curvature(self.operator, self.damping, generator, self.overhead)
        except Breakdown:
            if not self.is_preconditioned:
                raise
            raise Breakdown(
                "H is indefinite: P⁻¹(H + λI) has an eigenvalue below 0, so that H + λI is not positive "
                "definite and LiSSA diverges. Raise damping, use the Gauss–Newton matrix, or minres"
            ) from None

    def residual(self, sample: CurvatureOperator, u: Tensor, b: Tensor) -> Tensor:
        """P^-½(b − (H + λI)u), H that of `sample`, which is `operator` or a sample of it."""
        curvature = sample.operator if isinstance(sample, PreconditionedOperator) else sample
        return self.half(b - curvature @ u - self.problem.damping * u)


def plain(problem: Problem) -> Geometry:
    """H + λI as it is."""
    return Geometry(
        problem, problem.operator, problem.damping, _identity, _identity, 0.0, lambda measured: measured
    )


def preconditioned(problem: Problem, preconditioner: Preconditioner) -> Geometry:
    """P^-½(H + λI)P^-½, of a preconditioner that has P^-½."""
    assert preconditioner.half is not None
    operator, damping = problem.operator, problem.damping
    # A vector's product takes 4 forward passes of an example, and some of a fifth, shared.
    per_example = 4 * operator.work.forward_multiplications
    return Geometry(
        problem,
        PreconditionedOperator(operator, damping, preconditioner),
        1.0,
        preconditioner.apply,
        preconditioner.half,
        preconditioner.multiplications / per_example,
        # P ⪰ λI, of every P near H + λI.
        lambda measured: damping if operator.is_psd else damping * measured,
    )


class PreconditionedOperator(CurvatureOperator):
    """H' = P^-½(H + λI)P^-½ − I = mean h'_i, h'_i = P^-½h_iP^-½ + M with M = λP⁻¹ − I; mini-batches are H's.

    H' + I has the eigenvalues of P⁻¹(H + λI): near 0, of both signs, where P is near H + λI.
    """

    def __init__(self, operator: CurvatureOperator, damping: float, preconditioner: Preconditioner) -> None:
        super().__init__(
            operator.shape[0], operator.num_examples, operator.dtype, operator.device, operator.work
        )
        assert preconditioner.half is not None
        self.operator = operator
        self.unit = operator.unit
        self._damping = damping
        self._preconditioner = preconditioner
        self._half = preconditioner.half

    @property
    def is_psd(self) -> bool:
        return False

    @property
    def num_draws(self) -> int:
        return self.operator.num_draws

    @property
    def preparation_seconds(self) -> float:
        return self.operator.preparation_seconds

    @property
    def has_examples(self) -> bool:
        return self.operator.has_examples

    def mean_square(self, vectors: Tensor, between: Apply | None = None) -> Tensor:
        """mean h'_i² V: of P^-½ (mean h_i P⁻¹ h_i) P^-½, and what M adds."""
        if between is not None:
            raise ValueError("a matrix between two preconditioned products is not supported")
        self._check(vectors)
        columns = vectors if vectors.ndim == 2 else vectors[:, None]
        squared = self._half(self.operator.mean_square(self._half(columns), self._preconditioner.apply))
        shifted = self._shift(columns)
        # G M + M G + M² for G = P^-½HP^-½.
        mixed = self._congruent(shifted) + self._shift(self._congruent(columns) + shifted)
        found = squared + mixed
        return found if vectors.ndim == 2 else found[:, 0]

    def draws_in(self, size: int) -> int:
        return self.operator.draws_in(size)

    def single_draws(
        self, size: int, generator: torch.Generator, repeats: int | None = None
    ) -> PreconditionedOperator:
        return self._of(self.operator.single_draws(size, generator, repeats))

    def subset(self, indices: Tensor) -> PreconditionedOperator:
        return self._of(self.operator.subset(indices))

    def to(self, dtype: torch.dtype) -> PreconditionedOperator:
        return self._of(self.operator.to(dtype))

    def forget(self) -> None:
        self.operator.forget()

    def _draw(self, size: int, generator: torch.Generator) -> PreconditionedOperator:
        return self._of(self.operator.minibatch(size, generator))

    def _of(self, operator: CurvatureOperator) -> PreconditionedOperator:
        return PreconditionedOperator(operator, self._damping, self._preconditioner)

    def _count(self, columns: int) -> None:
        # H counts its own product, and the preconditioner what it takes.
        return

    def _product(self, columns: Tensor) -> Tensor:
        inner = self._half(columns)
        return self._half(self.operator @ inner + self._damping * inner) - columns

    def _congruent(self, columns: Tensor) -> Tensor:
        return self._half(self.operator @ self._half(columns))

    def _shift(self, columns: Tensor) -> Tensor:
        """M V = λP⁻¹V − V."""
        return self._damping * self._preconditioner.apply(columns) - columns


def _identity(vectors: Tensor) -> Tensor:
    return vectors
