"""Trained checkpoints, kept under the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from problems.files import write_whole

ENVIRONMENT_VARIABLE = "IHVP_BENCH_CACHE"


class CacheWarning(UserWarning):
    """What is in the cache and cannot be read, or cannot be kept there."""


def cache_directory() -> Path:
    """The directory named by IHVP_BENCH_CACHE, or else the platform's cache directory for ihvp-bench."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or platformdirs.user_cache_path("ihvp-bench"))


def checkpoint_path(kind: str, recipe: Mapping[str, object]) -> Path:
    """Where the checkpoint that `recipe` makes lies; another recipe is another file."""
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return cache_directory() / "checkpoints" / f"{kind}-{key}.safetensors"


def partial_path(path: Path) -> Path:
    """Where the training whose checkpoint will lie at `path` keeps what it has so far."""
    return path.with_name(f"{path.stem}.partial.safetensors")


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and metadata at `path`; None where there are none or the file is damaged (with a warning)."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        warnings.warn(
            f"the checkpoint {path} cannot be read ({error}); training again", CacheWarning, stacklevel=2
        )
        return None


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write `tensors` to `path`, whole or not at all; a cache that cannot be written is only a warning."""
    # Each in one piece of its own: tied weights share theirs.
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: save_file(copies, file, metadata))
    except (SafetensorError, OSError) as error:
        warn_not_kept("the checkpoint", path, error, stacklevel=3)


def check_can_be_kept(path: Path) -> None:
    """Warn where a checkpoint cannot be written to `path`, before the work whose result it would be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        warn_not_kept("the checkpoint", path, error, stacklevel=3)


def warn_not_kept(what: str, path: Path, error: Exception, stacklevel: int) -> None:
    """Say that `what` cannot be written to `path`, and what to do."""
    reason = getattr(error, "strerror", None) or error
    warnings.warn(
        f"{what} cannot be kept in {path.parent} ({reason}); it will be trained again next time. Set "
        f"{ENVIRONMENT_VARIABLE} to a folder that can be written and has the room",
        CacheWarning,
        stacklevel=stacklevel + 1,
    )
