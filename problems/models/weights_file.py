"""Weights of a network from a file of torch's or of safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN = 4


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Give `model` the weights in `path`, a state dict as safetensors or as `torch.save` writes it.

    Code in a file is never run. A state dict within {"state_dict": …} and names with "module." before them
    are taken too, and numbers are brought to the model's dtype and device. Raises ValueError where there is
    no such file, where it holds something else, and where names or shapes are not the model's; the model is
    then as it was.
    """
    path = Path(path)
    found = _read(path)
    expected = model.state_dict()
    # How many batches were averaged: older files lack it, and evaluation never asks.
    found |= {
        name: value
        for name, value in expected.items()
        if name.endswith("num_batches_tracked") and name not in found
    }
    wrong = _differences(found, expected)
    if wrong:
        raise ValueError(f"{path} does not fit the model: {'; '.join(wrong)}{_advice(found, expected)}")
    model.load_state_dict(found)


def check_weights_file(path: str | Path) -> None:
    """Raise ValueError unless there is a file of a kind that `load_weights` reads."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; weights must be the path of a state dict")
    if path.suffix not in READERS:
        raise ValueError(f"{path} ends with {path.suffix!r}; weights must end with {', '.join(READERS)}")


def _torch_load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": load_file,
    ".pth": _torch_load,
    ".pt": _torch_load,
    ".bin": _torch_load,
}


def _read(path: Path) -> dict[str, Tensor]:
    check_weights_file(path)
    try:
        content: Any = READERS[path.suffix](path)
    except Exception as error:  # what is no pickle at all can raise anything on its way to one
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read as a state dict ({reason}); write it by torch.save(model.state_dict(), …)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    is_state = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if not is_state or not content:
        held = (
            f"the keys {_some(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        )
        raise ValueError(
            f"{path} holds {held}, not a state dict, in which every name has a tensor; write it by "
            "torch.save(model.state_dict(), …)"
        )
    tensors = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What is missing, what is too much and what has another shape, each in a few words."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]


def _advice(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What the shapes of a ResNet's first and last layers say of the file's network."""
    reasons = []
    for name, axis, what in _TELLING:
        pair = [tensors.get(name) for tensors in (found, expected)]
        if any(tensor is None or tensor.ndim <= axis for tensor in pair):
            continue
        sizes = [tensor.shape[axis] for tensor in pair if tensor is not None]
        if sizes[0] != sizes[1]:
            reasons.append(what.format(*sizes))
    return f". {'; '.join(reasons)}" if reasons else ""


_TELLING = (
    ("fc.weight", 0, "The file's network has {} classes, the model {}"),
    ("conv1.weight", 2, "The file's first convolution is of {0} × {0} pixels, the model's of {1} × {1}: 7 is "
     "that of stem=imagenet, 3 that of stem=cifar"),
    ("conv1.weight", 1, "The file's network takes images of {} channels, the model of {}"),
    ("conv1.weight", 0, "The file's network has width={}, the model width={}"),
)  # fmt: skip


def _some(names: Any) -> str:
    """The first few names."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
