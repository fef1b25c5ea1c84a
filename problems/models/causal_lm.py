"""Causal language models: OPT as published, any of the Hugging Face hub, a folder's, or a GGUF file's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from problems.models.causal_lm_hub import snapshot
from problems.models.causal_lm_library import ModelUnavailable, library, quiet
from problems.models.causal_lm_opt import (
    PUBLISHED,
    PUBLISHED_PADDING,
    PUBLISHED_START,
    PUBLISHED_VOCABULARY,
    fresh,
    opt,
)
from problems.models.tokens import Decode, Encode, Tokens, batch, mean_loss, perplexity

Weights = Literal["pretrained", "random"]
SMOLLM2 = "smollm2-135m"
GGUF = ".gguf"
NO_LOSS = "its next-token loss would mean nothing: take a causal language model"


@dataclass(frozen=True)
class CausalLM:
    """A network in float32 on the CPU, in evaluation mode, whose outputs have logits, and its tokens.

    `encode` gives a text's and `decode` their text; None where its tokenizer is not to be had. `positions`
    is the longest sequence it takes, None where there is no limit; `padding` a token to fill up with.
    """

    network: nn.Module
    encode: Encode | None
    vocabulary: int
    padding: int
    positions: int | None
    facts: Mapping[str, float | str] = field(default_factory=dict)
    decode: Decode | None = None

    def tokens_of(self, text: str) -> Tokens:
        """The text's tokens, with those that the tokenizer begins it with."""
        assert self.encode is not None, "it has no tokenizer"
        return self.encode(text)


class NotAName(ValueError):
    """What can be no model's name, file, folder or id."""


def check_name(model: str) -> None:
    """Raise ValueError where `model` is neither a name, a file, a folder, nor of the form of a hub's id.

    NotAName unless it is a path.
    """
    path = Path(model).expanduser()
    if model in (*PUBLISHED, SMOLLM2) or path.is_dir() or (path.suffix == GGUF and path.is_file()):
        return
    if path.suffix == GGUF or model.startswith(("/", ".", "~")):
        raise ValueError(f"model is {model!r}; there is no such folder or {GGUF} file")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise NotAName(model)


def has_tokenizer(model: str, weights: Weights) -> bool:
    """False of those that are built from their published sizes alone."""
    return not (weights == "random" and model in PUBLISHED)


def load(model: str, weights: Weights, seed: int, context: int | None) -> CausalLM:
    """The model, by `seed` where its weights are to be random.

    From the hub only what is not in its cache. Torch's own files are read as tensors alone, and no code that
    comes with a model is run. ModelUnavailable, an OSError, where it cannot be had; ValueError where it is no
    causal language model or has fewer positions than `context`.
    """
    if not has_tokenizer(model, weights):
        return _published(model, seed, context)
    path = Path(model).expanduser()
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    if model == SMOLLM2 or path.suffix == GGUF:
        folder, file = _gguf(model, path)
        options["gguf_file"] = file
    elif path.is_dir():
        folder = path
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"the folder {folder} holds no config.json, so it is no model's; write one with "
                "model.save_pretrained and tokenizer.save_pretrained"
            )
    else:
        folder = snapshot(f"facebook/{model}" if model in PUBLISHED else model, weights == "pretrained")
    with quiet():
        return _from_folder(model, folder, options, weights, seed, context)


def judged(model: CausalLM, held_out: Sequence[Tokens]) -> CausalLM:
    """The model with its perplexity on held-out sequences among its facts."""
    loss = mean_loss(model.network, batch(held_out, model.padding), batch_size=4)
    found = {"held-out loss": loss, "held-out perplexity": perplexity(loss)}
    return replace(model, facts={**model.facts, **found})


def _published(model: str, seed: int, context: int | None) -> CausalLM:
    sizes = PUBLISHED[model]
    check_context(model, context, sizes.positions)
    network = opt(
        sizes, seed, vocabulary=PUBLISHED_VOCABULARY, padding=PUBLISHED_PADDING, start=PUBLISHED_START
    )
    facts = {"model": f"{sizes} (the sizes of {model})"}
    return CausalLM(network, None, PUBLISHED_VOCABULARY, PUBLISHED_PADDING, sizes.positions, facts)


