"""Curvature given by explicit per-example matrices, so that every moment of H̃ is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from problems.columns import times
from problems.operators.base import CurvatureOperator
from problems.work import BACKWARD_COST, FORWARD_COST, Work


class DenseOperator(CurvatureOperator):
    """H = mean h_i of explicit symmetric matrices `per_example`, shape (n, p, p).

    Memory n·p² numbers; a product costs p²k multiplications, drawing a mini-batch of b costs b·p².
    Raises ValueError for matrices that are not square, symmetric and finite.
    """

    def __init__(self, per_example: Tensor) -> None:
        _check(per_example)
        self._build(per_example, Work(len(per_example), per_example.shape[-1]))

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> DenseOperator:
        """H itself, shape (p, p), as its only example."""
        return cls(matrix[None])

    def example_forms(self, vectors: Tensor) -> Tensor:
        self._check(vectors)
        columns = vectors if vectors.ndim == 2 else vectors[:, None]
        self.work.count_product(columns.shape[1], self.num_examples, FORWARD_COST)
        return ((self.per_example @ columns) * columns).sum(dim=1)

    def mean_square(self, vectors: Tensor, between: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        self._check(vectors)
        for _ in range(2):
            self._count(1 if vectors.ndim == 1 else vectors.shape[1])
        first = self.per_example @ (vectors if vectors.ndim == 2 else vectors[:, None])
        if between is not None:
            count, size, width = first.shape
            first = between(first.permute(1, 0, 2).reshape(size, -1)).reshape(size, count, width)
            first = first.permute(1, 0, 2)
        mean = (self.per_example @ first).mean(dim=0)
        return mean if vectors.ndim == 2 else mean[:, 0]

    @property
    def root_rank(self) -> int:
        return 0 if self._roots is None else self._roots.shape[1]

    def root_blocks(self) -> Iterator[Tensor]:
        roots = self._known_roots()
        self.work.count_product(self.root_rank, self.num_examples, BACKWARD_COST)
        yield roots

    def root_product(self, vectors: Tensor) -> Tensor:
        self._check(vectors)
        self.work.count_product(vectors.shape[1], self.num_examples, FORWARD_COST)
        return times(self._known_roots().flatten(0, 1), vectors) / self.num_examples**0.5

    def root_transpose_product(self, weights: Tensor) -> Tensor:
        self.work.count_product(weights.shape[1], self.num_examples, BACKWARD_COST)
        return times(self._known_roots().flatten(0, 1).T, weights) / self.num_examples**0.5

    def _known_roots(self) -> Tensor:
        if self._roots is None:
            raise ValueError("an example's matrix has a negative eigenvalue, so H has no root by examples")
        return self._roots

    @cached_property
    def _roots(self) -> Tensor | None:
        """R_i of every h_i, shape (n, r, p), r the largest rank; None where one is not ⪰ 0."""
        values, vectors = torch.linalg.eigh(self.per_example)
        smallest = len(self.matrix) * torch.finfo(self.dtype).eps * values.abs().amax()
        if values.min() < -smallest:
            return None
        rank = max(1, int((values > smallest).sum(dim=1).max()))
        roots = (vectors * values.clamp_min(0).sqrt()[:, None, :])[:, :, -rank:]
        return roots.mT.contiguous()

    @property
    def has_examples(self) -> bool:
        return self.is_psd

    def second_moment(self, batch_size: int) -> Tensor:
        """E H̃² = (1 − 1/b) H² + E h²/b for mini-batches of b examples, shape (p, p)."""
        mean_square = torch.einsum("nij,njk->ik", self.per_example, self.per_example) / self.num_examples
        return (1 - 1 / batch_size) * self.matrix @ self.matrix + mean_square / batch_size

    @cached_property
    def is_psd(self) -> bool:
        eigenvalues = torch.linalg.eigvalsh(self.matrix)
        tolerance = len(self.matrix) * torch.finfo(self.dtype).eps
        return bool(eigenvalues[0] >= -tolerance * eigenvalues.abs().amax())

    def subset(self, indices: Tensor) -> DenseOperator:
        return self._derived(self.per_example[indices.to(self.device)])

    def to(self, dtype: torch.dtype) -> DenseOperator:
        return self._derived(self.per_example.to(dtype))

    def _derived(self, per_example: Tensor) -> DenseOperator:
        # Past the checks of __init__, which would cost more than a mini-batch's product.
        operator = DenseOperator.__new__(DenseOperator)
        operator._build(per_example, self.work)
        return operator

    def _build(self, per_example: Tensor, work: Work) -> None:
        num_examples, size, _ = per_example.shape
        super().__init__(size, num_examples, per_example.dtype, per_example.device, work)
        self.per_example = per_example
        self.matrix = per_example.mean(dim=0)

    def _product(self, columns: Tensor) -> Tensor:
        return times(self.matrix, columns)

    def _dense(self) -> Tensor:
        return self.matrix.clone()


def _check(per_example: Tensor) -> None:
    if per_example.ndim != 3 or per_example.shape[1] != per_example.shape[2] or len(per_example) == 0:
        raise ValueError(f"per_example has shape {tuple(per_example.shape)}; it must be (n, p, p) with n ≥ 1")
    if not torch.isfinite(per_example).all():
        raise ValueError("per_example holds NaN or inf; every entry must be finite")
    scale = per_example.abs().amax().clamp_min(torch.finfo(per_example.dtype).tiny)
    asymmetry = (per_example - per_example.mT).abs().amax() / scale
    if asymmetry > 100 * torch.finfo(per_example.dtype).eps:
        raise ValueError(f"per_example is not symmetric (relative asymmetry {asymmetry:.1e})")
