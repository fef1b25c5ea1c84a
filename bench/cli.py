"""The command line, `ihvp-bench`."""

from __future__ import annotations

import datetime
import inspect
import json
import shlex
import sys
import warnings
import webbrowser
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import rich
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

import problems
import reports
import solvers
from bench import data_command, runner, scaffold, session, study, study_runner, train_command
from bench import experiment as experiments
from bench.conformance import command as check_command
from bench.diagnosis import command as diagnose_command
from bench.diagnosis.diagnose import DEFAULT_BUDGET
from bench.diagnosis.lissa_settings import Settings
from bench.diagnosis.text import print_diagnosis
from bench.forecast import check_memory
from bench.forecast_text import show_forecast
from bench.limit import MOST_SECONDS
from bench.store import Store, failures
from problems.cache import CacheWarning
from problems.data import DataWarning
from problems.discovery import PluginWarning
from problems.named import NAMED
from problems.specification import Specification, parse, written
from problems.training import NetworkWarning
from problems.validation import explain, unknown
from solvers.peers.library import library_of, unavailable

app = typer.Typer(
    help="Compare solvers of inverse Hessian-vector products, x = (H + λI)⁻¹ b.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_command.app, name="data")
# That of the process, so that the bars of training and downloads stand beneath those of a run.
console = rich.get_console()
errors = Console(stderr=True)
SHOW_WARNING = warnings.showwarning
shown_warnings: set[str] = set()


class Listed(StrEnum):
    """What `list` can list."""

    solvers = "solvers"
    problems = "problems"
    experiments = "experiments"


@app.command()
def run(
    experiment: Annotated[
        str,
        typer.Argument(
            help="A named experiment, a study as STUDY[:param=value,...], or a TOML or Python file."
        ),
    ] = experiments.DEFAULT,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            "-s", "--solver", help="SOLVER[:param=value,...] in place of the experiment's; repeatable."
        ),
    ] = None,
    problem: Annotated[
        list[str] | None,
        typer.Option(
            "-p", "--problem", help="PROBLEM[:param=value,...] in place of the experiment's; repeatable."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (results/EXPERIMENT-TIME).")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run that --out holds; what failed is tried again."),
    ] = False,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Of a study: quick (nothing to fetch), small (minutes on two cores), paper (a large GPU)."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds, 0 to N − 1.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    reference_work: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Gradient equivalents that CG may spend on a reference where p is too large for a dense one "
            "(300; 0: no reference).",
        ),
    ] = None,
) -> None:
    """Run an experiment and build its report."""
    if resume and out is None:
        raise ValueError("--resume continues the run of a given folder: name it with --out")
    chosen_problems = [parse(text) for text in problem or []]
    named = _named_study(experiment)
    if named:
        if reference_work is not None:
            raise ValueError(
                f"--reference-work is no option of a study; where {named.name} has one, write "
                f"{named.name}:reference_work={reference_work:g}"
            )
        if solver:
            raise ValueError(f"{named.name} is a study, which chooses its own solvers: leave out -s")
        study_plan = study.plan(named, chosen_problems, scale=scale, seeds=seeds, device=device, dtype=dtype)
        directory = out or _new_directory(study_plan.request.name)
        begun = Store(directory)
        session.check_folder(begun, resume)
        check_memory(study_plan)
        if not begun.holds_run:
            show_forecast(study_plan, console)
        completed = study_runner.run(study_plan, directory, resume=resume, console=console)
    else:
        if scale:
            raise ValueError(f"{experiment} is no study and has one scale: leave out --scale")
        chosen = experiments.load_experiment(experiment).with_changes(
            chosen_problems,
            [parse(text) for text in solver or []],
            seeds=None if seeds is None else tuple(range(seeds)),
            device=device,
            dtype=dtype,
            reference_work=reference_work,
        )
        plan = experiments.plan(chosen)
        directory = out or _new_directory(chosen.name)
        completed = runner.run(plan, directory, resume=resume, console=console)
    store = Store(directory)
    go_on = f"go on with --out {shlex.quote(str(directory))} --resume"
    if not store.report.exists():
        _say_error(f"Interrupted before a cell was finished: {go_on}.")
        raise typer.Exit(130)
    if named:
        findings = (store.report / "findings.txt").read_text(encoding="utf-8")
        console.print(findings, highlight=False, markup=False)
    else:
        _print_summary(_read_comparison(store.report / "tables" / "comparison.csv"))
    console.print(f"\nReport: {directory / 'report' / 'index.html'}", soft_wrap=True)
    if not completed:
        _say_error(f"Interrupted: the report holds the cells that were finished; {go_on}.")
        raise typer.Exit(130)
    rows = store.read_rows()
    failed = rows[failures(rows)]
    if len(failed):
        asked = (
            [] if named else [each.name for each in chosen.problems] + [each.name for each in chosen.solvers]
        )
        _explain_failures(failed, "failure" if named else "reason", asked)
        _say_error(f"To try them again, {go_on}.")
        raise typer.Exit(1)


