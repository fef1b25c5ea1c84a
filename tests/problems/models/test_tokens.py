"""Sequences cut from text, their batches and what a loss per token is, in closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from problems.losses import IGNORED
from problems.models.tokens import (
    SHORTEST,
    batch,
    in_turn,
    mean_loss,
    perplexity,
    pieces,
    rows,
    sentences,
    take,
    unigram_loss,
)


def test_a_document_is_cut_and_its_last_piece_is_shorter() -> None:
    assert pieces(list(range(29)), 10) == [list(range(10)), list(range(10, 20)), list(range(20, 29))]


def test_what_is_very_short_is_left_out() -> None:
    assert pieces(list(range(10 + SHORTEST - 1)), 10) == [list(range(10))]
    assert pieces(list(range(10 + SHORTEST)), 10)[1] == list(range(10, 10 + SHORTEST))
    assert pieces([], 10) == []


def test_sentences_end_at_their_marks() -> None:
    assert sentences(" Is it 3.5? Yes!\nIt is. ") == ["Is it 3.5?", "Yes!", "It is."]
    assert sentences(" ") == []


def test_every_document_has_its_turn_and_every_piece_comes_once() -> None:
    documents = [[[name, place] for place in range(length)] for name, length in enumerate((3, 0, 1, 5))]
    found = list(in_turn(documents, lambda document: document))
    assert sorted(found) == [piece for document in documents for piece in document]
    rounds = [{name for name, _ in found[start:end]} for start, end in ((0, 3), (3, 5), (5, 7))]
    assert rounds == [{0, 2, 3}, {0, 3}, {0, 3}]
    assert found == list(in_turn(documents, lambda document: document))


def test_a_document_is_not_cut_before_its_turn() -> None:
    cut: list[int] = []

    def pieces_of(document: int) -> list[list[int]]:
        cut.append(document)
        return [[document]]

    assert len(take(in_turn(range(100), pieces_of), 3, "count", "it")) == 3
    assert len(cut) == 3


def test_too_few_are_told_by_name() -> None:
    with pytest.raises(ValueError, match=r"training_size is 3; the text has 2 sequences of 8 or more tokens"):
        take(iter([[1], [2]]), 3, "training_size", "the text")


def test_a_batch_is_padded_where_nothing_counts() -> None:
    made = batch([[5, 6, 7], [8]], padding=1)
    assert made["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert made["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert made["labels"].tolist() == [[5, 6, 7], [8, IGNORED, IGNORED]]
    assert rows(made, torch.tensor([1]))["input_ids"].tolist() == [[8]]


class Uniform(nn.Module):
    """Gives each of 4 tokens the same probability, but token 3 after token 2 has odds of e."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
        logits = torch.zeros(*input_ids.shape, 4)
        logits[..., 3] = (input_ids == 2).float()
        return SimpleNamespace(logits=logits)


def test_the_mean_loss_is_over_tokens() -> None:
    """Of [0, 1, 2] two tokens count, each log 4; of [2, 3] one, log(3 + e) − 1; whatever the batches."""
    made = batch([[0, 1, 2], [2, 3]], padding=0)
    expected = (2 * math.log(4) + math.log(3 + math.e) - 1) / 3
    for size in (1, 2):
        assert mean_loss(Uniform(), made, size) == pytest.approx(expected, rel=1e-6)


def test_the_unigram_loss_counts_every_token_once_more() -> None:
    """In training 0 three times and 1 once, of a vocabulary of 4: probabilities 4/8, 2/8, 1/8, 1/8."""
    training = batch([[0, 0, 1], [0]], padding=3)
    held_out = batch([[3, 0, 2], [3, 1]], padding=3)
    expected = (math.log(2) + math.log(8) + math.log(4)) / 3
    assert unigram_loss(training, held_out, 4) == pytest.approx(expected)
    assert perplexity(expected) == pytest.approx(4)
