"""What every solver and every problem family is held to, in-tree or not; `ihvp-bench check` runs it.

for check, trial in plan(every_trial()):
    check.run(Subject(solvers.find("cg"), trial))  # raises Failure, NotApplicable, or nothing
"""

from bench.conformance.families import Family
from bench.conformance.outcome import Failure, NotApplicable, Outcome
from bench.conformance.subject import Subject
from bench.conformance.suite import CHECKS, FAMILY_CHECKS, Check, Finding, judge, plan
from bench.conformance.trials import Trial, every_trial, trial_of

__all__ = [
    "CHECKS",
    "FAMILY_CHECKS",
    "Check",
    "Failure",
    "Family",
    "Finding",
    "NotApplicable",
    "Outcome",
    "Subject",
    "Trial",
    "every_trial",
    "judge",
    "plan",
    "trial_of",
]
