"""`ihvp-bench check`: the suite against one solver or one problem family, with progress shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

import problems
import solvers
from bench.conformance.families import Family, members
from bench.conformance.ordinary import CLAIMS_NOTHING, reaches_the_accuracy_it_claims
from bench.conformance.outcome import Failure, NotApplicable, Outcome
from bench.conformance.place import place_of
from bench.conformance.subject import Subject
from bench.conformance.suite import FAMILY_CHECKS, Check, Finding, judge, plan
from bench.conformance.trials import Trial, every_trial, trial_of
from bench.limit import MOST_SECONDS
from bench.problem_file import ProblemFile, find_family
from problems import ProblemFamily
from problems.discovery import NoPlugin
from problems.ground_truth import LARGEST_DENSE
from problems.named import NAMED
from problems.specification import Specification, written
from problems.validation import unknown
from solvers import Solver
from solvers.peers.library import unavailable

STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.SKIPPED: "dim"}

# So many problems are all named.
FEW = 3

# A check, what it is made on, and that by name.
Step = tuple[Check, Subject | Family, str]


def run(
    name: str, chosen: Sequence[Specification], console: Console, max_seconds: float = MOST_SECONDS
) -> int:
    """Check the solver or problem family `name`, or the one in the file `name`.py; the exit status.

    That is 1 where a check fails, and 130 after Ctrl-C. A solver is tried on the problems `chosen`, by
    default on all examples of all families and on shapes of its own, each solve for `max_seconds` at most.
    ValueError where there is no such solver or problem.
    """
    if not max_seconds > 0:
        raise ValueError(f"the limit is {max_seconds} seconds; it must be > 0")
    found = _find(name)
    try:
        if isinstance(found, ProblemFamily):
            if chosen:
                raise ValueError(f"{name} is a problem, not a solver: leave out -p")
            steps = _of_family(found)
        elif reason := unavailable(found):
            raise ValueError(f"{name} cannot be tried: {reason}")
        else:
            steps = _of_solver(found, [_trial(asked) for asked in chosen] or every_trial(), max_seconds)
    except Failure as failure:
        _say(console, str(failure))
        return 1
    findings: list[Finding] = []
    interrupted = _judge_all(steps, findings, max_seconds, console)
    _print(findings, console)
    if interrupted:
        _say(console, f"Interrupted at {interrupted}: {len(findings)} of {len(steps)} checks were made.")
        return 130
    if findings[-1].took_too_long:
        _say(
            console,
            f"{len(steps) - len(findings)} of {len(steps)} checks were left out after one that took too "
            "long: correct that first, or allow it more with --seconds.",
        )
    if any(finding.outcome is Outcome.FAILED for finding in findings):
        return 1
    return _say_what_was_not_tried(name, findings, console)


def _say_what_was_not_tried(name: str, findings: Sequence[Finding], console: Console) -> int:
    """The exit status of a solver, or family, that no check failed."""
    main = [each for each in findings if each.check.run is reaches_the_accuracy_it_claims]
    if any(each.outcome is not Outcome.SKIPPED for each in main) or not main:
        return 0
    if any(each.text == CLAIMS_NOTHING for each in main):
        _say(console, f"The accuracy of {name} was not checked on any problem: {CLAIMS_NOTHING}.", "yellow")
        return 0
    _say(console, f"Nothing was tried: {name} skips every problem. Name one that it runs on with -p.")
    return 1


def _say(console: Console, text: str, style: str = "bold red") -> None:
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _find(name: str) -> type[Solver] | ProblemFamily:
    if not name.endswith(".py"):
        if name in solvers.available():
            return solvers.find(name)
        if name in problems.available():
            return problems.family(name)
        if name in NAMED:
            family, own = NAMED[name]
            raise ValueError(
                f"{name} is short for {written(Specification(family, dict(own)))}: check the family, {family}"
            )
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
    except (ValueError, Failure):
        raise
    except Exception as error:
        place = place_of(error, Family(family).file)
        raise ValueError(f"{family} cannot be built: {type(error).__name__}: {error}{place}") from error
    return trial


def _of_solver(solver: type[Solver], trials: Sequence[Trial], max_seconds: float) -> list[Step]:
    steps: list[Step] = []
    for trial, pairs in groupby(plan(trials), key=lambda pair: pair[1]):
        subject = Subject(solver, trial, max_seconds)
        steps += [(check, subject, trial.name) for check, _ in pairs]
    return steps


def _of_family(family: ProblemFamily) -> list[Step]:
    # What a file's function returns is a problem without a family.
    tried = [family] if isinstance(family, ProblemFile) else members(type(family))
    steps: list[Step] = []
    for member in tried:
        subject = Family(member)
        steps += [(check, subject, str(member)) for check in FAMILY_CHECKS]
    return steps


def _judge_all(
    steps: Sequence[Step], findings: list[Finding], max_seconds: float, console: Console
) -> str | None:
    """Add what comes of each step to `findings`, up to one that takes too long; at which step Ctrl-C came."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    at = "the beginning"
    # Bar, counter and clock take the rest.
    room = max(console.width - 44, 12)
    try:
        with progress:
            task = progress.add_task("", total=len(steps))
            for check, subject, where in steps:
                at = f"{where} · {check.name}"
                progress.update(task, description=at if len(at) <= room else f"{at[: room - 1]}…")
                findings.append(judge(check, subject, where, max_seconds))
                progress.advance(task)
                if findings[-1].took_too_long:
                    break
    except KeyboardInterrupt:
        return at
    return None


