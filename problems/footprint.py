"""How large a problem is, known before it is built."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from problems.parameters import ParameterFilter, select


@dataclass(frozen=True)
class Footprint:
    """A network's parameters, those p of them that H is of, and the number k of right-hand sides."""

    network: int
    selected: int
    columns: int


def footprint_of(network: nn.Module, parameters: ParameterFilter, columns: int) -> Footprint:
    """That of a network, which may be on the device "meta", where it takes no memory."""
    sizes = {name: value.numel() for name, value in network.named_parameters()}
    return Footprint(sum(sizes.values()), sum(sizes[name] for name in select(network, parameters)), columns)
