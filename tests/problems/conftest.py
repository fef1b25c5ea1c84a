"""What tests of real data and of trained networks share."""

from __future__ import annotations

import os

import pytest

from problems.cache import ENVIRONMENT_VARIABLE

# As it was before the tests got a cache of their own.
USERS_CACHE = os.environ.get(ENVIRONMENT_VARIABLE)


@pytest.fixture
def users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of the person who runs the tests, and no network."""
    if USERS_CACHE is None:
        monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    else:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, USERS_CACHE)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("problems.data.sources.download", refuse)
