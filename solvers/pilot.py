"""What LiSSA must know of its right-hand sides before it is run: some CG steps on each, and their noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.lanczos import Tridiagonal
from problems.spectrum.spectral_measure import SpectralMeasure
from solvers.krylov_prediction import conjugate_gradients, unseen_error
from solvers.prediction import RightHandSides, Start, relative

# CG steps from b; their measure integrates polynomials of degree 23 exactly.
STEPS = 12
# Where so large a part of the solution is still unseen more steps are made, up to MOST_STEPS.
UNSEEN = 0.5
# With a preconditioner steps are few, and the smallest eigenvalue is taken to be this share of CG's.
UNSEEN_OF_PRECONDITIONED = 0.05
SHORT = 0.5
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
    half: Callable[[Tensor], Tensor] | None = None,
) -> RightHandSides:
    """The spectral measures of b (p, k), and of the noise (H̃ − H)u* of mini-batches, u* as CG has it.

    `operator` is all data or a sample; `whole` has the examples whose noise counts, of which a smaller sample
    may miss those that carry it. No eigenvalue of H + λI is below `smallest`. Costs some twenty products,
    and about four of `whole`. `unseen` of what it returns is how far CG still may be from u*, where most of
    it lies at small eigenvalues that CG has not met. Where the system is that of P^½u, `half` applies P^-½.
    Raises Breakdown where H + λI is not positive definite.
    """
    # Each step's answer stands in for the last one's.
    doubled: list[Tensor] = []
    enough = UNSEEN if half is None else UNSEEN_OF_PRECONDITIONED
    for count, answer in enumerate(conjugate_gradients(operator, damping, b, most_steps), start=1):
        x, found = answer
        if half is not None and count.bit_count() == 1:
            doubled = [*doubled[-1:], x]
        steps = max((len(each.diagonal) for each in found if each), default=0)
        looked_at = steps <= STEPS or (steps - STEPS) % MORE == 0
        if half is not None and looked_at:
            # Of P^-½(H + λI)P^-½ nothing is known for certain: CG may show less than was measured.
            smallest = min(smallest, SHORT * _smallest_ritz_value(found))
        if looked_at and _unseen(found, smallest) <= (CLOSE if steps < STEPS else enough):
            break
    begin = b / damping if start == "rhs" else torch.zeros_like(b)
    noise, drawn = _noise(operator, whole, damping, x, generator)
    return RightHandSides(
        as_measure(found, damping),
        noise,
        damping,
        start,
        _noise_over_energy(operator, damping, begin - x),
        _unseen(found, smallest),
        *((1.0, 1.0) if half is None else (_stretch(half, drawn, x), _bias_stretch(half, doubled, begin, x))),
    )


def _bias_stretch(
    half: Callable[[Tensor], Tensor], doubled: list[Tensor], begin: Tensor, x: Tensor
) -> Tensor:
    """That of what is left of the start, shape (k,): of the start, and of what CG meets last, as it lasts.

    `doubled` are CG's answers after the last two powers of two of steps, of which the earlier one is at
    most half way.
    """
    return torch.stack([_stretch(half, each - x, x) for each in (begin, *doubled[:1])]).amax(dim=0)


def _smallest_ritz_value(found: list[Tridiagonal | None]) -> float:
    return min((float(each.measure[0].min()) for each in found if each), default=math.inf)


def _stretch(half: Callable[[Tensor], Tensor], error: Tensor, x: Tensor) -> Tensor:
    """How many times larger P^-½ makes `error` relative to x, shape (k,); 1 where there is none."""
    lengths = [v.double().norm(dim=0).cpu() for v in (half(error), half(x), error, x)]
    after, before = relative(lengths[0], lengths[1]), relative(lengths[2], lengths[3])
    return torch.where(before > 0, after / before.where(before > 0, 1), 1.0)


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
) -> tuple[SpectralMeasure, Tensor]:
    """The measure of (H̃ − H)x for one unit, and a draw of it.

    Its size is that of each column, its shape that of some columns together.
    """
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
    return SpectralMeasure(shape.nodes.flatten()[None], sizes.cpu()[:, None] * pooled), drawn


def _per_unit(operator: CurvatureOperator, noise_of_draws: Tensor) -> Tensor:
    # Of sequences at their rate: of a part of one it is more than there is, unless its tokens' curvatures
    # are less alike than independent ones (`problems.spectrum.sequence_correlation`).
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
