"""L_b of many mini-batch sizes at once, from one space of vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.validation import check_counts, check_damping

# Vectors that the space begins with, turned toward the large eigenvalues by one product.
START = 2
# What is left of a vector beside the space, below which it is rounding.
INDEPENDENT = 1e-4
# Rows of which products are taken at once, in float64.
ROWS = 2**18


@dataclass(frozen=True)
class SecondMoments:
    """L_b by the number m of draws of a mini-batch, and R: quotients of some vectors, so from below.

    They are lower bounds of what was looked at: of all data's only where no sample or parts stood for them.

    `change` is the largest relative change that the last round made, `products` the vectors of the space.
    """

    constants: Mapping[int, float]
    noise_constant: float
    change: float
    products: int


def second_moment_constants(
    operator: CurvatureOperator,
    damping: float,
    draws: Sequence[int],
    generator: torch.Generator,
    *,
    single: CurvatureOperator | None = None,
    tolerance: float = 1e-2,
    max_rounds: int = 6,
) -> SecondMoments:
    """The least L_m with (1 − 1/m) H² + E h²/m + 2λH + λ²I ⪯ L_m (H + λI), for each m of `draws`.

    h is the curvature of one draw: an example, or a row of `single` (`CurvatureOperator.single_draws`). R is
    the least with E h² ⪯ R (H + λI). All quadratic forms follow from HQ and E h²Q of one basis Q, in which
    Rayleigh–Ritz is made for every m; each round adds Hx and E h²x of the x that are best for R and for the
    fewest and the most draws. Where `second_moment_constant` takes some 70 gradient equivalents for each m,
    this takes as many for all. A vector of the space costs a product with it and two of every draw alone.
    """
    check_damping(damping)
    if not draws:
        raise ValueError("draws is empty; name at least one number of draws of a mini-batch")
    for count in draws:
        check_counts(draws=count)
    single = single or operator
    size = operator.shape[0]
    start = torch.randn(START, size, generator=generator, dtype=torch.float64)
    space = _Space(lambda v: operator @ v, single.mean_square, damping)
    space.add(operator @ start.to(operator.device, operator.dtype).T)
    values, change = space.values(draws), 1.0
    for _ in range(max_rounds):
        if not space.add(torch.cat([space.images(m) for m in sorted({0, min(draws), max(draws)})], dim=1)):
            change = 0.0
            break
        before, values = values, space.values(draws)
        change = float(((values - before) / values.clamp_min(torch.finfo(values.dtype).tiny)).max())
        if change <= tolerance:
            break
    constants = dict(zip(draws, values[1:].tolist(), strict=True))
    return SecondMoments(constants, float(values[0]), change, space.width)


class _Space:
    """An orthonormal basis Q with HQ and E h²Q, and QᵀHQ, QᵀE h²Q and QᵀH²Q in float64."""

    def __init__(
        self, product: Callable[[Tensor], Tensor], mean_square: Callable[[Tensor], Tensor], damping: float
    ) -> None:
        self._product, self._mean_square, self._damping = product, mean_square, damping
        self._basis: Tensor | None = None

    @property
    def width(self) -> int:
        return 0 if self._basis is None else self._basis.shape[1]

    def add(self, vectors: Tensor) -> bool:
        """Add what of `vectors` (p, j) lies beside the space; False where that is nothing."""
        lengths = vectors.norm(dim=0)
        new = vectors[:, lengths > 0] / lengths[lengths > 0]
        if self._basis is not None:
            for _ in range(2):
                new = new - self._basis @ (self._basis.T @ new)
        left, share, _ = torch.linalg.svd(new, full_matrices=False)
        new = left[:, share > INDEPENDENT]
        if not new.shape[1]:
            return False
        added = (new, self._product(new), self._mean_square(new))
        if self._basis is None:
            self._basis, self._h, self._s = added
        else:
            old = (self._basis, self._h, self._s)
            self._basis, self._h, self._s = (torch.cat(pair, dim=1) for pair in zip(old, added, strict=True))
        self._small = (_inner(self._basis, self._h), _inner(self._basis, self._s), _inner(self._h, self._h))
        return True

    def values(self, draws: Sequence[int]) -> Tensor:
        """R and then L_m of each m, float64."""
        return torch.tensor([self._top(m)[0] for m in (0, *draws)], dtype=torch.float64)

    def images(self, m: int) -> Tensor:
        """Hx and E h²x of the x that is best for m draws, of E h² alone for m = 0, shape (p, 2)."""
        assert self._basis is not None
        x = self._top(m)[1].to(self._basis.dtype)[:, None]
        return torch.cat([self._h @ x, self._s @ x], dim=1)

    def _top(self, m: int) -> tuple[float, Tensor]:
        """The largest quotient for m draws, of E h² alone for m = 0, and its coordinates."""
        h, s, square = self._small
        identity = torch.eye(len(h), dtype=torch.float64, device=h.device)
        moment = s
        if m:
            moment = (1 - 1 / m) * square + s / m + 2 * self._damping * h + self._damping**2 * identity
        root = torch.linalg.cholesky((h + h.T) / 2 + self._damping * identity)
        half = torch.linalg.solve_triangular(root, (moment + moment.T) / 2, upper=False)
        whole = torch.linalg.solve_triangular(root, half.T, upper=False)
        values, vectors = torch.linalg.eigh((whole + whole.T) / 2)
        x = torch.linalg.solve_triangular(root.T, vectors[:, -1:], upper=True)[:, 0]
        return float(values[-1]), x


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """aᵀb in float64, of some rows at a time: no copy of p rows is made."""
    parts = zip(a.split(ROWS), b.split(ROWS), strict=True)
    return torch.stack([some.double().T @ other.double() for some, other in parts]).sum(dim=0)
