"""Influence of training examples on queries: products of their gradients with solutions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from problems.task import Task

# What the gradients of some examples may take at once.
GRADIENT_BYTES = 2**30


def influences(task: Task, x: Tensor, indices: Tensor) -> Tensor:
    """g_iᵀ x_j of the training examples `indices` (m,) for columns x (p, j), shape (m, j).

    With x = (H + λI)⁻¹ g_q it is the influence of example i on query q (Koh & Liang 2017): to leave i out
    raises the query's loss by that times i's weight in the mean loss, 1/n, or a sequence's share of all
    tokens. With x = g_q it is the similarity of gradients. Costs m/n gradient equivalents; a sequence's
    gradient is that of its mean loss.
    """
    return torch.cat([gradients.T @ x for gradients in _some_at_once(task, indices)])


def gradient_norms(task: Task, indices: Tensor) -> Tensor:
    """‖g_i‖ of the training examples `indices` (m,), shape (m,), for m/n gradient equivalents."""
    parts = _some_at_once(task, indices)
    return torch.cat([torch.linalg.vector_norm(gradients, dim=0) for gradients in parts])


def _some_at_once(task: Task, indices: Tensor) -> Iterator[Tensor]:
    """The gradients of `indices` in order, as columns, no more at once than GRADIENT_BYTES hold."""
    function = task.function
    size = max(1, GRADIENT_BYTES // (function.num_parameters * function.dtype.itemsize))
    for part in indices.split(size):
        yield task.gradients(task.training, part)
