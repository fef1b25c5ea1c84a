"""Draws of tokens: sizes, uniform positions and weights that make every sample unbiased."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems.operators.tokens import Draw, draw_tokens, token_weights


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 200), st.integers(0, 1000))
def test_sequences_of_one_length_give_the_size_exactly(
    length: int, sequences: int, size: int, seed: int
) -> None:
    counts = torch.full((sequences,), length)
    draw = draw_tokens(counts, size, torch.Generator().manual_seed(seed))
    kept = [len(ranks) for ranks in draw.ranks]
    assert sum(kept) == size
    assert len(kept) == -(-size // length)
    assert max(kept) - min(kept) <= 1
    for ranks in draw.ranks:
        assert len(ranks.unique()) == len(ranks)
        assert ranks.min() >= 0
        assert ranks.max() < length


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=9).filter(any), st.integers(1, 100), st.integers(0, 99)
)
def test_unequal_lengths_keep_at_most_what_there_is(counts: list[int], size: int, seed: int) -> None:
    draw = draw_tokens(torch.tensor(counts), size, torch.Generator().manual_seed(seed))
    for sequence, ranks in zip(draw.sequences, draw.ranks, strict=True):
        assert min(1, counts[sequence]) <= len(ranks) <= counts[sequence]


def test_a_seed_draws_the_same_tokens() -> None:
    counts = torch.tensor([5, 9, 2])
    first, again = (draw_tokens(counts, 7, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.sequences, again.sequences)
    assert all(torch.equal(a, b) for a, b in zip(first.ranks, again.ranks, strict=True))


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_weights_average_over_all_choices_of_positions_to_the_whole_sequence(kept: int) -> None:
    counted = torch.tensor([[True, False, True, True, False]])
    whole = token_weights(counted, 2.5, None)
    assert torch.equal(whole, counted.double() / 2.5)
    choices = [
        token_weights(counted, 2.5, Draw(torch.tensor([0]), (torch.tensor(ranks),)))
        for ranks in itertools.combinations(range(3), kept)
    ]
    torch.testing.assert_close(torch.stack(choices).mean(dim=0), whole)


@pytest.mark.parametrize("size", [1, 4, 11, 30])
def test_sampled_means_are_unbiased_for_the_mean_over_all_tokens(size: int) -> None:
    """Also where long sequences hold other values than short ones."""
    values = torch.tensor([[1.0, 2, 3, 4], [10, 0, 0, 0], [-5, -6, 0, 0]], dtype=torch.float64)
    counted = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    counts, generator = counted.sum(dim=1), torch.Generator().manual_seed(size)
    means = []
    for _ in range(4000):
        draw = draw_tokens(counts, size, generator)
        weights = token_weights(counted[draw.sequences], float(counts.double().mean()), draw)
        means.append(float((weights * values[draw.sequences]).sum() / len(draw.sequences)))
    found = torch.tensor(means)
    expected = float(values[counted].mean())
    assert abs(float(found.mean()) - expected) < 4.5 * float(found.std()) / 4000**0.5
