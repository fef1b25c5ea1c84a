"""Data sets by name; the real ones where the person who runs the tests has fetched them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from sklearn.datasets import load_digits

import problems.data
from problems import data
from problems.data.digits import digits
from problems.data.images import ARRAYS, Images
from problems.data.text import Text

EMBEDDED = {"digits", "descriptions"}
FETCHED = {"mnist", "fashion_mnist", "cifar10", "imdb", "sotu", "smollm2-135m"}


def real(name: str) -> Images | Text | Path:
    if not data.is_cached(name):
        pytest.skip(f"{name} is not here: `ihvp-bench data fetch {name}` gets it")
    return data.load(name)


def test_all_are_found_and_say_what_they_are() -> None:
    found = data.available()
    assert set(found) >= EMBEDDED | FETCHED
    for name, data_set in found.items():
        assert data_set.name == name
        assert data_set.summary
        assert data_set.licence
        if data_set.embedded is None:
            assert len(data_set.sha256) == 64
            assert data_set.addresses
            assert data_set.download_bytes > 0


def test_two_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = ModuleType("problems.data.twin")
    twin.DATA_SET = data.find("digits")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "problems.data.twin", twin)
    listed = [*problems.data.pkgutil.iter_modules(problems.data.__path__)]  # type: ignore[attr-defined]
    named = [*listed, listed[0]._replace(name="twin")]
    monkeypatch.setattr(problems.data.pkgutil, "iter_modules", lambda _: named)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"two modules of problems\.data claim the name 'digits'"):
        data.available()


def test_an_unknown_name_suggests_the_nearest() -> None:
    for function in (data.load, data.is_cached, data.fetch):
        with pytest.raises(ValueError, match="no data set 'cifar-10'; did you mean 'cifar10'"):
            function("cifar-10")


def test_digits_are_the_split_that_problems_use() -> None:
    images = data.load("digits")
    assert isinstance(images, Images)
    assert (images.white, images.num_classes) == (16, 10)
    assert images.train_inputs.shape == (1437, 1, 8, 8)
    assert images.test_inputs.shape == (360, 1, 8, 8)
    split = digits()
    for part in ("train", "test"):
        pixels = getattr(images, f"{part}_inputs").flatten(1).double() / images.white
        assert torch.equal(pixels, getattr(split, f"{part}_inputs"))
        assert torch.equal(getattr(images, f"{part}_targets"), getattr(split, f"{part}_targets"))
    everything = torch.cat([images.train_inputs, images.test_inputs]).flatten(1).tolist()
    assert sorted(everything) == sorted(load_digits().data.astype(int).tolist())


def test_descriptions_are_prose() -> None:
    text = data.load("descriptions")
    assert isinstance(text, Text)
    assert len(text.test) == 2
    assert len(text.train) >= 10
    assert "Iris" in "".join(text.train)
    assert not set(text.train) & set(text.test)


def test_what_is_embedded_takes_no_folder(tmp_path: Path) -> None:
    assert data.is_cached("digits")
    with pytest.raises(ValueError, match="digits is inside an installed package and takes no folder"):
        data.load("digits", tmp_path)


def test_nothing_is_cached_in_an_empty_cache(cache: Path) -> None:
    assert not any(data.is_cached(name) for name in FETCHED)


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        # As everyone's transforms have them.
        ("mnist", [0.1307], [0.3081]),
        ("fashion_mnist", [0.2860], [0.3530]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
@pytest.mark.usefixtures("users_cache")
def test_real_images_have_the_published_statistics(
    name: str, mean: list[float], deviation: list[float]
) -> None:
    images = real(name)
    assert isinstance(images, Images)
    assert len(images.test_inputs) == 10_000
    assert torch.equal(torch.bincount(images.test_targets), torch.full((10,), 1000)) or name == "mnist"
    assert (images.white, images.num_classes) == (255, 10)
    for channel, (expected, spread) in enumerate(zip(mean, deviation, strict=True)):
        pixels = images.train_inputs[:, channel].float() / 255
        assert float(pixels.mean()) == pytest.approx(expected, abs=1e-4)
        assert float(pixels.std()) == pytest.approx(spread, abs=1e-4)
    assert {getattr(images, key).dtype for key in ARRAYS} == {torch.uint8, torch.int64}


@pytest.mark.usefixtures("users_cache")
def test_real_reviews() -> None:
    text = real("imdb")
    assert isinstance(text, Text)
    assert (len(text.train), len(text.test)) == (22_500, 2_500)
    assert not set(text.train) & set(text.test)
    assert not any("<br" in review for review in text.test)


@pytest.mark.usefixtures("users_cache")
def test_real_speeches() -> None:
    text = real("sotu")
    assert isinstance(text, Text)
    assert len(text.train) + len(text.test) == 233
    assert text.train[0].startswith("Fellow-Citizens of the Senate and House of Representatives")
    assert not set(text.train) & set(text.test)


@pytest.mark.usefixtures("users_cache")
def test_real_weights() -> None:
    path = real("smollm2-135m")
    assert isinstance(path, Path)
    assert path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
