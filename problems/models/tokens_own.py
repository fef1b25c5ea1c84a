"""Byte-level BPE tokenizers trained here, and texts in their tokens; both are kept in the user's cache."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from problems.cache import (
    CacheWarning,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
    warn_not_kept,
)
from problems.data.text import Text, digest
from problems.files import write_whole
from problems.models.causal_lm_library import library
from problems.models.tokens import Tokens

# As in OPT: one token begins every document, one fills up.
UNKNOWN, PADDING, START = "<unk>", "<pad>", "</s>"


@dataclass(frozen=True)
class TokenizerRecipe:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) of so many tokens.

    It begins with all 256 bytes, so that no text is beyond it, or with those of the text alone.
    """

    vocabulary: int
    every_byte: bool = True


@dataclass(frozen=True)
class Tokenized:
    """A text's documents in tokens, and the tokenizer made for it."""

    tokenizer: Any
    key: dict[str, object]
    train: list[Tokens]
    test: list[Tokens]

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def padding(self) -> int:
        """The token that fills up."""
        return int(self.tokenizer.token_to_id(PADDING))

    @property
    def start(self) -> int:
        """The token that begins every document."""
        return int(self.tokenizer.token_to_id(START))

    def encode(self, text: str) -> Tokens:
        """The tokens of a document."""
        return _encode(self.tokenizer, text)

    def decode(self, tokens: Tokens) -> str:
        """Their text, without the tokens that begin a document or fill up."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def tokenized(text: Text, recipe: TokenizerRecipe) -> Tokenized:
    """The text in the tokens that `recipe` makes of its training documents: from the cache, or made now.

    The same for the same text and recipe. A cache that is damaged or cannot be written is only a warning.
    """
    key: dict[str, object] = {**asdict(recipe), "text": digest(text)}
    tokenizer = _tokenizer(text, recipe, checkpoint_path("tokenizer", key).with_suffix(".json"))
    path = checkpoint_path("tokens", key)
    found = load_checkpoint(path)
    if found is not None:
        tensors = found[0]
    else:
        tensors = {
            f"{part}.{name}": value
            for part, documents in (("train", text.train), ("test", text.test))
            for name, value in _flat([_encode(tokenizer, each) for each in documents]).items()
        }
        save_checkpoint(path, tensors, {})
    train, test = (
        _documents(tensors[f"{part}.tokens"], tensors[f"{part}.lengths"]) for part in ("train", "test")
    )
    return Tokenized(tokenizer, key, train, test)


def _encode(tokenizer: Any, text: str) -> Tokens:
    return [tokenizer.token_to_id(START), *tokenizer.encode(text).ids]


def _flat(documents: Sequence[Tokens]) -> dict[str, Tensor]:
    return {
        "tokens": torch.tensor([token for each in documents for token in each], dtype=torch.int32),
        "lengths": torch.tensor([len(each) for each in documents], dtype=torch.long),
    }


def _documents(tokens: Tensor, lengths: Tensor) -> list[Tokens]:
    return [part.tolist() for part in tokens.split(lengths.tolist())]


def _tokenizer(text: Text, recipe: TokenizerRecipe, path: Path) -> Any:
    tokenizers = library("tokenizers")
    if path.exists():
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            warnings.warn(
                f"the tokenizer {path} cannot be read ({error}); training again", CacheWarning, stacklevel=4
            )
    tokenizer = _trained(text.train, recipe)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write_text(tokenizer.to_str(), encoding="utf-8"))
    except OSError as error:
        warn_not_kept("the tokenizer", path, error, stacklevel=4)
    return tokenizer


def _trained(documents: Sequence[str], recipe: TokenizerRecipe) -> Any:
    tokenizers = library("tokenizers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[UNKNOWN, PADDING, START],
        # In an order of their own: the library's set has none.
        initial_alphabet=sorted(byte_level.alphabet()) if recipe.every_byte else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer
