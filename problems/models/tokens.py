"""Text as sequences of tokens: cut, drawn, and put into batches as language models take them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from problems.losses import IGNORED, TokenCrossEntropy

Tokens = list[int]
Encode = Callable[[str], Tokens]
Decode = Callable[[Tokens], str]
# Inputs by name and labels, each (sequences, longest).
Batch = dict[str, Tensor]

LOSS = TokenCrossEntropy(shift=1)
# Of pieces with fewer tokens most predictions would be made from next to nothing.
SHORTEST = 8

Document = TypeVar("Document")


def pieces(tokens: Tokens, context: int) -> list[Tokens]:
    """A document's tokens cut every `context`; the last piece is shorter, and left out below SHORTEST."""
    cut = [tokens[start : start + context] for start in range(0, len(tokens), context)]
    return [piece for piece in cut if len(piece) >= SHORTEST]


def sentences(document: str) -> list[str]:
    """The document cut after each full stop, question or exclamation mark that a space follows."""
    return [each for each in re.split(r"(?<=[.!?])\s+", document.strip()) if each]


def in_turn(documents: Sequence[Document], cut: Callable[[Document], Sequence[Tokens]]) -> Iterator[Tokens]:
    """A piece of each document in turn until all are through; both in an order fixed once and for all.

    A document is cut when it is reached, so that a few pieces of many documents come soon.
    """
    generator = torch.Generator().manual_seed(0)
    waiting: list[Iterator[Tokens]] = []
    for index in torch.randperm(len(documents), generator=generator).tolist():
        found = cut(documents[index])
        rest = iter([found[place] for place in torch.randperm(len(found), generator=generator).tolist()])
        yield from itertools.islice(rest, 1)
        waiting.append(rest)
    while waiting:
        still = []
        for rest in waiting:
            for piece in itertools.islice(rest, 1):
                yield piece
                still.append(rest)
        waiting = still


def take(sequences: Iterable[Tokens], count: int, setting: str, what: str) -> list[Tokens]:
    """The first `count`; ValueError, naming the setting, where there are fewer."""
    found = list(itertools.islice(sequences, count))
    if len(found) < count:
        raise ValueError(
            f"{setting} is {count}; {what} has {len(found)} sequences of {SHORTEST} or more tokens"
        )
    return found


def batch(sequences: Sequence[Tokens], padding: int) -> Batch:
    """Sequences of unequal lengths, padded: there nothing is attended to and labels are IGNORED."""
    longest = max(map(len, sequences))
    tokens = torch.full((len(sequences), longest), padding)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return {"input_ids": tokens, "attention_mask": mask, "labels": tokens.where(mask == 1, IGNORED)}


def rows(sequences: Batch, indices: Tensor) -> Batch:
    """The sequences `indices` (m,), without the columns that are padding in all of them."""
    found = {name: value[indices] for name, value in sequences.items()}
    longest = int(found["attention_mask"].sum(dim=1).max())
    return {name: value[:, :longest] for name, value in found.items()}


def summed_loss(model: nn.Module, sequences: Batch) -> tuple[Tensor, int]:
    """The sum of the cross-entropies of all tokens that have one before them, and their number."""
    inputs = {name: value for name, value in sequences.items() if name != "labels"}
    losses = LOSS.per_unit(model(**inputs, use_cache=False).logits, sequences["labels"])
    return losses.sum(), int(LOSS.counted(sequences["labels"]).sum())


@torch.no_grad()
def mean_loss(model: nn.Module, sequences: Batch, batch_size: int = 16) -> float:
    """Cross-entropy per token, in nats, with the model as it is."""
    count = len(sequences["labels"])
    parts = [
        summed_loss(model, rows(sequences, indices)) for indices in torch.arange(count).split(batch_size)
    ]
    return sum(float(loss) for loss, _ in parts) / sum(number for _, number in parts)


def unigram_loss(training: Batch, held_out: Batch, vocabulary: int) -> float:
    """Cross-entropy per token, in nats, of a model that knows the training tokens' frequencies alone.

    One is added to each count (Laplace), so that no token is impossible.
    """
    counts = torch.bincount(training["input_ids"][training["attention_mask"] == 1], minlength=vocabulary)
    log_probabilities = ((counts + 1).double() / (counts.sum() + vocabulary)).log()
    labels = held_out["labels"][:, 1:]
    return -float(log_probabilities[labels[labels != IGNORED]].mean())


def perplexity(loss: float) -> float:
    """exp of a cross-entropy per token in nats."""
    return math.exp(min(loss, 700.0))
