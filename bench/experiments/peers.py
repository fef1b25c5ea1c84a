"""Other libraries' solvers beside ours: is it faster, and is it right?"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch

import problems
import solvers
from bench.experiments._numbers import NAN, number
from bench.experiments._reference import with_reference
from bench.experiments._solver import solver_of
from bench.limit import TimeUp, limited
from bench.memory import PeakMemory
from bench.reproductions import reproductions
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem
from problems.spectrum.lanczos import lanczos
from problems.validation import unknown
from reports.peers import build_peers
from solvers import Breakdown, Record, Solution, Solver, Status
from solvers.cg import ConjugateGradient
from solvers.lissa import LiSSA
from solvers.minres import MINRES
from solvers.peers.advice import Advice
from solvers.peers.library import Library, library_of
from solvers.solution import worst

OURS, DEFAULT, TUNED = "ours", "default", "tuned"
# Libraries whose solvers are no adapters of solvers/peers, and need no installing.
SCIPY = Library("scipy", "scipy", ">=1.14")
REPRODUCTIONS = "reproductions"
# Eigenvalues of a large H that are looked for among so many Ritz values.
LANCZOS_STEPS = 60
# The reference is so much closer than the nearest target.
CLOSER = 0.01
# Below what a column had that was not yet there, by more than rounding.
BELOW = 0.99
# Of CG and MINRES, which end by their errors.
LEAST = 1e-13
# What this package's iterative solvers are run to, times the residual that the nearest target takes: their
# history has the time to each target.
BEYOND = 0.5


# Of two problems that have nothing in common: what is set alike for both is set without advice.
EXTREMES = (
    Advice(0.5, 1.0, 2.0, 0.1, 3, 5, 0.25, 7, 11, 2),
    Advice(1e-3, 0.01, 100.0, 1e-4, 30, 500, 1e-3, 70, 1100, 20),
)

# Columns of the rows of the other kind.
_NO_REPRODUCTION = dict.fromkeys(
    ("script", "title", "documented", "source", "expected", "got", "missing"), ""
)
_NO_SOLVE = dict.fromkeys(("settings", "status", "reason", "said"), "")


@dataclass(frozen=True, eq=False)
class Prepared:
    """The problem with its reference, and what each target takes."""

    problem: Problem
    advice: Mapping[float, Advice]


@dataclass(frozen=True)
class Peers(Study):
    """Seconds, work and memory to each of `targets`, and whether a wrong answer is called so.

    `ours` are this package's solvers, in which {target} stands for each target in turn; others run on beyond
    the nearest. Of every other library, or of `libraries`, all solvers run as they come, and, where they have
    settings to choose, with ours translated. A solve ends after `max_seconds`, or where it does not look at
    the clock after twice that.
    """

    title: ClassVar[str] = "Other libraries, side by side"
    description: ClassVar[str] = (
        "The solvers of curvlinops, pyDVL, kronfluence, dattri, torch-influence and SciPy beside ours: how "
        "long each takes to an answer of a given accuracy, and whether it says so when its answer is wrong."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        # With that λ series and recursions end in seconds, too.
        "quick": Scale(
            ("softmax_regression:training_size=300,pooling=2,damping=0.01",), parameters={"max_seconds": 5.0}
        ),
        "small": Scale(
            (
                "softmax_regression",
                "image_classifier",
                "image_classifier:curvature=hessian,damping=0.1",
                "resnet18:data=digits,width=4,training_size=500,curvature_size=100,epochs=20,damping=0.1",
                "resnet18:data=digits,width=4,training_size=500,curvature_size=100,epochs=20,damping=0.1,"
                "curvature=hessian",
            ),
            seeds=2,
            parameters={"max_seconds": 10.0},
        ),
    }

    targets: tuple[float, ...] = (1e-2, 1e-4)
    ours: tuple[str, ...] = (
        "auto:target={target}",
        "lissa:target={target}",
        "cg",
        "block_cg",
        "cg:preconditioner=ekfac",
        "block_cg:preconditioner=ekfac",
        "block_cg:preconditioner=ekfac(labels=sampled)",
        "exact",
        "ekfac",
    )
    libraries: tuple[str, ...] = ()
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets is empty; name at least one relative error")
        for target in self.targets:
            if not 0 < target < 1:
                raise ValueError(f"a target is {target}; a relative error between 0 and 1 is needed")
        for text in self.ours:
            solver_of(text.replace("{target}", str(self.targets[0])))
        known = {library.distribution for library in _libraries()}
        for name in self.libraries:
            if name not in known:
                raise ValueError(unknown("library", name, sorted(known)))
        if not self.max_seconds > 0:
            raise ValueError(f"max_seconds is {self.max_seconds}; it must be > 0")

    def pieces(self) -> Sequence[Piece]:
        found: list[Piece] = []
        for text in self.ours:
            goals = self._goals if "{target}" in text else [""]
            found += [_piece("ihvp-bench", OURS, text, goal) for goal in goals]
        for library, name, cls in _peers(self.libraries):
            found.append(_piece(library.distribution, DEFAULT, name, ""))
            tunings = [_tuned(cls, advice) for advice in EXTREMES]
            if tunings[0] != tunings[1]:
                found += [_piece(library.distribution, TUNED, name, goal) for goal in self._goals]
            elif tunings[0] != cls():
                found.append(_piece(library.distribution, TUNED, name, ""))
        return [*found, _piece("", REPRODUCTIONS, REPRODUCTIONS, "")]

    @property
    def _goals(self) -> list[str]:
        return [f"{target:g}" for target in self.targets]

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Prepared:
        _warm_up(self.libraries)
        nearest = min(self.targets)
        problem = with_reference(problem, on_progress, error=CLOSER * nearest)
        _ = problem.reference
        on_progress("what the targets take", 0)
        return Prepared(problem, {target: _advice(problem, target) for target in self.targets})

    def measure(
        self, problem: Problem, prepared: Prepared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        if piece["kind"] == REPRODUCTIONS:
            return [_NO_SOLVE | asdict(each) for each in reproductions()]
        problem = prepared.problem
        solver = self._solver(piece, prepared)
        on_progress(str(solver), 0)
        problem.operator.forget()
        solution, began = None, time.monotonic()
        with PeakMemory(problem.operator.device) as before:
            pass
        with PeakMemory(problem.operator.device) as peak:
            try:
                with limited(2 * self.max_seconds):
                    solution = solvers.solve(problem, solver, seed=seed, max_seconds=self.max_seconds)
            except TimeUp:
                pass
        # What is interrupted inside of TorchScript or C++ says so in an exception of its own.
        failed = solution is not None and solution.status is Status.FAILED
        if failed and time.monotonic() - began >= 2 * self.max_seconds:
            solution = None
        row = _outcome(solution, 2 * self.max_seconds) | {
            "settings": str(solver),
            "promised": number(solver.promised_tolerance),
            "peak_memory_bytes": max(0.0, peak.bytes - before.bytes),
            "version": _versions().get(piece["library"], ""),
        }
        return [_NO_REPRODUCTION | row | _to_target(solution, piece, target) for target in self.targets]

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_peers(rows, run, directory)

    def _solver(self, piece: Piece, prepared: Prepared) -> Solver:
        """The piece's solver with its settings: as they come, or by what is known of the problem."""
        goal = piece["goal"]
        advice = prepared.advice[self.targets[self._goals.index(goal)] if goal else min(self.targets)]
        if piece["kind"] == OURS:
            found = solver_of(piece["solver"].replace("{target}", goal))
            if goal or found.promised_tolerance is None:
                return found
            return replace(found, tolerance=BEYOND * advice.tolerance)  # type: ignore[call-arg]
        cls = solvers.find(piece["solver"])
        return cls() if piece["kind"] == DEFAULT else _tuned(cls, advice)


