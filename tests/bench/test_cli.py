"""The command line as a person uses it: in a process of its own where that matters, else in ours."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import bench.cli
from bench.store import Store
from problems import ground_truth
from problems.cache import CacheWarning
from problems.data import DataWarning
from problems.discovery import PluginWarning
from problems.named import NAMED
from problems.specification import parse
from problems.training import NetworkWarning
from solvers.peers.library import Library
from tests.bench.test_runner import FAILING

REPOSITORY = Path(__file__).parents[2]
QUADRATIC = "quadratic:dimension=4,num_examples=6"


def invoke(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """`ihvp-bench ARGUMENTS` through main(), which turns errors into one line."""
    monkeypatch.setattr(sys, "argv", ["ihvp-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        bench.cli.main()
    return int(ended.value.code or 0)


def small_run(out: Path, *solvers: str) -> list[str]:
    """`run` of these solvers on one small problem with one seed."""
    chosen = [argument for solver in solvers for argument in ("-s", solver)]
    return ["run", "-p", QUADRATIC, *chosen, "--seeds", "1", "--out", str(out)]


def test_run_writes_where_it_says_and_report_rebuilds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = small_run(out, "cg:tolerance=1e-8", "exact")
    assert invoke(*arguments, monkeypatch=monkeypatch) == 0
    output = capsys.readouterr().out
    assert f"Report: {out}/report/index.html" in output
    assert "converged" in output
    cells, _ = Store(out).read()
    assert list(cells["solver"]) == ["cg(tolerance=1e-08)", "exact"]
    assert invoke("report", str(out), monkeypatch=monkeypatch) == 0


def test_dtype_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    assert invoke(*small_run(out, "exact"), "--dtype", "float32", monkeypatch=monkeypatch) == 0
    assert list(Store(out).read()[0]["dtype"]) == ["float32"]


def test_a_failed_cell_is_told_by_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    out = tmp_path / "run"
    arguments = small_run(out, str(failing), "cg")
    assert invoke(*arguments, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert "1 cell failed:" in error
    assert "failing: RuntimeError: the third step fails" in error
    assert f"ihvp-bench check {failing}" in error
    assert list(Store(out).read()[0]["status"]) == ["failed", "converged"]


def test_a_reason_that_many_cells_failed_for_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    arguments = [*small_run(tmp_path / "run", str(failing)), "--seeds", "3"]
    assert invoke(*arguments, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert "3 cells failed:" in error
    assert error.count("the third step fails") == 1


@pytest.mark.parametrize("name", ["nan", "null"])
def test_a_name_that_tables_take_for_a_missing_number_is_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.cli, "console", Console(width=200))
    path = tmp_path / f"{name}.py"
    path.write_text(WRONG)
    assert invoke(*small_run(tmp_path / "run", str(path)), monkeypatch=monkeypatch) == 0
    assert re.search(rf"num_examples=6\)\s+{name}\s+finished", capsys.readouterr().out)


@pytest.mark.parametrize("category", [PluginWarning, DataWarning, CacheWarning, NetworkWarning])
def test_a_warning_of_our_own_is_one_line_shown_once(
    category: type[Warning], capsys: pytest.CaptureFixture[str]
) -> None:
    bench.cli.shown_warnings.clear()
    for _ in range(2):
        bench.cli._show_warning("this one is left out", category)
    assert capsys.readouterr().err == "ihvp-bench: this one is left out\n"


@pytest.mark.parametrize("command", ["run", "report", "diagnose", "list", "new", "check"])
def test_help_is_shown_to_its_last_word(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich would take [what is in brackets] for markup."""
    described = typer.main.get_command(bench.cli.app).commands[command]  # type: ignore[attr-defined]
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 500)
    shown = CliRunner().invoke(bench.cli.app, [command, "--help"]).output
    helps = [parameter.help for parameter in described.params if getattr(parameter, "help", None)]
    assert helps
    for text in helps:
        assert " ".join(text.split()) in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstrat"], "did you mean 'quickstart'"),
        (["run", "-s", "lisa"], "no solver 'lisa'; did you mean 'lissa'"),
        (["run", "-s", "cg:tolerence=1"], "did you mean 'tolerance'"),
        (["run", "-s", "lissa:step_size=0.1,num_steps=5,batch_size=0"], "batch_size is 0"),
        (["run", "-p", "quadratik"], "did you mean 'quadratic'"),
        (["run", "-p", "quadratic:dimension=0"], "dimension is 0"),
        (["run", "-p", "quadratic:damping=-1", "-s", "cg"], "damping is -1"),
        (["run", "--dtype", "float16"], "dtype is 'float16'; it must be 'float32' or 'float64'"),
        (["run", "--device", "abacus"], "device is 'abacus'"),
        (["run", "--device", "meta"], "device is 'meta'"),
        (["run", "--resume"], "name it with --out"),
        (["report", "nowhere"], "nowhere holds no run"),
        (["check", "lisa"], "no solver or problem 'lisa'; did you mean 'lissa'"),
        (["check", "cg", "-p", "quadratik"], "did you mean 'quadratic'"),
        (["check", "quadratic", "-p", "quadratic"], "is a problem, not a solver: leave out -p"),
        (["check", "resnet18"], "short for image_classifier:model=resnet18"),
        (["check", "nowhere.py"], "there is no file nowhere.py"),
        (["check", "cg", "--seconds", "0"], "must be > 0"),
        (["new", "solver", "cg"], "there is a solver 'cg' already"),
        (["new", "problem", "My-Data"], "as in 'my_data'"),
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
    assert invoke(*arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


PRODUCT = {
    "network": "tiny", "row": "one column", "library": "ihvp-bench", "ratio": 1.5, "floor": 1.25,
    "target": 1.75, "quartile_low": 1.4, "quartile_high": 1.6,
}  # fmt: skip


def test_report_of_a_benchmark_of_products_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"benchmarks": [{"extra_info": {"products": [PRODUCT]}}]}))
    assert invoke("report", str(path), monkeypatch=monkeypatch) == 0
    page = tmp_path / "measured" / "index.html"
    assert f"Report: {page}" in capsys.readouterr().out
    assert "1 of 1 targets met: one column (1.50, target 1.75)." in page.read_text(encoding="utf-8")


