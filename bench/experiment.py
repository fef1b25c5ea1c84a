"""An experiment: which problems meet which solvers, read from TOML and checked before anything runs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import problems
import solvers
from bench.problem_file import find_family
from problems import ProblemFamily
from problems.discovery import construct, file_of
from problems.specification import Specification, parse
from problems.validation import explain, unknown
from solvers import Budget, Solver
from solvers.peers.library import library_of

DEFAULT = "quickstart"
# The name that stands for everything there is.
EVERY = "*"
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Strict(BaseModel):
    """What is asked for: unknown fields are errors, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemEntry(Strict):
    """A problem by its family's name, or the path of a file that holds one.

    The name `*` stands for every family with its default parameters, but for those that another entry lists
    so.
    """

    name: str
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _every_one_is_default(self) -> Self:
        if self.name == EVERY and self.parameters:
            raise ValueError('"*" stands for every problem with its default parameters; leave out parameters')
        return self


class SolverEntry(Strict):
    """A solver by name or path, shown as `label`, by default its name and settings.

    `only_on` names what it runs on, where its settings suit only that: a family, `quadratic`, or one problem
    of it, `quadratic:damping=10`; entries for different problems may share a label. The name `*` stands for
    every solver that needs no settings, with its defaults, but for those of other libraries, which the
    experiment `peers` is about; one that another entry lists with just these, for the sake of a label, an
    order or `only_on`, is left to that entry.
    """

    name: str
    settings: dict[str, Any] = {}
    label: Annotated[str, Field(min_length=1)] | None = None
    only_on: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _every_one_is_default(self) -> Self:
        if self.name == EVERY and (self.settings or self.label):
            raise ValueError(
                '"*" stands for every solver with its default settings; leave out settings and label'
            )
        return self


class Experiment(Strict):
    """What is asked for; `plan` lists the solves that answer it."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "custom"
    title: str = ""
    description: str = ""
    problems: Annotated[tuple[ProblemEntry, ...], Field(min_length=1)]
    solvers: Annotated[tuple[SolverEntry, ...], Field(min_length=1)]
    target_error: Annotated[float, Field(gt=0)] = 0.01
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    problem_seed: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"
    budget: Budget = Budget()
    # What CG may spend, in gradient equivalents, on a reference for a problem too large for a dense one.
    reference_work: Annotated[float, Field(ge=0)] = 300.0

    def with_changes(
        self,
        problem_specifications: list[Specification],
        solver_specifications: list[Specification],
        **changes: Any,
    ) -> Self:
        """The experiment with other problems or solvers, where any are given, and other fields."""
        if problem_specifications:
            changes["problems"] = [{"name": s.name, "parameters": s.settings} for s in problem_specifications]
        if solver_specifications:
            changes["solvers"] = [{"name": s.name, "settings": s.settings} for s in solver_specifications]
        changed = {**self.model_dump(), **{key: value for key, value in changes.items() if value is not None}}
        return self.model_validate(changed)

    def expanded(self) -> Self:
        """The experiment with what `*` stands for in its place; ValueError for an unknown or wrong entry."""
        families = [find_family(each.name, each.parameters) for each in self.problems if each.name != EVERY]
        listed = [solvers.load(each.name, **each.settings) for each in self.solvers if each.name != EVERY]
        every_problem = [ProblemEntry(name=name) for name in _unlisted(problems.available(), families)]
        own = {name: cls for name, cls in solvers.available().items() if library_of(cls) is None}
        every_solver = _unlisted(own, listed)
        chosen_problems: list[ProblemEntry] = []
        for problem in self.problems:
            chosen_problems += every_problem if problem.name == EVERY else [problem]
        chosen_solvers: list[SolverEntry] = []
        for solver in self.solvers:
            if solver.name == EVERY:
                chosen_solvers += [SolverEntry(name=name, only_on=solver.only_on) for name in every_solver]
            else:
                chosen_solvers.append(solver)
        changes = {"problems": tuple(chosen_problems), "solvers": tuple(chosen_solvers)}
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class Plan:
    """An experiment whose every name and setting has been found and checked, `*` expanded.

    So run.json tells what ran, and a run does not go on with cells that a new solver has displaced.
    """

    experiment: Experiment
    families: Mapping[str, ProblemFamily]  # by label
    cells: tuple[PlannedCell, ...]


@dataclass(frozen=True)
class PlannedCell:
    """One solve: a problem's label, a solver with its own, and a seed."""

    index: int
    problem: str
    solver_label: str
    solver: Solver
    seed: int


