"""Scaling columns so that their squares neither under- nor overflow."""

from __future__ import annotations

import torch
from torch import Tensor


def powers_of_two(columns: Tensor) -> Tensor:
    """For every column (p, k) the power of two next above its largest entry, shape (k,); 1 for zeros.

    Dividing by it is exact and leaves entries of at most 1.
    """
    largest = columns.abs().amax(dim=0)
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent)


def relative_norms(columns: Tensor, reference: Tensor) -> Tensor:
    """‖column‖/‖reference‖ for every column, shape (k,); ‖column‖ itself where the reference is 0."""
    scale = powers_of_two(reference)
    norms = torch.linalg.vector_norm(reference / scale, dim=0)
    return torch.linalg.vector_norm(columns / scale, dim=0) / norms.where(norms > 0, 1)
