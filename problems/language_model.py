"""Causal language models: trained here, or pretrained ones of Hugging Face."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from problems.data import facts as bundled
from problems.exhibits import Exhibit, Exhibits
from problems.footprint import Footprint, footprint_of
from problems.models import causal_lm, causal_lm_trained
from problems.models.causal_lm import CausalLM, Weights
from problems.models.causal_lm_library import is_installed
from problems.models.causal_lm_opt import (
    PUBLISHED,
    PUBLISHED_PADDING,
    PUBLISHED_START,
    PUBLISHED_VOCABULARY,
    opt,
)
from problems.models.causal_lm_trained import SMALL
from problems.models.tokens import (
    SHORTEST,
    Batch,
    Decode,
    Tokens,
    batch,
    in_turn,
    pieces,
    sentences,
    take,
)
from problems.models.tokens_source import check_source, read_sentences, read_text
from problems.parameters import select
from problems.problem import Problem, ProblemFamily, as_curvature, from_model
from problems.validation import check_counts, check_damping, unknown

CONTEXT = 128
QUERIES = 4
# Held-out sequences by which a model that was not trained here is judged.
EVALUATED = 16
# The fact that says how many of the queries are longer than the context and were cut.
CUT = "queries cut at the context"


@dataclass(frozen=True)
class LanguageModel(ProblemFamily):
    """A causal language model on sequences of text; right-hand sides are gradients of held-out sentences.

    `model` is "opt-tiny" or "opt-small" (trained here; the first within seconds, the second in minutes),
    "opt-125m", "opt-1.3b" or any other of the Hugging Face hub ("owner/name"), "smollm2-135m", a folder that
    `save_pretrained` wrote, or a GGUF file. With `weights` "random" it is the architecture alone, for speed
    and memory. `data` is "sotu", "imdb", "descriptions" or a text file: H is the mean over the tokens of
    `training_size` sequences of at most `context`. `queries` is a file with one sentence per line, or
    "facts", ten sentences each with a paraphrase, which are cut at the context; without, `num_queries` are
    sentences of the documents held out, by default four. `parameters` are H's, as
    `from_model` takes them: by default all but embeddings, head and normalisation, as in Klochkov & Liu
    (2024). `damping` is a tenth of λ_max for opt-small, a seventh for opt-tiny. `epochs` is for those two.
    """

    model: str = "opt-tiny"
    weights: Weights = "pretrained"
    data: str | None = None
    data_folder: str | None = None
    context: int | None = None
    training_size: int = 64
    num_queries: int | None = None
    queries: str | None = None
    damping: float = 1.0
    curvature: str = "ggn"
    parameters: str = "no_embeddings_no_norms"
    precision: Literal["full", "tf32", "bf16"] = "full"
    epochs: int | None = None

    def __post_init__(self) -> None:
        check_damping(self.damping)
        counts = {"num_queries": self.num_queries, "epochs": self.epochs}
        check_counts(
            training_size=self.training_size, **{name: n for name, n in counts.items() if n is not None}
        )
        as_curvature(self.curvature)
        if self.context is not None and self.context < SHORTEST:
            raise ValueError(f"context is {self.context}; it must be at least {SHORTEST} tokens")
        if self.model not in SMALL:
            self._check_model()
        elif self.context is not None:
            causal_lm.check_context(self.model, self.context, SMALL[self.model].sizes.positions)
        if self.epochs is not None and (self.model not in SMALL or self.weights == "random"):
            raise ValueError(
                f"epochs is {self.epochs}, but only {' and '.join(SMALL)} are trained here, with "
                "weights=pretrained: leave it out"
            )
        self._check_text()

    @classmethod
    def examples(cls) -> Sequence[LanguageModel]:
        """None where the libraries are missing, which only language models need."""
        if not is_installed():
            return ()
        # The fewest whose tokens times words are beyond `exact`'s dual, which would take a minute.
        return (cls(training_size=9, num_queries=3, damping=0.5, parameters=r"layers\.1\.fc1"),)

    def footprint(self) -> Footprint | None:
        if self.model not in SMALL and self.model not in PUBLISHED:
            return None
        sizes = SMALL[self.model].sizes if self.model in SMALL else PUBLISHED[self.model]
        words = SMALL[self.model].tokenizer.vocabulary if self.model in SMALL else PUBLISHED_VOCABULARY
        with torch.device("meta"):
            network = opt(sizes, 0, vocabulary=words, padding=PUBLISHED_PADDING, start=PUBLISHED_START)
        queries = self.num_queries or (len(self._check_queries(self.queries)) if self.queries else QUERIES)
        return footprint_of(network, self.parameters, queries)

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        model, training, queries = self._drawn(seed) if self._random else self._with_text(seed)
        network = model.network.to(device, dtype)
        sizes = {name: value.numel() for name, value in network.named_parameters()}
        facts: dict[str, float | str] = {**model.facts, "data": self._source}
        facts["parameters"] = float(sum(sizes.values()))
        facts["selected parameters"] = float(sum(sizes[name] for name in select(network, self.parameters)))
        if self.weights == "random":
            facts["weights"] = "random: for speed and memory alone"
        return from_model(
            network,
            "next_token_cross_entropy",
            training,
            queries,
            damping=self.damping,
            curvature=self.curvature,
            parameters=self.parameters,
            precision=self.precision,
            name="language_model",
            facts=facts,
            exhibits=None if model.decode is None else _exhibits(model.decode, training, queries),
        )

    @property
    def _random(self) -> bool:
        """Whether tokens are drawn, since there is no tokenizer to make them of text."""
        return not causal_lm.has_tokenizer(self.model, self.weights)

    @property
    def _source(self) -> str:
        if self._random:
            return "random tokens"
        return self.data or (SMALL[self.model].data if self.model in SMALL else "sotu")

    def _with_text(self, seed: int) -> tuple[CausalLM, Batch, Batch]:
        """The model, training sequences and queries."""
        text = read_text(self._source, self.data_folder)
        if self.model in SMALL:
            text = SMALL[self.model].documents(text)
            model, words = causal_lm_trained.load(self.model, text, self.epochs, self.weights, seed)
            context = self._context(model)
            sequences = in_turn(words.train, lambda tokens: pieces(tokens, context))
        else:
            model = causal_lm.load(self.model, self.weights, seed, self.context)
            context = self._context(model)
            sequences = _cut(text.train, model, context)
            if self.weights == "pretrained":
                held_out = list(itertools.islice(_cut(text.test, model, context), EVALUATED))
                model = causal_lm.judged(model, held_out)
        training = take(
            sequences, self.training_size, "training_size", f"the training part of {self._source}"
        )
        asked = self._asked(text.test, model, context)
        if self.queries == bundled.NAME:
            # Whatever the tokenizer makes of them, they are there for every model.
            too_long = float(sum(len(each) > context for each in asked))
            model = replace(model, facts={**model.facts, CUT: too_long})
            asked = [each[:context] for each in asked]
        return model, batch(training, model.padding), batch(asked, model.padding)

    def _asked(self, held_out: Sequence[str], model: CausalLM, context: int) -> list[Tokens]:
        """The tokens of the queries: the user's own, or sentences of the documents held out.

        Of the facts whole, however long; the others no longer than the context.
        """
        if self.queries is None:
            found = in_turn(held_out, lambda document: _sentences(document, model, context))
            return take(
                found, self.num_queries or QUERIES, "num_queries", f"the part of {self._source} held out"
            )
        lines = self._check_queries(self.queries)
        asked = [model.tokens_of(line) for line in lines[: self.num_queries]]
        if self.queries == bundled.NAME:
            return asked
        for line, tokens in zip(lines, asked, strict=False):
            if not 2 <= len(tokens) <= context:
                raise ValueError(
                    f"the query {line[:40]!r} of {self.queries} has {len(tokens)} tokens; it must have 2 to "
                    f"{context}, the context"
                )
        return asked

    def _drawn(self, seed: int) -> tuple[CausalLM, Batch, Batch]:
        """The model with sequences of random tokens, half as long as the context to all of it."""
        model = causal_lm.load(self.model, self.weights, seed, self.context)
        context = self._context(model)
        generator = torch.Generator().manual_seed(seed)

        def draw(count: int) -> Batch:
            lengths = torch.randint((context + 1) // 2, context + 1, (count,), generator=generator).tolist()
            drawn = [torch.randint(model.vocabulary, (n,), generator=generator).tolist() for n in lengths]
            return batch(drawn, model.padding)

        return model, draw(self.training_size), draw(self.num_queries or QUERIES)

    def _context(self, model: CausalLM) -> int:
        return self.context or min(CONTEXT, model.positions or CONTEXT)

    def _check_model(self) -> None:
        """Raise ValueError for what no model is called, and for settings that go with no text."""
        try:
            causal_lm.check_name(self.model)
        except causal_lm.NotAName:
            known = [*SMALL, *PUBLISHED, causal_lm.SMOLLM2]
            raise ValueError(
                f"{unknown('model', self.model, known)}; or give a hub's id, OWNER/NAME, or a folder"
            ) from None
        if self.context is not None and self.model in PUBLISHED:
            causal_lm.check_context(self.model, self.context, PUBLISHED[self.model].positions)

    def _check_queries(self, path: str) -> list[str]:
        """The user's sentences; ValueError where they cannot be read, or are too few."""
        lines = read_sentences(path)
        if (self.num_queries or 0) > len(lines):
            raise ValueError(f"num_queries is {self.num_queries}; {path} has {len(lines)} sentences")
        return lines

    def _check_text(self) -> None:
        if not self._random:
            check_source(self._source, self.data_folder)
            if self.queries is not None:
                self._check_queries(self.queries)  # before a model is trained
            return
        for name in ("data", "data_folder", "queries"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but {self.model} with weights=random has no "
                    f"tokenizer and takes random tokens for text: leave {name} out"
                )


def _cut(documents: Sequence[str], model: CausalLM, context: int) -> Iterator[Tokens]:
    return in_turn(documents, lambda document: pieces(model.tokens_of(document), context))


def _sentences(document: str, model: CausalLM, context: int) -> list[Tokens]:
    """A sentence that is longer than the context gives several pieces."""
    return [piece for each in sentences(document) for piece in pieces(model.tokens_of(each), context)]


def _exhibits(decode: Decode, training: Batch, queries: Batch) -> Exhibits:
    def text(found: Batch, index: int) -> Exhibit:
        mask = found["attention_mask"][index] == 1
        return Exhibit(text=decode(found["input_ids"][index][mask].tolist()))

    return Exhibits(lambda index: text(training, index), lambda index: text(queries, index))
