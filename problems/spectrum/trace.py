"""The trace from products with random vectors: Hutchinson, Hutch++ and XTrace."""

from __future__ import annotations

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.estimate import Estimate, mean
from problems.validation import check_counts

# Vectors that are drawn and multiplied together; bounds the memory, changes no number.
BLOCK = 16


def hutchinson(operator: CurvatureOperator, samples: int, generator: torch.Generator) -> Estimate:
    """Tr(H) as the mean of zᵀHz over random signs z (Hutchinson 1990).

    `samples` products, memory of some vectors; the variance of one draw is 2(‖H‖_F² − Σ H_ii²).
    """
    check_counts(samples=samples)
    return mean(quadratic_forms(operator, samples, generator))


def quadratic_forms(operator: CurvatureOperator, samples: int, generator: torch.Generator) -> Tensor:
    """zᵀHz for `samples` vectors of random signs, shape (samples,), float64."""
    forms = []
    for first in range(0, samples, BLOCK):
        z = random_signs(operator, min(BLOCK, samples - first), generator)
        forms.append((z * (operator @ z)).double().sum(dim=0))
    return torch.cat(forms).cpu()


def hutch_plus_plus(operator: CurvatureOperator, products: int, generator: torch.Generator) -> Estimate:
    """Tr(H), exact on a random subspace and by Hutchinson on the rest (Meyer et al. 2021).

    Memory of 2/3 `products` vectors. The standard error is that of the rest, given the subspace.
    """
    size = operator.shape[0]
    if products < 6:
        raise ValueError(f"products is {products}; Hutch++ needs at least 6, a third for each of its parts")
    third = min(products // 3, size)
    # Rounding decides what is orthogonal, so this is done in float64 whatever H's dtype.
    image = (operator @ random_signs(operator, third, generator)).double()
    basis = torch.linalg.qr(image).Q
    captured = float((basis * _in_double(operator, basis)).sum())
    if third == size:
        return Estimate(captured, kind="exact")
    probes = random_signs(operator, products - 2 * third, generator).double()
    probes -= basis @ (basis.T @ probes)
    rest = mean((probes * _in_double(operator, probes)).sum(dim=0).cpu())
    return Estimate(captured + rest.value, rest.standard_error, rest.samples)


def xtrace(operator: CurvatureOperator, products: int, generator: torch.Generator) -> Estimate:
    """Tr(H), each vector in turn the probe of what all others miss (Epperly, Tropp & Webber 2024).

    Memory of 1.5 `products` vectors. The standard error is the jackknife's, too large by about two.
    """
    size = operator.shape[0]
    if products < 4:
        raise ValueError(f"products is {products}; XTrace needs at least 4, two for each of two vectors")
    count = min(products // 2, size)
    drawn = torch.randn(count, size, generator=generator, dtype=torch.float64)
    omega = drawn.to(operator.device).T
    image = _in_double(operator, omega)
    basis, r = torch.linalg.qr(image)
    core = basis.T @ _in_double(operator, basis)
    diagonal = r.diagonal().abs()
    if count == size:
        return Estimate(float(core.trace()), kind="exact")
    if diagonal.min() <= diagonal.max() * 10 * count * torch.finfo(operator.dtype).eps:
        # Some images are combinations of others, to rounding: the basis holds nearly all of H's range, and
        # fresh vectors tell what it does not hold.
        drawn = torch.randn(max(2, count // 2), size, generator=generator, dtype=torch.float64)
        probes = drawn.to(operator.device).T
        probes = probes - basis @ (basis.T @ probes)
        missed = mean((probes * _in_double(operator, probes)).sum(dim=0).cpu())
        return Estimate(float(core.trace()) + missed.value, missed.standard_error, missed.samples)
    norms, forms = omega.square().sum(dim=0), (omega * image).sum(dim=0)
    value, outside = _exchanged(core, r, basis.T @ omega, norms, forms, size)
    # The probes' estimates share vectors, so their scatter is too small a measure: the jackknife's is not
    # (Efron & Stein 1981). Without the i-th vector all is the same in the space orthogonal to s_i.
    without = []
    for i in range(count):
        rest = [j for j in range(count) if j != i]
        inside = torch.linalg.qr(outside[:, i : i + 1], mode="complete").Q[:, 1:]
        parts = (inside.T @ core @ inside, inside.T @ r[:, rest], inside.T @ basis.T @ omega[:, rest])
        without.append(_exchanged(*parts, norms[rest], forms[rest], size)[0])
    error = ((count - 1) / count * (torch.stack(without) - torch.stack(without).mean()).square().sum()).sqrt()
    return Estimate(float(value), float(error), count)


def _exchanged(
    core: Tensor, r: Tensor, w: Tensor, norms: Tensor, forms: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """The mean over the k vectors ω, each the probe of what the images of the others leave out.

    With Q an orthonormal basis of all images: `core` = QᵀHQ, `r` = QᵀHΩ, `w` = QᵀΩ, `norms` = ‖ω‖² and
    `forms` = ωᵀHω. Also the matrix whose column i is orthogonal to the images of all vectors but the i-th.
    """
    s = torch.linalg.inv(r).T
    s = s / s.norm(dim=0)
    # The part of the i-th vector that the others' basis contains; the rest is the probe.
    x = w - s * (s * w).sum(dim=0)
    probed = forms - 2 * (x * r).sum(dim=0) + (x * (core @ x)).sum(dim=0)
    # The probe's direction alone matters: its length is set to what it is on average.
    probed = probed * (size - len(r) + 1) / (norms - x.square().sum(dim=0))
    captured = core.trace() - (s * (core @ s)).sum(dim=0)
    return (captured + probed).mean(), s


def random_signs(operator: CurvatureOperator, count: int, generator: torch.Generator) -> Tensor:
    """Vectors of random signs, shape (p, count), in H's dtype and on its device."""
    drawn = torch.randint(2, (count, operator.shape[0]), generator=generator, dtype=torch.int8)
    return (2 * drawn - 1).to(operator.device, operator.dtype).T


def _in_double(operator: CurvatureOperator, vectors: Tensor) -> Tensor:
    return (operator @ vectors.to(operator.dtype)).double()
