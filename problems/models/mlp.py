"""The multilayer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


def mlp(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers of sizes `widths` with tanh between them, in float64 and evaluation mode.

    tanh, because the curvature of a smooth network is smooth too; weights from N(0, 1/inputs), biases 0.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        linear = nn.Linear(fan_in, fan_out, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.normal_(std=fan_in**-0.5, generator=generator)
            linear.bias.zero_()
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()
