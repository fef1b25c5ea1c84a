"""The same examples in whatever form they come; what cannot be read is refused with what to change."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset, TensorDataset

from problems import from_model
from problems.examples import Examples, Inputs, map_tensors, tensors

CPU = torch.device("cpu")
COUNT = 5
X = torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Z = torch.randint(9, (COUNT, 2), generator=torch.Generator().manual_seed(1))
Y = torch.arange(COUNT) % 3
INDICES = torch.tensor([3, 0, 0, 4])


class Custom:
    """A map-style data set that is none of torch's."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def items(make: Callable[[int], Any]) -> list[Any]:
    return [make(i) for i in range(COUNT)]


ONE_TENSOR: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (X, Y),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "list of tuples": lambda: items(lambda i: (X[i], Y[i])),
    "list of lists": lambda: items(lambda i: [X[i], Y[i]]),
    "list of lists of numbers": lambda: items(lambda i: [X[i].tolist(), int(Y[i])]),
    "list of lists of arrays": lambda: items(lambda i: [X[i].numpy(), int(Y[i])]),
    "tuples of arrays": lambda: items(lambda i: (X[i].numpy(), np.int64(Y[i]))),
    "numbers": lambda: items(lambda i: (X[i].tolist(), int(Y[i]))),
    "custom": lambda: Custom(items(lambda i: (X[i], int(Y[i])))),
    "by number": lambda: dict(enumerate(items(lambda i: (X[i], int(Y[i]))))),
    "subset": lambda: Subset(TensorDataset(X.flip(0), Y.flip(0)), list(range(COUNT))[::-1]),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=2),
    "loader of numbers": lambda: DataLoader(items(lambda i: (X[i].tolist(), int(Y[i]))), batch_size=2),
    "loader with a collate_fn": lambda: DataLoader(
        items(lambda i: (int(Y[i]), "a text", X[i])),
        collate_fn=lambda batch: [torch.stack([x for *_, x in batch]), torch.tensor([y for y, *_ in batch])],
    ),
    "loader that drops nothing": lambda: DataLoader(TensorDataset(X, Y), batch_size=COUNT, drop_last=True),
    "loader with a sampler in order": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(SequentialSampler(range(COUNT)), 2, drop_last=False)
    ),
}

TWO_IN_ORDER: dict[str, Callable[[], Any]] = {
    "tensors": lambda: ((X, Z), Y),
    "list of tuples": lambda: items(lambda i: ((X[i], Z[i]), int(Y[i]))),
    "list of lists": lambda: items(lambda i: [[X[i], Z[i]], Y[i]]),
    "loader": lambda: DataLoader(items(lambda i: ((X[i], Z[i]), Y[i])), batch_size=2),
    "loader with a collate_fn": lambda: DataLoader(
        TensorDataset(X, Z, Y), collate_fn=lambda batch: _triple(*zip(*batch, strict=True))
    ),
}

TWO_BY_NAME: dict[str, Callable[[], Any]] = {
    "tensors": lambda: ({"x": X, "z": Z}, Y),
    "with labels": lambda: {"x": X, "z": Z, "labels": Y},
    "labels first": lambda: {"labels": Y, "x": X, "z": Z},
    "mapping": lambda: UserDict({"x": X, "z": Z, "labels": Y}),
    "list of dictionaries": lambda: items(lambda i: {"x": X[i], "z": Z[i], "labels": Y[i]}),
    "list of mappings": lambda: items(lambda i: UserDict({"x": X[i], "z": Z[i], "labels": Y[i]})),
    "dictionaries of numbers": lambda: items(
        lambda i: {"x": X[i].tolist(), "z": Z[i].tolist(), "labels": int(Y[i])}
    ),
    "dictionaries of arrays": lambda: items(
        lambda i: {"x": X[i].numpy(), "z": Z[i].numpy(), "labels": Y[i].numpy()}
    ),
    "pairs with dictionaries": lambda: items(lambda i: ({"x": X[i], "z": Z[i].tolist()}, int(Y[i]))),
    "custom": lambda: Custom(items(lambda i: {"x": X[i], "z": Z[i], "labels": Y[i]})),
    "loader": lambda: DataLoader(items(lambda i: {"x": X[i], "z": Z[i], "labels": Y[i]}), batch_size=3),
    "loader with a collate_fn": lambda: DataLoader(
        TensorDataset(X, Z, Y),
        collate_fn=lambda batch: UserDict(
            {name: torch.stack(part) for name, part in zip(("x", "z", "labels"), zip(*batch))}  # noqa: B905
        ),
    ),
}


def _triple(x: tuple[Tensor, ...], z: tuple[Tensor, ...], y: tuple[Tensor, ...]) -> Any:
    return [torch.stack(x), torch.stack(z)], torch.stack(y)