def test_a_benchmark_of_products_is_published_with_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, gallery = tmp_path / "measured.json", tmp_path / "gallery"
    described = {
        "machine": {"processor": "Abacus 9", "threads": 2},
        "versions": {"torch": "2.9"},
        "git": {"revision": "0123456789abcdef"},
    }
    measured = {
        "benchmarks": [{"extra_info": {"products": [PRODUCT]}}],
        "machine_info": {"ihvp_bench": described},
        "command": "pytest bench/suite/bench_products.py",
        "datetime": "2026-05-04T12:30:00+00:00",
    }
    path.write_text(json.dumps(measured))
    assert invoke("publish", str(path), "--gallery", str(gallery), monkeypatch=monkeypatch) == 0
    assert f"Published: {gallery / 'products'}" in capsys.readouterr().out
    names = {entry.name for entry in (gallery / "products").iterdir()}
    assert names == {"index.html", "products.csv", "products.png", "origin.json"}
    origin = json.loads((gallery / "products" / "origin.json").read_text())
    assert described.items() <= origin.items()
    index = (gallery / "README.md").read_text()
    for told in ("## What a curvature product costs", measured["command"], "Abacus 9", "revision 0123456789"):
        assert told in index
    assert "2026-05-04 12:30 UTC · Abacus 9" in index  # one moment is noted, and no time that it took
    path.write_text("{}")
    assert invoke("publish", str(path), "--gallery", str(gallery), monkeypatch=monkeypatch) == 2
    assert "is no benchmark of products" in capsys.readouterr().err


