"""`ihvp-bench diagnose`: builds the problem, diagnoses it with progress shown, writes JSON and page."""

from __future__ import annotations

import datetime
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench import environment
from bench.diagnosis.diagnose import check, diagnose
from bench.diagnosis.lissa_settings import Settings
from bench.diagnosis.result import Diagnosis
from bench.experiment import DTYPES, check_device
from bench.problem_file import ProblemFile, find_family
from problems import Problem
from problems.specification import Specification, parse, written

PARTS = {
    "extremes": "largest and smallest eigenvalue",
    "trace": "trace",
    "density": "density",
    "noise": "noise of mini-batches",
    "heterogeneity": "how unequal the examples are",
    "constant": "what limits LiSSA's step",
    "pilot": "pilot on the right-hand sides",
    "cg": "CG on one right-hand side",
    "definiteness": "smallest eigenvalue",
}


# That of `run`, so that the command that is recommended is for the problem that was diagnosed.
PROBLEM_SEED = 0


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    subject: str
    budget: float
    target: float
    damping: float | None
    settings: Settings
    seed: int
    device: str | None
    dtype: str | None


def run(asked: Asked, console: Console | None) -> tuple[Diagnosis, dict[str, Any]]:
    """The diagnosis, and what is stored of it with its origin; `console` shows progress, None is silent."""
    check(asked.budget, asked.target)  # before a network is trained
    specification, problem, options = _build(asked)
    started = _now()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:.0f} % of the budget"),
        TimeElapsedColumn(),
        console=console,
        # Off a terminal it would leave an empty line.
        disable=console is None or not console.is_terminal,
        transient=True,
    )
    with progress:
        task = progress.add_task("starting", total=1.0)
        found = diagnose(
            problem,
            specification=specification,
            budget=asked.budget,
            target=asked.target,
            settings=asked.settings,
            seed=asked.seed,
            options=options,
            on_progress=lambda name, share: progress.update(task, description=PARTS[name], completed=share),
        )
    origin = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": started,
        "finished": _now(),
        "seeds": [asked.seed],
        **environment.describe(),
    }
    return found, {"diagnosis": found.as_dict(), "run": origin}


def new_directory(subject: str) -> Path:
    """results/diagnosis-NAME-TIME."""
    name = Path(parse(subject).name).stem
    return Path("results") / f"diagnosis-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _build(asked: Asked) -> tuple[str, Problem, str]:
    """How `run -p` names the problem, the problem, and what else `run` needs to be told."""
    parsed = parse(asked.subject)
    parameters = dict(parsed.settings)
    specification = asked.subject
    if asked.damping is not None:
        parameters["damping"] = asked.damping
        specification = written(Specification(parsed.name, parameters))
    family = find_family(parsed.name, parameters)
    if isinstance(family, ProblemFile):
        given = [f"--{name}" for name in ("device", "dtype") if getattr(asked, name) is not None]
        if given:
            raise ValueError(
                f"{' and '.join(given)}: a file's problem is taken as it is; set these in {parsed.name}"
            )
    device, dtype = asked.device or "cpu", asked.dtype or "float64"
    check_device(device)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed are {' and '.join(map(repr, DTYPES))}")
    problem = family.build(device=torch.device(device), dtype=DTYPES[dtype], seed=PROBLEM_SEED)
    options = [f"--{name} {getattr(asked, name)}" for name in ("device", "dtype") if getattr(asked, name)]
    return specification, problem, " ".join(options)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