def same(found: Inputs, expected: Inputs) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        *(pytest.param(make, X, id=f"one tensor: {name}") for name, make in ONE_TENSOR.items()),
        *(pytest.param(make, (X, Z), id=f"two in order: {name}") for name, make in TWO_IN_ORDER.items()),
        *(
            pytest.param(make, {"x": X, "z": Z}, id=f"two by name: {name}")
            for name, make in TWO_BY_NAME.items()
        ),
    ],
)
def test_all_forms_are_read_the_same(make: Callable[[], Any], expected: Inputs) -> None:
    """To the last bit, Python's own numbers included, and in their own order."""
    examples = Examples(make(), CPU, torch.float64)
    assert len(examples) == COUNT
    for indices in (INDICES, torch.arange(COUNT), INDICES[:1]):
        inputs, targets = examples.batch(indices)
        same(inputs, map_tensors(lambda values, indices=indices: values[indices], expected))
        same(targets, Y[indices])


@pytest.mark.parametrize("make", [*ONE_TENSOR.values(), *TWO_IN_ORDER.values(), *TWO_BY_NAME.values()])
def test_floating_point_numbers_are_converted_and_no_others(make: Callable[[], Any]) -> None:
    inputs, targets = Examples(make(), CPU, torch.float32).batch(INDICES)
    found = tensors(inputs)
    same(next(iter(found.values())), X[INDICES].float())
    assert targets.dtype == torch.int64
    assert [values.dtype for values in found.values()][1:] in ([], [torch.int64])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_integers_and_masks_keep_their_dtype(dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    examples = Examples({"mask": values, "labels": values}, CPU, torch.float32)
    for each in (examples, examples.to(torch.float64)):
        inputs, targets = each.batch(torch.tensor([1]))
        assert isinstance(inputs, dict)
        assert inputs["mask"].dtype == targets.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_targets_and_attention_masks_are_converted(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.25, 1], [0.5, 0]], dtype=dtype)
    inputs, targets = Examples({"mask": values, "labels": values}, CPU, torch.float32).batch(torch.arange(2))
    assert isinstance(inputs, dict)
    same(inputs["mask"], values.float())
    same(targets, values.float())


def test_a_target_that_is_a_number_keeps_all_its_digits() -> None:
    data = [(X[i], 0.1 * i) for i in range(COUNT)]
    _, targets = Examples(data, CPU, torch.float64).batch(torch.arange(COUNT))
    assert targets.tolist() == [0.1 * i for i in range(COUNT)]


def test_digits_that_a_dtype_took_away_do_not_come_back() -> None:
    examples = Examples((X, Y), CPU, torch.float32).to(torch.float64)
    inputs, _ = examples.batch(INDICES)
    assert isinstance(inputs, Tensor)
    same(inputs, X[INDICES].float().double())
    assert not torch.equal(inputs, X[INDICES])


def test_passes_are_batches_in_order() -> None:
    examples = Examples({"x": X, "z": Z, "labels": Y}, CPU, torch.float64)
    batches = list(examples.passes(INDICES, 3))
    assert [len(targets) for _, targets in batches] == [3, 1]
    same(torch.cat([inputs["x"] for inputs, _ in batches]), X[INDICES])  # type: ignore[call-overload,index]
    same(torch.cat([targets for _, targets in batches]), Y[INDICES])


SEQUENCES = [torch.tensor([4, 2, 7]), torch.tensor([5]), torch.tensor([1, 3, 6, 8])]


def pad(batch: list[Any]) -> dict[str, Tensor]:
    tokens = [torch.as_tensor(item["tokens"] if isinstance(item, dict) else item) for item in batch]
    return {
        "tokens": pad_sequence(tokens, batch_first=True),
        "mask": pad_sequence([torch.ones_like(each) for each in tokens], batch_first=True),
        "labels": pad_sequence(tokens, batch_first=True, padding_value=-100),
    }


