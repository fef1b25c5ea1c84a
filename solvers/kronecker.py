"""What K-FAC and EK-FAC share: the factors of layers, their eigenvectors, and the inverse they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from problems import Problem
from problems.operators.fisher import EmpiricalFisher, MonteCarloFisher
from problems.operators.ggn import GaussNewton
from problems.operators.hessian import Hessian
from problems.operators.layer_passes import LayerPasses, Rows
from problems.operators.layers import FoundLayers, Layer, find_layers, parameter_places
from problems.operators.network import NetworkOperator
from problems.validation import check_counts
from solvers.preconditioner import ApproximateInverse
from solvers.solver import Breakdown, check_positive
from solvers.symmetric_eigen import symmetric_eigen

GIB = 2**30
# Up to so many rows of H's root for an example, "auto" takes all of them.
MOST_EXACT_ROWS = 256
# Grosse et al. 2023: a layer's damping over the mean of its eigenvalues.
HEURISTIC_SHARE = 0.1
# A matrix's copy, its eigenvectors and LAPACK's workspace, in float64.
EIGEN_BYTES = 48

Labels = Literal["auto", "exact", "sampled"]
LABELS: tuple[Labels, ...] = get_args(Labels)
LayerDamping = Literal["given", "heuristic"]
LAYER_DAMPINGS: tuple[LayerDamping, ...] = get_args(LayerDamping)


@dataclass(frozen=True)
class Block:
    """(Q_G ⊗ Q_A) diag(Λ + λ) (…)ᵀ of a layer: `left` Q_G, `right` Q_A, `values` Λ + λ (outputs, columns)."""

    layer: Layer
    left: Tensor
    right: Tensor
    values: Tensor

    def product(self, vectors: Tensor, factors: Tensor) -> Tensor:
        """The layer's part of vectors (k, p), times `factors` (outputs, columns) in the eigenbasis."""
        rotated = self.left.T @ self.layer.take(vectors) @ self.right
        return self.left @ (rotated * factors) @ self.right.T


