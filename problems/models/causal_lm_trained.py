"""Small OPT models trained here, on a text and with a tokenizer made for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from problems.data.text import Text
from problems.models.causal_lm import CausalLM, Weights
from problems.models.causal_lm_opt import OptSizes, opt
from problems.models.tokens import (
    batch,
    in_turn,
    mean_loss,
    perplexity,
    pieces,
    rows,
    summed_loss,
    unigram_loss,
)
from problems.models.tokens_own import Tokenized, TokenizerRecipe, tokenized
from problems.models.tokens_source import paragraphs
from problems.training import Lesson, Recipe, trained

# Held-out sequences that are looked at after each epoch: enough for a perplexity within a percent or two.
EVALUATED = 512


@dataclass(frozen=True)
class Small:
    """A model's sizes, its tokenizer, how it is trained and on what unless another text is asked for.

    To one that is `by_paragraph` each paragraph is a document: short, so that sequences differ in length.
    """

    sizes: OptSizes
    tokenizer: TokenizerRecipe
    recipe: Recipe
    data: str
    by_paragraph: bool = False

    def documents(self, text: Text) -> Text:
        """The text as the model takes it."""
        if not self.by_paragraph:
            return text
        train, test = (
            tuple(part for document in documents for part in paragraphs(document))
            for documents in (text.train, text.test)
        )
        return Text(text.name, train, test)


SMALL: Mapping[str, Small] = {
    # For tests: a second or two.
    "opt-tiny": Small(
        OptSizes(width=8, layers=2, heads=2, hidden=8, positions=16),
        TokenizerRecipe(vocabulary=128, every_byte=False),
        Recipe(
            epochs=4, batch_size=32, learning_rate=2e-2, weight_decay=0.0, warmup=0.05, longest_gradient=1.0
        ),
        data="descriptions",
        by_paragraph=True,
    ),
    "opt-small": Small(
        OptSizes(width=128, layers=4, heads=4, hidden=512, positions=128),
        TokenizerRecipe(vocabulary=2048),
        Recipe(
            epochs=2, batch_size=32, learning_rate=3e-3, weight_decay=0.01, warmup=0.05, longest_gradient=1.0
        ),
        data="sotu",
    ),
}


def load(
    name: str, text: Text, epochs: int | None, weights: Weights, seed: int
) -> tuple[CausalLM, Tokenized]:
    """The model `name`, trained on the text's training documents, and the text in its tokens.

    With random weights it is as training begins. What was trained is in the user's cache from then on.
    """
    small = SMALL[name]
    words = tokenized(text, small.tokenizer)
    model = opt(small.sizes, seed, vocabulary=words.vocabulary, padding=words.padding, start=words.start)
    facts: dict[str, float | str] = {"model": f"{name} ({small.sizes})"}
    if weights == "pretrained":
        facts |= _train(name, model, words, replace(small.recipe, epochs=epochs or small.recipe.epochs), seed)
    positions = small.sizes.positions
    found = CausalLM(model, words.encode, words.vocabulary, words.padding, positions, facts, words.decode)
    return found, words


def _train(
    name: str, model: nn.Module, words: Tokenized, recipe: Recipe, seed: int
) -> dict[str, float | str]:
    sizes = SMALL[name].sizes
    cut = partial(pieces, context=sizes.positions)
    data = batch([piece for document in words.train for piece in cut(document)], words.padding)
    held_out = batch(list(itertools.islice(in_turn(words.test, cut), EVALUATED)), words.padding)
    unigram = perplexity(unigram_loss(data, held_out, words.vocabulary))

    def loss(model: nn.Module, indices: Tensor, generator: torch.Generator) -> Tensor:
        summed, count = summed_loss(model, rows(data, indices))
        return summed / count

    def evaluate(model: nn.Module) -> dict[str, float]:
        found = mean_loss(model, held_out)
        return {
            "held-out loss": found,
            "held-out perplexity": perplexity(found),
            "unigram perplexity": unigram,
        }

    lesson = Lesson(len(data["labels"]), loss, evaluate)
    key = {"sizes": asdict(sizes), "tokens": words.key}
    generator = torch.Generator().manual_seed(seed)
    record = trained(model, lesson, recipe, generator, kind=name, key=key, seed=seed)
    tokens = recipe.epochs * int(data["attention_mask"].sum())
    return {"trained on tokens": float(tokens), **record.measured}
