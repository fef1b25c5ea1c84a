"""All large eigenvalues at once from a random sketch (Swartworth & Woodruff 2023, arXiv 2304.09281)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.estimate import Estimate, mean
from problems.validation import check_counts

# Rows of G that exist at one time: of every two blocks of them, an entry of G H Gᵀ for each pair of rows.
BLOCK = 16


@dataclass(frozen=True)
class Sketch:
    """S = G H Gᵀ, shape (k, k), float64, G of k rows with entries N(0, 1/k)."""

    matrix: Tensor

    @property
    def raw_eigenvalues(self) -> Tensor:
        """Eigenvalues of S, ascending, shape (k,): each too large by about Tr(H)/k, which the tail adds."""
        return torch.linalg.eigvalsh(self.matrix)

    @property
    def eigenvalues(self) -> Tensor:
        """Estimates of H's k most distant eigenvalues, ascending, shape (k,), with their signs.

        The tail's Tr(S)/k is subtracted; what lies below 0 then belongs to H's bottom. Each is within
        about 2/√k ‖H‖_F of the truth, for eigenvalues of H beyond the k-th from either end of 0.
        """
        return self.raw_eigenvalues - self.matrix.trace() / len(self.matrix)

    @property
    def trace(self) -> Estimate:
        """Tr(H): the rows' quadratic forms are k independent draws."""
        return mean(self.matrix.diagonal() * len(self.matrix))

    @property
    def frobenius_norm(self) -> float:
        """‖H‖_F, of which E S_ab² = ‖H‖_F²/k² for every two rows tells the square."""
        size = len(self.matrix)
        off_diagonal = self.matrix.square().sum() - self.matrix.diagonal().square().sum()
        return math.sqrt(float(off_diagonal) * size / max(1, size - 1))


def sketch(
    operator: CurvatureOperator, rows: int, seed: int, *, segments: Sequence[int] | None = None
) -> Sketch:
    """S for `rows` random rows; one product for each, memory of 3 · 16 vectors.

    The rows follow from `seed` and are generated anew whenever they are needed, never stored. `segments`
    are the lengths of the parts of a vector that are generated each from a seed of its own, as one part
    for each parameter tensor of a large network; by default the vector is one part.
    """
    check_counts(rows=rows)
    lengths = list(segments) if segments is not None else [operator.shape[0]]
    if sum(lengths) != operator.shape[0] or min(lengths) < 1:
        raise ValueError(
            f"segments are {len(lengths)} lengths that sum to {sum(lengths)}; they must be positive and sum "
            f"to p = {operator.shape[0]}"
        )
    starts = range(0, rows, BLOCK)
    matrix = torch.zeros(rows, rows, dtype=torch.float64)

    def generated(first: int) -> Tensor:
        """Rows `first` to `first` + 16 of √k G, as columns (p, c)."""
        count = min(BLOCK, rows - first)
        parts = []
        for index, length in enumerate(lengths):
            generator = torch.Generator().manual_seed(_mix(seed, first, index))
            parts.append(torch.randn(count, length, generator=generator, dtype=operator.dtype))
        return torch.cat(parts, dim=1).to(operator.device).T

    for first in starts:
        columns = generated(first)
        products = operator @ columns
        # S is symmetric: half of its blocks tell the rest.
        for other in starts[: first // BLOCK + 1]:
            left = columns if other == first else generated(other)
            block = (left.T @ products).double().cpu() / rows
            matrix[other : other + len(block), first : first + block.shape[1]] = block
            matrix[first : first + block.shape[1], other : other + len(block)] = block.T
    return Sketch((matrix + matrix.T) / 2)


def _mix(seed: int, first: int, segment: int) -> int:
    """One seed of three numbers, different for different ones of any usual size."""
    return ((seed * 1_000_003 + first) * 1_000_003 + segment) % 2**63
