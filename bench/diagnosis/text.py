"""A diagnosis as it is printed."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.diagnosis.lissa_settings import JudgedSettings
from bench.diagnosis.predicted_solvers import PredictedSolver
from bench.diagnosis.result import Diagnosis, Quantity
from reports.formats import number

_REACHES = {True: "yes", False: "no", None: "not known"}


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Warnings, the spectrum, theory's conditions, what solvers are predicted to need, the command."""
    subject = diagnosis.subject
    unit = "tokens" if subject.unit == "token" else "examples"
    say(
        console,
        f"{subject.specification}: p = {subject.size:,}, n = {subject.num_examples:,} {unit}, "
        f"{subject.num_columns} right-hand sides, λ = {subject.damping:g}, "
        f"{subject.dtype} on {subject.device}",
    )
    for warning in diagnosis.warnings:
        say(console, f"Warning: {warning}", "yellow")
    for note in diagnosis.notes:
        say(console, f"Note: {note}")
    console.print(_spectrum(diagnosis.spectrum))
    for judged in diagnosis.settings:
        _print_settings(judged, console)
    say(console, f"\nPredicted for a relative error of {diagnosis.target:g}", "bold")
    console.print(_solvers(diagnosis.solvers))
    spent = diagnosis.spent
    on = f" over the sample, {number(spent.over_all_data)} over all data"
    on = "" if spent.over_all_data == spent.total else on
    parts = ", ".join(f"{name} {number(value)}" for name, value in spent.parts.items())
    say(
        console,
        f"\nSpent {number(spent.total)} of {number(spent.asked)} gradient equivalents{on}: {parts}",
    )
    say(console, f"\n{diagnosis.recommendation.why}", "bold")
    say(console, f"  {diagnosis.recommendation.command}")
    say(console, f"  {diagnosis.recommendation.python}")


def say(console: Console, text: str, style: str = "") -> None:
    """A line as it stands, which the terminal may wrap."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _spectrum(quantities: dict[str, Quantity]) -> Table:
    table = Table("", "value", "99 % interval", "", box=None)
    for quantity in quantities.values():
        table.add_row(quantity.symbol, number(quantity.value), interval(quantity), quantity.meaning)
    return table


def interval(quantity: Quantity) -> str:
    """ "[1.2, 3.4]", with a dot for an end that is not known."""
    if quantity.low is None and quantity.high is None:
        return ""
    low, high = ("·" if end is None else number(end) for end in (quantity.low, quantity.high))
    return f"[{low}, {high}]"


def _print_settings(judged: JudgedSettings, console: Console) -> None:
    note = f" ({judged.note})" if judged.note else ""
    say(
        console,
        f"\nLiSSA's settings {judged.name}: η = {number(judged.step_size)}, b = {judged.batch_size}, "
        f"T = {judged.num_steps:,}, ηλT = {number(judged.time)}{note}",
        "bold",
    )
    for condition in judged.conditions:
        values = f"{number(condition.value)} against {number(condition.limit)}"
        say(
            console,
            f"  {condition.name}, {condition.formula}: {values}: {condition.verdict}",
            "" if condition.met else "yellow",
        )
    say(
        console,
        f"  bias {number(judged.bias)}, noise {number(judged.noise)}, its floor {number(judged.floor)}; "
        f"contraction ρ = {number(judged.contraction)} a step",
    )


def _solvers(rows: tuple[PredictedSolver, ...]) -> Table:
    table = Table("solver", "steps", "work", "error", "reaches it", "prediction", box=None)
    table.columns[0].no_wrap = True
    for column in table.columns[1:4]:
        column.justify = "right"
        column.no_wrap = True
    for row in rows:
        table.add_row(
            row.name,
            "–" if row.steps is None else f"{row.steps:,}",
            "–" if row.work is None else number(row.work),
            "–" if row.error is None else number(row.error),
            _REACHES[row.reaches],
            row.basis,
        )
    return table
