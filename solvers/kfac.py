"""K-FAC: a Kronecker product for every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from problems import Problem
from solvers.kronecker import (
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

Approximation = Literal["expand", "reduce"]
APPROXIMATIONS: tuple[Approximation, ...] = get_args(Approximation)


@dataclass(frozen=True)
class KFAC(Solver):
    """x = (Ĥ + λ)⁻¹b, Ĥ block by block G ⊗ A (Martens & Grosse 2015; Grosse & Martens 2016 for convolutions).

    Of each linear layer and convolution, A is the mean of aaᵀ for its inputs a, with a last entry 1 where it
    has a bias, and G the mean of ggᵀ for the rows g that come back at its outputs; damped exactly, with the
    eigenvalues λ_G λ_A + λ. Where a layer has many positions (images, tokens), `approximation` "expand" or
    "reduce" (Eschenhagen et al. 2023). Parameters of other kinds, of convolutions in groups, of layers that
    share them or are used otherwise are solved as diagonal and listed in the diagnostics.

    `labels` "exact": the rows of H's own root, which for the Gauss–Newton matrix are those of ∇²ℓ; "sampled":
    gradients at `num_samples` targets drawn from the model; "auto": exact up to 256 rows for an example, or
    sequence. Fisher matrices always keep their own; the Hessian is taken for the Gauss–Newton matrix.
    `layer_damping` "heuristic" is 0.1 times the mean eigenvalue of each layer in place of λ.

    Ĥ ⪰ 0, so that ‖x − x*‖ ≤ ‖b‖/λ for H ⪰ 0 under the given damping, with equality at worst: how near Ĥ is
    to H no theory says. Exact for one linear layer under squared loss.

    Set-up: (1 + 2r)/3 gradient equivalents for r rows, twice that where there are other parameters, and
    10(d³) multiplications for each factor's eigenvectors (float64); then 2·out·in·(out + in) for each layer
    and column. Memory: 8(in² + out²) bytes a layer and 48 of its widest squared; 2.4 GiB for ResNet-50,
    4.2 GiB for OPT-125M.
    """

    labels: Labels = "auto"
    num_samples: int = 1
    approximation: Approximation = "expand"
    layer_damping: LayerDamping = "given"
    memory_gib: float = 8.0

    preconditions: ClassVar[bool] = True
    remedy: ClassVar[str] = "set layer_damping=given, or raise damping"

    def __post_init__(self) -> None:
        check_settings(self.labels, self.num_samples, self.layer_damping, self.memory_gib)
        if self.approximation not in APPROXIMATIONS:
            allowed = ", ".join(APPROXIMATIONS)
            raise ValueError(f"approximation is {self.approximation!r}; it must be one of {allowed}")

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(problem, self.labels, self.memory_gib)

    def prepare(self, problem: Problem, generator: torch.Generator) -> KroneckerInverse:
        passes, told = passes_for(problem, self.labels, self.num_samples, generator)
        found = eigenvectors(passes, reduce=self.approximation == "reduce")
        values = [torch.outer(each.left_values, each.right_values) for each in found]
        return kronecker_inverse(problem, passes, found, values, self.layer_damping, told)

    def iterates(
        self, problem: Problem, state: KroneckerInverse, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = Preconditioner.of(state, problem.operator.work).apply(b)
        yield Iterate(x, diagnostics=state.diagnostics)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        # (H + λ)⁻¹ and (Ĥ + λ)⁻¹ both lie between 0 and 1/λ.
        claimed = length_of_identity(problem) if problem.operator.is_psd else None
        settings = (cls(), cls(labels="sampled", num_samples=2), cls(approximation="reduce"))
        return [Example(replace(setting), claimed) for setting in settings]
