"""What theory must know of a problem to be judged, computed once for all of its cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from problems import CurvatureOperator, Problem
from problems.scaling import relative_norms
from problems.spectrum.smoothness import noise_constant

NAN = float("nan")

# LOBPCG in float64 up to this residual: the eigenvalue is then off by about its square.
RESIDUAL = 1e-3
MOST_STEPS = 200
# Of drawn tokens no more digits are known, and R of sequences is larger as a rule.
RESIDUAL_OF_TOKENS, STEPS_OF_TOKENS = 3e-2, 20


@dataclass(frozen=True)
class TheoryFacts:
    """Constants of theory; NaN where out of reach. Relative to ‖u*‖, of the right-hand side worst off.

    `noise_constant` is R, the least with E h² ⪯ R (H + λI); `noise_at_solution` u*ᵀ(E h² − H²)u*/‖u*‖², h one
    example. Where mini-batches count tokens both are for each token: what of b tokens is at most the b-th
    part, whatever b. `start_error_rhs` ‖b/λ − u*‖/‖u*‖; `solution_ratio` λ‖u*‖/‖b‖; `product_error`
    ‖(H' − H)u*‖/‖u*‖ of the products H' in the problem's own precision. In units of H² (noise), H (R,
    product) or 1.
    """

    noise_constant: float = NAN
    noise_at_solution: float = NAN
    start_error_rhs: float = NAN
    solution_ratio: float = NAN
    product_error: float = NAN


def theory_facts(problem: Problem) -> TheoryFacts:
    """Measure them in float64 against the reference; nothing of it is timed or charged to a solver."""
    reference = problem.reference
    if reference is None or not problem.is_dense:
        return TheoryFacts()
    rhs = problem.columns().to(torch.float64)
    solved = rhs.any(dim=0) & reference.any(dim=0)
    if not solved.any():
        return TheoryFacts()
    solution, rhs = reference[:, solved], rhs[:, solved]
    # Of length 1, so that nothing under- or overflows on the way to a square.
    unit = solution / solution.norm(dim=0)
    operator = problem.operator.to(torch.float64)
    product = operator @ unit
    own = problem.operator @ unit.to(problem.operator.dtype)
    constant, noise = NAN, NAN
    if operator.has_examples:
        found = noise_constant(
            operator,
            problem.damping,
            torch.Generator().manual_seed(0),
            tolerance=RESIDUAL,
            max_steps=MOST_STEPS,
        )
        constant = found.value.value if found.residual <= RESIDUAL else NAN
        noise = _spread(operator, unit, product)
        if operator.unit == "token":
            constant, noise = _of_any_batch(problem.damping, operator, unit, product, constant, noise)
    return TheoryFacts(
        constant,
        noise,
        float(relative_norms(rhs / problem.damping - solution, solution).max()),
        float((problem.damping * solution.norm(dim=0) / rhs.norm(dim=0)).min()),
        float((own.to(torch.float64) - product).norm(dim=0).max()),
    )


def _spread(operator: CurvatureOperator, unit: Tensor, product: Tensor) -> float:
    """The largest E‖(h − H)u‖² over the columns of `unit`, `product` being H's."""
    spread = (unit * operator.mean_square(unit)).sum(dim=0) - product.square().sum(dim=0)
    return max(0.0, float(spread.max()))


def _of_any_batch(
    damping: float,
    operator: CurvatureOperator,
    unit: Tensor,
    product: Tensor,
    constant: float,
    noise: float,
) -> tuple[float, float]:
    """Both for each token, from those of whole sequences: the larger of a sequence's and of one token's.

    Of k tokens of each sequence of N the k-fold E h̃² goes linearly in k from one token's to N times the
    sequence's (`SequenceCorrelation`), so that neither end is exceeded; of unequal lengths that holds nearly.
    """
    length = operator.num_examples / operator.num_draws
    generator = torch.Generator().manual_seed(1)
    single = noise_constant(
        operator, damping, generator, batch_size=1, tolerance=RESIDUAL_OF_TOKENS, max_steps=STEPS_OF_TOKENS
    )
    of_token = _spread(operator.single_draws(1, generator), unit, product)
    return max(length * constant, single.value.value), max(length * noise, of_token)
