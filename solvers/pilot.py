"""What LiSSA must know of its right-hand sides before it is run: some CG steps on each, and their noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.lanczos import Tridiagonal
from problems.spectrum.spectral_measure import SpectralMeasure
from solvers.krylov_prediction import unseen_error
from solvers.prediction import RightHandSides, Start
from solvers.solver import Breakdown

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
# A column's recurrence ends where rounding begins.
ROUNDING = 100.0


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


def conjugate_gradients(
    operator: CurvatureOperator, damping: float, b: Tensor, steps: int
) -> Iterator[tuple[Tensor, list[Tridiagonal | None]]]:
    """CG's answer (p, k) after each product, and of each column H + λI on its Krylov space (Lanczos 1950).

    None for a column b = 0. Every column has a recurrence of its own, all share each product. Without
    reorthogonalisation: a Gauss rule stays right where the basis does not (Greenbaum 1989). Ends where all
    residuals are down to rounding; at least one step is made. Breakdown on negative curvature.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    first = square = b.double().square().sum(dim=0)
    small = (ROUNDING * torch.finfo(b.dtype).eps) ** 2
    diagonals: list[list[float]] = [[] for _ in first]
    beside: list[list[float]] = [[] for _ in first]
    before = [0.0] * len(first)
    for _ in range(steps):
        running = square > small * first
        product = operator @ direction + damping * direction
        curvature = (direction.double() * product.double()).sum(dim=0)
        _check_positive_definite(curvature, direction, running, damping)
        alpha = torch.where(running, square / curvature.where(running, 1), 0)
        x = x + alpha.to(b.dtype) * direction
        residual = residual - alpha.to(b.dtype) * product
        new = torch.where(running, residual.double().square().sum(dim=0), square)
        beta = torch.where(running, new / square.where(running, 1), 0)
        direction = residual + beta.to(b.dtype) * direction
        columns = zip(running.tolist(), alpha.tolist(), beta.tolist(), (new / first).tolist(), strict=True)
        for column, (runs, length, ratio, left) in enumerate(columns):
            if runs:
                diagonals[column].append(1 / length + before[column])
                beside[column].append(ratio**0.5 / length if left > small else 0.0)
                before[column] = ratio / length
        square = new
        yield (
            x,
            [
                Tridiagonal(_float64(diagonal), _float64(off), norm) if norm else None
                for diagonal, off, norm in zip(diagonals, beside, first.sqrt().tolist(), strict=True)
            ],
        )
        if not (square > small * first).any():
            return


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


def _float64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() * other.double()).sum(dim=0)


def _check_positive_definite(curvature: Tensor, direction: Tensor, running: Tensor, damping: float) -> None:
    if not running.any():
        return
    quotients = (curvature / direction.double().square().sum(dim=0))[running]
    lowest = float(quotients.min())
    if lowest <= 0:
        raise Breakdown(
            f"H + λI is not positive definite: λ = {damping:g}, and H has an eigenvalue of at most "
            f"{lowest - damping:.3g}. Raise damping above {damping - lowest:.3g} at least, or use "
            "scipy_minres"
        )