def test_a_run_of_an_experiment_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the place of what was put there by hand, with the tables of the profile."""
    file, gallery = tmp_path / "solvers.toml", tmp_path / "gallery"
    file.write_text(
        'title = "All of them"\nsolvers = [{name = "exact"}, {name = "identity"}]\nproblems = ['
        + ", ".join(
            f'{{name = "quadratic", parameters = {{dimension = {size}, num_examples = 9}}}}'
            for size in (4, 5, 6)
        )
        + "]\n"
    )
    (gallery / "solvers").mkdir(parents=True)
    for name in ("choices.csv", "profile.csv", "profile.png"):
        (gallery / "solvers" / name).write_text("old")
    assert invoke("run", str(file), "--out", str(tmp_path / "run"), monkeypatch=monkeypatch) == 0
    assert invoke("publish", str(tmp_path / "run"), "--gallery", str(gallery), monkeypatch=monkeypatch) == 0
    names = {entry.name for entry in (gallery / "solvers").iterdir()}
    assert {"index.html", "comparison.csv", "profile.csv", "profile.png", "origin.json"} <= names
    assert "choices.csv" not in names  # neither tells what it spent on measuring
    assert (gallery / "solvers" / "profile.csv").read_text() != "old"
    assert "## All of them" in (gallery / "README.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not JSON", r"measured\.json is no benchmark of products: Expecting value"),
        (b"\xff\xfe{}", r"measured\.json is no benchmark of products: .*can't decode"),
        (b'{"experiment": {}}', "it has no list of benchmarks"),
        (
            b'{"benchmarks": [{"name": "bench_overhead", "extra_info": {}}]}',
            "none of its benchmarks measured",
        ),
    ],
)
def test_report_of_what_is_no_benchmark_of_products_is_one_line(
    content: bytes,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(content)
    assert invoke("report", str(path), monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error), error
    assert "\n" not in error
    assert list(tmp_path.iterdir()) == [path]


def test_list_names_everything_with_its_settings() -> None:
    runner = CliRunner()
    solvers = json.loads(runner.invoke(bench.cli.app, ["list", "solvers", "--json"]).output)
    [cg] = [row for row in solvers if row["name"] == "cg"]
    assert cg["settings"]["tolerance"] == 1e-6
    assert "library" not in cg
    assert "unavailable" not in cg
    assert all(row["summary"] for row in solvers)
    problems = json.loads(runner.invoke(bench.cli.app, ["list", "problems", "--json"]).output)
    assert {row["name"] for row in problems} >= {"quadratic", "softmax_regression", "image_classifier"}
    [resnet] = [row for row in problems if row["name"] == "resnet18"]
    assert resnet["settings"]["data"] == "cifar10"
    family = parse(resnet["stands_for"])
    assert str(bench.cli.problems.family(family.name, **family.settings)) == "resnet18"
    assert {*NAMED} <= {*runner.invoke(bench.cli.app, ["list", "problems"]).output.split()}
    experiments = runner.invoke(bench.cli.app, ["list", "experiments"]).output
    assert "quickstart" in experiments


@pytest.mark.parametrize("reason", [None, "some-library is not installed: `make peers`"])
def test_list_tells_the_solvers_of_other_libraries(
    reason: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Library, "missing", lambda self: reason)
    assert invoke("list", "solvers", "--json", monkeypatch=monkeypatch) == 0
    [row] = [each for each in json.loads(capsys.readouterr().out) if each["name"] == "curvlinops_cg"]
    assert row["library"] == "curvlinops-for-pytorch"
    assert row.get("unavailable") == reason
    monkeypatch.setattr(bench.cli, "console", Console(width=300))
    assert invoke("list", "solvers", monkeypatch=monkeypatch) == 0
    [line] = [each for each in capsys.readouterr().out.splitlines() if "curvlinops_cg" in each]
    assert f"({reason or 'curvlinops-for-pytorch'})" in line
    if reason:
        assert invoke("check", "curvlinops_cg", monkeypatch=monkeypatch) == 2
        assert f"curvlinops_cg cannot be tried: {reason}" in capsys.readouterr().err


def test_from_a_checkout_without_installing_and_ctrl_c(tmp_path: Path) -> None:
    """`python -m bench`, interrupted in the middle: exit 130, the finished cells kept, the report built."""
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "bench", "run", "-p", QUADRATIC, "--seeds", "1", "--out", str(out),
        "-s", "exact", "-s", "lissa:step_size=1e-6,num_steps=100000000",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": ""}, stdout=subprocess.DEVNULL,
        # A shell's job in the background ignores it, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (out / "cells" / "0000.parquet").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    finally:
        process.kill()
    cells, _ = Store(out).read()
    assert list(cells["solver"]) == ["exact"]
    assert Store(out).read_run()["interrupted"] is True
    assert (out / "report" / "index.html").exists()


WRONG = """
from dataclasses import dataclass
from solvers import Example, Iterate, Solver

@dataclass(frozen=True)
class Half(Solver):
    \"\"\"Half of the identity.\"\"\"

    def iterates(self, problem, state, b, generator):
        yield Iterate(0.5 * b / problem.damping)
