"""A study: an experiment that is no table of solvers × problems, found by its file in bench/experiments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
from pydantic import Field

import bench.experiments
from bench.experiment import ProblemEntry, Strict, check_device, find_families
from problems import Problem, ProblemFamily, discovery
from problems.discovery import plugin_name
from problems.specification import Specification, parse

ENTRY_POINTS = "ihvp_bench.studies"

# Is told what is done next and what share of the cell, or of the preparation, is done.
OnProgress = Callable[[str, float], None]
Row = dict[str, Any]
Piece = Mapping[str, Any]


@dataclass(frozen=True)
class Study(ABC):
    """What is measured of each problem, and how it is told; the fields of a subclass are its parameters.

    A cell is a problem × seed × piece, and is kept as soon as it is measured. `default_problems` are written
    as on the command line.
    """

    title: ClassVar[str]
    description: ClassVar[str]
    default_problems: ClassVar[tuple[str, ...]]
    default_seeds: ClassVar[int] = 1

    def pieces(self) -> Sequence[Piece]:
        """What each problem's work is cut into; a piece's entries are columns of its rows."""
        return ({},)

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Any:
        """What all cells of a problem share, computed once before the first of them."""
        return None

    @abstractmethod
    def measure(
        self, problem: Problem, prepared: Any, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        """The rows of one cell, numbers and words; the same for the same seed but for timings."""

    @abstractmethod
    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        """Build the page from all rows and what run.json says; the path of its index.html."""

    @property
    def name(self) -> str:
        """The name by which `ihvp-bench run` knows this study."""
        return plugin_name(type(self))


class Request(Strict):
    """What is asked of a study, as run.json keeps it."""

    name: str
    study: str  # its name, or the path of its file
    title: str
    description: str
    parameters: dict[str, Any]
    problems: Annotated[tuple[ProblemEntry, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    problem_seed: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"


@dataclass(frozen=True)
class StudyCell:
    """One cell: a problem's label, a seed and a piece."""

    index: int
    problem: str
    seed: int
    piece: Piece

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.piece.items())
        return " · ".join(part for part in (self.problem, settings, f"seed {self.seed}") if part)


@dataclass(frozen=True)
class StudyPlan:
    """A study whose every name and parameter has been found and checked."""

    request: Request
    study: Study
    families: Mapping[str, ProblemFamily]  # by label
    cells: tuple[StudyCell, ...]


def available() -> dict[str, type[Study]]:
    """Every study there is, by name."""
    return discovery.discover(bench.experiments, Study, ENTRY_POINTS)  # type: ignore[type-abstract]


def find(name: str) -> type[Study]:
    """The class of the study `name`, or of the one in the file `name`.py; ValueError names the nearest."""
    return discovery.find(name, bench.experiments, Study, ENTRY_POINTS, "study")  # type: ignore[type-abstract]


def plan(
    asked: Specification,
    problems: Sequence[Specification] = (),
    *,
    seeds: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> StudyPlan:
    """Resolve the study with its problems; ValueError names the first thing that is unknown or wrongly set.

    Problems come outermost, so that one at a time is held in memory.
    """
    study = discovery.construct(find(asked.name), asked.settings, f"study {asked.name}")
    chosen = list(problems) or [parse(text) for text in study.default_problems]
    changes = {name: value for name, value in {"device": device, "dtype": dtype}.items() if value is not None}
    request = Request.model_validate(
        {
            "name": study.name,
            "study": asked.name,
            "title": study.title,
            "description": study.description,
            "parameters": asdict(study),
            "problems": [{"name": each.name, "parameters": each.settings} for each in chosen],
            "seeds": tuple(range(study.default_seeds if seeds is None else seeds)),
            **changes,
        }
    )
    check_device(request.device)
    families = find_families(request.problems)
    keys = [(label, seed, piece) for label in families for seed in request.seeds for piece in study.pieces()]
    return StudyPlan(
        request, study, families, tuple(StudyCell(index, *key) for index, key in enumerate(keys))
    )
