import threading
from collections.abc import Callable

import pytest
from threadpoolctl import threadpool_info

from solvers.callbacks import iterate_callbacks


def test_yields_what_the_callback_is_given_and_only_when_asked() -> None:
    done = []

    def run(callback: Callable[[int], None]) -> None:
        for value in range(3):
            done.append(value)
            callback(value)
        done.append("end")

    values = iterate_callbacks(run)
    assert done == []
    assert next(values) == 0
    assert done == [0]
    assert list(values) == [1, 2]
    assert done == [0, 1, 2, "end"]


def test_closing_ends_the_routine_at_its_callback() -> None:
    reached = []

    def run(callback: Callable[[int], None]) -> None:
        for value in range(1000):
            callback(value)
            reached.append(value)

    before = threading.active_count()
    values = iterate_callbacks(run)
    next(values)
    next(values)
    values.close()  # type: ignore[attr-defined]
    assert reached == [0]
    assert threading.active_count() == before


def test_exceptions_reach_the_consumer() -> None:
    def run(callback: Callable[[int], None]) -> None:
        callback(1)
        raise OSError("gone")

    values = iterate_callbacks(run)
    assert next(values) == 1
    with pytest.raises(OSError, match="gone"):
        next(values)


def test_a_routine_that_reports_nothing_yields_nothing() -> None:
    assert list(iterate_callbacks(lambda callback: None)) == []


def test_a_routine_computes_with_as_many_threads_as_its_caller() -> None:
    """In a new thread OpenMP would take all cores, and wait for them over small tensors a hundred times."""

    def openmp() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "openmp"]

    def run(callback: Callable[[list[int]], None]) -> None:
        callback(openmp())

    assert list(iterate_callbacks(run)) == [openmp()]
