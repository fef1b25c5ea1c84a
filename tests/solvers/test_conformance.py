"""Every solver × every problem × every check; all are found by discovery, so that a new file is enrolled."""

from __future__ import annotations

import functools

import pytest

import solvers
from bench.conformance import CHECKS, NotApplicable, Subject, every_trial, plan
from solvers.peers.library import library_of, unavailable

TRIALS = {trial.name: trial for trial in every_trial()}
RUN = {check.name.replace(" ", "_"): check.run for check in CHECKS}
SOLVERS = solvers.available()
CASES = [
    (solver, trial.name, check.name.replace(" ", "_"))
    for solver, cls in SOLVERS.items()
    if not unavailable(cls)
    for check, trial in plan(TRIALS.values())
]


# What was solved for one check is there for the next of the same solver on the same problem.
@functools.lru_cache(maxsize=1)
def subject(solver: str, problem: str) -> Subject:
    return Subject(solvers.find(solver), TRIALS[problem])


@pytest.mark.parametrize(("solver", "problem", "check"), CASES, ids=["-".join(case) for case in CASES])
def test_conforms(solver: str, problem: str, check: str) -> None:
    try:
        RUN[check](subject(solver, problem))
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("solver", [name for name, cls in SOLVERS.items() if library_of(cls)])
def test_its_library_is_there(solver: str) -> None:
    """Of other libraries' solvers, which are tried where these are installed."""
    reason = unavailable(SOLVERS[solver])
    if reason:
        pytest.skip(reason)