def plan(experiment: Experiment) -> Plan:
    """Resolve every problem and solver; ValueError names the first that is unknown or wrongly set.

    Seeds come outermost, so that repetitions of one solver are spread over the whole run, and solvers
    innermost, so that those to be compared run side by side.
    """
    check_device(experiment.device)
    experiment = experiment.expanded()
    families = find_families(experiment.problems)
    known = {*problems.available(), *(entry.name for entry in experiment.problems)}
    chosen = [
        (entry, solvers.load(entry.name, **entry.settings), _runs_on(entry, known))
        for entry in experiment.solvers
    ]
    cells: list[PlannedCell] = []
    for seed in experiment.seeds:
        for problem, problem_entry in zip(families, experiment.problems, strict=True):
            taken: dict[str, type[Solver]] = {}
            for solver_entry, solver, runs_on in chosen:
                if runs_on(problem_entry.name, problem):
                    name = solver_entry.label or str(solver)
                    if name in taken:
                        raise ValueError(_listed_twice(name, taken[name], type(solver)))
                    taken[name] = type(solver)
                    cells.append(PlannedCell(len(cells), problem, name, solver, seed))
    if not cells:
        raise ValueError(
            "no solver of the experiment runs on the chosen problems: every one is restricted by only_on. "
            "Choose solvers with -s"
        )
    return Plan(experiment, families, tuple(cells))


def _listed_twice(name: str, one: type[Solver], other: type[Solver]) -> str:
    if file_of(one).resolve() == file_of(other).resolve():
        return f"the solver {name} is listed twice: remove one or label it"
    return f"{file_of(one)} and {file_of(other)} both have the name {name}: rename one, or label it"


def find_families(entries: Sequence[ProblemEntry]) -> dict[str, ProblemFamily]:
    """The problems' families by label; ValueError names what is unknown, wrongly set or listed twice."""
    families: dict[str, ProblemFamily] = {}
    for entry in entries:
        family = find_family(entry.name, entry.parameters)
        name = str(family)
        if name in families:
            raise ValueError(f"the problem {name} is listed twice; remove one or change its parameters")
        families[name] = family
    return families


def load_experiment(name_or_path: str) -> Experiment:
    """The experiment `name`, or the one in a TOML file; ValueError names what is wrong in it."""
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not valid TOML: {error}") from None
        return _parse(text, path.stem, str(path))
    known = available()
    if name_or_path not in known:
        raise ValueError(unknown("experiment", name_or_path, known))
    return known[name_or_path]


def available() -> dict[str, Experiment]:
    """Every named experiment there is."""
    resources = [entry for entry in files("bench.experiments").iterdir() if entry.name.endswith(".toml")]
    found = {}
    for resource in sorted(resources, key=lambda entry: entry.name):
        stem = resource.name.removesuffix(".toml")
        found[stem] = _parse(resource.read_text(encoding="utf-8"), stem, resource.name)
    return found


def _parse(text: str, stem: str, where: str) -> Experiment:
    try:
        return Experiment.model_validate({"name": stem, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error)}") from None


def _unlisted(available: Mapping[str, type[Any]], listed: Iterable[object]) -> list[str]:
    """The names of those that need no settings and are not `listed` with their defaults."""
    listed = list(listed)
    return [
        name
        for name, cls in available.items()
        if all(
            each.default is not MISSING or each.default_factory is not MISSING
            for each in fields(cls)
            if each.init
        )
        and construct(cls, {}, name) not in listed
    ]


def _runs_on(entry: SolverEntry, known: set[str]) -> Callable[[str, str], bool]:
    """Whether the solver runs on a problem, by the name that it was asked for with and its label."""
    if entry.only_on is None:
        return lambda name, label: True
    names, labels = set(), set()
    for text in entry.only_on:
        asked = parse(text)
        if asked.name not in known:
            raise ValueError(f"solver {entry.name}: only_on: {unknown('problem', asked.name, known)}")
        if asked.settings:
            labels.add(str(find_family(asked.name, asked.settings)))
        else:
            names.add(asked.name)
    return lambda name, label: name in names or label in labels


def check_device(device: str) -> None:
    """Raise ValueError for a device that torch does not know or this machine has not."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device is {device!r}; allowed are 'cpu', 'cuda' and 'cuda:N'")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but this machine's torch sees no CUDA device; use 'cpu'")
