"""What a study will take, as a table on the console."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from bench.forecast import forecast, gib
from bench.study import StudyPlan
from reports.formats import count, duration, number


def show_forecast(plan: StudyPlan, console: Console) -> None:
    """Print time and memory of each problem, and of all; OSError where data or a model cannot be had."""
    table = Table(box=None)
    table.add_column("what it will take, about", overflow="fold")
    for heading in ("p", "a gradient", "gradients", "time", "memory ≤"):
        table.add_column(heading, justify="right", no_wrap=True)
    seconds, most = 0.0, 0.0
    names = ", ".join(plan.families)
    console.print(
        f"First a look at {names}; what is not trained yet is trained now, which is not counted below "
        "(to train it apart: ihvp-bench train PROBLEM).",
        style="dim",
        highlight=False,
    )
    for found in forecast(plan):
        times = (duration(found.gradient_seconds), number(found.work), duration(found.seconds))
        table.add_row(found.problem, count(found.parameters), *times, gib(found.bytes))
        seconds, most = seconds + found.seconds, max(most, found.bytes)
    if table.row_count > 1:
        table.add_row("all", "", "", "", duration(seconds), gib(most))
    if table.row_count:
        console.print(table)
        unknown = " Where there is no time, it cannot be told before." if math.isnan(seconds) else ""
        console.print(
            "A gradient is over all training examples; many small mini-batches take longer than they count."
            f"{unknown}\n",
            style="dim",
            highlight=False,
        )
