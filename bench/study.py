"""A study: an experiment that is no table of solvers × problems, found by its file in bench/experiments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from pydantic import Field

import bench.experiments
from bench.experiment import ProblemEntry, Strict, check_device, find_families
from problems import Problem, ProblemFamily, discovery
from problems.discovery import plugin_name
from problems.footprint import Footprint
from problems.specification import Specification, parse
from problems.validation import unknown

ENTRY_POINTS = "ihvp_bench.studies"

# Is told what is done next and what share of the cell, or of the preparation, is done.
OnProgress = Callable[[str, float], None]
Row = dict[str, Any]
Piece = Mapping[str, Any]


@dataclass(frozen=True)
class Scale:
    """What a study runs unless it is told otherwise: problems, written as on the command line, and settings.

    `parameters` are those of the study that differ from its defaults at this scale.
    """

    problems: tuple[str, ...]
    seeds: int = 1
    dtype: Literal["float32", "float64"] = "float64"
    parameters: Mapping[str, Any] = field(default_factory=dict)


# Seconds on problems that need no download; minutes on two processor cores; the paper's, on one large GPU.
SCALES = ("quick", "small", "paper")
DEFAULT_SCALE = "quick"


@dataclass(frozen=True)
class Study(ABC):
    """What is measured of each problem, and how it is told; the fields of a subclass are its parameters.

    A cell is a problem × seed × piece, and is kept as soon as it is measured. `scales` are those of SCALES
    that it can run at.
    """

    title: ClassVar[str]
    description: ClassVar[str]
    scales: ClassVar[Mapping[str, Scale]]

    def pieces(self) -> Sequence[Piece]:
        """What each problem's work is cut into; a piece's entries are columns of its rows."""
        return ({},)

    def ask(self, family: ProblemFamily) -> ProblemFamily:
        """What this study asks of the problems `family`, say right-hand sides of its own; by default as is.

        ValueError where it can ask nothing of them.
        """
        return family

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Any:
        """What all cells of a problem share, computed once before the first of them."""
        return None

    @abstractmethod
    def measure(
        self, problem: Problem, prepared: Any, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        """The rows of one cell, numbers and words; the same for the same seed but for timings."""

    def expected_work(self, problem: Problem) -> float | None:
        """Gradient equivalents that all pieces of one seed take on `problem`, preparation included.

        As well as can be told before anything is measured; None where it cannot. ValueError where the study
        can ask nothing of the problem, which is then told before the run.
        """
        return None

    def held_columns(self, size: Footprint) -> int:
        """How many right-hand sides the study solves for at once of a problem of that size."""
        return size.columns

    def host_bytes(self, size: Footprint, dtype: torch.dtype) -> float:
        """What the study keeps in the machine's own memory of a problem of that size, wherever H is."""
        return 0.0

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
    scale: str = DEFAULT_SCALE


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
    scale: str | None = None,
    seeds: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> StudyPlan:
    """Resolve the study with its problems; ValueError names the first thing that is unknown or wrongly set.

    Problems come outermost, so that one at a time is held in memory.
    """
    cls = find(asked.name)
    size, scale = _scale(cls, asked.name, scale)
    study = discovery.construct(cls, {**size.parameters, **asked.settings}, f"study {asked.name}")
    chosen = list(problems) or [parse(text) for text in size.problems]
    changes = {name: value for name, value in {"device": device, "dtype": dtype}.items() if value is not None}
    request = Request.model_validate(
        {
            "name": study.name,
            "study": asked.name,
            "title": study.title,
            "description": study.description,
            "parameters": asdict(study),
            "problems": [{"name": each.name, "parameters": each.settings} for each in chosen],
            "seeds": tuple(range(size.seeds if seeds is None else seeds)),
            "dtype": size.dtype,
            # Of a scale only as it is; "" where something of it was changed.
            "scale": "" if problems or asked.settings or seeds is not None or dtype is not None else scale,
            **changes,
        }
    )
    check_device(request.device)
    families = {label: study.ask(family) for label, family in find_families(request.problems).items()}
    keys = [(label, seed, piece) for label in families for seed in request.seeds for piece in study.pieces()]
    return StudyPlan(
        request, study, families, tuple(StudyCell(index, *key) for index, key in enumerate(keys))
    )


def _scale(cls: type[Study], name: str, scale: str | None) -> tuple[Scale, str]:
    """The scale asked for, by default the first that the study has, and what it is called."""
    chosen = next(iter(cls.scales)) if scale is None else scale
    if chosen in SCALES and chosen not in cls.scales:
        raise ValueError(f"{name} has no scale {chosen}; it has {', '.join(cls.scales)}")
    if chosen not in cls.scales:
        raise ValueError(unknown("scale", chosen, list(cls.scales)))
    return cls.scales[chosen], chosen
