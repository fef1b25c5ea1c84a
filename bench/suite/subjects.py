"""What the suite measures: its own small problems, or those that `--problem` names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import problems
from bench.experiment import DTYPES, check_device
from bench.problem_file import find_family
from problems import Problem, ProblemFamily
from problems.specification import parse


@dataclass(frozen=True)
class Subject:
    """A problem to be built when it is first asked for.

    One that was `asked` for may be of any size: it has no reference to be judged by, perhaps, and is run less
    often. `index` tells apart what the family gives as examples.
    """

    family: ProblemFamily
    device: str = "cpu"
    dtype: str = "float64"
    asked: bool = False
    index: int | None = None

    @property
    def name(self) -> str:
        """As pytest's `-k` selects it."""
        return str(self.family) if self.index is None else f"{self.family.name}-{self.index}"

    @property
    def problem(self) -> Problem:
        """The problem, built with seed 0; the last one is kept."""
        try:
            return _build(self)
        except OSError as error:  # data or a model that cannot be had
            said = str(error)
        pytest.fail(said, pytrace=False)


@functools.lru_cache(maxsize=1)
def _build(subject: Subject) -> Problem:
    return subject.family.build(device=torch.device(subject.device), dtype=DTYPES[subject.dtype], seed=0)


def examples() -> list[Subject]:
    """The small problems that every family gives."""
    return [
        Subject(family, index=index)
        for cls in problems.available().values()
        for index, family in enumerate(cls.examples())
    ]


def asked(config: pytest.Config) -> list[Subject]:
    """Those of the command line; UsageError where one cannot be, before anything runs."""
    device, dtype = config.getoption("--device"), config.getoption("--dtype")
    texts = config.getoption("--problem")
    given = [name for name, value in (("--device", device), ("--dtype", dtype)) if value]
    if given and not texts:
        raise pytest.UsageError(f"{' and '.join(given)}: for the problems that --problem names; name one")
    try:
        if device:
            check_device(device)
        return [
            Subject(find_family(found.name, found.settings), device or "cpu", dtype or "float32", asked=True)
            for found in map(parse, texts)
        ]
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def parametrize(metafunc: pytest.Metafunc, own: Callable[[], Sequence[Any]]) -> None:
    """Run a benchmark with an argument `subject` on what was asked for, or else on its `own`."""
    subjects = asked(metafunc.config) or own()
    metafunc.parametrize("subject", subjects, ids=lambda subject: subject.name, scope="module")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
