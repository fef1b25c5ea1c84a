"""What every curvature matrix offers: products over all data, and independent mini-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from problems.work import Work


class CurvatureOperator(ABC):
    """A symmetric matrix H, shape (p, p), the mean over n examples of h_i; never formed unless asked.

    `operator @ V` takes V of shape (p,) or (p, k) and costs (1 + 4k)/3 gradient equivalents, the true
    Hessian's (3 + 6k)/3.
    `operator.work` counts what was spent on it, on its mini-batches and on its copies. `unit` is what the
    mean is over and what mini-batches are counted in; `num_examples` is their number.
    """

    unit: Literal["example", "token"] = "example"

    def __init__(
        self, size: int, num_examples: int, dtype: torch.dtype, device: torch.device, work: Work
    ) -> None:
        self.shape = (size, size)
        self.num_examples = num_examples
        self.dtype = dtype
        self.device = device
        self.work = work

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """H V for V of shape (p,) or (p, k); ValueError where shape, dtype or device differ from H's."""
        self._check(vectors)
        columns = vectors if vectors.ndim == 2 else vectors[:, None]
        self._count(columns.shape[1])
        product = self._product(columns)
        return product if vectors.ndim == 2 else product[:, 0]

    def minibatch(self, size: int, generator: torch.Generator) -> CurvatureOperator:
        """An independent sample H̃: the mean over `size` units drawn with replacement, E H̃ = H.

        `generator` lives on the CPU whatever the operator's device, so that a seed draws the same
        examples everywhere.
        """
        if size < 1:
            raise ValueError(f"batch_size is {size}; a mini-batch needs at least 1 {self.unit}")
        return self._draw(size, generator)

    def dense(self) -> Tensor:
        """H as a (p, p) tensor, counted as a product with p columns."""
        self._count(self.shape[0])
        return self._dense()

    def forget(self) -> None:
        """Drop what earlier products left behind to speed up later ones, so that all solves start alike."""
        return

    @property
    def exact(self) -> CurvatureOperator:
        """The same H with exact products, by which answers are judged; itself, unless its own are not."""
        return self

    @property
    def num_draws(self) -> int:
        """The examples, or the sequences where the unit is the token, that a mini-batch draws from."""
        return self.num_examples

    def draws_in(self, size: int) -> int:
        """How many independent draws a mini-batch of `size` units is the mean of."""
        return size

    def single_draws(
        self, size: int, generator: torch.Generator, repeats: int | None = None
    ) -> CurvatureOperator:
        """H as the mean over the draws h̃ that mini-batches of `size` units are made of.

        Its `mean_square` is E h̃², so that E H̃² = (1 − 1/m) H² + E h̃²/m with m = `draws_in(size)`. Itself,
        unless h̃ is a part of a sequence: then each sequence comes `repeats` times with parts drawn at random.
        """
        return self

    @property
    def preparation_seconds(self) -> float:
        """Time so far that products took to prepare later ones (recording, measuring memory)."""
        return 0.0

    @property
    def has_examples(self) -> bool:
        """Whether `example_forms` and `mean_square` are known: the curvature of single examples, h_i ⪰ 0."""
        return False

    def example_forms(self, vectors: Tensor) -> Tensor:
        """vᵀ h_i v of every example i for the vectors V (p, k), shape (n, k); ValueError where unknown."""
        raise ValueError(f"{type(self).__name__} knows no curvature of single examples")

    def mean_square(self, vectors: Tensor, between: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """mean h_i M h_i V over all examples i for V (p, k), shape (p, k); ValueError where unknown.

        `between` applies M to columns (p, j); by default M = I.
        """
        raise ValueError(f"{type(self).__name__} knows no curvature of single examples")

    @property
    def root_rank(self) -> int:
        """r, where every h_i = R_iᵀR_i with R_i (r, p) is offered by `root_blocks`; 0 where none is."""
        return 0

    def root_blocks(self) -> Iterator[Tensor]:
        """The R_i of all examples, or sequences, in order, in blocks (m, r, p): H = mean R_iᵀR_i.

        Costs (1 + 2r)/3 gradient equivalents. ValueError where no root is known.
        """
        raise ValueError(f"{type(self).__name__} knows no root of H")

    def root_product(self, vectors: Tensor) -> Tensor:
        """R V for V (p, k), shape (n·r, k), R the R_i below each other over √n, so that H = RᵀR.

        Costs k gradient equivalents. ValueError where no root is known.
        """
        raise ValueError(f"{type(self).__name__} knows no root of H")

    def root_transpose_product(self, weights: Tensor) -> Tensor:
        """Rᵀ W for W (n·r, k), shape (p, k); costs (1 + 2k)/3 gradient equivalents."""
        raise ValueError(f"{type(self).__name__} knows no root of H")

    def diagonal(self) -> Tensor:
        """The diagonal of H, shape (p,): from its root where there is one, else from p products."""
        if not self.root_rank:
            return self.dense().diagonal().clone()
        total = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        for block in self.root_blocks():
            total += block.square().sum(dim=(0, 1))
        return total / self.num_draws

    @property
    @abstractmethod
    def is_psd(self) -> bool:
        """Whether H ⪰ 0."""

    @abstractmethod
    def subset(self, indices: Tensor) -> CurvatureOperator:
        """The mean over the examples `indices` (m,), repeated ones counted as often as they occur."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> CurvatureOperator:
        """The same H in another dtype; work goes on being counted here."""

    def _draw(self, size: int, generator: torch.Generator) -> CurvatureOperator:
        return self.subset(torch.randint(self.num_examples, (size,), generator=generator))

    def _count(self, columns: int) -> None:
        """Count a product with `columns` columns as work."""
        self.work.count_product(columns, self.num_examples)

    @abstractmethod
    def _product(self, columns: Tensor) -> Tensor:
        """H V for V of shape (p, k)."""

    def _dense(self) -> Tensor:
        size, block = self.shape[0], 64
        matrix = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for first in range(0, size, block):
            columns = torch.zeros(size, min(block, size - first), dtype=self.dtype, device=self.device)
            columns[first : first + block].fill_diagonal_(1)
            matrix[:, first : first + block] = self._product(columns)
        return matrix.add_(matrix.T.clone()).div_(2)

    def _check(self, vectors: Tensor) -> None:
        size = self.shape[0]
        if vectors.ndim not in (1, 2) or vectors.shape[0] != size:
            raise ValueError(
                f"the vectors have shape {tuple(vectors.shape)}; H is {size} × {size} "
                f"and takes ({size},) or ({size}, k)"
            )
        if vectors.dtype != self.dtype:
            raise ValueError(f"the vectors are {vectors.dtype}, H is {self.dtype}: convert one of them")
        if vectors.device != self.device:
            raise ValueError(f"the vectors are on {vectors.device}, H is on {self.device}: move one of them")