"""


def test_check_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.cli, "console", Console(width=300))
    path = tmp_path / "half.py"
    path.write_text(WRONG)
    assert invoke("check", str(path), "-p", QUADRATIC, monkeypatch=monkeypatch) == 1
    output = capsys.readouterr().out
    assert "failed on quadratic(dimension=4, num_examples=6)" in output
    assert "correct the method, or claim in `examples` what its theory gives" in output
    assert "what it means" in output
    assert re.search(r"\d+ passed, \d+ failed, \d+ skipped", output)


def test_check_of_a_file_that_holds_nothing_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plain.py"
    for text in ("x = 1", "class Half:\n    pass"):
        path.write_text(text)
        assert invoke("check", str(path), monkeypatch=monkeypatch) == 2
        assert "plain.py holds neither a Solver nor a ProblemFamily" in capsys.readouterr().err


def test_check_of_a_right_solver_and_of_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("check", "exact", "-p", QUADRATIC, monkeypatch=monkeypatch) == 0
    assert "0 failed" in capsys.readouterr().out
    assert invoke("check", "quadratic", monkeypatch=monkeypatch) == 0
    assert "24 passed, 0 failed, 0 skipped" in capsys.readouterr().out


def test_check_shows_every_word_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.cli, "console", Console(width=80))
    assert invoke("check", "exact", "-p", QUADRATIC, monkeypatch=monkeypatch) == 0
    output = capsys.readouterr().out
    assert "…" not in output
    assert max(map(len, output.splitlines())) <= 80


def test_check_says_that_a_solver_claims_no_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "modest.py"
    path.write_text(
        WRONG + "\n    @classmethod\n    def examples(cls, problem):\n        return [Example(cls(), None)]\n"
    )
    assert invoke("check", str(path), "-p", QUADRATIC, monkeypatch=monkeypatch) == 0
    assert f"The accuracy of {path} was not checked on any problem: it claims" in capsys.readouterr().out


def test_check_tells_once_what_is_wrong_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failing.py"
    path.write_text(FAILING)
    other = "quadratic:dimension=5,num_examples=7"
    assert invoke("check", str(path), "-p", QUADRATIC, "-p", other, monkeypatch=monkeypatch) == 1
    output = capsys.readouterr().out
    assert output.count("the third step fails") == 1
    assert f"the third step fails ({path}, line 12)" in output
    assert "on 2 problems, in " in output


LOOPS = WRONG.replace("        yield", "        while True:\n            pass\n        yield")
YIELDS_SLOWLY = WRONG.replace(
    "        yield",
    "        import time\n        while True:\n            time.sleep(0.01)\n            yield",
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LOOPS, r"it did not come back for 1 s \(.*half\.py, line 1[01]\)"),
        (YIELDS_SLOWLY, "still going after 0.5 s"),
    ],
    ids=["never returns", "never ends"],
)
def test_check_of_a_solver_that_comes_to_no_end_does(
    text: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "half.py"
    path.write_text(text)
    assert invoke("check", str(path), "-p", QUADRATIC, "--seconds", "0.5", monkeypatch=monkeypatch) == 1
    output = capsys.readouterr().out
    assert re.search(message, output), output
    assert "12 of 15 checks were left out after one that took too long" in output


def test_ctrl_c_in_check_shows_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "half.py"
    path.write_text(WRONG.replace("        yield", "        raise KeyboardInterrupt\n        yield"))
    assert invoke("check", str(path), "-p", QUADRATIC, monkeypatch=monkeypatch) == 130
    output = capsys.readouterr().out
    assert "2 passed, 0 failed, 0 skipped" in output
    assert "reaches the accuracy it claims: 2 of 15 checks were made" in output


def test_ctrl_c_before_a_cell_is_finished_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "half.py"
    path.write_text(WRONG.replace("        yield", "        raise KeyboardInterrupt\n        yield"))
    out = tmp_path / "run"
    assert invoke(*small_run(out, str(path)), monkeypatch=monkeypatch) == 130
    assert f"go on with --out {out} --resume" in capsys.readouterr().err


def test_check_on_a_problem_that_cannot_be_built_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "family.py"
    path.write_text(
        "from problems import ProblemFamily\nclass Broken(ProblemFamily):\n    def build(self, **given):\n"
        "        raise RuntimeError('no data')\n"
    )
    assert invoke("check", "cg", "-p", str(path), monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert f"family cannot be built: RuntimeError: no data ({path}, line 4)" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("returned", ["()", "None"])
def test_check_of_a_family_without_examples_fails(
    returned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "family.py"
    path.write_text(
        "from problems import ProblemFamily\nclass Few(ProblemFamily):\n    def build(self, **given): pass\n"
        f"    @classmethod\n    def examples(cls): return {returned}\n"
    )
    assert invoke("check", str(path), monkeypatch=monkeypatch) == 1
    assert "Few: `examples` " in capsys.readouterr().out


def test_check_fails_where_nothing_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.cli, "console", Console(width=300))
    path = tmp_path / "never.py"
    path.write_text(WRONG + "    def skip(self, problem):\n        return 'today is a holiday'\n")
    assert invoke("check", str(path), "-p", QUADRATIC, monkeypatch=monkeypatch) == 1
    output = capsys.readouterr().out
    assert "the solver skips it: today is a holiday" in output
    assert "Nothing was tried" in output


def test_check_needs_a_problem_with_exact_ground_truth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 3)
    assert invoke("check", "cg", "-p", QUADRATIC, monkeypatch=monkeypatch) == 2
    assert "has p = 4, too large for exact ground truth: choose a problem" in capsys.readouterr().err


def test_new_says_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("new", "solver", "mine", monkeypatch=monkeypatch) == 0
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "Wrote mine.py and test_mine.py. Next:",
        "ihvp-bench check mine.py",
        "ihvp-bench run -s mine.py -s cg -p quadratic",
        "pytest test_mine.py",
    ]
    assert invoke("new", "problem", "data", "--folder", "more", monkeypatch=monkeypatch) == 0
    assert (tmp_path / "more" / "test_data.py").is_file()
    assert invoke("new", "solver", "mine", monkeypatch=monkeypatch) == 2
    assert "there is mine.py and test_mine.py already" in capsys.readouterr().err
