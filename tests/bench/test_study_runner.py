"""Studies end to end: rows, failures, interruption, resumption and the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

import bench.cli
from bench import study, study_runner
from bench.runner import build_report
from bench.store import Store
from bench.study import StudyPlan
from problems.specification import parse
from tests.bench.studies import COUNTING
from tests.bench.test_cli import invoke

SMALL = "quadratic(dimension=3, num_examples=4)"


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    return path


def planned(path: Path, parameters: str = "", **changes: int) -> StudyPlan:
    return study.plan(parse(f"{path}{parameters}"), **changes)


def test_every_cell_keeps_its_rows_and_the_report_is_built(counting: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert study_runner.run(planned(counting), directory)
    rows = Store(directory).read_rows()
    first = rows[(rows["problem"] == SMALL) & (rows["seed"] == 1) & (rows["number"] == 2)]
    # p + number + seed, and ten more.
    assert list(first["sum"]) == [6, 16]
    assert len(rows) == 2 * 2 * 2 * 2
    assert set(rows["failure"]) == {""}
    assert list(first["damping"]) == [0.01, 0.01]
    assert list(first["problem_name"]) == ["quadratic"] * 2
    assert {path.name for path in directory.iterdir()} == {"cells", "run.json", "report"}
    described = json.loads((directory / "run.json").read_text())
    assert described["experiment"]["parameters"] == {"numbers": [1, 2], "bad": -1}
    assert described["seeds"] == [0, 1]
    assert (described["interrupted"], described["finished"] is None) == (False, False)
    # p of both, each with 8 rows; 1 or 2; 0 or 1; 0 or 10.
    assert (directory / "report" / "findings.txt").read_text() == f"Sum: {8 * 5 + 16 * (1.5 + 0.5 + 5):g}.\n"


def test_report_is_rebuilt_from_the_rows(counting: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    study_runner.run(planned(counting), directory)
    page = (directory / "report" / "index.html").read_bytes()
    (directory / "report" / "index.html").unlink()
    assert build_report(directory) == directory / "report" / "index.html"
    assert (directory / "report" / "index.html").read_bytes() == page


def test_a_cell_that_raises_is_a_row_with_its_reason(counting: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert study_runner.run(planned(counting, ":bad=2", seeds=1), directory)
    rows = Store(directory).read_rows()
    assert list(rows["failure"]) == ["", "", "RuntimeError: cannot count"] * 2
    failed = rows.iloc[2]
    assert (failed["number"], failed["problem"], failed["dimension"]) == (2, SMALL, 3)
    assert "cannot count" in failed["traceback"]
    assert "RuntimeError: cannot count" in (directory / "report" / "index.html").read_text()


def test_a_problem_that_cannot_be_prepared_is_rows_and_the_study_goes_on(
    counting: Path, tmp_path: Path
) -> None:
    counting.write_text(
        COUNTING.replace("        return problem.size", "        return 6 // (problem.size - 3)")
    )
    directory = tmp_path / "run"
    assert study_runner.run(planned(counting, seeds=1), directory)
    rows = Store(directory).read_rows()
    broken = rows[rows["problem"] == SMALL]
    assert list(broken["failure"]) == ["ZeroDivisionError: integer division or modulo by zero"] * 2
    assert f"while preparing the problem {SMALL}" in broken["traceback"].iloc[0]
    assert set(rows[rows["problem"] != SMALL]["failure"]) == {""}


def test_interruption_keeps_finished_cells_and_resume_does_the_rest(
    counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    original, left = study_runner._run_cell, [3]

    def interrupt(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(study_runner, "_run_cell", interrupt)
        assert not study_runner.run(planned(counting), directory)
    assert len(Store(directory).read_rows()) == 3 * 2
    assert "was interrupted" in (directory / "report" / "index.html").read_text()
    before = (directory / "cells" / "0000.parquet").stat().st_mtime_ns
    assert study_runner.run(planned(counting), directory, resume=True)
    assert (directory / "cells" / "0000.parquet").stat().st_mtime_ns == before
    study_runner.run(planned(counting), tmp_path / "whole")
    pd.testing.assert_frame_equal(Store(directory).read_rows(), Store(tmp_path / "whole").read_rows())
    assert "was interrupted" not in (directory / "report" / "index.html").read_text()


def test_what_failed_is_tried_again_and_nothing_else(
    counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells whose own measurement raised, and those of a problem that could not be prepared."""
    directory, prepare, measured = tmp_path / "run", study_runner._prepare, []
    original = study_runner._run_cell

    def unlucky(plan, label, show):
        return OSError("no network") if label == SMALL else prepare(plan, label, show)

    def noting(plan, cell, *rest):
        measured.append(cell.index)
        return original(plan, cell, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(study_runner, "_prepare", unlucky)
        study_runner.run(planned(counting), directory)
    assert list(Store(directory).read_rows()["failure"] != "").count(True) == 4
    monkeypatch.setattr(study_runner, "_run_cell", noting)
    study_runner.run(planned(counting), directory, resume=True)
    assert measured == [0, 1, 2, 3]
    study_runner.run(planned(counting), tmp_path / "whole")
    pd.testing.assert_frame_equal(Store(directory).read_rows(), Store(tmp_path / "whole").read_rows())


def test_only_the_same_study_is_resumed(counting: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    study_runner.run(planned(counting, seeds=1), directory)
    with pytest.raises(ValueError, match="already holds a run"):
        study_runner.run(planned(counting, seeds=1), directory)
    with pytest.raises(ValueError, match=r"another experiment \(different: parameters\)"):
        study_runner.run(planned(counting, ":numbers=[1]", seeds=1), directory, resume=True)
    counting.write_text(COUNTING + "# edited\n")
    with pytest.raises(ValueError, match=r"another experiment \(different: .*counting.py\)"):
        study_runner.run(planned(counting, seeds=1), directory, resume=True)


def test_the_command_line_runs_a_study_and_prints_what_was_found(
    counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    one = ["-p", "quadratic:dimension=3,num_examples=4", "--seeds", "1", "--out", str(out)]
    assert invoke("run", f"{counting}:numbers=[4]", *one, monkeypatch=monkeypatch) == 0
    output = capsys.readouterr().out
    assert "Sum: 24." in output  # 3 + 4, and ten more
    assert f"Report: {out}/report/index.html" in output
    described = json.loads((out / "run.json").read_text())
    command = f"ihvp-bench run {counting}:numbers=[4] -p {one[1]} --seeds 1"  # wherever it lies
    assert described["command"].replace("'", "") == command
    assert invoke("report", str(out), monkeypatch=monkeypatch) == 0
    failing = [str(out.with_name("failing")) if argument == str(out) else argument for argument in one]
    assert invoke("run", f"{counting}:bad=1", *failing, monkeypatch=monkeypatch) == 1
    assert "1 cell failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "phase", "-s", "cg"], "phase is a study, which chooses its own solvers: leave out -s"),
        (["run", "phaze"], "no experiment 'phaze'; did you mean 'phase'"),
        (["run", "quickstart:seeds=3"], "quickstart is no study and takes no parameters"),
        (["run", "phase:time=-1"], "time is -1"),
        (["run", "phase", "-p", "quadratik"], "did you mean 'quadratic'"),
        (["run", "role", "-p", "quadratic"], "quadratic is a bare matrix without training examples"),
        (["run", "role:top=[5]"], "top is [5]; it must be a whole number"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    assert invoke(*arguments, monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_studies_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row["name"]: row for row in bench.cli._listing(bench.cli.Listed.experiments)}
    assert rows["condition"]["settings"]["batch_sizes"] == (1, 4, 16, 64)
    assert "quadratic" in rows["condition"]["problems"]
    invoke("list", "experiments", monkeypatch=monkeypatch)
    output = capsys.readouterr().out
    for name in ("condition", "settings", "phase", "quickstart"):
        assert name in output


def test_whole_runs_are_published_and_others_are_not(
    counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = ["--gallery", str(tmp_path / "gallery")]
    study_runner.run(planned(counting, ":bad=2"), tmp_path / "failed")
    assert invoke("publish", str(tmp_path / "failed"), *gallery, monkeypatch=monkeypatch) == 2
    assert "4 cells of" in capsys.readouterr().err
    assert invoke("publish", str(tmp_path / "none"), *gallery, monkeypatch=monkeypatch) == 2
    assert "holds no report" in capsys.readouterr().err
    assert not (tmp_path / "gallery").exists()
    study_runner.run(planned(counting), tmp_path / "whole")
    assert invoke("publish", str(tmp_path / "whole"), *gallery, monkeypatch=monkeypatch) == 0
    assert (tmp_path / "gallery" / "counting_quick" / "origin.json").exists()
    assert "counting_quick" in (tmp_path / "gallery" / "index.html").read_text()