def _piece(library: str, kind: str, solver: str, goal: str) -> Piece:
    return {"library": library, "kind": kind, "solver": solver, "goal": goal}


def _peers(distributions: Sequence[str] = ()) -> Iterator[tuple[Library, str, type[Solver]]]:
    """Every solver of these libraries, by default of every other one."""
    for name, cls in solvers.available().items():
        library = SCIPY if name.startswith("scipy_") else library_of(cls)
        if library and (not distributions or library.distribution in distributions):
            yield library, name, cls


def _libraries() -> list[Library]:
    return list(dict.fromkeys(library for library, _, _ in _peers()))


def _tuned(cls: type[Solver], advice: Advice) -> Solver:
    """With our settings translated; as it comes where there is nothing to set."""
    tuned: Callable[[Advice], Solver] | None = getattr(cls, "tuned", None)
    if tuned:
        return tuned(advice)
    if "tolerance" in {each.name for each in fields(cls)}:
        return cls(tolerance=advice.tolerance)  # type: ignore[call-arg]
    return cls()


@functools.cache
def _versions() -> dict[str, str]:
    return {each.distribution: each.version for each in _libraries() if not each.missing()}


@functools.cache
def _warm_up(distributions: tuple[str, ...]) -> None:
    """Imports take seconds, which are no solver's: each of these libraries solves something small once."""
    small = problems.load("softmax_regression", training_size=40, pooling=4, num_queries=2)
    advice = _advice(small, 0.1)
    for _, _, cls in _peers(distributions):
        solvers.solve(small, _tuned(cls, advice), max_seconds=5)


def _advice(problem: Problem, target: float) -> Advice:
    """What a relative error of `target` takes, measured with the reference at hand."""
    eigenvalues = _eigenvalues(problem)
    largest = float(eigenvalues[-1])
    tolerance, cg_steps = _krylov(problem, target)
    total = largest + problem.damping
    terms = _series_terms(problem, eigenvalues, target, 1 / total)
    step_size, batch_size, num_steps = _lissa(problem, target)
    if step_size:
        # Ours starts from b/λ, from where it may take fewer than from 0.
        num_steps = max(num_steps, _series_terms(problem, eigenvalues, target, step_size))
    return Advice(
        target=target,
        damping=problem.damping,
        largest_eigenvalue=largest,
        tolerance=tolerance,
        cg_steps=cg_steps,
        series_terms=terms,
        step_size=step_size or 1 / total,
        batch_size=batch_size or problem.operator.num_examples,
        num_steps=num_steps or terms,
        # Parts of x that are smaller than that can be left out.
        rank=max(1, int((eigenvalues.abs() > target * problem.damping).sum())),
    )


