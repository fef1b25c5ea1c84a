"""Influence of training examples on queries: products of their gradients with solutions."""

from __future__ import annotations

import torch
from torch import Tensor

from problems.task import Task

# What the gradients of some examples may take at once.
GRADIENT_BYTES = 2**30


def influences(task: Task, x: Tensor, indices: Tensor) -> Tensor:
    """g_iᵀ x_j of the training examples `indices` (m,) for columns x (p, j), shape (m, j).

    With x = (H + λI)⁻¹ g_q it is the influence of example i on query q (Koh & Liang 2017): to leave i out of
    n examples raises the query's loss by a n-th of it. With x = g_q it is the similarity of gradients. Costs
    m/n gradient equivalents; a sequence's gradient is that of its mean loss.
    """
    size = max(1, GRADIENT_BYTES // (x.shape[0] * x.element_size()))
    return torch.cat([task.gradients(task.training, part).T @ x for part in indices.split(size)])
