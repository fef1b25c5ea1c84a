"""EK-FAC: K-FAC's eigenvectors with eigenvalues of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import Problem
from problems.operators.layer_passes import LayerPasses, Rows
from solvers.kronecker import (
    Eigenvectors,
    KroneckerInverse,
    Labels,
    LayerDamping,
    check_settings,
    eigenvectors,
    kronecker_inverse,
    length_of_identity,
    passes_for,
    skip_reason,
)
from solvers.preconditioner import Preconditioner
from solvers.solver import Example, Iterate, Solver


@dataclass(frozen=True)
class EKFAC(Solver):
    """x = (Ĥ + λ)⁻¹b, Ĥ = (Q_G ⊗ Q_A) diag(Λ) (Q_G ⊗ Q_A)ᵀ by layer (George et al. 2018; Grosse et al. 2023).

    Q_G and Q_A are the eigenvectors of K-FAC's factors ("expand"), and Λ is the mean of the squares of the
    rows of H's root in their basis, Q_Gᵀ(Σ_t g aᵀ)Q_A: of all matrices with these eigenvectors the nearest to
    the layer's block of H in the Frobenius norm, K-FAC's included. Layers, other parameters, `labels`,
    `num_samples` and `layer_damping` (Grosse et al. take "heuristic") are as for kfac.

    With exact labels and the given damping 0 ⪯ Ĥ ⪯ λ_max for the Gauss–Newton and the Fisher matrices, so
    that ‖x − x*‖ ≤ λ_max/(λ_max + λ) · ‖b‖/λ; with sampled ones ‖b‖/λ for H ⪰ 0, and no bound for the
    Hessian, which is taken for the Gauss–Newton matrix. Exact for one linear layer under squared loss.

    Set-up: twice (1 + 2r)/3 gradient equivalents for r rows, three times where there are other parameters,
    10(d³) multiplications for each factor's eigenvectors (float64) and to rotate rows; then
    2·out·in·(out + in) for each layer and column. Memory: 8(in² + out²) bytes a layer and 48 of its widest
    squared; 2.4 GiB for ResNet-50, 4.2 GiB for OPT-125M.
    """

    labels: Labels = "auto"
    num_samples: int = 1
    layer_damping: LayerDamping = "given"
    memory_gib: float = 8.0

    preconditions: ClassVar[bool] = True
    remedy: ClassVar[str] = "set layer_damping=given, or raise damping"

    def __post_init__(self) -> None:
        check_settings(self.labels, self.num_samples, self.layer_damping, self.memory_gib)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(problem, self.labels, self.memory_gib)

    def prepare(self, problem: Problem, generator: torch.Generator) -> KroneckerInverse:
        passes, told = passes_for(problem, self.labels, self.num_samples, generator)
        found = eigenvectors(passes, reduce=False)
        values = eigenvalues(passes, found)
        return kronecker_inverse(problem, passes, found, values, self.layer_damping, told)

    def iterates(
        self, problem: Problem, state: KroneckerInverse, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = Preconditioner.of(state, problem.operator.work).apply(b)
        yield Iterate(x, diagnostics=state.diagnostics)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        sampled = cls(labels="sampled", num_samples=2)
        if not problem.operator.is_psd:
            return [Example(cls(), None), Example(sampled, None)]
        assert problem.eigenvalues is not None
        largest = float(problem.eigenvalues[-1])
        length = length_of_identity(problem)
        # Λ's entries are Rayleigh quotients of H, of which others are averages over targets.
        return [
            Example(cls(labels="exact"), largest / (largest + problem.damping) * length),
            Example(sampled, length),
        ]


def eigenvalues(passes: LayerPasses, found: list[Eigenvectors]) -> list[Tensor]:
    """Λ of every layer, (outputs, columns), float64: mean squares of the root's rows in the eigenbasis."""
    operator = passes.operator

    def attempt(size: int) -> Squares:
        squares = Squares(found)
        passes.run(squares.add, size)
        return squares

    passes.count()
    squares = operator.micro_batches.run(operator.num_draws, attempt)
    operator.work.count_algebra(squares.multiplications)
    return [total.div_(operator.num_draws) for total in squares.totals]


class Squares:
    """Σ (Q_Gᵀ (Σ_t g aᵀ) Q_A)² over examples and rows, by layer."""

    def __init__(self, found: list[Eigenvectors]) -> None:
        self.found = found
        self.totals = [
            torch.zeros(len(e.left), len(e.right), dtype=torch.float64, device=e.left.device) for e in found
        ]
        self.multiplications = 0.0

    def add(self, rows: Rows) -> None:
        """Add a batch."""
        inputs = [a @ each.right for a, each in zip(rows.inputs, self.found, strict=True)]
        self.multiplications += sum(a.numel() * a.shape[2] for a in inputs)
        for by_layer in rows.gradients:
            for index, g in enumerate(by_layer):
                rotated = g @ self.found[index].left
                self.multiplications += g.numel() * g.shape[3]
                self.totals[index] += self._squares(rotated, inputs[index])

    def _squares(self, g: Tensor, a: Tensor) -> Tensor:
        if a.shape[1] == 1:
            self.multiplications += g[0].numel() * a.shape[2]
            return g[:, :, 0].square().sum(dim=0).T @ a[:, 0].square()
        self.multiplications += g.numel() * a.shape[2]
        return (g.mT @ a).square().sum(dim=(0, 1))
