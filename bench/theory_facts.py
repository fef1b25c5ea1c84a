"""What theory must know of a problem to be judged, computed once for all of its cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from problems import Problem
from problems.scaling import relative_norms
from problems.spectrum.smoothness import noise_constant

NAN = float("nan")

# LOBPCG in float64 up to this residual: the eigenvalue is then off by about its square.
RESIDUAL = 1e-3
MOST_STEPS = 200


@dataclass(frozen=True)
class TheoryFacts:
    """Constants of theory; NaN where out of reach. Relative to ‖u*‖, of the right-hand side worst off.

    `noise_constant` is R, the least with E h² ⪯ R (H + λI); `noise_at_solution` u*ᵀ(E h² − H²)u*/‖u*‖², h one
    example; `start_error_rhs` ‖b/λ − u*‖/‖u*‖; `solution_ratio` λ‖u*‖/‖b‖; `product_error` ‖(H' − H)u*‖/‖u*‖
    of the products H' in the problem's own precision. In units of H² (noise), H (R, product) or 1.
    """

    noise_constant: float = NAN
    noise_at_solution: float = NAN
    start_error_rhs: float = NAN
    solution_ratio: float = NAN
    product_error: float = NAN


def theory_facts(problem: Problem) -> TheoryFacts:
    """Measure them in float64 against the reference; nothing of it is timed or charged to a solver."""
    reference = problem.reference
    if reference is None:
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
    # Of tokens the draws of a mini-batch are not independent, and what holds of sequences does not of them.
    if operator.has_examples and operator.unit == "example":
        found = noise_constant(
            operator,
            problem.damping,
            torch.Generator().manual_seed(0),
            tolerance=RESIDUAL,
            max_steps=MOST_STEPS,
        )
        constant = found.value.value if found.residual <= RESIDUAL else NAN
        spread = (unit * operator.mean_square(unit)).sum(dim=0) - product.square().sum(dim=0)
        noise = max(0.0, float(spread.max()))
    return TheoryFacts(
        constant,
        noise,
        float(relative_norms(rhs / problem.damping - solution, solution).max()),
        float((problem.damping * solution.norm(dim=0) / rhs.norm(dim=0)).min()),
        float((own.to(torch.float64) - product).norm(dim=0).max()),
    )
