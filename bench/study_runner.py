"""Runs a study cell by cell and keeps each cell's rows as soon as they are measured."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress

from bench import session
from bench.experiment import DTYPES
from bench.store import Store
from bench.study import OnProgress, Row, StudyCell, StudyPlan, find
from problems import Problem, ProblemFamily, discovery


def run(plan: StudyPlan, directory: Path, *, resume: bool = False, console: Console | None = None) -> bool:
    """Run every cell of `plan` that `directory` does not hold yet and build the report; False if interrupted.

    One that failed is tried again. Ctrl-C keeps what was finished and builds the report from it. Raises
    ValueError, before any work, where the folder holds another run, or holds one and `resume` is not set.
    """
    store = Store(directory)
    return session.carry_out(
        store,
        plan.request.model_dump(mode="json"),
        [plan.request.study, *(entry.name for entry in plan.request.problems)],
        lambda progress: _run_cells(plan, store, progress),
        build_report,
        resume=resume,
        console=console,
    )


def build_report(directory: Path) -> Path:
    """Build the report of the study in `directory` from its stored rows; the page's path."""
    store = Store(directory)
    description = store.read_run()
    asked = description["experiment"]
    study = discovery.construct(
        find(asked["study"]), asked.get("parameters") or {}, f"study {asked['study']}"
    )
    return study.report(store.read_rows(), description, store.report)


def _run_cells(plan: StudyPlan, store: Store, progress: Progress) -> None:
    task = progress.add_task("", total=len(plan.cells), at="")
    prepared: tuple[Problem, Any] | Exception | None = None
    at = ""
    for cell in plan.cells:
        if cell.problem != at:
            prepared, at = None, cell.problem  # the last problem's memory goes before the next one is built
        if not store.has_succeeded(cell.index):
            if prepared is None:
                progress.update(task, description=f"preparing {cell.problem}", at="")
                prepared = _prepare(plan, cell.problem, _shower(progress, cell.index, moves=False))
            progress.update(task, description=str(cell), at="")
            rows = _run_cell(plan, cell, prepared, _shower(progress, cell.index))
            store.write_rows(cell.index, rows)
        progress.update(task, completed=cell.index + 1)
    progress.update(task, description="all measured", at="")


def _shower(progress: Progress, index: int, moves: bool = True) -> OnProgress:
    def show(what: str, share: float) -> None:
        done = index + (min(share, 1.0) if moves else 0)
        progress.update(progress.task_ids[0], completed=done, at=f"{what} ({share:.0%})")

    return show


def _prepare(plan: StudyPlan, label: str, show: OnProgress) -> tuple[Problem, Any] | Exception:
    """The problem with what its cells share, or why there is none: its cells then say so."""
    request = plan.request
    try:
        problem = plan.families[label].build(
            device=torch.device(request.device), dtype=DTYPES[request.dtype], seed=request.problem_seed
        )
        return problem, plan.study.prepare(problem, show)
    except Exception as error:
        error.add_note(f"while preparing the problem {label}")
        return error


def _run_cell(
    plan: StudyPlan, cell: StudyCell, prepared: tuple[Problem, Any] | Exception, show: OnProgress
) -> pd.DataFrame:
    """The cell's rows; one that says why where it, or what it needs, raised."""
    family = plan.families[cell.problem]
    if isinstance(prepared, Exception):
        return _frame(cell, family, {}, [_failure(prepared)])
    problem, shared = prepared
    try:
        rows = plan.study.measure(problem, shared, cell.piece, cell.seed, show)
    except Exception as error:
        return _frame(cell, family, _facts(problem), [_failure(error)])
    return _frame(cell, family, _facts(problem), rows)


def _frame(cell: StudyCell, family: ProblemFamily, facts: Row, rows: Sequence[Row]) -> pd.DataFrame:
    known = {
        "problem": cell.problem,
        "seed": cell.seed,
        **cell.piece,
        "problem_name": family.name,
        "problem_parameters": json.dumps(asdict(family)),
        **facts,
    }
    return pd.DataFrame([known | {"failure": "", "traceback": ""} | row for row in rows])


def _failure(error: Exception) -> Row:
    return {
        "failure": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }


def _facts(problem: Problem) -> Row:
    return {
        "dimension": problem.size,
        "num_examples": problem.operator.num_examples,
        "num_columns": problem.num_columns,
        "unit": problem.operator.unit,
        "damping": problem.damping,
        "dtype": str(problem.operator.dtype).removeprefix("torch."),
        "device": str(problem.operator.device),
        "facts": json.dumps(dict(problem.facts)),
    }
