"""Examples read by index: the one way data reaches the operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

# What a network takes: one tensor, several in order, or several by name; first dimension the examples.
Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
LABELS = "labels"
_ACCEPTED = (
    "a tuple (inputs, targets) of tensors, inputs also a tuple or a dictionary of them; a dictionary of "
    f"tensors with {LABELS!r}; or a map-style data set whose items are such pairs or dictionaries"
)


class Examples:
    """n examples (inputs, target), read in batches by index.

    `data` is a tuple (inputs, targets) of tensors that share their first dimension, where inputs may also
    be a tuple or a dictionary of tensors; a dictionary of tensors that has "labels"; a map-style dataset
    of such items; or a DataLoader that neither shuffles nor drops examples (its dataset and its collate_fn
    are used, which may pad). Floating-point inputs and targets are converted to each of `dtypes` in turn,
    everything moves to `device`.
    """

    def __init__(self, data: Any, device: torch.device, *dtypes: torch.dtype) -> None:
        self.columns = _columns(data)
        self._read = _read_columns(*self.columns) if self.columns else _read_items(data)
        self._size = len(self.columns[1]) if self.columns else len(_dataset(data))
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

    def batch(self, indices: Tensor) -> tuple[Inputs, Tensor]:
        """Inputs and targets of the examples `indices` (m,), each with first dimension m."""
        inputs, targets = self._read(indices)
        return map_tensors(self._convert, inputs), self._convert(targets)

    def passes(self, indices: Tensor, size: int) -> Iterator[tuple[Inputs, Tensor]]:
        """The examples `indices` in batches of at most `size`, in order."""
        for part in indices.split(size):
            yield self.batch(part)

    def _convert(self, values: Tensor) -> Tensor:
        values = values.detach().to(self.device)
        for dtype in self.dtypes if values.is_floating_point() else ():
            values = values.to(dtype)
        return values


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """`function` of every tensor of `inputs`, in the same structure."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, dict):
        return {name: function(value) for name, value in inputs.items()}
    return tuple(function(value) for value in inputs)


