"""Models from folders, the hub's cache and their sizes alone; what is none is told why, without a network."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from problems.data.text import Text
from problems.models import causal_lm, causal_lm_hub
from problems.models.causal_lm import check_name, load
from problems.models.causal_lm_library import ModelUnavailable
from problems.models.causal_lm_opt import PUBLISHED, OptSizes, opt
from problems.models.tokens_own import TokenizerRecipe, tokenized

transformers = pytest.importorskip("transformers")
import huggingface_hub  # noqa: E402

SIZES = OptSizes(width=8, layers=1, heads=2, hidden=8, positions=20)
TEXT = Text("a text", ("the cat sat on the mat", "the dog sat on the cat"), ())
NOWHERE = "http://127.0.0.1:9"


def save_tokenizer(folder: Path) -> int:
    """Write a tokenizer as `save_pretrained` does; returns its size."""
    words = tokenized(TEXT, TokenizerRecipe(vocabulary=40, every_byte=False))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.tokenizer, pad_token="<pad>", bos_token="</s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    return words.vocabulary


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A tiny OPT as a user would save it."""
    folder = tmp_path / "saved"
    model = opt(SIZES, 3, vocabulary=save_tokenizer(folder), padding=1, start=2)
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder, model


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's, and no hub; as HF_HOME and HF_ENDPOINT set before the start."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def same(model: nn.Module, other: nn.Module) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_was_saved_to_a_folder_is_loaded(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    found = load(str(folder), "pretrained", 0, 20)
    assert same(found.network, model)
    assert not found.network.training
    assert found.network.config._attn_implementation == "eager"  # type: ignore[union-attr]
    words = tokenized(TEXT, TokenizerRecipe(vocabulary=40, every_byte=False))
    assert (found.vocabulary, found.positions, found.padding) == (words.vocabulary, 20, 1)
    assert found.tokens_of(TEXT.train[0]) == words.tokenizer.encode(TEXT.train[0]).ids
    assert "revision" not in found.facts


