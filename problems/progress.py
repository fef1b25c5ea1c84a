"""A bar for what takes long: training, downloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import rich
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

# What stands beside the bar, of things that are counted and of bytes.
COUNTED: tuple[type[ProgressColumn], ...] = (MofNCompleteColumn, TimeRemainingColumn)
BYTES: tuple[type[ProgressColumn], ...] = (DownloadColumn, TransferSpeedColumn)


class Show(Protocol):
    """Shows that `done` of the total is done, and beside it what is `known` by now."""

    def __call__(self, done: int, known: str = "") -> None: ...


@contextmanager
def progress_bar(
    description: str, total: int | None, beside: tuple[type[ProgressColumn], ...] = COUNTED
) -> Iterator[Show]:
    """A bar that goes away at the end; nothing where no one looks on at a terminal."""
    # The console of the process, if it is seen: bars within bars share it.
    console = rich.get_console()
    if not console.is_terminal:
        console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        *(column() for column in beside),
        TextColumn("{task.fields[known]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task(description, total=total, known="")

        def show(done: int, known: str = "") -> None:
            progress.update(task, completed=done, known=known)

        yield show
