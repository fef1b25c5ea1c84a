"""Weights that are read are the file's, and what does not fit is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from problems.models.resnet import ResNet, resnet
from problems.models.weights_file import load_weights


def network(seed: int = 0, **settings: Any) -> ResNet:
    chosen = {"depth": 18, "width": 1, "channels": 1, "classes": 3, "stem": "cifar", **settings}
    return resnet(generator=torch.Generator().manual_seed(seed), **chosen)  # type: ignore[arg-type]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "plain.safetensors": lambda state, path: save_file(state, path),
    "plain.pth": lambda state, path: torch.save(state, path),
    "plain.pt": lambda state, path: torch.save(state, path),
    "nested.pth": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "parallel.pth": lambda state, path: torch.save({f"module.{k}": v for k, v in state.items()}, path),
    "double.safetensors": lambda state, path: save_file({k: v.double() for k, v in state.items()}, path),
    # Files of before 2018 have no numbers of batches.
    "old.pth": lambda state, path: torch.save(
        {k: v for k, v in state.items() if "num_batches" not in k}, path
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_network_becomes_the_one_that_was_written(name: str, tmp_path: Path) -> None:
    written = network()
    WRITERS[name](written.state_dict(), tmp_path / name)
    read = network(seed=1)
    load_weights(read, tmp_path / name)
    assert same(written.state_dict(), read.state_dict())
    assert read.conv1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"classes": 1000},
            ["2 of another shape: fc.weight (1000, 8) instead of (3, 8)", "has 1000 classes"],
        ),
        ({"stem": "imagenet"}, ["1 of another shape: conv1.weight", "7 × 7", "3 × 3", "stem=imagenet"]),
        ({"channels": 3}, ["takes images of 3 channels, the model of 1"]),
        ({"width": 2}, ["has width=2, the model width=1"]),
        ({"depth": 50}, ["unexpected: layer1.0.conv3.weight", "of another shape"]),
    ],
)
def test_another_network_is_told_by_its_shapes(
    settings: dict[str, Any], messages: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(network(**settings).state_dict(), path)
    model = network(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the model") as error:
        load_weights(model, path)
    for message in messages:
        assert message in str(error.value)
    assert same(before, model.state_dict())


def test_missing_names_are_told(tmp_path: Path) -> None:
    state = network().state_dict()
    del state["layer4.1.conv2.weight"], state["fc.bias"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=re.escape("2 missing: layer4.1.conv2.weight, fc.bias")):
        load_weights(network(), tmp_path / "weights.pth")


class Runs:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was_run"),)


def write_list(path: Path) -> None:
    torch.save([torch.zeros(1)], path)


def write_others(path: Path) -> None:
    torch.save({"epoch": 3, "weights": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("module.pth", lambda path: torch.save(nn.Linear(1, 1), path), "cannot be read as a state dict"),
        ("code.pth", lambda path: torch.save(Runs(), path), "cannot be read as a state dict"),
        ("text.pth", lambda path: path.write_text("weights"), "cannot be read as a state dict"),
        ("script.pt", lambda path: path.write_text("export WIDTH=4\n"), "cannot be read as a state dict"),
        ("text.safetensors", lambda path: path.write_text("weights"), "cannot be read as a state dict"),
        ("empty.pth", lambda path: path.write_bytes(b""), "cannot be read as a state dict"),
        ("list.pth", write_list, "holds list, not a state dict"),
        ("others.pth", write_others, "holds the keys epoch, weights, not a state dict"),
        ("nothing.pth", lambda path: torch.save({}, path), "not a state dict"),
        ("weights.txt", lambda path: path.write_text(""), "weights must end with .safetensors, .pth"),
    ],
)
def test_what_is_no_state_dict_is_refused(
    name: str,
    write: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_weights(network(), tmp_path / name)
    assert not (tmp_path / "was_run").exists()


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        load_weights(network(), tmp_path / "weights.pth")
