"""The minimal residual method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import Problem
from problems.validation import check_counts
from solvers.krylov import (
    Certificate,
    advance,
    columns_at,
    damped_product,
    not_positive_definite,
    overwrite,
    preconditioned_examples,
    select,
)
from solvers.preconditioner import (
    NONE,
    Preconditioner,
    Preconditioning,
    as_preconditioner,
    prepare,
    skip_reason,
)
from solvers.solver import Breakdown, Example, Iterate, Solver, check_positive

# H + λI is taken for singular where ‖(H + λI)r‖ is so many roundings of ‖H + λI‖ ‖r‖.
SINGULAR = 10


@dataclass(frozen=True)
class MINRES(Solver):
    """MINRES (Paige & Saunders 1975): the least ‖r‖ in each Krylov space, H + λI definite or not.

    Every column has its own recurrence, all share each product. Converges for every non-singular H + λI with
    κ = max |σ_i + λ| / min |σ_i + λ|: after t steps ‖r‖ ≤ 2((κ − 1)/(κ + 1))^⌊t/2⌋ ‖b‖, and where H + λI ≻ 0
    2((√κ − 1)/(√κ + 1))ᵗ ‖b‖ (Greenbaum 1997, § 3.1). A step is one product over all data, of which columns
    that have converged drop out. Memory: 9 vectors for each column, 12 with a preconditioner.

    `preconditioner` P ≻ 0, as of `cg`: the bounds are then those of P^-½(H + λI)P^-½, for ‖P^-½r‖.

    Every `check_every` steps, and where a column claims convergence, its residual is recomputed. A column has
    converged when that one, in the 2-norm whatever P is, is within `tolerance`; where rounding has let the
    recurrence run ahead of it, the column starts afresh from its iterate. Breakdown where H + λI is singular,
    on a P that is not positive definite, and where rounding forbids the tolerance.
    """

    tolerance: float = 1e-6
    preconditioner: Preconditioning = NONE
    check_every: int = 50

    remedy: ClassVar[str] = "raise damping: H + λI is close to singular"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)
        check_counts(check_every=self.check_every)
        as_preconditioner(self.preconditioner)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(self.preconditioner, problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Preconditioner | None:
        return prepare(self.preconditioner, problem, generator)

    def iterates(
        self, problem: Problem, state: Preconditioner | None, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = torch.zeros_like(b)
        known = Certificate(b, self.tolerance, self.check_every)
        active = known.active()
        if not active.numel():
            yield Iterate(x, known.residual, known.converged)
        now = _Recurrence.start(columns_at(b, active), state)
        while active.numel():
            w, length = now.step(problem, state)
            advance(x, active, w, length)
            norms = now.phi if state is None else torch.linalg.vector_norm(now.r, dim=0)
            places = known.to_check(active, norms)
            if places.numel():
                true, lost = known.recompute(problem, x, active[places])
            yield Iterate(x, known.residual, known.converged)
            if places.numel():
                if lost.any():
                    known.start_afresh(active[places[lost]])
                    overwrite(now, places[lost], _Recurrence.start(true[:, lost], state))
                keep = ~known.converged[active]
                active, now = active[keep], select(now, keep)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        return preconditioned_examples(super().examples(problem)[0])


@dataclass
class _Recurrence:
    """What a step needs of those before: vectors (p, k), and one number for each column."""

    v: Tensor  # Lanczos's vector
    u: Tensor  # P v
    u_before: Tensor
    w: Tensor
    w_before: Tensor
    r: Tensor  # kept up to date under a preconditioner alone; without one its norm is phi
    beta: Tensor
    cosine: Tensor
    sine: Tensor
    delta_bar: Tensor
    epsilon: Tensor
    phi: Tensor
    largest: Tensor  # column of Lanczos's matrix, a lower bound of ‖H + λI‖

    @classmethod
    def start(cls, r: Tensor, preconditioner: Preconditioner | None) -> _Recurrence:
        z, beta = _precondition(preconditioner, r)
        zero, zeros = torch.zeros_like(beta), torch.zeros_like(r)
        return cls(
            v=z / beta,
            u=r / beta,
            u_before=zeros,
            w=zeros,
            w_before=zeros,
            r=r.clone(),
            beta=zero,
            cosine=zero - 1,
            sine=zero,
            delta_bar=zero,
            epsilon=zero,
            phi=beta,
            largest=zero,
        )

    def step(self, problem: Problem, preconditioner: Preconditioner | None) -> tuple[Tensor, Tensor]:
        """The direction w (p, k) that Lanczos's next vector gives, and how far along it ‖r‖ is least (k,)."""
        q = damped_product(problem, self.v).addcmul_(self.u_before, self.beta, value=-1)
        alpha = (self.v * q).sum(dim=0)
        q.addcmul_(self.u, alpha, value=-1)
        z, beta = _precondition(preconditioner, q)
        self.largest = torch.maximum(self.largest, torch.hypot(torch.hypot(alpha, beta), self.beta))
        # The rotations before make ε, δ and γ̄ of Lanczos's (β, α, β'), the new one γ of γ̄ and β'.
        epsilon, self.epsilon = self.epsilon, self.sine * beta
        delta = torch.addcmul(self.cosine * self.delta_bar, self.sine, alpha)
        gamma_bar = torch.addcmul(self.sine * self.delta_bar, self.cosine, alpha, value=-1)
        self.delta_bar = -self.cosine * beta
        _check_regular(torch.hypot(gamma_bar, self.delta_bar), self.largest, problem)
        gamma = torch.hypot(gamma_bar, beta)
        self.cosine, self.sine = gamma_bar / gamma, beta / gamma
        length, self.phi = self.cosine * self.phi, self.sine * self.phi
        w = torch.addcmul(self.v, self.w_before, epsilon, value=-1).addcmul_(self.w, delta, value=-1)
        self.w_before, self.w = self.w, w.div_(gamma)
        self.beta, divisor = beta, beta.clamp_min(torch.finfo(beta.dtype).tiny)
        self.u_before, self.u = self.u, q.div_(divisor)
        self.v = self.u if preconditioner is None else z / divisor
        if preconditioner is not None:
            self.r.mul_(self.sine.square()).addcmul_(self.u, self.phi * self.cosine, value=-1)
        return w, length


def _precondition(preconditioner: Preconditioner | None, q: Tensor) -> tuple[Tensor, Tensor]:
    """z = P⁻¹q and √(q·z). Breakdown where P is not positive definite."""
    if preconditioner is None:
        return q, torch.linalg.vector_norm(q, dim=0)
    z = preconditioner.apply(q)
    inner = (q * z).sum(dim=0)
    if not all(value >= 0 for value in inner.tolist()):
        raise not_positive_definite(float((inner / q.square().sum(dim=0)).min()))
    return z, inner.sqrt()


def _check_regular(stretch: Tensor, largest: Tensor, problem: Problem) -> None:
    """Raise Breakdown where H + λI takes a residual of norm 1 to one of norm `stretch` (k,), as good as 0."""
    if (stretch <= SINGULAR * torch.finfo(stretch.dtype).eps * largest).any():
        raise Breakdown(
            "H + λI is singular to rounding: it takes a residual to "
            f"{float((stretch / largest).min()):.1e} of its largest. Change damping, now {problem.damping:g}"
        )
