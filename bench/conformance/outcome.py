"""What may come of a check."""

from __future__ import annotations

from enum import StrEnum


class Failure(AssertionError):
    """What a solver or a problem does wrong: the numbers, what is expected, and what to do."""


class TooLong(Failure):
    """That it comes to no end; what is tried after it may not either."""


class NotApplicable(Exception):
    """Why a check says nothing here."""


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