def _eigenvalues(problem: Problem) -> torch.Tensor:
    """All of H, ascending, float64; of a large one Ritz values, which have its ends."""
    if problem.eigenvalues is not None:
        return problem.eigenvalues
    start = torch.randn(problem.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *_, last = lanczos(problem.operator, start.to(problem.columns(slice(0, 1))), LANCZOS_STEPS)
    return last.eigen[0]


def _krylov(problem: Problem, target: float) -> tuple[float, int]:
    """The loosest tolerance with which every column of CG has the target's error, and its steps to there."""
    for solver in (ConjugateGradient(LEAST), MINRES(LEAST)):
        # The least residual of each column while its error is still above the target.
        tolerance = torch.full((problem.num_columns,), math.inf, dtype=torch.float64)
        try:
            steps = solver.iterates(problem, None, problem.columns(), torch.Generator())
            for step, iterate in enumerate(steps, 1):
                error, residual = problem.error(iterate.x.double()), iterate.residual
                assert error is not None
                assert residual is not None
                above = (error > target).cpu()
                tolerance = torch.where(above, tolerance.minimum(residual.double().cpu()), tolerance)
                if not above.any():
                    return float(tolerance.min().clamp_max(1.0)) * BELOW, step
        except Breakdown:
            continue
    return target, problem.size


def _series_terms(problem: Problem, eigenvalues: torch.Tensor, target: float, step_size: float) -> int:
    """The least number of terms of the Neumann series with the target's error; of a large problem a bound."""
    # H may have 0 for an eigenvalue beside its Ritz values. A part of x is off by (1 − η(σ + λ))ᵗ.
    ends = torch.stack([eigenvalues[0].clamp_max(0), eigenvalues[-1]])
    growth = float((1 - step_size * (ends + problem.damping)).abs().max())
    if growth >= 1:  # no number of terms will do: as many as where no eigenvalue is below 0
        return math.ceil(math.log(1 / target) / (step_size * problem.damping))
    most = math.ceil(math.log(target) / math.log(max(growth, LEAST)))
    if not problem.is_dense:
        return most
    values, vectors = problem.ground_truth.eigen
    assert problem.reference is not None
    parts = vectors.T @ problem.reference
    growths = (1 - step_size * (values + problem.damping)).abs()[:, None]

    def error(terms: int) -> float:
        return float(((growths**terms * parts).norm(dim=0) / parts.norm(dim=0)).max())

    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle) <= target else (middle, high)
    return high


def _lissa(problem: Problem, target: float) -> tuple[float, int, int]:
    """η, b and T that our LiSSA chooses; zeros where it finds none."""
    told = solvers.solve(problem, LiSSA(target=target), compare=False, max_steps=1).diagnostics
    if "step_size" not in told:
        return 0.0, 0, 0
    batch = told["batch_size"]
    size = problem.operator.num_examples if batch == "full" else int(batch)
    return float(told["step_size"]), size, int(told["num_steps"])


def _to_target(solution: Solution | None, piece: Piece, target: float) -> Row:
    """Seconds and work to the target, set-up included; NaN where it was not reached.

    A solver that was asked for a target decides itself when it is there, and is charged all that it took;
    any other is charged to where it first gets there.
    """
    row = {"target": target, "seconds_to_target": NAN, "work_to_target": NAN}
    if solution is None:
        return row
    error = worst(solution.error)
    end = Record(solution.steps, solution.work, solution.solve_seconds, None, error, None)
    records = (end,) if piece["goal"] or not solution.history else solution.history
    for record in records:
        if solution.usable and record.error is not None and record.error <= target:
            seconds, work = solution.setup_seconds + record.seconds, solution.setup_work + record.work
            return row | {"seconds_to_target": seconds, "work_to_target": work}
    return row


def _outcome(solution: Solution | None, limit: float) -> Row:
    """How a solve ended, None being one that had to be stopped after `limit` seconds."""
    if solution is None:
        found: Row = dict.fromkeys(("error", "residual", "setup_seconds", "solve_seconds", "work"), NAN)
        reason = f"it did not come back within {limit:g} s"
        return found | {"status": str(Status.BUDGET_SPENT), "reason": reason, "said": "", "steps": NAN}
    said = list(solution.diagnostics.get("said", []))
    if solution.status is Status.DIVERGED and solution.x is None:
        # Found by the solver itself, or by an exception of its library's.
        said.append(solution.reason)
    return {
        "status": str(solution.status),
        "reason": solution.reason,
        "said": "; ".join(said),
        "error": number(worst(solution.error)),
        "residual": number(worst(solution.residual)),
        "setup_seconds": solution.setup_seconds,
        "solve_seconds": solution.solve_seconds,
        "work": solution.setup_work + solution.work,
        "steps": solution.steps,
    }
