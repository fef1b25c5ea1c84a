"""Models of the Hugging Face hub: from its cache without a network, else downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from problems.models.causal_lm_library import ModelUnavailable, library

# Seconds to wait for the hub's first answer: it has it or not.
TIMEOUT = 10.0
DESCRIPTION = ("*.json", "*.txt", "*.model")
# In the order of preference: safetensors hold numbers alone, torch's files are read with weights_only.
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def snapshot(repository: str, weights: bool) -> Path:
    """The folder of `repository` with configuration and tokenizer, and with `weights` these too.

    What the cache has whole is taken from there, and no network is touched. ModelUnavailable names the model,
    what was tried and what to do.
    """
    hub = library("huggingface_hub")
    cached = None
    try:
        cached = Path(hub.snapshot_download(repository, local_files_only=True))
        if _is_whole(cached, weights):
            return cached
        said = f"its cache, {cached}, has a part of it"
    except Exception:
        said = f"the hub's cache, {hub.constants.HF_HUB_CACHE}, does not have it"
    try:
        # Asked first, since it says at once what a download would try again and again.
        files = [
            each.rfilename for each in hub.HfApi().model_info(repository, timeout=TIMEOUT).siblings or ()
        ]
        chosen = [*DESCRIPTION, *(_weights(files) if weights else ())]
        found = Path(hub.snapshot_download(repository, allow_patterns=chosen, etag_timeout=TIMEOUT))
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split("\n")[0].split())
        raise ModelUnavailable(
            _advice(repository, f"{said}; {hub.constants.ENDPOINT}: {told}", weights)
        ) from error
    if not _is_whole(found, weights):
        needed = f"config.json{f' or weights ({WEIGHTS[0]}, {WEIGHTS[1]})' if weights else ''}"
        raise ModelUnavailable(_advice(repository, f"{hub.constants.ENDPOINT}: it has no {needed}", weights))
    return found


def _weights(files: list[str]) -> list[str]:
    """Patterns of the weights to download: those of one format."""
    for pattern in WEIGHTS:
        if any(Path(name).match(pattern) and "/" not in name for name in files):
            return [pattern]
    return []


def _is_whole(folder: Path, weights: bool) -> bool:
    return (folder / "config.json").is_file() and (not weights or any(_whole_weights(folder)))


def _whole_weights(folder: Path) -> Iterator[bool]:
    """Of each format that is there whether all its parts are."""
    for index, alone in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        if (folder / index).is_file():
            parts = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
            yield all((folder / part).is_file() for part in parts)
        else:
            yield (folder / alone).is_file()


def _advice(repository: str, tried: str, weights: bool) -> str:
    without = (
        " Or measure speed and memory alone with weights=random."
        if weights and repository in ("facebook/opt-125m", "facebook/opt-1.3b")
        else ""
    )
    return (
        f"the model {repository} cannot be had. Tried: {tried}. Check its name; where there is no network, "
        "give a folder that model.save_pretrained and tokenizer.save_pretrained wrote (model=FOLDER), or "
        f"copy the hub's cache here from a machine that has it (HF_HOME names its folder).{without}"
    )
