"""Networks with operations that torch's transforms know only in part: right, or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from problems import GaussNewton, from_model
from tests.problems.operators.small_networks import Small

INPUTS = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.arange(6) % 3


class Recurrent(nn.Module):
    """No batch rule for vmap, neither of tangents nor of examples."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(3, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.recurrent(inputs)[0][:, -1])


class Sine(torch.autograd.Function):
    """Has a forward mode, but no rule for vmap."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # type: ignore[override]
        return tangent * ctx.saved_tensors[0].cos()


class Applying(nn.Module):
    """Two layers with `between` applied between them."""

    def __init__(self, between: Callable[[Tensor], Any], first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.head = first or nn.Linear(3, 4), nn.Linear(4, 3)
        self.between = between

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.between(self.first(inputs.mean(dim=1))))


@pytest.mark.parametrize("make", [Recurrent, lambda: Applying(Sine.apply)], ids=["lstm", "own_operation"])
def test_columns_go_one_by_one_where_they_cannot_go_together(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = Small(make().double().eval(), "cross_entropy", INPUTS, TARGETS)
    operator = network.operator(GaussNewton())
    vectors = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    torch.testing.assert_close(operator @ vectors, network.gauss_newton() @ vectors, rtol=1e-10, atol=1e-13)
    problem = from_model(network.model, "cross_entropy", (INPUTS, TARGETS), (INPUTS, TARGETS), damping=1)
    gradients = [
        torch.autograd.grad(
            nn.functional.cross_entropy(network.model(INPUTS[i : i + 1]), TARGETS[i : i + 1]),
            list(network.model.parameters()),
        )
        for i in range(len(TARGETS))
    ]
    expected = torch.stack([torch.cat([part.flatten() for part in each]) for each in gradients], dim=1)
    torch.testing.assert_close(problem.columns(), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Applying(lambda hidden: checkpoint(torch.tanh, hidden, use_reentrant=False)), "saved tensor hooks"),
        (Applying(torch.tanh, nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))), "_weight_norm"),
    ],
    ids=["checkpoint", "weight_norm"],
)
def test_what_has_no_product_is_refused_with_torchs_reason(model: nn.Module, message: str) -> None:
    data = (INPUTS, TARGETS)
    with pytest.raises(ValueError, match=f"cannot take in forward mode: .*{message}.*turn it off or write"):
        from_model(model.double().eval(), "cross_entropy", data, data, damping=1)