def test_torchs_own_files_are_read_too(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert same(load(str(folder), "pretrained", 0, None).network, model)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("raise SystemExit('code of the file was run')",)


def test_code_in_a_file_is_not_run(saved: tuple[Path, nn.Module]) -> None:
    folder, _ = saved
    (folder / "model.safetensors").unlink()
    torch.save({"a": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="its weights cannot be read"):
        load(str(folder), "pretrained", 0, None)


def test_random_weights_are_those_of_the_seed(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    first, again, other = (load(str(folder), "random", seed, None).network for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, model)


@pytest.mark.parametrize(("name", "size"), [("opt-125m", 125_239_296), ("opt-1.3b", 1_315_758_080)])
def test_published_sizes_have_the_published_number_of_parameters(name: str, size: int) -> None:
    with torch.device("meta"):
        model = opt(PUBLISHED[name], 0, vocabulary=50272, padding=1, start=2)
    assert sum(value.numel() for value in model.parameters()) == size


def test_published_sizes_need_no_hub(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_lm, "PUBLISHED", {"opt-125m": SIZES})
    state = torch.get_rng_state()
    found = load("opt-125m", "random", 0, 20)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.encode is None
    assert found.vocabulary == 50272
    assert same(found.network, load("opt-125m", "random", 0, 20).network)
    with pytest.raises(ValueError, match="context is 21, and opt-125m has positions for 20 tokens"):
        load("opt-125m", "random", 0, 21)


def in_hubs_cache(hub: Path, repository: str, folder: Path) -> None:
    """Lay `folder` there as the hub's client does."""
    place = hub / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))


def test_what_the_hubs_cache_has_needs_no_network(no_hub: Path, saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    in_hubs_cache(no_hub, "facebook/opt-125m", folder)
    found = load("opt-125m", "pretrained", 0, None)
    assert same(found.network, model)


def test_a_part_of_a_model_is_not_taken_for_the_whole(no_hub: Path, saved: tuple[Path, nn.Module]) -> None:
    folder, _ = saved
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    )
    in_hubs_cache(no_hub, "owner/name", folder)
    with pytest.raises(ModelUnavailable, match="has a part of it"):
        load("owner/name", "pretrained", 0, None)
    # Its architecture is there.
    assert load("owner/name", "random", 0, None).positions == 20


@pytest.mark.parametrize("name", ["opt-1.3b", "no-owner/no-name"])
def test_without_a_hub_the_error_says_what_to_do_and_soon(name: str, no_hub: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ModelUnavailable) as raised:
        load(name, "pretrained", 0, None)
    assert time.monotonic() - began < 20
    said = str(raised.value)
    for part in (name, NOWHERE, str(no_hub), "model=FOLDER", "HF_HOME"):
        assert part in said
    assert ("weights=random" in said) == (name == "opt-1.3b")


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_missing_is_downloaded_once(
    whole: bool, no_hub: Path, saved: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a hub that gives what it is asked for; or that has no weights after all."""
    folder, model = saved
    asked: list[list[str]] = []
    files = [SimpleNamespace(rfilename=path.name) for path in folder.iterdir()]

    def info(self: Any, repository: str, timeout: float) -> Any:
        return SimpleNamespace(siblings=files)

    def download(repository: str, *, allow_patterns: Any = None, **options: Any) -> str:
        if options.get("local_files_only"):
            raise FileNotFoundError(repository)
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    if whole:
        assert same(load("owner/name", "pretrained", 0, None).network, model)
        assert asked == [["*.json", "*.txt", "*.model", "model*.safetensors"]]
    else:
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelUnavailable, match=r"it has no config\.json or weights"):
            load("owner/name", "pretrained", 0, None)


def test_of_several_formats_one_is_downloaded() -> None:
    files = ["config.json", "onnx/model.safetensors", "pytorch_model-00001-of-00002.bin", "rust_model.ot"]
    assert causal_lm_hub._weights(files) == ["pytorch_model*.bin"]
    assert causal_lm_hub._weights([*files, "model.safetensors"]) == ["model*.safetensors"]
    assert causal_lm_hub._weights(["flax_model.msgpack"]) == []


def test_a_folder_of_something_else_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json, so it is no model's"):
        load(str(tmp_path), "pretrained", 0, None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match=f"its configuration cannot be read from {tmp_path}"):
        load(str(tmp_path), "pretrained", 0, None)


def test_a_folder_without_a_tokenizer_is_told_so(saved: tuple[Path, nn.Module]) -> None:
    folder, _ = saved
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(
        ModelUnavailable, match=f"{folder} holds no tokenizer; tokenizer.save_pretrained writes"
    ):
        load(str(folder), "pretrained", 0, None)


def test_a_tokenizer_of_another_model_is_told_so(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    opt(SIZES, 0, vocabulary=10, padding=1, start=2).save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"gives the token \d+, and its network has 10: they do not belong"):
        load(str(tmp_path), "pretrained", 0, None).tokens_of("the cat")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("BertModel", "lack cls.predictions"),
        ("BertForMaskedLM", "sees the tokens it has to predict"),
        ("ViTModel", "its weights cannot be read .* Unrecognized configuration class"),
    ],
)
def test_what_is_no_causal_language_model_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    if kind == "ViTModel":
        config = transformers.ViTConfig(**sizes)
    else:
        config = transformers.BertConfig(**sizes, vocab_size=save_tokenizer(tmp_path))
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config)
    # As usual they would be so small that nothing depended on anything.
    for value in model.parameters():
        nn.init.normal_(value)
    model.save_pretrained(tmp_path)
    with pytest.raises((ValueError, ModelUnavailable), match=message):
        load(str(tmp_path), "pretrained", 0, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/none", "no such folder"),
        ("./none", "no such folder"),
        ("none.gguf", r"no such folder or \.gguf file"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_name(name)


@pytest.mark.parametrize("name", ["opt", "a/b/c", "owner/", "a b/c"])
def test_what_can_be_no_name_is_told_apart(name: str) -> None:
    with pytest.raises(causal_lm.NotAName):
        check_name(name)


def test_a_gguf_file_that_is_none_is_told_so(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "a.gguf"
    path.write_bytes(b"no weights")
    check_name(str(path))
    with pytest.raises(ModelUnavailable, match="its configuration cannot be read"):
        load(str(path), "pretrained", 0, None)


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelUnavailable, match=r"transformers, .*: pip install 'ihvp-bench\[language\]'"):
        load("opt-125m", "random", 0, 20)
