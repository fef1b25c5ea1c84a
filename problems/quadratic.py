"""Synthetic quadratics whose spectrum and per-example traces are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from problems.operators.dense import DenseOperator
from problems.problem import Problem, ProblemFamily
from problems.validation import check_counts, check_damping

LARGEST_MEMORY = 4 * 2**30


@dataclass(frozen=True)
class Quadratic(ProblemFamily):
    """n rank-one examples h_i = x_i x_iᵀ whose mean has exactly the chosen spectrum, λ_max = 1.

    `spectrum`: "power_law" (σ_j = j^−exponent), "spiked" (`spikes` eigenvalues 1, the rest `bulk`), "flat"
    (all 1). `traces`: "equal" (every ‖x_i‖² = Tr(H), C = 1) or "heavy_tailed" (Pareto; C grows with n/p).
    `rhs`: "gradient" (columns from N(0, H), as gradients are) or "isotropic" (from N(0, I)). With fewer
    examples than dimensions, H has rank n and the spectrum's first n values.
    """

    dimension: int = 64
    num_examples: int = 256
    spectrum: Literal["power_law", "spiked", "flat"] = "power_law"
    exponent: float = 1.0
    spikes: int = 5
    bulk: float = 0.01
    traces: Literal["equal", "heavy_tailed"] = "equal"
    rhs: Literal["gradient", "isotropic"] = "gradient"
    num_columns: int = 4
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_damping(self.damping)
        check_counts(
            dimension=self.dimension,
            num_examples=self.num_examples,
            num_columns=self.num_columns,
            spikes=self.spikes,
        )
        if self.spectrum == "spiked" and (self.spikes > self.dimension or not 0 <= self.bulk <= 1):
            raise ValueError(
                f"spikes is {self.spikes} and bulk {self.bulk}; needed are 1 ≤ spikes ≤ dimension "
                f"({self.dimension}) and 0 ≤ bulk ≤ 1"
            )
        if self.traces == "heavy_tailed" and self.num_examples <= self.dimension:
            raise ValueError(
                f"num_examples is {self.num_examples}; heavy-tailed traces need more than the dimension "
                f"({self.dimension}), or every example has a direction of its own"
            )
        if self.spectrum == "power_law" and not self.exponent > 0:
            raise ValueError(f"exponent is {self.exponent}; a power law needs one > 0")
        memory = 8 * self.num_examples * self.dimension**2
        if memory > LARGEST_MEMORY:
            raise ValueError(
                f"the problem takes {memory / 2**30:.1f} GiB (num_examples × dimension²); "
                f"allowed are {LARGEST_MEMORY / 2**30:.0f} GiB: lower dimension or num_examples"
            )

    @classmethod
    def examples(cls) -> Sequence[Quadratic]:
        return (
            cls(dimension=12, num_examples=40, damping=0.1),
            cls(dimension=12, num_examples=40, spectrum="spiked", traces="heavy_tailed", damping=0.05),
            cls(dimension=8, num_examples=5, spectrum="flat", num_columns=11, damping=0.5),
            cls(dimension=1, num_examples=1, num_columns=1, damping=0.3),
        )

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        eigenvalues = self._eigenvalues()
        basis = _orthogonal(self.dimension, generator)
        rows = self._rows(eigenvalues, basis, generator)
        noise = torch.randn(self.dimension, self.num_columns, generator=generator, dtype=torch.float64)
        scale = eigenvalues.sqrt() if self.rhs == "gradient" else torch.ones_like(eigenvalues)
        rhs = basis @ (scale[:, None] * noise)
        traces = rows.square().sum(dim=1)
        per_example = (rows[:, :, None] * rows[:, None, :]).to(device, dtype)
        facts = {"heterogeneity C": float(traces.max() / traces.mean())}
        return Problem(
            "quadratic", DenseOperator(per_example), self.damping, rhs.to(device, dtype), facts=facts
        )

    def _eigenvalues(self) -> Tensor:
        index = torch.arange(1, self.dimension + 1, dtype=torch.float64)
        if self.spectrum == "power_law":
            values = index**-self.exponent
        elif self.spectrum == "spiked":
            values = torch.where(index <= self.spikes, 1.0, self.bulk).to(torch.float64)
        else:
            values = torch.ones_like(index)
        values[self.num_examples :] = 0
        return values

    def _rows(self, eigenvalues: Tensor, basis: Tensor, generator: torch.Generator) -> Tensor:
        """x_i, shape (n, p), float64, with XᵀX/n = basis · diag(eigenvalues) · basisᵀ."""
        rank = min(self.num_examples, self.dimension)
        directions = torch.randn(self.num_examples, rank, generator=generator, dtype=torch.float64)
        if self.traces == "heavy_tailed":
            uniform = torch.rand(self.num_examples, 1, generator=generator, dtype=torch.float64)
            directions *= (1 - uniform) ** -1.0  # Pareto with tail exponent 1 on ‖x_i‖
        # The polar factor: the orthonormal columns nearest to the directions, so that heavy rows stay heavy.
        left, _, right = torch.linalg.svd(directions, full_matrices=False)
        weights = (self.num_examples * eigenvalues[:rank]).sqrt()
        rows = ((left @ right) * weights) @ basis[:, :rank].T
        return _equalise(rows) if self.traces == "equal" else rows


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def _equalise(rows: Tensor) -> Tensor:
    """Rotate pairs of rows until all have the same norm (Bendel & Mickey 1978); XᵀX stays as it is."""
    rows = rows.clone()
    norms = rows.square().sum(dim=1)
    target = norms.mean()
    for _ in range(len(rows) - 1):
        low, high = int(norms.argmin()), int(norms.argmax())
        if norms[high] - norms[low] <= 1e-13 * target:
            break
        inner = rows[low] @ rows[high]
        # The tangent of the angle that brings row `low` to the target: a quadratic with roots of both signs.
        discriminant = inner**2 + (norms[high] - target) * (target - norms[low])
        tangent = (discriminant.sqrt() - inner) / (norms[high] - target)
        cosine = 1 / (1 + tangent**2).sqrt()
        sine = tangent * cosine
        rows[low], rows[high] = cosine * rows[low] + sine * rows[high], cosine * rows[high] - sine * rows[low]
        norms[low], norms[high] = rows[low].square().sum(), rows[high].square().sum()
    return rows
