"""The libraries of language models, which only those need who use one."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from types import ModuleType

INSTALL = "pip install 'ihvp-bench[language]'"


class ModelUnavailable(OSError):
    """A language model that cannot be had: the message names what was tried, and what to do."""


def library(name: str) -> ModuleType:
    """The installed library `name`; ModelUnavailable says what to install."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModelUnavailable(f"language models need {name}, which is not installed: {INSTALL}") from None


def is_installed() -> bool:
    """Whether language models can be built at all; imports nothing, which would take seconds."""
    return all(importlib.util.find_spec(name) is not None for name in ("transformers", "tokenizers"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers logs nothing, since what matters is raised; bars are for who looks on."""
    logging = library("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        # That of GGUF files asks nobody.
        with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
