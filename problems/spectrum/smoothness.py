"""What limits LiSSA's step on mini-batches: R_e, and the sharp constant L_b of the second moment."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.pencil import TopOfPencil, largest_of_pencil
from problems.validation import check_counts, check_damping

# Vectors that go through LOBPCG together.
WIDTH = 3


def noise_constant(
    operator: CurvatureOperator,
    damping: float,
    generator: torch.Generator,
    *,
    batch_size: int | None = None,
    parts: int | None = None,
    width: int = WIDTH,
    tolerance: float = 1e-2,
    max_steps: int = 30,
) -> TopOfPencil:
    """R: the least R with E h² ⪯ R (H + λI), h the curvature of one draw: an example, or a whole sequence.

    For λ → 0 this is R_e of E h² ⪯ R_e H, of which it is a lower bound. With it L_b ≤ λ_max + λ −
    λ_max²/(m(λ_max + λ)) + R/m for mini-batches of m draws. With `batch_size` h is a draw of mini-batches of
    so many units, maybe a part of a sequence; E h² is then a mean over `parts` of each (`single_draws`).
    A step costs an ordinary product and two of every draw alone, with `width` vectors each.
    """
    check_damping(damping)
    draws = operator if batch_size is None else operator.single_draws(batch_size, generator, parts)
    return largest_of_pencil(
        draws.mean_square,
        lambda v: operator @ v + damping * v,
        _start(operator, width, generator),
        tolerance=tolerance,
        max_steps=max_steps,
    )


def sampled_noise_constant(
    operator: CurvatureOperator,
    damping: float,
    samples: int,
    generator: torch.Generator,
    *,
    batch_size: int | None = None,
    tolerance: float = 5e-2,
    max_steps: int = 8,
) -> TopOfPencil:
    """R from `samples` draws of one example, or sequence, where H offers no curvature of single examples.

    With `batch_size` from draws as those that mini-batches of so many units are made of.

    Neither a lower nor an upper bound: an example that was not drawn does not count, one that was counts for
    more than its share.
    """
    check_damping(damping)
    # No more than a sequence: a larger size would be a mean of two.
    size = max(1, operator.num_examples // operator.num_draws)
    if batch_size is not None:
        size = min(size, max(1, round(batch_size / operator.draws_in(batch_size))))
    drawn = [operator.minibatch(size, generator) for _ in range(samples)]

    def mean_square(v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for one in drawn:
            total += one @ (one @ v)
        return total / samples

    found = largest_of_pencil(
        mean_square,
        lambda v: operator @ v + damping * v,
        _start(operator, 1, generator),
        tolerance=tolerance,
        max_steps=max_steps,
    )
    return replace(found, value=replace(found.value, kind="estimate"))


def second_moment_constant(
    operator: CurvatureOperator,
    damping: float,
    batch_size: int,
    generator: torch.Generator,
    *,
    parts: int | None = None,
    width: int = WIDTH,
    tolerance: float = 1e-2,
    max_steps: int = 30,
) -> TopOfPencil:
    """L_b: the least L with E (H̃ + λI)² ⪯ L (H + λI) for mini-batches of `batch_size` units.

    LiSSA's second moment contracts for η < 2/L_b, best at 1/L_b. E (H̃ + λI)² = (1 − 1/m) H² + E h²/m +
    2λH + λ²I, h one of the m draws: an example, a sequence, or a part of one, E h² then being a mean over
    `parts` of each. A step costs three ordinary products and two of every draw alone, with `width` vectors
    each.
    """
    check_damping(damping)
    check_counts(batch_size=batch_size)
    draws, single = operator.draws_in(batch_size), operator.single_draws(batch_size, generator, parts)

    def second_moment(v: Tensor) -> Tensor:
        product = operator @ v
        squared = (1 - 1 / draws) * (operator @ product) + single.mean_square(v) / draws
        return squared + 2 * damping * product + damping**2 * v

    return largest_of_pencil(
        second_moment,
        lambda v: operator @ v + damping * v,
        _start(operator, width, generator),
        tolerance=tolerance,
        max_steps=max_steps,
    )


def _start(operator: CurvatureOperator, width: int, generator: torch.Generator) -> Tensor:
    size = operator.shape[0]
    drawn = torch.randn(min(width, size), size, generator=generator, dtype=torch.float64)
    # One product turns it toward the large eigenvalues.
    return operator @ drawn.to(operator.device, operator.dtype).T
