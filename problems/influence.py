"""Influence of training examples on queries: signs and scale, scores of all pairs, the first of each query.

The influence of training example m on query q is

    I(m, q) = −∇L_qᵀ (H + λI)⁻¹ ∇L_m  =  dL_q/dε at ε = 0

the derivative of q's loss in the weight ε that is added to m's in (1/N) Σᵢ ℓᵢ + ε ℓ_m (Koh & Liang 2017).
Negative: m is helpful, more weight on it lowers q's loss. Positive: m is harmful. Leaving m out is ε = −w,
w being m's `training_weights`, 1/N or a sequence's share of all tokens, and changes q's loss by −w I(m, q)
to first order. That is retraining where H + λI is the Hessian of the objective, its λ/2 ‖θ‖² included, at
its minimum; of other networks it is the proximal Bregman response (Bae et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from problems.examples import Examples
from problems.problem import Columns
from problems.task import Task
from problems.validation import check_finite

# What the gradients of some examples may take at once, and columns that are not on the device.
GRADIENT_BYTES = 2**30
COLUMN_BYTES = 2**30
# On a CPU no more than the allocator keeps for the next ones: from 32 MiB on it asks the system for fresh
# memory each time, which takes longer than the gradients. But enough for the network to run well.
CPU_BYTES = 3 * 2**23
CPU_EXAMPLES = 32
# Sequences that are read at once.
SEQUENCES = 256

# Told how much is done, from 0 to 1.
OnProgress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Of each of q queries k training examples in order, `indices` and `scores` (q, k)."""

    indices: Tensor
    scores: Tensor


def influence_scores(
    task: Task,
    x: Tensor | Columns,
    indices: Tensor | None = None,
    *,
    solved: Literal["queries", "training"] = "queries",
    on_progress: OnProgress | None = None,
) -> Tensor:
    """I(m, q) of training examples m and queries q, negative where m is helpful, shape (m, q).

    The columns of x are (H + λI)⁻¹∇L of the queries, and `indices` are training examples, by default all.
    Where it was `solved` for "training" examples, they are those of x, and `indices` are queries. Costs and
    memory are those of `gradient_products`.
    """
    if solved == "queries":
        return -gradient_products(task, x, indices, task.training, on_progress=on_progress)
    if solved == "training":
        return -gradient_products(task, x, indices, task.queries, on_progress=on_progress).T
    raise ValueError(
        f"solved is {solved!r}; it must be 'queries' or 'training': what the columns of x are of"
    )


def gradient_products(
    task: Task,
    x: Tensor | Columns,
    indices: Tensor | None = None,
    examples: Examples | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """g_iᵀ x_j of the training examples `indices` (m,), by default all, for columns x (p, k), shape (m, k).

    `examples` are `task.training` unless `task.queries` are given. A similarity: of gradients with x = g_q,
    and with (H + λI)⁻¹g_q minus the influence. A sequence's gradient is that of its mean loss.

    Costs m/N gradient equivalents. Gradients are held for some examples at a time. `Columns`, and a tensor
    on another device, are taken COLUMN_BYTES at a time, each time with gradients anew. Raises ValueError
    naming an example whose gradient holds NaN or inf; columns of x that do give products that do.
    """
    examples = task.training if examples is None else examples
    indices = _checked(task, examples, indices)
    function = task.function
    if len(x.shape) != 2 or x.shape[0] != function.num_parameters or x.shape[1] < 1:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it must be ({function.num_parameters}, k), one or more solutions"
        )
    products = torch.empty(len(indices), x.shape[1], dtype=function.dtype, device=function.device)
    done = 0
    for columns, block in _columns(task, x):
        first = 0
        for some, gradients in gradient_blocks(task, examples, indices):
            found = gradients @ block
            if not found.isfinite().all():
                _check_gradients(task, examples, some, gradients)
            products[first : first + len(some), columns] = found
            first += len(some)
            done += found.numel()
            if on_progress is not None:
                on_progress(done / products.numel())
    return products


