"""What `new` writes works as it stands, and nothing of the user's is ever written over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import problems
import solvers
from bench import scaffold
from bench.conformance import FAMILY_CHECKS, Family, Outcome, Subject, judge, plan
from bench.conformance.trials import special_trials
from bench.scaffold import Kind

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkout(folder: Path) -> Path:
    for room in ("solvers", "problems", "bench", "bench/conformance"):
        (folder / room).mkdir()
        (folder / room / "__init__.py").touch()
    return folder


def test_a_new_solver_passes_every_check(folder: Path) -> None:
    written = scaffold.write(Kind.SOLVER, "my_descent", None)
    assert written.files == (Path("my_descent.py"), Path("test_my_descent.py"))
    cls = solvers.find("my_descent.py")
    assert cls.__name__ == "MyDescent"
    for check, trial in plan(special_trials()):
        finding = judge(check, Subject(cls, trial), trial.name)
        assert finding.outcome is not Outcome.FAILED, finding


def test_a_new_problem_passes_every_check(folder: Path) -> None:
    scaffold.write(Kind.PROBLEM, "my_data", None)
    for member in type(problems.family("my_data.py")).examples():
        for check in FAMILY_CHECKS:
            check.run(Family(member))


@pytest.mark.parametrize("kind", list(Kind))
def test_in_a_checkout_files_go_where_they_belong(checkout: Path, kind: Kind) -> None:
    written = scaffold.write(kind, "brand_new", None)
    assert written.files == (Path(f"{kind}s/brand_new.py"), Path(f"tests/{kind}s/test_brand_new.py"))
    assert written.commands[0] == "ihvp-bench check brand_new"
    # The same where the folder is named, and elsewhere in the checkout as outside one.
    assert scaffold.write(kind, "another", checkout / f"{kind}s").files[1].parent == Path(f"tests/{kind}s")
    assert scaffold.write(kind, "third", Path("mine")).files[1] == Path("mine/test_third.py")


@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_written_keeps_to_the_style(checkout: Path, kind: Kind) -> None:
    files = [str(path) for path in scaffold.write(kind, "brand_new", None).files]
    for command in (["check"], ["format", "--check"]):
        finished = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), *files],
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cg", "there is a solver 'cg' already, in solvers.cg: choose another name"),
        ("MySolver", "'MySolver' cannot be a Python module's.*as in 'my_solver'"),
        ("my-solver", "as in 'my_solver'"),
        ("2nd", "as in 'my_solver'"),
        ("class", "as in 'my_solver'"),
        ("_hidden", "as in 'hidden'"),
        ("", "as in 'my_solver'"),
        ("../up", "as in 'up'"),
        ("test_this", "taken for a test"),
        ("torch", "would hide the installed module torch: choose another name, my_torch"),
        ("random", "would hide the installed module random"),
        ("quadratic", "there is a problem 'quadratic' already, in problems.quadratic"),
        ("conftest", "conftest means something else"),
        ("nan", "nan means something else"),
        ("iterate", "the class Iterate would hide .*, my_iterate for one"),
        ("solver", "the class Solver would hide"),
        ("value_error", "the class ValueError would hide"),
    ],
)
def test_bad_names_are_refused_before_anything_is_written(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaffold.write(Kind.SOLVER, name, None)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("existing", ["mine.py", "test_mine.py"])
def test_nothing_is_written_over(folder: Path, existing: str) -> None:
    (folder / existing).write_text("precious")
    with pytest.raises(ValueError, match=rf"there is {existing} already: choose another name, or --folder"):
        scaffold.write(Kind.SOLVER, "mine", None)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(existing, "precious")]


def test_a_link_that_leads_nowhere_is_not_written_through(folder: Path) -> None:
    (folder / "mine.py").symlink_to(folder / "elsewhere.py")
    with pytest.raises(ValueError, match=r"there is mine\.py already"):
        scaffold.write(Kind.SOLVER, "mine", None)
    assert not (folder / "elsewhere.py").exists()


def test_a_new_problem_is_certified_in_both_dtypes(folder: Path) -> None:
    scaffold.write(Kind.PROBLEM, "my_data", None)
    for dtype in (torch.float32, torch.float64):
        assert problems.load("my_data.py", dtype=dtype).reference is not None


def test_a_name_of_a_helper_in_a_checkout_is_taken(checkout: Path) -> None:
    """solvers/driver.py is no solver, and yet it is there."""
    (checkout / "solvers" / "driver.py").touch()
    with pytest.raises(ValueError, match=r"there is solvers.driver\.py already"):
        scaffold.write(Kind.SOLVER, "driver", None)


def test_spaces_in_a_folder_are_quoted(folder: Path) -> None:
    commands = scaffold.write(Kind.SOLVER, "mine", Path("my solvers")).commands
    assert commands[0] == "ihvp-bench check 'my solvers/mine.py'"
    assert commands[2] == "pytest 'my solvers/test_mine.py'"