@app.command()
def report(
    path: Annotated[
        Path,
        typer.Argument(help="Folder of a run, or JSON that pytest-benchmark wrote of bench_products.py."),
    ],
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Rebuild tables, figures and page from what is stored."""
    page = _build_products(path) if path.is_file() else runner.build_report(path)
    console.print(f"Report: {page}", soft_wrap=True)
    if open_page:
        webbrowser.open(page.resolve().as_uri())


@app.command()
def publish(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of a finished run, or JSON that pytest-benchmark wrote of bench_products.py."
        ),
    ],
    gallery: Annotated[Path, typer.Option(help="Folder of the gallery.")] = Path("reports/gallery"),
    name: Annotated[
        str | None, typer.Option(help="Folder in the gallery (the experiment's name, with its scale).")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="What an interrupted run measured, marked as such.")
    ] = False,
) -> None:
    """Put a run's page, figures and tables into a gallery, and build its index again."""
    if path.is_file():
        page = _build_products(path)
        folder = reports.publish(page.parent, reports.products_run(_read_benchmark(path)), gallery, name)
        console.print(f"Published: {folder}; index: {gallery / 'index.html'}", soft_wrap=True)
        return
    store = Store(path)
    if not (store.report / "index.html").exists():
        raise ValueError(f"{path} holds no report: name the folder of a run")
    failed = int(failures(store.read_rows()).sum())
    if failed:
        raise ValueError(
            f"{failed} cells of {path} failed, and a gallery takes whole runs: try them again with --resume"
        )
    folder = reports.publish(store.report, store.read_run(), gallery, name, unfinished=unfinished)
    console.print(f"Published: {folder}; index: {gallery / 'index.html'}", soft_wrap=True)


@app.command()
def train(
    problem: Annotated[str, typer.Argument(help="PROBLEM[:param=value,...], as resnet18 or opt-small.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Train a problem's network, or load what is trained, and say what became of it."""
    train_command.run(problem, device, console)


@app.command()
def diagnose(
    problem: Annotated[
        str, typer.Argument(help="PROBLEM[:param=value,...], or FILE.py with a function problem().")
    ],
    budget: Annotated[float, typer.Option(help="Gradient equivalents to spend.")] = DEFAULT_BUDGET,
    target: Annotated[float, typer.Option(help="Relative error wanted.")] = 0.05,
    damping: Annotated[float | None, typer.Option(help="Another λ than the problem's.")] = None,
    step_size: Annotated[float | None, typer.Option(help="Your LiSSA's step size, to be judged.")] = None,
    batch_size: Annotated[str | None, typer.Option(help='Your LiSSA\'s batch size, or "full".')] = None,
    num_steps: Annotated[int | None, typer.Option(help="Your LiSSA's number of steps.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the estimates.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N, of a named problem.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64, of a named problem.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page (results/diagnosis-NAME-TIME).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Measure a problem's spectrum, judge LiSSA's settings, predict what solvers cost, recommend one."""
    settings = Settings(step_size, _batch_size(batch_size), num_steps)
    asked = diagnose_command.Asked(problem, budget, target, damping, settings, seed, device, dtype)
    directory = out or diagnose_command.new_directory(problem)
    reports.check_diagnosis_directory(directory)
    found, stored = diagnose_command.run(asked, errors)
    if out or not as_json:
        page = reports.build_diagnosis(stored, directory)
    if as_json:
        print(json.dumps(stored, indent=2, ensure_ascii=False, allow_nan=False))
        return
    print_diagnosis(found, console)
    console.print(f"\nReport: {page}", soft_wrap=True)


@app.command("list")
def list_(
    what: Annotated[Listed, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List solvers, problems with networks, or experiments, with their settings."""
    rows = _listing(what)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    headings = ("name", "what it is", "settings" if what != Listed.experiments else "runs")
    table = Table(*(Column(heading, overflow="fold") for heading in headings), box=None)
    for row in rows:
        table.add_row(row["name"], _summary_text(row), _settings_text(row))
    console.print(table)


@app.command()
def new(
    what: Annotated[scaffold.Kind, typer.Argument(help="What to write.")],
    name: Annotated[str, typer.Argument(help="Its name: small letters, digits and _.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to (the current folder; in a checkout solvers/ or problems/, and tests/)."),
    ] = None,
) -> None:
    """Write a working solver or problem family to edit, and its test."""
    written = scaffold.write(what, name, folder)
    console.print(f"Wrote {' and '.join(map(str, written.files))}. Next:", soft_wrap=True, highlight=False)
    for command in written.commands:
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A solver or a problem by name, or a Python file with one.")],
    problem: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--problem",
            help="PROBLEM[:param=value,...] to try a solver on (all small ones); repeatable.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="The most that one solve may take.")] = MOST_SECONDS,
) -> None:
    """Try what every solver, or problem family, is held to, and say what each check means."""
    status = check_command.run(name, [parse(text) for text in problem or []], console, seconds)
    if status:
        raise typer.Exit(status)


def main() -> None:
    """Run the command line; what a person can act on is one line, without a traceback."""
    warnings.showwarning = _show_warning
    shown_warnings.clear()
    try:
        app()
    except (ValueError, OSError) as error:
        message = explain(error) if isinstance(error, ValidationError) else str(error)
        _say_error(f"ihvp-bench: {message}", style="bold red")
        sys.exit(2)


def _say_error(text: str, style: str | None = None) -> None:
    errors.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
    if issubclass(category, PluginWarning | DataWarning | CacheWarning | NetworkWarning):
        # Plug-ins are looked for more than once; data and networks are loaded so.
        if str(message) not in shown_warnings:
            shown_warnings.add(str(message))
            _say_error(f"ihvp-bench: {message}", style="yellow")
    else:
        SHOW_WARNING(message, category, *where, **options)


def _batch_size(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _named_study(text: str) -> Specification | None:
    """The study that `run` is asked for, or None for an experiment; ValueError where it is neither."""
    if text.endswith(".toml"):
        return None
    asked = parse(text)
    if asked.name.endswith(".py") or asked.name in study.available():
        return asked
    known = experiments.available()
    if asked.name not in known:
        raise ValueError(unknown("experiment", asked.name, [*known, *study.available()]))
    if asked.settings:
        raise ValueError(f"{asked.name} is no study and takes no parameters; change its problems with -p")
    return None


def _new_directory(name: str) -> Path:
    return Path("results") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _build_products(path: Path) -> Path:
    """The page on the products in a pytest-benchmark file, in the folder beside it that has its stem."""
    try:
        return reports.build_products(_read_benchmark(path), path.with_suffix(""))
    except ValueError as error:
        raise ValueError(f"{path} is no benchmark of products: {error}") from None


def _read_benchmark(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _listing(what: Listed) -> list[dict[str, Any]]:
    if what is Listed.experiments:
        return [
            {
                "name": name,
                "summary": found.title,
                "problems": [entry.name for entry in found.problems],
                "solvers": [entry.name for entry in found.solvers],
            }
            for name, experiment in experiments.available().items()
            for found in [experiment.expanded()]
        ] + [
            {
                "name": name,
                "summary": found.title,
                "problems": list(next(iter(found.scales.values())).problems),
                "scales": list(found.scales),
                "settings": _defaults(found),
            }
            for name, found in study.available().items()
        ]
    classes: Mapping[str, type] = solvers.available() if what is Listed.solvers else problems.available()
    rows = [
        {"name": name, "summary": _first_line(cls), "settings": _defaults(cls)} | _origin(cls)
        for name, cls in classes.items()
    ]
    networks = [
        {
            "name": name,
            "summary": f"A network: short for {family} with these settings.",
            "stands_for": written(Specification(family, dict(own))),
            "settings": dict(own),
        }
        for name, (family, own) in NAMED.items()
    ]
    return rows if what is Listed.solvers else rows + networks


def _origin(cls: type) -> dict[str, str]:
    """Of a solver of another library that, and why it cannot run where it cannot."""
    library, reason = library_of(cls), unavailable(cls)
    found = {"library": library.distribution} if library else {}
    return found | {"unavailable": reason} if reason else found


def _defaults(cls: type) -> dict[str, Any]:
    return {
        setting.name: "required" if setting.default is MISSING else setting.default for setting in fields(cls)
    }


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _summary_text(row: dict[str, Any]) -> str:
    origin = row.get("unavailable") or row.get("library")
    return f"{row['summary']} ({origin})" if origin else row["summary"]


def _settings_text(row: dict[str, Any]) -> str:
    if "solvers" in row:
        return f"{len(row['problems'])} problems × {len(set(row['solvers']))} solvers"
    settings = ", ".join(f"{name}={value}" for name, value in row["settings"].items())
    if "problems" not in row:
        return settings
    number = f"{len(row['problems'])} problem{'' if len(row['problems']) == 1 else 's'}"
    return f"study of {number} ({', '.join(row['scales'])}): {settings}"


def _explain_failures(failed: pd.DataFrame, column: str, plugins: list[str]) -> None:
    """Each reason once, and what to do about the plug-ins given as files that took part."""
    cells = "1 cell" if len(failed) == 1 else f"{len(failed)} cells"
    _say_error(f"{cells} failed:")
    for _, row in failed.drop_duplicates(column).iterrows():
        where = [str(row[label]) for label in ("problem", "solver") if label in row]
        _say_error(f"  {', '.join(where)}: {row[column]}")
    took_part = {*failed.get("solver_name", ()), *failed.get("problem_name", ())}
    for path in dict.fromkeys(plugins):
        if path.endswith(".py") and Path(path).stem in took_part:
            _say_error(f"Find out more with: ihvp-bench check {shlex.quote(path)}")


def _read_comparison(path: Path) -> pd.DataFrame:
    """The report's table; a solver called `nan` is no missing number."""
    missing = {column: ["", "nan"] for column in ("error", "total_work", "total_seconds")}
    return pd.read_csv(path, keep_default_na=False, na_values=missing)


def _print_summary(comparison: pd.DataFrame) -> None:
    """The report's table in short: medians over the seeds, work in gradient equivalents."""
    table = Table(box=None)
    for heading in ("problem", "solver"):
        table.add_column(heading, overflow="fold")
    for heading in ("status", "error", "work", "seconds"):
        table.add_column(heading, no_wrap=True)
    for row in comparison.itertuples():
        error, work, seconds = f"{row.error:.1e}", f"{row.total_work:.3g}", f"{row.total_seconds:.3g}"
        table.add_row(row.problem, row.solver, row.status, error, work, seconds)
    console.print(table)
