"""A bar for what takes long: training, reading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import rich
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Show(Protocol):
    """Shows that `done` of the total is done, and beside it what is `known` by now."""

    def __call__(self, done: int, known: str = "") -> None: ...


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Show]:
    """A bar that goes away at the end; nothing where no one looks on at a terminal."""
    # The console of the process, if it is seen: bars within bars share it.
    console = rich.get_console()
    if not console.is_terminal:
        console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[known]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task(description, total=total, known="")

        def show(done: int, known: str = "") -> None:
            progress.update(task, completed=done, known=known)

        yield show
