"""What every run does, whatever its cells measure: run.json, progress, Ctrl-C, resuming, the report."""

from __future__ import annotations

import datetime
import hashlib
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import environment
from bench.store import Store


def carry_out(
    store: Store,
    asked: dict[str, Any],
    plugins: Iterable[str],
    run_cells: Callable[[Progress], None],
    report: Callable[[Path], Path],
    *,
    resume: bool,
    console: Console | None,
) -> bool:
    """Run what `run_cells` runs and build the report; False if interrupted.

    `asked` is what run.json says was asked for, with its seeds; `plugins` the names of what it uses, of
    which files are remembered by content. Ctrl-C keeps what was finished and builds the report from it.
    Raises ValueError, before any work, where the folder holds another run, or holds one and `resume` is not
    set.
    """
    description = _begin(store, asked, _sources(plugins), resume)
    completed = False
    try:
        with _progress(console) as progress:
            run_cells(progress)
        completed = True
    except KeyboardInterrupt:
        pass
    description["finished"] = _now() if completed else None
    description["interrupted"] = not completed
    store.write_run(description)
    if store.holds_cells:
        report(store.directory)
    return completed


def check_folder(store: Store, resume: bool) -> None:
    """ValueError where the folder holds something else, or a run and `resume` is not set."""
    if store.holds_run and not resume:
        raise ValueError(
            f"{store.directory} already holds a run; continue it with --resume, or choose another folder "
            "with --out"
        )
    if store.is_taken and not store.holds_run:
        raise ValueError(f"{store.directory} exists and holds no run; choose another folder with --out")


def _begin(store: Store, asked: dict[str, Any], sources: dict[str, str], resume: bool) -> dict[str, Any]:
    """What run.json says; of a run that is resumed, what it said, with this resumption added."""
    check_folder(store, resume)
    if not store.holds_run:
        description = {
            "experiment": asked,
            "sources": sources,
            "command": _command(),
            "started": _now(),
            "finished": None,
            "interrupted": False,
            "seeds": asked["seeds"],
            **environment.describe(),
        }
        store.create(description)
        return description
    description = store.read_run()
    earlier = description["experiment"]
    different = [key for key in {**asked, **earlier} if earlier.get(key) != asked.get(key)]
    different += [path for path in sources if description.get("sources", {}).get(path) != sources[path]]
    if different:
        raise ValueError(
            f"{store.directory} holds a run of another experiment (different: {', '.join(different)}); "
            "ask for the same one, or choose another folder with --out"
        )
    again = {"command": _command(), "started": _now(), **environment.describe()}
    return description | {"resumed": [*description.get("resumed", []), again]}


def _sources(plugins: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the plug-ins given as files: an edited one makes another experiment."""
    paths = sorted({name for name in plugins if name.endswith(".py")})
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}


def _command() -> str:
    """What makes such a run again, wherever it lies."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    if "--out" in arguments:
        place = arguments.index("--out")
        del arguments[place : place + 2]
    arguments = [argument for argument in arguments if not argument.startswith("--out=")]
    program = Path(sys.argv[0]).name
    # `python -m bench` is the same program.
    return shlex.join(["ihvp-bench" if program == "__main__.py" else program, *arguments])


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"),
        console=console,
    )


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
