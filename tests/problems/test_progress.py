"""Bars: one beneath the other where they share a console, and none where no one looks on."""

import io

import pytest
import rich
from rich.console import Console
from rich.progress import Progress

from problems.progress import progress_bar


def test_a_bar_within_a_bar_stands_beneath_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    with Progress(console=console, auto_refresh=False) as outer:
        outer.add_task("the whole run", total=3)
        with progress_bar("training", 7) as show:
            show(5, "loss 1.25")
            outer.refresh()
            both = screen.getvalue()[-600:]
    assert (
        both.rindex("the whole run") < both.rindex("training") < both.rindex("5/7") < both.rindex("loss 1.25")
    )


def test_off_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("training", 7) as show:
        show(7)
    assert capsys.readouterr() == ("", "")
