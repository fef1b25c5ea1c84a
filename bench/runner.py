"""Runs a plan cell by cell and keeps each as soon as it is finished."""

from __future__ import annotations

import datetime
import hashlib
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import reports
from bench import environment
from bench.experiment import DTYPES, Plan, PlannedCell
from bench.measure import Unit, failed, measure, measure_unit
from bench.store import Store
from problems import Problem
from solvers import Record


def run(plan: Plan, directory: Path, *, resume: bool = False, console: Console | None = None) -> bool:
    """Run every cell of `plan` that `directory` does not hold yet and build the report; False if interrupted.

    Ctrl-C keeps what was finished and builds the report from it. Raises ValueError, before any work, where
    the folder holds another run, or holds one and `resume` is not set.
    """
    store = Store(directory)
    description = _begin(store, plan, resume)
    completed = False
    try:
        with _progress(console) as progress:
            _run_cells(plan, store, progress)
        completed = True
    except KeyboardInterrupt:
        pass
    description["finished"] = _now() if completed else None
    description["interrupted"] = not completed
    store.write_run(description)
    if completed or any(store.has_cell(cell.index) for cell in plan.cells):
        build_report(directory)
    return completed


def build_report(directory: Path) -> Path:
    """Build the report of the run in `directory` from its stored rows; the page's path."""
    store = Store(directory)
    description = store.read_run()
    cells, curves = store.read()
    return reports.build(cells, curves, description, store.report)


def _begin(store: Store, plan: Plan, resume: bool) -> dict[str, Any]:
    """What run.json says; of a run that is resumed, what it said, with this resumption added."""
    asked = plan.experiment.model_dump(mode="json")
    sources = _sources(plan)
    if not store.holds_run:
        if store.is_taken:
            raise ValueError(f"{store.directory} exists and holds no run; choose another folder with --out")
        description = {
            "experiment": asked,
            "sources": sources,
            "command": _command(),
            "started": _now(),
            "finished": None,
            "interrupted": False,
            "seeds": list(plan.experiment.seeds),
            **environment.describe(),
        }
        store.create(description)
        return description
    if not resume:
        raise ValueError(
            f"{store.directory} already holds a run; continue it with --resume, or choose another folder "
            "with --out"
        )
    description = store.read_run()
    different = [key for key in asked if description["experiment"].get(key) != asked[key]]
    different += [path for path in sources if description.get("sources", {}).get(path) != sources[path]]
    if different:
        raise ValueError(
            f"{store.directory} holds a run of another experiment (different: {', '.join(different)}); "
            "ask for the same one, or choose another folder with --out"
        )
    again = {"command": _command(), "started": _now(), **environment.describe()}
    return description | {"resumed": [*description.get("resumed", []), again]}


def _sources(plan: Plan) -> dict[str, str]:
    """SHA-256 of the plug-ins given as files: an edited one makes another experiment."""
    names = {entry.name for entry in plan.experiment.problems}
    names |= {entry.name for entry in plan.experiment.solvers}
    paths = sorted(name for name in names if name.endswith(".py"))
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _run_cells(plan: Plan, store: Store, progress: Progress) -> None:
    built: dict[str, tuple[Problem, Unit] | Exception] = {}
    task = progress.add_task("", total=len(plan.cells), at="")
    for cell in plan.cells:
        progress.update(task, description=f"{cell.problem} · {cell.solver_label}", at="")
        if not store.has_cell(cell.index):
            if cell.problem not in built:
                progress.update(task, description=f"building {cell.problem}")
                built[cell.problem] = _build(plan, cell.problem)
                progress.update(task, description=f"{cell.problem} · {cell.solver_label}")
            _run_cell(plan, cell, built[cell.problem], store, progress)
        progress.advance(task)
    progress.update(task, description="all solved", at="")


def _build(plan: Plan, label: str) -> tuple[Problem, Unit] | Exception:
    """The problem with its reference and unit of time, or why there is none: its cells then say so."""
    experiment = plan.experiment
    device = torch.device(experiment.device)
    try:
        problem = plan.families[label].build(
            device=device, dtype=DTYPES[experiment.dtype], seed=experiment.problem_seed
        )
        _ = problem.reference
        return problem, measure_unit(problem)
    except Exception as error:
        error.add_note(f"while building the problem {label}")
        return error


def _run_cell(
    plan: Plan, cell: PlannedCell, built: tuple[Problem, Unit] | Exception, store: Store, progress: Progress
) -> None:
    family = plan.families[cell.problem]
    if isinstance(built, Exception):
        store.write_cell(cell.index, *failed(cell, family, built))
        return

    def show(record: Record) -> None:
        accuracy = "" if record.error is None else f", error {record.error:.1e}"
        progress.update(progress.task_ids[0], at=f"step {record.step}{accuracy}")

    problem, unit = built
    try:
        row, curve = measure(cell, family, problem, unit, plan.experiment.budget, show)
    except Exception as error:
        row, curve = failed(cell, family, error)
    store.write_cell(cell.index, row, curve)


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"),
        console=console,
    )


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
