"""What may come of a check."""

from __future__ import annotations

from enum import StrEnum


class Failure(AssertionError):
    """What a solver or a problem does wrong: the numbers, what is expected, and what to do."""


class NotApplicable(Exception):
    """Why a check says nothing here."""


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