def _print(findings: Sequence[Finding], console: Console) -> None:
    """A line for every check, then what failed and what to do about it."""
    columns = [Column(heading, overflow="fold") for heading in ("check", "what it means", "outcome")]
    table = Table(*columns, box=None, padding=(0, 2, 1, 0))
    for check, group in _by_check(findings):
        worst, text = _summary(group)
        table.add_row(check.name, check.meaning, Text(text, style=STYLES[worst]))
    console.print(table)
    for alike in _alike([finding for finding in findings if finding.outcome is Outcome.FAILED]):
        console.print(_heading(alike), style="bold", highlight=False, markup=False, soft_wrap=True)
        console.print(f"    {alike[0].text}", highlight=False, markup=False, soft_wrap=True)
    counts = {outcome: sum(each.outcome is outcome for each in findings) for outcome in Outcome}
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


def _alike(failures: Sequence[Finding]) -> list[list[Finding]]:
    """Those that say the same, but for its numbers, together."""
    groups: dict[str, list[Finding]] = {}
    for each in failures:
        groups.setdefault(re.sub(r"\d[\d.]*(e[+-]?\d+)?", "#", each.text), []).append(each)
    return list(groups.values())


def _heading(alike: Sequence[Finding]) -> str:
    """Where something went wrong, or where for example."""
    one = f"{alike[0].problem}, {alike[0].check.name}"
    if len(alike) == 1:
        return f"{one}:"
    counts = []
    for noun, number in (
        ("problem", len({each.problem for each in alike})),
        ("check", len({each.check for each in alike})),
    ):
        counts.append(f"{number} {noun}{'s' if number > 1 else ''}")
    return f"on {counts[0]}, in {counts[1]}, e.g. {one}:"


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
        first = ", ".join(each.problem for each in failed[:FEW])
        of_many = f"{len(failed)} problems, e.g. " if len(failed) > FEW else ""
        return Outcome.FAILED, f"failed on {of_many}{first}"
    reasons = "; ".join(dict.fromkeys(each.text for each in skipped))
    if not passed:
        return Outcome.SKIPPED, f"skipped: {reasons}"
    beside = f"; skipped on {len(skipped)}: {reasons}" if skipped else ""
    return Outcome.PASSED, f"passed on {len(passed)}{beside}"
