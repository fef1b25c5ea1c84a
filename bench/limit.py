"""A limit to how long a plug-in may go on, also where it never comes back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# No solve of a small problem takes so long, even on a busy machine.
MOST_SECONDS = 60.0
# The limit of `limited` bodies under way, the innermost last.
_limits: list[float] = []


class TimeUp(BaseException):
    """Raised in the midst of a plug-in, and no Exception: nothing on the way out takes it for an error."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the body `seconds` after it began, or after the latest `restart`.

    By a signal, which interrupts what never comes back; without effect off the main thread and on Windows.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, _time_is_up)
    timer = signal.getitimer(signal.ITIMER_REAL)
    _limits.append(seconds)
    try:
        restart()
        yield
    finally:
        _limits.pop()
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def restart() -> None:
    """Let the time of the body under way, if there is any, begin anew."""
    if _limits:
        # Again every second, should the plug-in catch what ends it.
        signal.setitimer(signal.ITIMER_REAL, _limits[-1], 1.0)


def _time_is_up(number: int, frame: FrameType | None) -> None:
    raise TimeUp
