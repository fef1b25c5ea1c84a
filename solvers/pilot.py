"""What LiSSA must know of its right-hand sides before it is run: some CG steps on each, and their noise."""

from __future__ import annotations

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.lanczos import Tridiagonal
from problems.spectrum.spectral_measure import SpectralMeasure
from solvers.krylov_prediction import conjugate_gradients, unseen_error
from solvers.prediction import RightHandSides, Start

# CG steps from b; their measure integrates polynomials of degree 23 exactly.
STEPS = 12
# Where so large a part of the solution is still unseen more steps are made, up to MOST_STEPS.
UNSEEN = 0.5
MORE = 6
MOST_STEPS = 60
# Steps from the noise: that f which tells how noise is damped is smoother.
NOISE_STEPS = 5
# Columns of which the shape of the noise is taken: it is much the same for all.
NOISE_COLUMNS = 4
# Where no more than this is unseen the measures have shown all that matters.
CLOSE = 1e-2


def pilot(
    operator: CurvatureOperator,
    whole: CurvatureOperator,
    damping: float,
    smallest: float,
    b: Tensor,
    generator: torch.Generator,
    start: Start,
    most_steps: int = MOST_STEPS,
) -> RightHandSides:
    """The spectral measures of b (p, k), and of the noise (H̃ − H)u* of mini-batches, u* as CG has it.

    `operator` is all data or a sample; `whole` has the examples whose noise counts, of which a smaller sample
    may miss those that carry it. No eigenvalue of H + λI is below `smallest`. Costs some twenty products,
    and about four of `whole`. `unseen` of what it returns is how far CG still may be from u*, where most of
    it lies at small eigenvalues that CG has not met. Raises Breakdown where H + λI is not positive definite.
    """
    # Each step's answer stands in for the last one's.
    for answer in conjugate_gradients(operator, damping, b, most_steps):
        x, found = answer
        steps = max((len(each.diagonal) for each in found if each), default=0)
        looked_at = steps <= STEPS or (steps - STEPS) % MORE == 0
        if looked_at and _unseen(found, smallest) <= (CLOSE if steps < STEPS else UNSEEN):
            break
    begin = b / damping if start == "rhs" else torch.zeros_like(b)
    return RightHandSides(
        as_measure(found, damping),
        _noise(operator, whole, damping, x, generator),
        damping,
        start,
        _noise_over_energy(operator, damping, begin - x),
        _unseen(found, smallest),
    )


def _unseen(found: list[Tridiagonal | None], smallest: float) -> float:
    """CG's relative error, worst column, if what it has not seen yet lies at the eigenvalue `smallest`."""
    return max((unseen_error(each, smallest) for each in found if each), default=0.0)


def as_measure(found: list[Tridiagonal | None], damping: float) -> SpectralMeasure:
    """The Gauss rules of H that CG's matrices of H + λI make."""
    width = max((len(each.diagonal) for each in found if each), default=1)
    nodes = torch.zeros(len(found), width, dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    for column, each in enumerate(found):
        if each:
            values, shares = each.measure
            nodes[column, : len(values)] = values - damping
            weights[column, : len(values)] = each.start_norm**2 * shares
    return SpectralMeasure(nodes, weights)


def _noise(
    operator: CurvatureOperator,
    whole: CurvatureOperator,
    damping: float,
    x: Tensor,
    generator: torch.Generator,
) -> SpectralMeasure:
    """The measure of (H̃ − H)x for one unit: its size of each column, its shape of some columns together."""
    batch = max(1, whole.num_examples // 4)
    one, other = (whole.minibatch(batch, generator) @ x for _ in range(2))
    drawn = (one - other) * (batch / 2) ** 0.5
    sizes = _inner(drawn, drawn)
    if whole.has_examples:
        # Every example counts, where a draw may miss those that carry the noise, and with them its shape.
        of_examples = whole.mean_square(x)
        product = whole @ x
        sizes = _per_unit(whole, _inner(x, of_examples) - _inner(product, product))
        drawn = torch.where(drawn.any(dim=0), drawn, of_examples)
    *_, (_, found) = conjugate_gradients(operator, damping, drawn[:, :NOISE_COLUMNS], NOISE_STEPS)
    shape = as_measure(found, damping)
    totals = shape.weights.sum(dim=1, keepdim=True)
    # Noise lies alike for all columns, and one draw says little of its own.
    pooled = (shape.weights / totals.where(totals > 0, 1)).flatten() / max(1, int((totals > 0).sum()))
    return SpectralMeasure(shape.nodes.flatten()[None], sizes.cpu()[:, None] * pooled)


def _per_unit(operator: CurvatureOperator, noise_of_draws: Tensor) -> Tensor:
    return (noise_of_draws * operator.num_examples / operator.num_draws).clamp_min(0)


def _noise_over_energy(operator: CurvatureOperator, damping: float, e: Tensor) -> Tensor:
    """E‖(H̃ − H)e‖²/eᵀ(H + λ)e for mini-batches of one unit, shape (k,); 0 where H shows no examples."""
    if not operator.has_examples:
        return torch.zeros(e.shape[1], dtype=torch.float64)
    product = operator @ e
    energy = _inner(e, product) + damping * _inner(e, e)
    noise = _per_unit(operator, _inner(e, operator.mean_square(e)) - _inner(product, product))
    return torch.where(energy > 0, noise / energy.where(energy > 0, 1), 0).cpu()


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() * other.double()).sum(dim=0)
