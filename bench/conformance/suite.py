"""The checks in their order, where each is made, and what came of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.conformance import families, ordinary, varied
from bench.conformance.outcome import Failure, NotApplicable, Outcome, TooLong
from bench.conformance.place import place_of
from bench.conformance.trials import Trial
from bench.limit import MOST_SECONDS, TimeUp, limited


@dataclass(frozen=True)
class Check:
    """A function of a subject that raises Failure or NotApplicable; its docstring says what it means."""

    run: Callable[[Any], None]
    everywhere: bool

    @property
    def name(self) -> str:
        """As people read it."""
        return self.run.__name__.replace("_", " ")

    @property
    def meaning(self) -> str:
        """What passing it means."""
        return " ".join((inspect.getdoc(self.run) or "").split())


CHECKS = (
    *(Check(run, everywhere=True) for run in ordinary.CHECKS),
    *(Check(run, everywhere=False) for run in varied.CHECKS),
)
FAMILY_CHECKS = tuple(Check(run, everywhere=True) for run in families.CHECKS)


@dataclass(frozen=True)
class Finding:
    """What came of `check` on `problem`; `text` says why it failed or was skipped."""

    check: Check
    problem: str
    outcome: Outcome
    text: str = ""
    took_too_long: bool = False


def plan(trials: Iterable[Trial]) -> list[tuple[Check, Trial]]:
    """Which checks are made on which trials, trial by trial."""
    return [(check, trial) for trial in trials for check in CHECKS if check.everywhere or trial.thorough]


def judge(check: Check, subject: Any, problem: str, max_seconds: float = MOST_SECONDS) -> Finding:
    """Make the check; an error of the plug-in's own is a failure that names it.

    So is that it does not come back: each solve ends itself after `max_seconds`, and what is silent for twice
    as long is interrupted.
    """
    silence = 2 * max_seconds
    try:
        with limited(silence):
            check.run(subject)
    except NotApplicable as reason:
        return Finding(check, problem, Outcome.SKIPPED, str(reason))
    except Failure as failure:
        return Finding(check, problem, Outcome.FAILED, str(failure), isinstance(failure, TooLong))
    except TimeUp as up:
        text = f"it did not come back for {silence:g} s{place_of(up, subject.file)}: look there for a loop"
        return Finding(check, problem, Outcome.FAILED, text, took_too_long=True)
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}{place_of(error, subject.file)}"
        return Finding(check, problem, Outcome.FAILED, text)
    return Finding(check, problem, Outcome.PASSED)
