"""A second device for tests without one: what is taken to the CPU cannot be mixed with what was not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor


class OnCpu(Tensor):
    """A tensor that `.cpu()` gave; `.to(…)` takes it back to where all others are."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.to:
            return args[0].as_subclass(Tensor)
        # As with CUDA, a single number may come from anywhere.
        if any(isinstance(each, Tensor) and not isinstance(each, cls) and each.dim() for each in _flat(args)):
            raise RuntimeError("expected all tensors to be on the same device, but found two")
        return super().__torch_function__(func, types, args, kwargs or {})


def _flat(values: Any) -> Iterator[Any]:
    for each in values:
        if isinstance(each, list | tuple):
            yield from _flat(each)
        else:
            yield each


def pretend_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on `.cpu()` gives `OnCpu`, of tensors of one dimension or more."""
    monkeypatch.setattr(Tensor, "cpu", lambda self: self.as_subclass(OnCpu) if self.dim() else self)
