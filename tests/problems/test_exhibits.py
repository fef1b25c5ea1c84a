"""What people see of examples is what the network gets: pixels, classes and text."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import problems
from problems import Problem, data
from problems.data.images import Images
from problems.exhibits import Exhibit, Exhibits, png
from problems.models.causal_lm_trained import SMALL
from problems.models.tokens_own import tokenized
from problems.models.tokens_source import read_text

DIGITS: dict[str, Any] = {"training_size": 40, "width": 2, "epochs": 1, "num_queries": 5}


def exhibits(problem: Problem) -> Exhibits:
    assert problem.exhibits is not None
    return problem.exhibits


def pixels(exhibit: Exhibit) -> np.ndarray:
    with Image.open(io.BytesIO(exhibit.picture)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_has_the_very_pixels(channels: int) -> None:
    image = torch.randint(256, (channels, 5, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    decoded = pixels(Exhibit(picture=png(image, 255)))
    expected = image.numpy()[0] if channels == 1 else image.numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(decoded, expected)


def test_white_is_white() -> None:
    image = torch.tensor([[[0, 8, 16]]], dtype=torch.uint8)
    np.testing.assert_array_equal(pixels(Exhibit(picture=png(image, 16))), [[0, 128, 255]])  # 127.5 is even


def test_digits_are_those_that_the_network_gets() -> None:
    """Shades of 0 to 16 come back from 0 to 255; the network gets them divided by 16."""
    problem = problems.load("image_classifier", **DIGITS)
    assert problem.task is not None
    raw = load_digits().images.astype(int).reshape(-1, 64).tolist()
    for examples, show, count in (
        (problem.task.training, exhibits(problem).training, 40),
        (problem.task.queries, exhibits(problem).query, 5),
    ):
        for index in (0, 3, count - 1):
            inputs, targets = examples.batch(torch.tensor([index]))
            assert isinstance(inputs, torch.Tensor)
            seen = show(index)
            shades = np.rint(pixels(seen) / 255 * 16).astype(int)
            assert shades.shape == (8, 8)
            np.testing.assert_array_equal(shades.ravel(), (inputs[0] * 16).numpy())
            assert shades.ravel().tolist() in raw
            assert seen.label == str(int(targets[0]))
            assert seen.text == ""


def test_training_examples_and_queries_are_not_mixed_up() -> None:
    problem = problems.load("image_classifier", **DIGITS)
    digits = data.load("digits")
    assert isinstance(digits, Images)
    for index in range(3):
        shown = pixels(exhibits(problem).query(index))
        wanted = (digits.test_inputs[index, 0].double() * 255 / 16).round()
        np.testing.assert_array_equal(shown, wanted.numpy())
        assert not np.array_equal(shown, pixels(exhibits(problem).training(index)))


def test_text_is_that_of_the_tokens() -> None:
    """Byte-level BPE writes a space as Ġ, a new line as Ċ, other ASCII as it is (Radford et al. 2019)."""
    pytest.importorskip("transformers")
    problem = problems.load("language_model", training_size=4, num_queries=3, epochs=1)
    assert problem.task is not None
    small = SMALL["opt-tiny"]
    text = small.documents(read_text(small.data, None))
    words = tokenized(text, small.tokenizer)
    for examples, show, documents, count in (
        (problem.task.training, exhibits(problem).training, text.train, 4),
        (problem.task.queries, exhibits(problem).query, text.test, 3),
    ):
        seen = [show(index) for index in range(count)]
        for index in range(count):
            inputs, _ = examples.batch(torch.tensor([index]))
            assert isinstance(inputs, dict)
            tokens = inputs["input_ids"][0][inputs["attention_mask"][0] == 1].tolist()
            spelled = "".join(words.tokenizer.id_to_token(token) for token in tokens if token != words.start)
            assert seen[index].text == spelled.replace("Ġ", " ").replace("Ċ", "\n")
            assert any(seen[index].text in document for document in documents)
            assert (seen[index].label, seen[index].picture) == ("", b"")
        assert len({each.text for each in seen}) == count
