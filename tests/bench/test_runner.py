"""Runs end to end: rows, interruption, resumption and determinism."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import runner
from bench.experiment import Experiment, Plan, plan
from bench.runner import build_report, run
from bench.store import Store

TIMINGS = [
    "setup_seconds", "solve_seconds", "gradient_seconds", "product_seconds", "peak_memory_bytes", "seconds",
]  # fmt: skip

FAILING = '''
from dataclasses import dataclass
from solvers import Iterate, Solver

@dataclass(frozen=True)
class Failing(Solver):
    """Raises at its third step."""

    def iterates(self, problem, state, b, generator):
        yield Iterate(b)
        yield Iterate(b)
        raise RuntimeError("the third step fails")
'''


def small_plan(**changes: Any) -> Plan:
    asked: dict[str, Any] = {
        "title": "Small",
        "problems": [{"name": "quadratic", "parameters": {"dimension": 5, "num_examples": 8}}],
        "solvers": [
            {"name": "cg"},
            {"name": "lissa", "settings": {"step_size": 0.1, "num_steps": 30, "batch_size": 2}},
        ],
        "seeds": [0, 1],
    }
    return plan(Experiment.model_validate(asked | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, to be read, or copied and changed."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert run(small_plan(), directory)
    return directory


def test_every_cell_is_a_row_with_its_curve_and_the_report_is_built(finished: Path) -> None:
    directory = finished
    cells, curves = Store(directory).read()
    assert len(cells) == 4
    assert set(cells["status"]) == {"converged", "finished"}
    assert cells["error"].notna().all()
    merged = cells.merge(
        curves.groupby(["problem", "solver", "seed"]).last().reset_index(), on=["problem", "solver", "seed"]
    )
    assert (merged["step"] == merged["steps"]).all()
    assert (merged["work"] == merged["solve_work"]).all()
    assert (directory / "report" / "index.html").exists()
    described = json.loads((directory / "run.json").read_text())
    assert described["interrupted"] is False
    assert described["finished"] is not None
    assert described["versions"]["torch"]


def test_two_runs_with_one_seed_give_the_same_rows_but_for_timings(finished: Path, tmp_path: Path) -> None:
    run(small_plan(), tmp_path / "second")
    frames = (Store(finished).read(), Store(tmp_path / "second").read())
    for first, second in zip(*frames, strict=True):
        columns = [column for column in first.columns if column not in TIMINGS]
        pd.testing.assert_frame_equal(first[columns], second[columns], check_exact=True)


def test_a_solver_that_raises_is_a_row_and_the_run_goes_on(tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    planned = small_plan(solvers=[{"name": str(failing)}, {"name": "cg"}], seeds=[0])
    assert run(planned, tmp_path / "run")
    cells, _ = Store(tmp_path / "run").read()
    assert list(cells["status"]) == ["failed", "converged"]
    assert "the third step fails" in cells["traceback"][0]
    assert "RuntimeError: the third step fails" in (tmp_path / "run" / "report" / "index.html").read_text()


BROKEN_FAMILY = '''
from dataclasses import dataclass
from problems import ProblemFamily

@dataclass(frozen=True)
class Broken(ProblemFamily):
    """Cannot be built."""

    def build(self, *, device, dtype, seed):
        raise ValueError("the data are gone")
'''


def test_a_problem_that_cannot_be_built_is_rows_and_the_run_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN_FAMILY)
    quadratic = {"name": "quadratic", "parameters": {"dimension": 5, "num_examples": 8}}
    planned = small_plan(problems=[{"name": str(broken)}, quadratic], solvers=[{"name": "cg"}], seeds=[0])
    assert run(planned, tmp_path / "run")
    cells, _ = Store(tmp_path / "run").read()
    assert list(cells["status"]) == ["failed", "converged"]
    assert cells["reason"][0] == "ValueError: the data are gone"
    assert "the data are gone" in (tmp_path / "run" / "report" / "index.html").read_text()


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the cell after `count` cells."""
    original = runner.measure
    left = [count]

    def measure(*arguments: Any) -> Any:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(*arguments)

    monkeypatch.setattr(runner, "measure", measure)


def test_interruption_keeps_what_was_finished_and_resume_does_the_rest(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        assert not run(small_plan(), directory)
    before = (directory / "cells" / "0000.parquet").stat().st_mtime_ns
    assert len(Store(directory).read()[0]) == 2
    assert Store(directory).read_run()["interrupted"] is True
    assert "nterrupted" in (directory / "report" / "index.html").read_text()
    assert run(small_plan(), directory, resume=True)
    assert len(Store(directory).read()[0]) == 4
    assert (directory / "cells" / "0000.parquet").stat().st_mtime_ns == before
    assert Store(directory).read_run()["interrupted"] is False
    pd.testing.assert_series_equal(Store(directory).read()[0]["error"], Store(finished).read()[0]["error"])


def test_interruption_before_the_first_cell_leaves_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(0, monkeypatch)
    assert not run(small_plan(), tmp_path / "run")
    assert not (tmp_path / "run" / "report").exists()


def test_a_folder_that_holds_a_run_is_left_alone(finished: Path) -> None:
    directory = finished
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with pytest.raises(ValueError, match="already holds a run; continue it with --resume"):
        run(small_plan(), directory)
    with pytest.raises(ValueError, match=r"another experiment \(different: seeds\)"):
        run(small_plan(seeds=[5]), directory, resume=True)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_folder_with_anything_else_in_it_is_left_alone(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "other")
    (tmp_path / "other" / "run.json").unlink()
    with pytest.raises(ValueError, match="exists and holds no run"):
        run(small_plan(seeds=[7]), tmp_path / "other")


def test_an_edited_plugin_is_another_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "failing.py"
    path.write_text(FAILING)
    asked = {"solvers": [{"name": "cg"}, {"name": str(path)}], "seeds": [0]}
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        run(small_plan(**asked), tmp_path / "run")
    path.write_text(FAILING + "# edited")
    with pytest.raises(ValueError, match=r"another experiment \(different: .*failing.py\)"):
        run(small_plan(**asked), tmp_path / "run", resume=True)


def test_whatever_goes_wrong_in_a_cell_is_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise MemoryError("no room for the certificate")

    monkeypatch.setattr(runner, "measure", broken)
    assert run(small_plan(seeds=[0]), tmp_path / "run")
    cells, _ = Store(tmp_path / "run").read()
    assert set(cells["status"]) == {"failed"}
    assert set(cells["reason"]) == {"MemoryError: no room for the certificate"}


def test_the_report_is_rebuilt_from_rows_alone(finished: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(finished, tmp_path / "run"))
    table = (directory / "report" / "tables" / "comparison.csv").read_text()
    (directory / "report" / "index.html").unlink()
    build_report(directory)
    assert (directory / "report" / "tables" / "comparison.csv").read_text() == table
    assert (directory / "report" / "index.html").exists()


def test_a_folder_without_a_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        build_report(tmp_path)
