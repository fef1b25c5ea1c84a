"""Examples read by index: the one way data reaches the operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler, default_collate


class Examples:
    """n examples (input, target), read in batches by index.

    `data` is a tuple of tensors (inputs, targets) that share their first dimension, a map-style dataset
    of (input, target), or a DataLoader that neither shuffles nor drops examples (its dataset is used).
    Floating-point inputs and targets are converted to each of `dtypes` in turn, everything moves to
    `device`.
    """

    def __init__(self, data: Any, device: torch.device, *dtypes: torch.dtype) -> None:
        self._read = _reader(data)
        self._size = _size(data)
        self.data = data
        self.dtypes = dtypes
        self.device = device
        if self._size == 0:
            raise ValueError("the data holds no examples; at least one is needed")

    def __len__(self) -> int:
        return self._size

    def to(self, dtype: torch.dtype) -> Examples:
        """The same examples in another dtype: what rounding to this one took away does not come back."""
        return Examples(self.data, self.device, *self.dtypes, dtype)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples `indices` (m,), each with first dimension m."""
        inputs, targets = self._read(indices)
        return self._convert(inputs), self._convert(targets)

    def passes(self, indices: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The examples `indices` in batches of at most `size`, in order."""
        for part in indices.split(size):
            yield self.batch(part)

    def _convert(self, values: Tensor) -> Tensor:
        values = values.detach().to(self.device)
        for dtype in self.dtypes if values.is_floating_point() else ():
            values = values.to(dtype)
        return values


def _reader(data: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    if isinstance(data, tuple):
        inputs, targets = _pair_of_tensors(data)
        return lambda indices: (inputs[indices.to(inputs.device)], targets[indices.to(targets.device)])
    dataset, collate = _dataset(data)

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = collate([dataset[i] for i in indices.tolist()])
        return inputs, targets

    return read


def _size(data: Any) -> int:
    return len(data[0]) if isinstance(data, tuple) else len(_dataset(data)[0])  # type: ignore[arg-type]


def _pair_of_tensors(data: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise TypeError(f"data is a tuple of ({kinds}); it must be two tensors, (inputs, targets)")
    inputs, targets = data
    if len(inputs) != len(targets):
        raise ValueError(
            f"data holds {len(inputs)} inputs and {len(targets)} targets; the numbers must agree"
        )
    return inputs, targets


def _dataset(data: Any) -> tuple[Dataset[Any], Callable[[list[Any]], Any]]:
    if isinstance(data, DataLoader):
        if not isinstance(data.sampler, SequentialSampler):
            raise ValueError(
                f"data is a DataLoader that draws its examples with {type(data.sampler).__name__}: every "
                "pass would see another order. Pass the data set itself (data=loader.dataset) or build the "
                "loader with shuffle=False"
            )
        if data.drop_last and len(data.dataset) % (data.batch_size or 1):  # type: ignore[arg-type]
            raise ValueError(
                "data is a DataLoader with drop_last=True, which leaves examples out: pass the data set "
                "itself (data=loader.dataset) or build the loader with drop_last=False"
            )
        return data.dataset, data.collate_fn or default_collate
    needed = "it must be a map-style dataset of (input, target) or a tuple of two tensors"
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TypeError(f"data is a {type(data).__name__}; {needed}")
    if len(data) and not (isinstance(data[0], tuple | list) and len(data[0]) == 2):
        raise TypeError(
            f"data is a {type(data).__name__} whose first item is a {type(data[0]).__name__}; {needed}"
        )
    return data, default_collate
