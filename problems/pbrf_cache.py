"""Proximal Bregman responses that are kept: what they depend on is in their name."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from problems.bregman import BregmanObjective
from problems.cache import CacheWarning, cache_directory
from problems.examples import Examples, tensors
from problems.files import write_whole

# Another number makes all that is kept unknown: for changes of what a response is.
VERSION = 1
AT_ONCE = 256


def folder_of(objective: BregmanObjective, tolerance: float) -> Path:
    """Where responses of this network, data, queries, loss, selection of parameters, λ and tolerance lie."""
    digest = hashlib.sha256()
    function = objective.function
    known = {
        "version": VERSION,
        "model": repr(function.model),
        "parameters": function.names,
        "loss": repr(objective.loss),
        "damping": objective.damping,
        "tolerance": tolerance,
        # Tells networks apart that print the same but compute otherwise. Few digits: threads and devices
        # differ in the last ones.
        "mean_loss": f"{objective.mean_loss:.6e}",
    }
    digest.update(json.dumps(known, sort_keys=True).encode())
    for name, value in (function.parameters | function.constants).items():
        _add(digest, name, value)
    for examples in (objective.training, objective.queries):
        _add_examples(digest, examples)
    return cache_directory() / "responses" / digest.hexdigest()[:16]


def read(folder: Path, example: int, epsilon: float) -> dict[str, Any] | None:
    """What was kept of it; None where there is nothing, or nothing that can be read (with a warning)."""
    path = _path(folder, example, epsilon)
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(
            f"the response {path} cannot be read ({error}); it is computed again", CacheWarning, stacklevel=2
        )
        return None
    return found


def keep(folder: Path, example: int, epsilon: float, values: Mapping[str, Any]) -> None:
    """Write it whole or not at all; a cache that cannot be written is only a warning."""
    path = _path(folder, example, epsilon)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write_text(json.dumps(dict(values)), encoding="utf-8"))
    except OSError as error:
        warnings.warn(
            f"the response {path} cannot be kept ({error}); it will be computed again next time",
            CacheWarning,
            stacklevel=2,
        )


def _path(folder: Path, example: int, epsilon: float) -> Path:
    return folder / f"{example}_{epsilon!r}.json"


def _add_examples(digest: Any, examples: Examples) -> None:
    # One by one where they may differ in length.
    size = AT_ONCE if examples.columns else 1
    for inputs, targets in examples.passes(torch.arange(len(examples)), size):
        for name, values in tensors(inputs).items():
            _add(digest, name, values)
        _add(digest, "targets", targets)


def _add(digest: Any, name: str, value: Tensor) -> None:
    digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
