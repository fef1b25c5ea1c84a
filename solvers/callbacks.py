"""A generator out of a routine that only reports through a callback."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class _Stop(BaseException):
    """Raised inside the routine's callback to end it early."""


def iterate_callbacks(run: Callable[[Callable[[T], None]], None]) -> Iterator[T]:
    """Yield, one by one, what `run(callback)` passes to its callback.

    `run` works in a thread of its own, with as many of torch's as here, and stands still between two values,
    so that the consumer's clock and budgets hold for it as for any generator; closing the generator ends it
    at its next callback. An exception in `run` is raised here.
    """
    values: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
    resume = threading.Semaphore(0)
    stopping = False
    threads = torch.get_num_threads()

    def callback(value: T) -> None:
        values.put(("value", value))
        resume.acquire()
        if stopping:
            raise _Stop

    def work() -> None:
        # Until it is told, OpenMP's own number holds in a new thread: all cores.
        torch.set_num_threads(threads)
        resume.acquire()
        try:
            if not stopping:
                run(callback)
            values.put(("done", None))
        except _Stop:
            pass
        except BaseException as error:
            values.put(("error", error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            resume.release()
            kind, value = values.get()
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            if kind == "done":
                return
            yield value  # type: ignore[misc]
    finally:
        stopping = True
        resume.release()
        thread.join()
