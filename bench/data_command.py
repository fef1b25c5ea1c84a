"""`ihvp-bench data`: which data sets there are, and to have one before it is needed."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from problems import data
from problems.data import DataSet

app = typer.Typer(help="Real data sets and weights: list them, fetch them.", no_args_is_help=True)
console = Console()
errors = Console(stderr=True)


@app.command("list")
def list_data(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """List the data sets, and whether they are on this machine."""
    rows = [_row(data_set) for data_set in data.available().values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    headings = ("name", "kind", "what it is", "download", "licence", "here")
    table = Table(*(Column(heading, overflow="fold") for heading in headings), box=None)
    for row in rows:
        size = f"{row['download_bytes'] / 1e6:.0f} MB" if row["download_bytes"] else "none"
        here = "embedded" if row["embedded"] else "cached" if row["cached"] else "no"
        table.add_row(row["name"], row["kind"], row["summary"], size, row["licence"], here)
    console.print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The data set, as in `ihvp-bench data list`.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="A folder with its files or its archive in it, in place of a download."),
    ] = None,
) -> None:
    """Put a data set into the cache, from where it needs no network."""
    data_set = data.find(name)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", data.DataWarning)  # it is among what was said
        obtained = data.fetch(name, folder)
    for told in obtained.said:
        _say(f"Not from {told}", errors)
    where = "" if data_set.embedded else f" in {data_set.cache_path}"
    _say(f"{name} is here{where}: from {obtained.source}, in {time.perf_counter() - began:.1f} s.", console)


def _row(data_set: DataSet) -> dict[str, Any]:
    return {
        "name": data_set.name,
        "kind": data_set.kind,
        "summary": data_set.summary,
        "download_bytes": data_set.download_bytes,
        "licence": data_set.licence,
        "embedded": data_set.embedded is not None,
        "cached": data.is_cached(data_set.name),
        "file": None if data_set.embedded else str(data_set.cache_path),
    }


def _say(text: str, where: Console) -> None:
    where.print(text, highlight=False, markup=False, soft_wrap=True)