def gradient_blocks(task: Task, examples: Examples, indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some of `indices` after the other, (m',), with their gradients as rows (m', p), each in one piece.

    As many at once as are quick to make and GRADIENT_BYTES hold.
    """
    function = task.function
    row = function.num_parameters * function.dtype.itemsize
    size = GRADIENT_BYTES // row
    if function.device.type == "cpu":
        size = min(size, max(CPU_EXAMPLES, CPU_BYTES // row))
    for some in indices.split(max(1, size)):
        yield some, task.gradients(examples, some).T


def gradient_norms(task: Task, indices: Tensor | None = None, examples: Examples | None = None) -> Tensor:
    """‖g_i‖ of examples as in `gradient_products`, shape (m,), for m/N gradient equivalents."""
    examples = task.training if examples is None else examples
    indices = _checked(task, examples, indices)
    norms = []
    for some, gradients in gradient_blocks(task, examples, indices):
        norms.append(torch.linalg.vector_norm(gradients, dim=1))
        if not norms[-1].isfinite().all():
            _check_gradients(task, examples, some, gradients)
    return torch.cat(norms)


def training_weights(task: Task, indices: Tensor | None = None) -> Tensor:
    """The weight of training examples in the mean loss, float64 (m,): 1/N, or a sequence's share of tokens.

    A sequence's share is read off all of the data; no network is run.
    """
    indices = _checked(task, task.training, indices)
    if task.loss.unit == "example":
        return torch.full((len(indices),), 1 / len(task.training), dtype=torch.float64)
    # One by one where sequences may differ in length: together they might be no batch.
    size = SEQUENCES if task.training.columns else 1
    targets = (some for _, some in task.training.passes(torch.arange(len(task.training)), size))
    tokens = torch.cat([task.loss.counted(some).sum(dim=1).double().cpu() for some in targets])
    return tokens[indices.cpu()] / tokens.sum()


def most_helpful(scores: Tensor, count: int, indices: Tensor | None = None) -> Ranked:
    """The `count` training examples that lower each query's loss most: of scores (m, q) the least.

    `indices` (m,) are those of the scores' rows, where these are not all training examples in order. Of
    equal scores the first comes first. Raises ValueError for scores that are not finite.
    """
    return _first(scores, scores, count, indices)


def most_harmful(scores: Tensor, count: int, indices: Tensor | None = None) -> Ranked:
    """The `count` training examples that raise each query's loss most, as in `most_helpful`."""
    return _first(scores, -scores, count, indices)


def _first(scores: Tensor, key: Tensor, count: int, indices: Tensor | None) -> Ranked:
    if scores.ndim != 2 or (indices is not None and indices.shape != scores.shape[:1]):
        given = "" if indices is None else f" and indices {tuple(indices.shape)}"
        raise ValueError(
            f"scores have shape {tuple(scores.shape)}{given}; they must be (m, q), and indices (m,)"
        )
    if not 1 <= count <= len(scores):
        raise ValueError(f"count is {count}; it must be from 1 to the {len(scores)} training examples scored")
    check_finite("scores", scores)
    rows = key.sort(dim=0, stable=True).indices[:count]
    found = rows if indices is None else indices.to(rows.device)[rows]
    return Ranked(found.T, scores.gather(0, rows).T)


def _columns(task: Task, x: Tensor | Columns) -> Iterator[tuple[slice, Tensor]]:
    """The columns of x on the network's device and in its dtype, all where they are there already."""
    function, count = task.function, x.shape[1]
    held = isinstance(x, Tensor) and x.device == function.device
    at_once = max(1, COLUMN_BYTES // (function.num_parameters * function.dtype.itemsize))
    size = max(1, count if held else at_once)
    for first in range(0, count, size):
        chosen = slice(first, min(first + size, count))
        yield chosen, x[:, chosen].to(function.device, function.dtype)


def _checked(task: Task, examples: Examples, indices: Tensor | None) -> Tensor:
    """`indices`, or those of all examples; ValueError where there are none such."""
    if indices is None:
        return torch.arange(len(examples))
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool or not len(indices):
        raise ValueError(
            f"indices are {indices.dtype} of shape {tuple(indices.shape)}; they must be integers (m,), m ≥ 1"
        )
    for index in (int(indices.min()), int(indices.max())):
        if not 0 <= index < len(examples):
            raise ValueError(
                f"indices hold {index}; there is no such {_kind(task, examples)}: they are 0 to "
                f"{len(examples) - 1}"
            )
    return indices


def _check_gradients(task: Task, examples: Examples, indices: Tensor, gradients: Tensor) -> None:
    """Raise ValueError naming the first example whose gradient, a row, holds NaN or inf."""
    bad = (~gradients.isfinite().all(dim=1)).cpu()
    if bad.any():
        raise ValueError(
            f"the gradient of {_kind(task, examples)} {int(indices.cpu()[bad][0])} holds NaN or inf, as do "
            f"{int(bad.sum()) - 1} of the {len(bad) - 1} beside it: look at its inputs and target, or leave "
            "it out"
        )


def _kind(task: Task, examples: Examples) -> str:
    return "query" if examples is task.queries else "training example"
