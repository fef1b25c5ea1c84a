"""Networks by name: each stands for a family with the parameters that make it this one.

Sizes are those that two processor cores train in minutes; larger ones by parameters, as in
`resnet18:width=64,curvature_size=null`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "resnet18": (
        "image_classifier",
        {
            "model": "resnet18",
            "width": 16,
            "data": "cifar10",
            "curvature_size": 500,
            "num_queries": 2,
            "damping": 5.0,
        },
    ),
    "resnet50": (
        "image_classifier",
        {
            "model": "resnet50",
            "width": 8,
            "data": "fashion_mnist",
            "curvature_size": 500,
            "num_queries": 2,
            "damping": 5.0,
        },
    ),
    "opt-small": ("language_model", {"model": "opt-small", "num_queries": 2}),
    "opt-125m": ("language_model", {"model": "opt-125m", "num_queries": 2}),
    "opt-1.3b": ("language_model", {"model": "opt-1.3b", "num_queries": 2}),
    # 3.5 million parameters of 135: the linear maps of one layer.
    "smollm2-135m": (
        "language_model",
        {
            "model": "smollm2-135m",
            "parameters": r"layers\.20\..*proj",
            "context": 64,
            "training_size": 8,
            "num_queries": 2,
            "damping": 0.1,
        },
    ),
}


def resolve(name: str, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The family's name and its parameters, where `name` is a network's; else both as they are."""
    family, own = NAMED.get(name, (name, {}))
    return family, {**own, **parameters}


def name_of(family: str, parameters: Mapping[str, Any]) -> str | None:
    """The network that a family with these `parameters` is, whatever its size; None where it has no name."""
    for name, (of, own) in NAMED.items():
        if of == family and parameters.get("model") == own["model"]:
            return name
    return None