@pytest.mark.parametrize(
    "sequences",
    [SEQUENCES, [{"tokens": each.tolist(), "labels": each.tolist()} for each in SEQUENCES]],
    ids=["tensors", "dictionaries"],
)
def test_a_collate_fn_pads_each_batch_to_its_longest(sequences: list[Any]) -> None:
    """Items may be of any kind where the collate_fn makes a batch of them."""
    examples = Examples(DataLoader(sequences, collate_fn=pad, batch_size=2), CPU, torch.float64)
    inputs, labels = examples.batch(torch.tensor([1, 0]))
    assert isinstance(inputs, dict)
    assert inputs["tokens"].tolist() == [[5, 0, 0], [4, 2, 7]]
    assert inputs["mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert labels.tolist() == [[5, -100, -100], [4, 2, 7]]
    assert examples.batch(torch.tensor([1]))[1].tolist() == [[5]]


def test_a_collator_of_hugging_face_renames_the_label() -> None:
    transformers = pytest.importorskip("transformers")
    rows = [{"x": X[i].tolist(), "label": int(Y[i])} for i in range(COUNT)]
    loader = DataLoader(rows, collate_fn=transformers.default_data_collator)
    inputs, targets = Examples(loader, CPU, torch.float32).batch(INDICES)
    assert isinstance(inputs, dict)
    same(inputs["x"], X[INDICES].float())
    same(targets, Y[INDICES])


def loader(data: Any = None, **settings: Any) -> DataLoader:
    return DataLoader(TensorDataset(X, Y) if data is None else data, **settings)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: {"x": X}, "have the keys 'x'; 'labels', which holds the targets, is needed too"),
        (dict, "'labels', which holds the targets"),
        (lambda: items(lambda i: {"x": X[i], "label": Y[i]}), "have the keys 'x', 'label'; 'labels'"),
        (lambda: {"x": X, "z": Z[:3], "labels": Y}, r"3 inputs\['z'\] and 5 targets; the numbers must agree"),
        (lambda: {"x": X, "labels": Y[:4]}, r"5 inputs\['x'\] and 4 targets"),
        (lambda: ((X, Z[:2]), Y), r"2 inputs\[1\] and 5 targets"),
        (lambda: (X[:4], Y), "4 inputs and 5 targets"),
        (lambda: (X[:0], Y[:0]), "no examples"),
        (list, "no examples"),
        (lambda: [(each, 0) for each in SEQUENCES], r"different shapes, \(1,\) and \(4,\).*collate_fn.*pads"),
        (lambda: items(lambda i: {"x": X[i], "labels": [1] * (i + 1)}), "different shapes.*pad them"),
        (lambda: loader([(each, 0) for each in SEQUENCES]), r"pass a DataLoader whose collate_fn pads"),
        (lambda: (X, Y.tolist()), r"tuple of \(Tensor, list\); it must be a tuple \(inputs, targets\)"),
        (lambda: (X.numpy(), Y.numpy()), r"tuple of \(ndarray, ndarray\)"),
        (lambda: (X, Z, Y), r"tuple of \(Tensor, Tensor, Tensor\)"),
        (lambda: ([X, Z], Y), r"tuple of \(list, Tensor\)"),
        (lambda: ((X, [1, 2]), Y), r"tuple of \(tuple, Tensor\)"),
        (lambda: ({"x": [1, 2]}, Y), r"tuple of \(dict, Tensor\)"),
        (lambda: ((), Y), r"tuple of \(tuple, Tensor\)"),
        (lambda: {"x": X.tolist(), "labels": Y.tolist()}, "dictionary of {'x': list, 'labels': list}"),
        (lambda: {"x": X, "labels": Y.numpy()}, "dictionary of {'x': Tensor, 'labels': ndarray}.*map-style"),
        (lambda: TensorDataset(X, Z, Y), "TensorDataset whose first item is a tuple"),
        (lambda: [1, 2], "list whose first item is a int"),
        (lambda: iter([(X, Y)]), "it must be a tuple"),
        (lambda: loader(shuffle=True), "RandomSampler.*shuffle=False"),
        (
            lambda: loader(batch_sampler=BatchSampler(RandomSampler(range(COUNT)), 2, drop_last=False)),
            "RandomSampler.*shuffle=False",
        ),
        (lambda: loader(batch_size=2, drop_last=True), "drop_last=True"),
        (
            lambda: loader(batch_sampler=BatchSampler(SequentialSampler(range(COUNT)), 2, drop_last=True)),
            "drop_last=True",
        ),
        (lambda: loader(batch_size=None), "batch_size=None"),
    ],
)
def test_what_cannot_be_read_is_refused(data: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Examples(data(), CPU, torch.float64).batch(torch.arange(3))


def test_a_collate_fn_that_makes_no_pair_is_refused() -> None:
    data = DataLoader(TensorDataset(X, Z, Y), collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    with pytest.raises(TypeError, match=r"tuple of length 3 .* a pair \(inputs, targets\)"):
        Examples(data, CPU, torch.float64).batch(torch.arange(3))


@pytest.mark.parametrize("row", [0, 2, COUNT - 1])
def test_numbers_that_are_not_finite_are_not_taken_for_randomness(row: int) -> None:
    bad = X.clone()
    bad[row, 1] = float("nan")
    model = nn.Linear(3, 3).double()
    with pytest.raises(ValueError, match="inputs: 1 of 15 numbers are NaN"):
        from_model(model, "cross_entropy", (bad, Y), (X, Y), damping=1)
    if row != 2:  # four examples are tried, the first and the last among them
        with pytest.raises(ValueError, match="outputs hold NaN"):
            from_model(model, "cross_entropy", TensorDataset(bad, Y), (X, Y), damping=1)
