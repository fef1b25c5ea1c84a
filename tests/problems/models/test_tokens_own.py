"""Tokenizers trained here: deterministic, reversible, kept whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from problems.cache import ENVIRONMENT_VARIABLE
from problems.data.text import Text
from problems.models import tokens_own
from problems.models.tokens_own import TokenizerRecipe, tokenized

pytest.importorskip("tokenizers")

TEXT = Text("a text", ("the cat sat on the mat", "the dog sat on the cat"), ("the mat: Ω",))
RECIPE = TokenizerRecipe(vocabulary=300)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


def test_tokens_give_the_text_back_also_of_letters_never_seen() -> None:
    words = tokenized(TEXT, RECIPE)
    for document, tokens in zip((*TEXT.train, *TEXT.test), words.train + words.test, strict=True):
        assert tokens == words.encode(document)
        assert tokens[0] == words.start
        assert words.tokenizer.decode(tokens) == document
    # Three special tokens, 256 bytes, and what was merged of them.
    assert 3 + 256 < words.vocabulary <= 300
    assert len(words.train[0]) < 1 + len(TEXT.train[0])


def test_without_every_byte_there_are_the_texts_own_letters() -> None:
    words = tokenized(TEXT, TokenizerRecipe(vocabulary=30, every_byte=False))
    letters = set("".join(TEXT.train))
    assert words.vocabulary == 30
    assert len(letters) + 3 < 30
    unknown = words.tokenizer.token_to_id("<unk>")
    assert unknown in words.test[0]
    assert unknown not in words.train[0]


def test_it_is_made_once_and_the_same_each_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenized(TEXT, RECIPE)
    assert len(list(cache.iterdir())) == 2
    (file,) = cache.glob("tokenizer-*.json")
    content = file.read_text(encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(tokens_own, "_trained", None)
        again = tokenized(TEXT, RECIPE)
    assert (again.train, again.test) == (first.train, first.test)
    for path in cache.iterdir():
        path.unlink()
    torch.manual_seed(5)
    tokenized(TEXT, RECIPE)
    assert file.read_text(encoding="utf-8") == content


def test_another_text_or_recipe_has_files_of_its_own(cache: Path) -> None:
    tokenized(TEXT, RECIPE)
    tokenized(Text("a text", TEXT.train, ("another",)), RECIPE)
    tokenized(TEXT, TokenizerRecipe(vocabulary=299))
    assert len(list(cache.iterdir())) == 6


@pytest.mark.parametrize("pattern", ["tokenizer-*.json", "tokens-*.safetensors"])
def test_a_damaged_file_is_made_again(pattern: str, cache: Path) -> None:
    first = tokenized(TEXT, RECIPE)
    (file,) = cache.glob(pattern)
    content = file.read_bytes()
    file.write_bytes(content[:20])
    with pytest.warns(UserWarning, match=f"{file.name} cannot be read"):
        again = tokenized(TEXT, RECIPE)
    assert (again.train, again.test) == (first.train, first.test)
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=f"Set {ENVIRONMENT_VARIABLE}") as told:
        words = tokenized(TEXT, RECIPE)
    assert len(told) == 2
    assert words.tokenizer.decode(words.train[0]) == TEXT.train[0]