def check_context(model: str, context: int | None, positions: int | None) -> None:
    """Raise ValueError where sequences are longer than what the model takes."""
    if context is not None and positions is not None and context > positions:
        raise ValueError(
            f"context is {context}, and {model} has positions for {positions} tokens: lower context"
        )


def _gguf(model: str, path: Path) -> tuple[Path, str]:
    for name in ("gguf", "accelerate"):
        library(name)
    if model == SMOLLM2:
        from problems import data

        found = data.load(SMOLLM2)
        assert isinstance(found, Path)
        path = found
    return path.parent, path.name


def _from_folder(
    model: str, folder: Path, options: dict[str, Any], weights: Weights, seed: int, context: int | None
) -> CausalLM:
    config = _read(model, folder, "AutoConfig", options)
    positions = getattr(config, "max_position_embeddings", None)
    check_context(model, context, positions)
    network = _network(model, folder, config, options, None if weights == "pretrained" else seed)
    vocabulary = int(network.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    encode, decode = _coders(model, folder, options, vocabulary)
    _check_causal(model, network)
    facts: dict[str, float | str] = {"model": f"{model} ({type(network).__name__})"}
    if getattr(config, "_commit_hash", None):
        facts["revision"] = str(config._commit_hash)
    padding = next((int(n) for n in (config.pad_token_id, config.eos_token_id) if isinstance(n, int)), 0)
    return CausalLM(network, encode, vocabulary, padding, positions, facts, decode)


def _network(model: str, folder: Path, config: Any, options: dict[str, Any], seed: int | None) -> nn.Module:
    auto = library("transformers").AutoModelForCausalLM
    eager: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    if seed is not None:
        return fresh(lambda: auto.from_config(config, trust_remote_code=False, **eager), seed)
    network, found = _read(
        model, folder, "AutoModelForCausalLM", options | eager | {"output_loading_info": True}
    )
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise ValueError(f"the weights of {model} lack {', '.join(lacking[:3])}, so that {NO_LOSS}")
    checked: nn.Module = network.eval()
    return checked


def _coders(model: str, folder: Path, options: dict[str, Any], vocabulary: int) -> tuple[Encode, Decode]:
    tokenizer = _read(model, folder, "AutoTokenizer", options)
    # Where there is none, transformers gives one that knows no word.
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise ModelUnavailable(f"{model}: {folder} holds no tokenizer; tokenizer.save_pretrained writes it")

    def encode(text: str) -> Tokens:
        # Its longest sequence does not matter: what is longer is cut here.
        found: Tokens = tokenizer(text, truncation=False, verbose=False)["input_ids"]
        if max(found, default=0) >= vocabulary:
            raise ValueError(
                f"the tokenizer of {model} gives the token {max(found)}, and its network has {vocabulary}: "
                "they do not belong together"
            )
        return found

    def decode(tokens: Tokens) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    return encode, decode


def _read(model: str, folder: Path, auto: str, options: dict[str, Any]) -> Any:
    """What transformers' class `auto` reads from the folder; ModelUnavailable names the model."""
    try:
        return getattr(library("transformers"), auto).from_pretrained(folder, **options)
    except Exception as error:
        what = {"AutoConfig": "configuration", "AutoTokenizer": "tokenizer"}.get(auto, "weights")
        said = " ".join(str(error).split())
        raise ModelUnavailable(
            f"{model}: its {what} cannot be read from {folder} as a causal language model's: "
            f"{said[:300]}{'…' if len(said) > 300 else ''}"
        ) from error


def _check_causal(model: str, network: nn.Module) -> None:
    """Raise ValueError unless it gives logits that depend on no token that comes later."""
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    with torch.no_grad():
        outputs = network(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    logits = getattr(outputs, "logits", None)
    if logits is None:
        raise ValueError(f"{model} gives no logits, so that {NO_LOSS}")
    one, other = logits[:, :-1]
    if not torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max())):
        raise ValueError(f"{model} sees the tokens it has to predict, so that {NO_LOSS}")
