"""Sizes that are told before a problem is built are those that it then has."""

from __future__ import annotations

import pytest
import torch

import problems
from problems import ProblemFamily
from problems.footprint import Footprint
from problems.image_classifier import ImageClassifier
from problems.language_model import LanguageModel
from problems.models.causal_lm_library import is_installed


@pytest.mark.parametrize(
    "family",
    [
        ImageClassifier(num_queries=3, epochs=1),
        ImageClassifier(parameters=r"0\."),
        ImageClassifier(model="resnet18", width=2, training_size=8, epochs=1, num_queries=1),
        pytest.param(
            LanguageModel(),
            marks=pytest.mark.skipif(not is_installed(), reason="language models need transformers"),
        ),
    ],
    ids=str,
)
def test_what_is_told_is_what_is_built(family: ProblemFamily) -> None:
    told = family.footprint()
    built = family.build(device=torch.device("cpu"), dtype=torch.float32, seed=0)
    assert built.task is not None
    network = sum(value.numel() for value in built.task.function.model.parameters())
    assert told == Footprint(network, built.size, built.num_columns)


@pytest.mark.skipif(not is_installed(), reason="language models need transformers")
def test_opt_has_the_parameters_that_its_sizes_give() -> None:
    # Zhang et al. (2022), Table 1: 24 layers of width d = 2048; head and word embedding are one.
    d, layers, words, positions = 2048, 24, 50272, 2048 + 2
    maps = layers * (4 * (d * d + d) + 8 * d * d + 4 * d + d)
    norms = (2 * layers + 1) * 2 * d
    told = problems.family("opt-1.3b", weights="random").footprint()
    assert told == Footprint(maps + norms + (words + positions) * d, maps, 2)


def test_what_shows_only_when_it_is_built_is_not_told() -> None:
    assert problems.family("quadratic").footprint() is None
    if is_installed():
        assert problems.family("smollm2-135m").footprint() is None