@dataclass(frozen=True)
class KroneckerInverse(ApproximateInverse):
    """P of one Block per layer, and for the parameters at `others` (q,) diagonal, `entries` (q,), all > 0."""

    blocks: tuple[Block, ...]
    others: Tensor
    entries: Tensor
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def multiplications(self) -> float:
        layers = (block.layer for block in self.blocks)
        return sum(2 * each.size * (each.outputs + each.columns) for each in layers) + len(self.entries)

    def solve(self, vectors: Tensor) -> Tensor:
        return self._scaled(vectors, torch.reciprocal)

    def half_solve(self, vectors: Tensor) -> Tensor:
        return self._scaled(vectors, torch.rsqrt)

    def _scaled(self, vectors: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        rows = vectors.T.to(self.entries.dtype)
        found = torch.empty_like(rows, memory_format=torch.contiguous_format)
        for block in self.blocks:
            block.layer.put(block.product(rows, function(block.values)), found)
        found[:, self.others] = rows[:, self.others] * function(self.entries)
        return found.T.to(vectors.dtype)


@dataclass(frozen=True)
class Eigenvectors:
    """Of a layer's two factors, with their eigenvalues: of G (outputs,) and of A (columns,), float64."""

    left: Tensor
    left_values: Tensor
    right: Tensor
    right_values: Tensor


def check_settings(labels: str, num_samples: int, layer_damping: str, memory_gib: float) -> None:
    """Raise ValueError for a setting that K-FAC and EK-FAC share and that is not allowed."""
    for name, value, allowed in (
        ("labels", labels, LABELS),
        ("layer_damping", layer_damping, LAYER_DAMPINGS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    check_counts(num_samples=num_samples)
    check_positive(memory_gib=memory_gib)


def skip_reason(problem: Problem, labels: Labels, memory_gib: float) -> str | None:
    """Why `problem` has no Kronecker factors, or none that fit."""
    operator = problem.operator
    if not isinstance(operator, NetworkOperator):
        return "it needs a network's layers, which a bare matrix has not: use nystrom or diagonal"
    found = find_layers(operator.function)
    if not found.layers:
        return f"no layer can be factored ({_first(found)}): use diagonal, block_diagonal or nystrom"
    shapes = [(layer.outputs, layer.columns) for layer in found.layers]
    rest = problem.size - sum(layer.size for layer in found.layers)
    needed = memory_bytes(shapes, rest, operator.dtype.itemsize)
    if needed > memory_gib * GIB:
        largest = max(found.layers, key=lambda layer: max(layer.outputs, layer.columns))
        return (
            f"the factors need {needed / GIB:.2g} GiB, the largest layer being {largest.name} with "
            f"{largest.outputs} × {largest.columns}, and memory_gib={memory_gib:g}: raise it, or leave that "
            "layer out of the parameters"
        )
    vectors = operator.root_rank * operator.shared.outputs * operator.dtype.itemsize
    if labels == "exact" and vectors > memory_gib * GIB:
        return (
            f"the {operator.root_rank} rows of one {_draw(operator)} begin as vectors that take "
            f"{vectors / GIB:.2g} GiB, and memory_gib={memory_gib:g}: set labels=sampled"
        )
    return None


def memory_bytes(shapes: Iterable[tuple[int, int]], others: int, itemsize: int) -> float:
    """What factors, eigenvectors and eigenvalues of layers (outputs, columns) take at the peak."""
    shapes = list(shapes)
    factors = sum(outputs**2 + columns**2 for outputs, columns in shapes)
    widest = max((max(shape) for shape in shapes), default=0)
    entries = sum(outputs * columns for outputs, columns in shapes)
    return 8 * factors + EIGEN_BYTES * widest**2 + (8 + itemsize) * entries + 16 * others


def passes_for(
    problem: Problem, labels: Labels, num_samples: int, generator: torch.Generator
) -> tuple[LayerPasses, dict[str, Any]]:
    """Passes over the rows that factors are made of, and what to tell of them.

    Exact: of H's own root; of the Gauss–Newton matrix's for the Hessian, which has none. Sampled: gradients
    at `num_samples` targets drawn from the model, of a sequence all tokens' together. An empirical or
    Monte-Carlo Fisher matrix is one of given targets and keeps its own root.
    """
    operator = problem.operator
    assert isinstance(operator, NetworkOperator)
    told: dict[str, Any] = {}
    if isinstance(operator.curvature, Hessian):
        operator = operator.with_curvature(GaussNewton())
        told["curvature"] = "Gauss–Newton, in place of the Hessian"
    given = isinstance(operator.curvature, EmpiricalFisher | MonteCarloFisher)
    if labels == "auto":
        labels = "exact" if operator.root_rank <= MOST_EXACT_ROWS else "sampled"
    if labels == "sampled" and not given:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        operator = operator.with_curvature(MonteCarloFisher(num_samples, seed))
        passes = LayerPasses(operator, find_layers(operator.function), joint=operator.unit == "token")
        told["labels"] = f"sampled, {num_samples} for each {operator.unit}"
    else:
        passes = LayerPasses(operator, find_layers(operator.function))
        told["labels"] = f"exact, {passes.rank} rows for each {_draw(operator)}"
    if not passes.layers:
        raise Breakdown(f"no layer can be factored ({_first(passes.found)}): use diagonal or nystrom")
    told["layers"] = len(passes.layers)
    told["solved as diagonal"] = "; ".join(f"{name} {why}" for name, why in passes.found.others.items())
    return passes, told


def eigenvectors(passes: LayerPasses, reduce: bool) -> list[Eigenvectors]:
    """Of the factors A and G of every layer, H's block being near G ⊗ A.

    Expand: A = mean aaᵀ over examples and positions, G = mean over examples of Σ ggᵀ over rows and positions.
    Reduce: the same of ā = mean a and ḡ = Σ g over an example's positions (Eschenhagen et al. 2023). Of
    sequences the positions that move a loss count, which padding does not.
    """
    operator = passes.operator

    def attempt(size: int) -> Factors:
        factors = Factors(passes, reduce)
        passes.run(factors.add, size)
        return factors

    passes.count()
    factors = operator.micro_batches.run(operator.num_draws, attempt)
    operator.work.count_algebra(factors.multiplications)
    found = []
    # What has been decomposed is not kept.
    while factors.inputs:
        left = factors.gradients.pop(0).div_(operator.num_draws)
        right = factors.inputs.pop(0).div_(max(1, factors.counts.pop(0)))
        operator.work.count_algebra(10 * (len(left) ** 3 + len(right) ** 3))
        left_values, left = symmetric_eigen(left)
        right_values, right = symmetric_eigen(right)
        dtype = operator.dtype
        found.append(Eigenvectors(left.to(dtype), left_values, right.to(dtype), right_values))
    return found


class Factors:
    """Sums of aaᵀ and ggᵀ by layer, float64, and the number of a's."""

    def __init__(self, passes: LayerPasses, reduce: bool) -> None:
        self.reduce = reduce
        self.tokens = passes.operator.unit == "token"
        device = passes.operator.device
        zeros = [
            (torch.zeros(size, size, dtype=torch.float64, device=device) for size in sizes)
            for sizes in zip(*((layer.columns, layer.outputs) for layer in passes.layers), strict=True)
        ]
        self.inputs, self.gradients = (list(each) for each in zeros)
        self.counts = [0] * len(self.inputs)
        self.multiplications = 0.0

    def add(self, rows: Rows) -> None:
        """Add a batch."""
        moving: list[Tensor | bool] = [not self.tokens] * len(self.inputs)
        for by_layer in rows.gradients:
            for index, g in enumerate(by_layer):
                if self.tokens:
                    moving[index] |= (g != 0).any(dim=3).any(dim=0)
                summed = g.sum(dim=2) if self.reduce else g.flatten(1, 2)
                self._add(self.gradients[index], summed.flatten(0, 1))
        for index, a in enumerate(rows.inputs):
            counted = torch.as_tensor(moving[index], device=a.device).expand(a.shape[:2]).to(a.dtype)
            chosen = a * counted[..., None]
            if self.reduce:
                chosen = chosen.sum(dim=1) / counted.sum(dim=1).clamp_min(1)[:, None]
                self.counts[index] += int(counted.any(dim=1).sum())
            else:
                chosen = chosen.flatten(0, 1)
                self.counts[index] += int(counted.sum())
            self._add(self.inputs[index], chosen)

    def _add(self, total: Tensor, vectors: Tensor) -> None:
        total += vectors.T @ vectors
        self.multiplications += vectors.numel() * vectors.shape[1]


def kronecker_inverse(
    problem: Problem,
    passes: LayerPasses,
    found: list[Eigenvectors],
    values: list[Tensor],
    layer_damping: LayerDamping,
    told: dict[str, Any],
) -> KroneckerInverse:
    """P from the layers' eigenvectors and their eigenvalues, damped; the rest by its diagonal."""
    operator = passes.operator
    blocks = []
    for layer, each, own in zip(passes.layers, found, values, strict=True):
        damping = problem.damping
        if layer_damping == "heuristic":
            damping = HEURISTIC_SHARE * float(own.mean())
            if not damping > 0:
                raise Breakdown(f"layer {layer.name} has curvature 0: set layer_damping=given")
        blocks.append(Block(layer, each.left, each.right, (own + damping).to(operator.dtype)))
    names = list(passes.found.others)
    places = parameter_places(operator.function)
    numbers = torch.arange(problem.size, device=operator.device)
    others = torch.cat(
        [numbers[:0], *(numbers[places[name]] for name in operator.function.names if name in names)]
    )
    entries = torch.full((len(others),), problem.damping, dtype=torch.float64, device=operator.device)
    if names:
        entries += passes.diagonal(names)
    return KroneckerInverse(tuple(blocks), others, entries.to(operator.dtype), told)


def length_of_identity(problem: Problem) -> float:
    """‖b‖/(λ‖x*‖), the largest of a small problem's columns: errors over ‖b‖/λ, times it, are relative."""
    assert problem.reference is not None
    sizes = problem.columns().double().norm(dim=0) / (problem.damping * problem.reference.norm(dim=0))
    return float(sizes.nan_to_num(1.0).max())


def _draw(operator: NetworkOperator) -> str:
    return "sequence" if operator.unit == "token" else "example"


def _first(found: FoundLayers) -> str:
    """One of the parameters that no layer takes, and why."""
    name, reason = next(iter(found.others.items()))
    return f"{name} {reason}"
