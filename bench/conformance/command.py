"""`ihvp-bench check`: the suite against one solver or one problem family, with progress shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import problems
import solvers
from bench.conformance.families import Family
from bench.conformance.ordinary import reaches_the_accuracy_it_claims
from bench.conformance.outcome import NotApplicable, Outcome
from bench.conformance.subject import Subject
from bench.conformance.suite import FAMILY_CHECKS, Check, Finding, judge, plan
from bench.conformance.trials import Trial, every_trial, trial_of
from bench.problem_file import ProblemFile, find_family
from problems import ProblemFamily
from problems.discovery import NoPlugin
from problems.ground_truth import LARGEST_DENSE
from problems.specification import Specification
from problems.validation import unknown
from solvers import Solver

STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.SKIPPED: "dim"}

# A check, what it is made on, and that by name.
Step = tuple[Check, Subject | Family, str]


def run(name: str, chosen: Sequence[Specification], console: Console) -> bool:
    """Check the solver or problem family `name`, or the one in the file `name`.py; False where a check fails.

    A solver is tried on the problems `chosen`, by default on all examples of all families and on shapes of
    its own. ValueError where there is no such solver or problem.
    """
    found = _find(name)
    if isinstance(found, ProblemFamily):
        if chosen:
            raise ValueError(f"{name} is a problem, not a solver: leave out -p")
        steps = _of_family(found)
    else:
        trials = [_trial(asked) for asked in chosen] or every_trial()
        steps = _of_solver(found, trials)
    findings = _judge_all(steps, console)
    _print(findings, console)
    main = [each for each in findings if each.check.run is reaches_the_accuracy_it_claims]
    if main and all(each.outcome is Outcome.SKIPPED for each in main):
        console.print(
            f"Nothing was tried: {name} skips every problem. Name one that it runs on with -p.",
            style="bold red",
        )
        return False
    return all(finding.outcome is not Outcome.FAILED for finding in findings)


def _find(name: str) -> type[Solver] | ProblemFamily:
    if not name.endswith(".py"):
        if name in solvers.available():
            return solvers.find(name)
        if name in problems.available():
            return problems.family(name)
        raise ValueError(unknown("solver or problem", name, [*solvers.available(), *problems.available()]))
    try:
        return solvers.find(name)
    except NoPlugin:
        pass
    try:
        return find_family(name, {})
    except NoPlugin:
        raise ValueError(
            f"{name} holds neither a Solver nor a ProblemFamily, and no function problem(): derive a class "
            "from one of them, as `ihvp-bench new` does"
        ) from None


def _trial(asked: Specification) -> Trial:
    family = find_family(asked.name, asked.settings)
    trial = trial_of(str(family), family, thorough=True)
    try:
        trial.problem()
    except NotApplicable as reason:
        raise ValueError(f"{reason}: choose a problem in float64 with p of at most {LARGEST_DENSE}") from None
    return trial


def _of_solver(solver: type[Solver], trials: Sequence[Trial]) -> list[Step]:
    steps: list[Step] = []
    for trial, pairs in groupby(plan(trials), key=lambda pair: pair[1]):
        subject = Subject(solver, trial)
        steps += [(check, subject, trial.name) for check, _ in pairs]
    return steps


def _of_family(family: ProblemFamily) -> list[Step]:
    # What a file's function returns is a problem without a family.
    members = [family] if isinstance(family, ProblemFile) else type(family).examples()
    steps: list[Step] = []
    for member in members:
        subject = Family(member)
        steps += [(check, subject, str(member)) for check in FAMILY_CHECKS]
    return steps


def _judge_all(steps: Sequence[Step], console: Console) -> list[Finding]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    findings = []
    with progress:
        task = progress.add_task("", total=len(steps))
        for check, subject, where in steps:
            progress.update(task, description=f"{where} · {check.name}")
            findings.append(judge(check, subject, where))
            progress.advance(task)
    return findings


def _print(findings: Sequence[Finding], console: Console) -> None:
    """A line for every check, then what failed and what to do about it."""
    table = Table("check", "what it means", "outcome", box=None, padding=(0, 2, 1, 0))
    for check, group in _by_check(findings):
        worst, text = _summary(group)
        table.add_row(check.name, check.meaning, Text(text, style=STYLES[worst]))
    console.print(table)
    failures = [finding for finding in findings if finding.outcome is Outcome.FAILED]
    for failure in failures:
        console.print(f"{failure.problem}, {failure.check.name}:", style="bold", markup=False)
        console.print(f"    {failure.text}", highlight=False, markup=False, soft_wrap=True)
    counts = {outcome: sum(each.outcome is outcome for each in findings) for outcome in Outcome}
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


def _by_check(findings: Sequence[Finding]) -> Iterator[tuple[Check, list[Finding]]]:
    groups: dict[Check, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.check, []).append(finding)
    yield from groups.items()


def _summary(group: Sequence[Finding]) -> tuple[Outcome, str]:
    """What came of one check on all problems."""
    named = {outcome: [each for each in group if each.outcome is outcome] for outcome in Outcome}
    failed, passed, skipped = (named[each] for each in (Outcome.FAILED, Outcome.PASSED, Outcome.SKIPPED))
    if failed:
        return Outcome.FAILED, f"failed on {', '.join(each.problem for each in failed)}"
    reasons = "; ".join(dict.fromkeys(each.text for each in skipped))
    if not passed:
        return Outcome.SKIPPED, f"skipped: {reasons}"
    beside = f"; skipped on {len(skipped)}: {reasons}" if skipped else ""
    return Outcome.PASSED, f"passed on {len(passed)}{beside}"
