"""What LiSSA must know of its right-hand sides before it is run: a few CG steps on each, and their noise."""

from __future__ import annotations

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.spectral_measure import SpectralMeasure
from solvers.prediction import RightHandSides, Start
from solvers.solver import Breakdown

# CG steps from b; their measure integrates polynomials of degree 23 exactly.
STEPS = 12
# Steps from the noise: that f which tells how noise is damped is smoother.
NOISE_STEPS = 5
# A column whose residual is this small has shown all of its spectrum that matters.
CLOSE = 1e-3
# Pairs of mini-batches of a quarter of the data each whose difference shows the noise.
PAIRS = 1


def pilot(
    operator: CurvatureOperator, damping: float, b: Tensor, generator: torch.Generator, start: Start
) -> RightHandSides:
    """The spectral measures of b (p, k) and of the noise (H̃ − H)u* that mini-batches make, u* as CG has it.

    Costs some twenty products. The measures are right as far as CG has come in them: it sees flat directions
    last, so that what it does not see yet makes predictions too large rather than too small.
    Raises Breakdown where H + λI is not positive definite.
    """
    x, measure = conjugate_gradient_measure(operator, damping, b, STEPS)
    return RightHandSides(measure, _noise(operator, damping, x, generator), damping, start)


def conjugate_gradient_measure(
    operator: CurvatureOperator, damping: float, b: Tensor, steps: int
) -> tuple[Tensor, SpectralMeasure]:
    """CG's answer (p, k) after at most `steps` products, and the measure of b that its coefficients make.

    Every column has a recurrence of its own, all share each product. Without reorthogonalisation: a Gauss
    rule stays right where the basis does not (Greenbaum 1989).
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    first = square = b.double().square().sum(dim=0)
    alphas, betas, active = [], [], []
    for _ in range(steps):
        running = square > (CLOSE**2 * first)
        if not running.any():
            break
        product = operator @ direction + damping * direction
        curvature = (direction.double() * product.double()).sum(dim=0)
        _check_positive_definite(curvature, direction, running, damping)
        alpha = torch.where(running, square / curvature.where(running, 1), 0)
        x += alpha.to(b.dtype) * direction
        residual -= alpha.to(b.dtype) * product
        new = torch.where(running, residual.double().square().sum(dim=0), square)
        beta = torch.where(running, new / square.where(running, 1), 0)
        direction = residual + beta.to(b.dtype) * direction
        alphas.append(alpha)
        betas.append(beta)
        active.append(running)
        square = new
    if not alphas:
        none = torch.zeros(len(first), 1, dtype=torch.float64)
        return x, SpectralMeasure(none, none)
    alpha, beta = torch.stack(alphas).T.cpu(), torch.stack(betas).T.cpu()
    counts = torch.stack(active).sum(dim=0).tolist()
    return x, _gauss_rule(alpha, beta, counts, first.cpu(), damping)


def _gauss_rule(
    alphas: Tensor, betas: Tensor, counts: list[int], square: Tensor, damping: float
) -> SpectralMeasure:
    """The Gauss rule of H from the coefficients of CG on H + λI, shapes (k, m)."""
    nodes, weights = torch.zeros_like(alphas), torch.zeros_like(alphas)
    for column, count in enumerate(counts):
        if count:
            alpha, beta = alphas[column, :count], betas[column, :count]
            diagonal = 1 / alpha
            diagonal[1:] += beta[:-1] / alpha[:-1]
            beside = beta[:-1].sqrt() / alpha[:-1]
            values, vectors = torch.linalg.eigh(
                torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)
            )
            nodes[column, :count] = values - damping
            weights[column, :count] = square[column] * vectors[0].square()
    return SpectralMeasure(nodes, weights)


def _noise(
    operator: CurvatureOperator, damping: float, x: Tensor, generator: torch.Generator
) -> SpectralMeasure:
    """The measure of (H̃ − H)x for one unit: its size of each column, its shape of all columns together."""
    batch = max(1, operator.num_examples // 4)
    drawn = []
    for _ in range(PAIRS):
        one, other = (operator.minibatch(batch, generator) @ x for _ in range(2))
        drawn.append((one - other) * (batch / 2) ** 0.5)
    if operator.has_examples:
        # Every example counts, where a few draws may miss those that carry the noise.
        product = operator @ x
        of_draws = _inner(x, operator.mean_square(x)) - _inner(product, product)
        total = (of_draws * operator.num_examples / operator.num_draws).clamp_min(0)
    else:
        total = torch.stack([_inner(noise, noise) for noise in drawn]).mean(dim=0)
    shape = conjugate_gradient_measure(operator, damping, drawn[0], NOISE_STEPS)[1]
    sizes = shape.weights.sum(dim=1, keepdim=True)
    shares = shape.weights / sizes.where(sizes > 0, 1)
    # Noise lies alike for all columns, and one draw says little of its own.
    pooled = shares.flatten() / max(1, int((sizes > 0).sum()))
    nodes = shape.nodes.flatten().expand(len(total), -1)
    return SpectralMeasure(nodes, total.cpu()[:, None] * pooled)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() * other.double()).sum(dim=0)


def _check_positive_definite(curvature: Tensor, direction: Tensor, running: Tensor, damping: float) -> None:
    quotients = (curvature / direction.double().square().sum(dim=0))[running]
    lowest = float(quotients.min())
    if lowest <= 0:
        raise Breakdown(
            f"H + λI is not positive definite: λ = {damping:g}, and H has an eigenvalue of at most "
            f"{lowest - damping:.3g}. Raise damping above {damping - lowest:.3g} at least, or use "
            "scipy_minres"
        )
