"""What a quotient of differences tends to as its step goes to 0, with an estimate of the error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Limit(NamedTuple):
    """Values (q,) at ε = 0, and how far they may be off, (q,): by how much the last order moved them.

    NaN where there is but one order.
    """

    values: Tensor
    errors: Tensor


def limit(epsilons: Tensor, values: Tensor) -> Limit:
    """The limit of values (e, q) at steps ε (e,), all different and none 0, float64.

    Where every size |ε| is there with both signs, their mean is free of odd terms, and Richardson's
    polynomial in ε² is taken through them; otherwise the polynomial in ε through all.
    """
    sizes = torch.unique(epsilons.abs(), sorted=True)
    if len(epsilons) == 0 or bool((sizes == 0).any()) or len(torch.unique(epsilons)) < len(epsilons):
        raise ValueError(
            f"the steps are {epsilons.tolist()}; at least one is needed, none of them 0 and all different"
        )
    if len(epsilons) < 2 * len(sizes):
        # Of the same size the first stays first, so that the same one is left out each time.
        order = epsilons.abs().argsort(stable=True)
        return _at_zero(epsilons[order], values[order])
    mean = torch.stack([values[epsilons.abs() == size].mean(dim=0) for size in sizes])
    found = _at_zero(sizes.square(), mean)
    if len(sizes) == 1:
        # The order below the mean of both is either alone.
        return Limit(found.values, (values[0] - values[1]).abs() / 2)
    return found


def _at_zero(nodes: Tensor, values: Tensor) -> Limit:
    """By polynomials through all nodes, ascending in size, and through all but the last."""
    found = _polynomial(nodes, values)
    if len(nodes) == 1:
        return Limit(found, torch.full_like(found, torch.nan))
    return Limit(found, (found - _polynomial(nodes[:-1], values[:-1])).abs())


def _polynomial(nodes: Tensor, values: Tensor) -> Tensor:
    """The value at 0 of the polynomial through all points (Lagrange)."""
    return lagrange(nodes, 0.0) @ values


def lagrange(nodes: Tensor, at: float) -> Tensor:
    """The weights (e,) of values at the nodes (e,) in that of their polynomial at `at`."""
    others = ~torch.eye(len(nodes), dtype=torch.bool)
    tops = (at - nodes[None, :]).expand(len(nodes), -1)
    bottoms = nodes[:, None] - nodes[None, :]
    return torch.where(others, tops / bottoms.where(others, 1), 1).prod(dim=1)
