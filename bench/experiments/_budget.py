"""What studies check of a budget, and what they expect to spend: gradient equivalents."""

from __future__ import annotations

import math

from problems import Problem
from problems.operators.network import NetworkOperator
from problems.spectrum.summary import LEAST_STEPS, MOST_PAIRS, NOISE_BATCH, SHARES, SMALLEST_BUDGET
from problems.work import JACOBIAN_COST
from solvers.measured import TRACE_PRODUCTS

# What stops by itself takes no more, whatever its share: Lanczos for λ_max in products, LOBPCG for R in
# steps.
LANCZOS_PRODUCTS, LOBPCG_STEPS = 10, 25
# Steps after which CG, and Lanczos from the start's error, usually do: eigenvalues of networks lie few apart.
KRYLOV_STEPS = 15
# What a forecast takes λ_max to be, in units of the problem's λ, before anything is measured. The networks
# have 7 to 20 times theirs, but their spectra fall so fast that CG takes half of its bound's steps and less.
ASSUMED = 10.0


def check_budget(budget: float) -> None:
    """Raise ValueError for fewer gradient equivalents than a measured spectrum takes."""
    if not SMALLEST_BUDGET <= budget < float("inf"):
        raise ValueError(
            f"budget is {budget:g} gradient equivalents; a spectrum takes at least {SMALLEST_BUDGET:g}"
        )


def product_work(problem: Problem, columns: int = 1, draws: float | None = None) -> float:
    """A product with so many columns over all data, or over so many draws of examples or sequences."""
    operator = problem.operator
    cost = operator.curvature.cost if isinstance(operator, NetworkOperator) else JACOBIAN_COST
    share = 1.0 if draws is None else draws / operator.num_draws
    return share * (cost.shared + cost.per_column * columns) / 3


def pencil_work(problem: Problem, products: float, columns: int, steps: int) -> float:
    """LOBPCG whose step takes so many products with so many columns, its start included."""
    return (1 + products * steps) * product_work(problem, columns)


def spectrum_work(problem: Problem, budget: float) -> float:
    """What `measure` takes of its `budget`: less, where an estimate is good, or bounded, before."""
    product, shares = product_work(problem), {name: share * budget for name, share in SHARES.items()}
    pairs = 2 * MOST_PAIRS * product_work(problem, draws=problem.operator.draws_in(NOISE_BATCH))
    unequal, constant = 0.0, 0.0
    if problem.operator.has_examples:
        unequal = shares["heterogeneity"]
        least = pencil_work(problem, 3, 1, LEAST_STEPS)
        constant = min(max(shares["constant"], least), pencil_work(problem, 3, 3, LOBPCG_STEPS))
    return (
        min(shares["extremes"], LANCZOS_PRODUCTS * product)
        + shares["trace"]
        + shares["density"]
        + unequal
        + min(shares["noise"], pairs)
        + constant
    )


def papers_rule_work(problem: Problem) -> float:
    """What `measure_for_papers_rule` takes: λ_max, and Tr(H) by XTrace in two blocks of vectors."""
    vectors = min(TRACE_PRODUCTS, 2 * problem.size) // 2
    return LANCZOS_PRODUCTS * product_work(problem) + 2 * product_work(problem, vectors)


def reference_work(problem: Problem, most: float = math.inf) -> float:
    """What `problem.reference` takes, or `certify` where p is large, with `most` gradient equivalents."""
    if not problem.is_dense:
        return min(most, KRYLOV_STEPS * product_work(problem, problem.num_columns))
    if problem.closed_form is not None:
        return product_work(problem, problem.num_columns)
    return product_work(problem, problem.size) + product_work(problem, problem.num_columns)
