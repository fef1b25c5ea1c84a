"""Hand-made rows with known answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports import build, figures, report
from reports.rows import clean_cells, clean_curves
from reports.tables import comparison
from reports.targets import cost_to_target, history, judge

Cell = dict[str, Any]


def _cell(solver: str = "cg", problem: str = "quadratic", seed: int = 0, **values: Any) -> Cell:
    return {
        "problem": problem, "solver": solver, "seed": seed, "solver_settings": '{"tolerance": 1e-10}',
        "status": "converged", "reason": "as asked", "error": 1e-3, "energy_error": 5e-4, "residual": 2e-3,
        "steps": 2, "setup_work": 10.0, "solve_work": 6.0, "setup_seconds": 0.5, "solve_seconds": 0.3,
        "peak_memory_bytes": None, "dimension": 7850, "num_examples": 100, "num_columns": 2, "damping": 0.001,
        "lambda_max": 3.0, "trace": 9.0, "condition_number": 3000.0, "reference_residual": 1e-14,
        "gradient_seconds": 0.1, "product_seconds": 0.25, "dtype": "float32", "device": "cpu",
        "facts": '{"test accuracy": 0.93}', "diagnostics": "{}", "traceback": "",
    } | values  # fmt: skip


def _curve(
    errors: list[float],
    work: list[float] | None = None,
    solver: str = "cg",
    problem: str = "quadratic",
    seed: int = 0,
) -> pd.DataFrame:
    """Iterates 0, 1, 2, … whose work is their step unless given, and whose seconds are a tenth of it."""
    spent = pd.Series(work if work is not None else range(len(errors)), dtype=float)
    return pd.DataFrame(
        {
            "problem": problem, "solver": solver, "seed": seed, "step": range(len(errors)), "work": spent,
            "seconds": spent / 10, "residual": pd.Series(errors) * 2, "error": errors, "energy_error": errors,
        }
    )  # fmt: skip


@pytest.fixture
def cell() -> Callable[..., Cell]:
    return _cell


@pytest.fixture
def curve() -> Callable[..., pd.DataFrame]:
    return _curve


@pytest.fixture
def judged() -> Callable[..., pd.DataFrame]:
    """Cells with their costs to the target of 1 %."""

    def run(
        cells: list[Cell], curves: list[pd.DataFrame] | None = None, target: float = 0.01
    ) -> pd.DataFrame:
        rows = judge(clean_cells(pd.DataFrame(cells)), target)
        path = history(rows, clean_curves(pd.concat(curves) if curves else pd.DataFrame()))
        return cost_to_target(rows, path, target)

    return run


@pytest.fixture
def compared(judged: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    """The comparison table of cells."""
    return lambda *arguments, **named: comparison(judged(*arguments, **named))


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., str]:
    """The HTML of a report on cells and curves."""

    def run(
        cells: list[Cell], curves: list[pd.DataFrame] | None = None, run: dict[str, Any] | None = None
    ) -> str:
        frame = pd.concat(curves) if curves else pd.DataFrame()
        return build(pd.DataFrame(cells), frame, run or {}, tmp_path / "report").read_text(encoding="utf-8")

    return run


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in place of figures, for tests of what stands around them: drawing takes a second per report."""

    def draw(directory: Path, path: pd.DataFrame, table: pd.DataFrame, target: float) -> figures.FigureSet:
        directory.mkdir()
        stems = figures.file_stems(list(dict.fromkeys(table["problem"])))
        for stem in (*stems.values(), "pareto", "overview"):
            (directory / f"{stem}.png").write_bytes(b"blank")
        return figures.FigureSet(stems, "pareto", "overview")

    monkeypatch.setattr(report, "draw_figures", draw)
