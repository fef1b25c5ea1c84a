"""The smallest eigenvalue of H + ε∇²L_m against dense matrices."""

from __future__ import annotations

import pytest
import torch

import problems
from problems.convexity import Convexity
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator

SMALL = {"width": 2, "training_size": 30, "epochs": 3, "num_queries": 3, "damping": 0.1}


@pytest.fixture(scope="module")
def operator() -> NetworkOperator:
    found = problems.load("image_classifier", **SMALL).operator
    assert isinstance(found, NetworkOperator)
    return found


@pytest.mark.parametrize("epsilon", [-2.0, -0.01, 0.3])
@pytest.mark.parametrize("damping", [1e-6, 1e3])
def test_the_floor_is_below_the_smallest_eigenvalue_and_tells_its_sign(
    operator: NetworkOperator, epsilon: float, damping: float
) -> None:
    own = operator.with_curvature(Hessian()).subset(torch.tensor([4])).dense()
    smallest = float(torch.linalg.eigvalsh(operator.dense() + epsilon * own)[0])
    found = Convexity(operator).floor(4, epsilon, damping)
    assert found.least <= smallest + 1e-9
    if found.most < float("inf"):
        assert found.most >= smallest - 1e-9
        # From the right direction few products suffice to see that it is not convex.
        assert (found.most + damping <= 0) == (smallest + damping <= 0)
    # Where λ outweighs the example alone, all data are not looked at.
    assert (found.most == float("inf")) == (damping + min(0.0, epsilon * _extreme(own, epsilon)) > 0)


def _extreme(own: torch.Tensor, epsilon: float) -> float:
    values = torch.linalg.eigvalsh(own)
    return float(values[-1] if epsilon < 0 else values[0])


def test_an_example_alone_costs_little(operator: NetworkOperator) -> None:
    convexity, before = Convexity(operator), operator.work.total
    for epsilon in (0.01, -0.01, 0.02):
        convexity.floor(4, epsilon, 1e3)
    # At most 30 products of three gradients, of one example of 30, once for all ε.
    assert operator.work.total - before <= 30 * 3 / 30
