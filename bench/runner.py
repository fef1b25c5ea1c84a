"""Runs a plan cell by cell and keeps each as soon as it is finished."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

import reports
from bench import session, study_runner
from bench.experiment import DTYPES, Plan, PlannedCell
from bench.measure import Unit, failed, measure, measure_unit
from bench.store import Store
from bench.theory_facts import TheoryFacts, theory_facts
from problems import Problem
from solvers import Record
from solvers.certify import certify

# What is made once for all cells of a problem.
Built = tuple[Problem, Unit, TheoryFacts]


def run(plan: Plan, directory: Path, *, resume: bool = False, console: Console | None = None) -> bool:
    """Run every cell of `plan` that `directory` does not hold yet and build the report; False if interrupted.

    One that failed is tried again. Ctrl-C keeps what was finished and builds the report from it. Raises
    ValueError, before any work, where the folder holds another run, or holds one and `resume` is not set.
    """
    store = Store(directory)
    experiment = plan.experiment
    return session.carry_out(
        store,
        experiment.model_dump(mode="json"),
        [*(entry.name for entry in experiment.problems), *(entry.name for entry in experiment.solvers)],
        lambda progress: _run_cells(plan, store, progress),
        build_report,
        resume=resume,
        console=console,
    )


def build_report(directory: Path) -> Path:
    """Build the report of the run in `directory`, a study or not, from its stored rows; the page's path."""
    store = Store(directory)
    description = store.read_run()
    if "study" in description["experiment"]:
        return study_runner.build_report(directory)
    cells, curves = store.read()
    return reports.build(cells, curves, description, store.report)


def _run_cells(plan: Plan, store: Store, progress: Progress) -> None:
    built: dict[str, Built | Exception] = {}
    task = progress.add_task("", total=len(plan.cells), at="")
    for cell in plan.cells:
        progress.update(task, description=f"{cell.problem} · {cell.solver_label}", at="")
        if not store.has_succeeded(cell.index):
            if cell.problem not in built:
                progress.update(task, description=f"building {cell.problem}")
                built[cell.problem] = _build(plan, cell.problem, progress)
                progress.update(task, description=f"{cell.problem} · {cell.solver_label}")
            _run_cell(plan, cell, built[cell.problem], store, progress)
        progress.advance(task)
    progress.update(task, description="all solved", at="")


def _build(plan: Plan, label: str, progress: Progress) -> Built | Exception:
    """The problem with its reference, unit of time and facts, or why there is none: its cells then say so."""
    experiment = plan.experiment
    device = torch.device(experiment.device)
    try:
        problem = plan.families[label].build(
            device=device, dtype=DTYPES[experiment.dtype], seed=experiment.problem_seed
        )

        def show(step: int, error: float) -> None:
            progress.update(progress.task_ids[0], at=f"reference by CG, step {step}, error ≤ {error:.1e}")

        if experiment.reference_work:
            problem = certify(problem, max_work=experiment.reference_work, on_step=show)
        _ = problem.reference
        return problem, measure_unit(problem), theory_facts(problem)
    except Exception as error:
        error.add_note(f"while building the problem {label}")
        return error


def _run_cell(
    plan: Plan, cell: PlannedCell, built: Built | Exception, store: Store, progress: Progress
) -> None:
    family = plan.families[cell.problem]
    if isinstance(built, Exception):
        store.write_cell(cell.index, *failed(cell, family, built))
        return

    def show(record: Record) -> None:
        accuracy = "" if record.error is None else f", error {record.error:.1e}"
        progress.update(progress.task_ids[0], at=f"step {record.step}{accuracy}")

    problem, unit, facts = built
    try:
        row, curve = measure(cell, family, problem, unit, plan.experiment.budget, show, facts)
    except Exception as error:
        row, curve = failed(cell, family, error)
    store.write_cell(cell.index, row, curve)