def tensors(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors of `inputs` by what to call them in a message."""
    if isinstance(inputs, Tensor):
        return {"inputs": inputs}
    pairs = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    return {f"inputs[{key!r}]": value for key, value in pairs}


def _columns(data: Any) -> tuple[Inputs, Tensor] | None:
    """Inputs and targets where `data` holds them whole, in tensors; None where it is read item by item."""
    if isinstance(data, tuple):
        if len(data) != 2 or not isinstance(data[1], Tensor) or not _is_inputs(data[0]):
            kinds = ", ".join(type(part).__name__ for part in data)
            raise TypeError(f"data is a tuple of ({kinds}); it must be {_ACCEPTED}")
    elif not (isinstance(data, Mapping) and all(isinstance(value, Tensor) for value in data.values())):
        return None
    inputs, targets = _split(data)
    for name, values in tensors(inputs).items():
        if len(values) != len(targets):
            raise ValueError(
                f"data holds {len(values)} {name} and {len(targets)} targets; the numbers must agree"
            )
    return inputs, targets


def _split(batch: Any) -> tuple[Inputs, Tensor]:
    """A batch, or all data, as inputs and targets."""
    if isinstance(batch, Mapping):
        if LABELS not in batch:
            raise ValueError(
                f"the data's dictionaries have the keys {', '.join(map(repr, batch))}; {LABELS!r}, which "
                "holds the targets, is needed too"
            )
        return {str(key): value for key, value in batch.items() if key != LABELS}, batch[LABELS]
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        length = f" of length {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise TypeError(
            f"collate_fn makes a {type(batch).__name__}{length} of a batch; it must make a pair "
            f"(inputs, targets), or a dictionary with {LABELS!r}"
        )
    inputs, targets = batch
    if isinstance(inputs, Mapping):
        return dict(inputs), targets
    return (tuple(inputs) if isinstance(inputs, list) else inputs), targets


def _is_inputs(inputs: Any) -> bool:
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    return isinstance(inputs, Tensor) or (
        isinstance(inputs, tuple) and len(inputs) > 0 and all(isinstance(part, Tensor) for part in inputs)
    )


def _read_columns(inputs: Inputs, targets: Tensor) -> Callable[[Tensor], tuple[Inputs, Tensor]]:
    def read(indices: Tensor) -> tuple[Inputs, Tensor]:
        def select(values: Tensor) -> Tensor:
            return values[indices.to(values.device)]

        return map_tensors(select, inputs), select(targets)

    return read


def _read_items(data: Any) -> Callable[[Tensor], tuple[Inputs, Tensor]]:
    dataset = _dataset(data)
    collate = data.collate_fn if _collates(data) else _stack_items

    def read(indices: Tensor) -> tuple[Inputs, Tensor]:
        return _split(collate([dataset[i] for i in indices.tolist()]))

    return read


def _collates(data: Any) -> bool:
    """Whether its user gave it a way to make a batch of items; torch's default_collate is ours instead."""
    return isinstance(data, DataLoader) and data.collate_fn is not torch.utils.data.default_collate


def _stack_items(items: Sequence[Any]) -> Any:
    # An item that is a list is a pair, whatever it holds.
    return _stack([tuple(item) if isinstance(item, list) else item for item in items])


def _stack(items: Sequence[Any]) -> Any:
    """Items of one structure as one such item whose tensors have the items as their first dimension."""
    first = items[0]
    if isinstance(first, Mapping):
        return {key: _stack([item[key] for item in items]) for key in first}
    if isinstance(first, tuple) or (isinstance(first, list) and any(isinstance(v, Tensor) for v in first)):
        return tuple(_stack(parts) for parts in zip(*items, strict=True))
    values = [_tensor(item) for item in items]
    shapes = sorted({tuple(value.shape) for value in values})
    if len(shapes) > 1:
        raise ValueError(
            f"examples have different shapes, {shapes[0]} and {shapes[-1]}: pad them in the data set, or "
            "pass a DataLoader whose collate_fn pads (with targets −100, and an attention mask for the model)"
        )
    return torch.stack(values)


def _tensor(value: Any) -> Tensor:
    converted = torch.as_tensor(value)
    if isinstance(value, float | list) and converted.is_floating_point():
        # Python's numbers have float64's digits, and a list of them too; torch would take float32.
        return torch.as_tensor(value, dtype=torch.float64)
    return converted


def _dataset(data: Any) -> Any:
    collates = _collates(data)
    if isinstance(data, DataLoader):
        if data.batch_sampler is None:
            raise ValueError(
                "data is a DataLoader with batch_size=None, whose data set makes batches of its own: "
                "pass a data set of single examples"
            )
        sampler = getattr(data.batch_sampler, "sampler", data.batch_sampler)
        if not isinstance(sampler, SequentialSampler):
            raise ValueError(
                f"data is a DataLoader that draws its examples with {type(sampler).__name__}: every "
                "pass would see another order. Pass the data set itself (data=loader.dataset) or build the "
                "loader with shuffle=False"
            )
        batches: Any = data.batch_sampler
        if batches.drop_last and len(data.dataset) % batches.batch_size:  # type: ignore[arg-type]
            raise ValueError(
                "data is a DataLoader with drop_last=True, which leaves examples out: pass the data set "
                "itself (data=loader.dataset) or build the loader with drop_last=False"
            )
        data = data.dataset
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TypeError(f"data is a {type(data).__name__}; it must be {_ACCEPTED}")
    if isinstance(data, Mapping) and 0 not in data:
        kinds = ", ".join(f"{key!r}: {type(value).__name__}" for key, value in data.items())
        raise TypeError(f"data is a dictionary of {{{kinds}}}; it must be {_ACCEPTED}")
    # A collate_fn may take items of any kind.
    pair_or_mapping = (
        collates
        or len(data) == 0
        or isinstance(data[0], Mapping)
        or (isinstance(data[0], tuple | list) and len(data[0]) == 2)
    )
    if not pair_or_mapping:
        raise TypeError(
            f"data is a {type(data).__name__} whose first item is a {type(data[0]).__name__}; "
            f"it must be {_ACCEPTED}"
        )
    return data
