"""What libraries that factor layers are given: a network whose layers hold H's parameters and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from problems import Problem
from problems.losses import Loss
from problems.operators.layers import Layer, find_layers
from solvers.peers.library import Library
from solvers.peers.network import PeerNetwork, network_for, skip_reason


@dataclass(frozen=True)
class LayeredNetwork:
    """`model` holds a copy of the problem's network, so that no layer is the whole; `layers` by name there.

    A bias that is no parameter of H is added behind its layer, which has none: a library would take it for
    one.
    """

    network: PeerNetwork
    model: nn.Sequential
    layers: dict[str, Layer]

    def positions(self) -> dict[str, int]:
        """At how many positions of an example each layer is."""
        found = dict.fromkeys(self.layers, 0)
        handles = []
        for name, layer in self.layers.items():

            def count(_: nn.Module, __: Any, outputs: Tensor, name: str = name, layer: Layer = layer) -> None:
                found[name] += outputs.numel() // layer.outputs

            handles.append(self.model.get_submodule(name).register_forward_hook(count))
        with torch.no_grad():
            self.model(self.network.inputs[:1])
        for handle in handles:
            handle.remove()
        return found


def layered_network(problem: Problem) -> LayeredNetwork:
    """The network of a problem that `layers_skip_reason` passes."""
    network = network_for(problem)
    assert problem.task is not None
    layers = {}
    for layer in find_layers(problem.task.function).layers:
        module = network.model.get_submodule(layer.name)
        if layer.bias is None and module.bias is not None:
            _add_behind(module)
        layers[f"0.{layer.name}".rstrip(".")] = layer
    return LayeredNetwork(network, nn.Sequential(network.model), layers)


def layers_skip_reason(library: Library, problem: Problem, kinds: Sequence[type[nn.Module]]) -> str | None:
    """Why a solver of `library` that factors layers of these kinds cannot take `problem`, or None."""
    reason = skip_reason(library, problem, layers=kinds)
    if reason is not None:
        return reason
    assert problem.task is not None
    found = find_layers(problem.task.function)
    unfit = [f"{name} {why}" for name, why in found.others.items()]
    unfit += [
        f"of {layer.name} the bias alone is a parameter" for layer in found.layers if layer.weight is None
    ]
    if unfit:
        return f"{library.distribution} cannot factor it: {unfit[0]}; leave it out of the parameters"
    return None


def sampled_losses(loss: Loss, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Losses (m,) at targets drawn from the model, times what makes E ∇ℓ ∇ℓᵀ = ∇²ℓ."""
    targets = loss.sample(outputs.detach(), generator)
    return loss.per_unit(outputs, targets) * loss.power(outputs) ** -0.5


def _add_behind(module: nn.Module) -> None:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    assert module.bias is not None
    shift = module.bias.detach()
    if isinstance(module, nn.Conv2d):
        shift = shift[:, None, None]
    module.bias = None
    module.register_forward_hook(lambda _, inputs, outputs: outputs + shift)
