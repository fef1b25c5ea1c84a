"""The documents' code runs as it stands, and what they list exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import problems
import solvers
from bench.experiment import Experiment, plan
from bench.runner import run
from bench.store import Store
from tests.solvers import test_conformance as conformance

ROOT = Path(__file__).parents[1]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert found, f"{document} has no {language} block"
    return found


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_python_blocks_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, in order; a block that begins with `# name.py` becomes that file."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in blocks(document, "python"):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:
            Path(named[1]).write_text(block)
        else:
            exec(compile(block, document, "exec"), namespace)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_commands_run(document: str, tmp_path: Path) -> None:
    """Every `ihvp-bench` and `pytest` line; `make` is what runs this test."""
    for block in blocks(document, "python"):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:
            (tmp_path / named[1]).write_text(block)
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    for line in lines:
        command = shlex.split(line, comments=True)
        if command[0] == "make":
            continue
        if command[0] == "ihvp-bench":
            program = [sys.executable, "-m", "bench"]
        elif command[0] == "pytest":
            program = [
                sys.executable,
                "-m",
                "pytest",
                "--rootdir",
                str(ROOT),
                "-c",
                str(ROOT / "pyproject.toml"),
            ]
            command = [argument.replace("bench/suite", str(ROOT / "bench" / "suite")) for argument in command]
        else:
            pytest.fail(f"{document}: no way to run {line!r}")
        finished = subprocess.run(
            [*program, *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert finished.returncode == 0, f"{line}\n{finished.stdout[-2000:]}\n{finished.stderr[-2000:]}"


def test_links_lead_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{document} links to {target}"


def test_every_column_is_documented(tmp_path: Path) -> None:
    experiment = {
        "problems": [{"name": "quadratic", "parameters": {"dimension": 3, "num_examples": 4}}],
        "solvers": [{"name": "cg"}],
    }
    run(plan(Experiment.model_validate(experiment)), tmp_path / "run")
    text = (ROOT / "bench" / "COLUMNS.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE))
    cells, curves = Store(tmp_path / "run").read()
    assert set(cells.columns) | set(curves.columns) == documented


def test_every_family_and_solver_says_what_it_is() -> None:
    """A dataclass without a docstring gets its own signature for one."""
    for cls in [*problems.available().values(), *solvers.available().values()]:
        assert cls.__doc__
        assert not cls.__doc__.startswith(cls.__name__)


def test_contributings_solver_passes_the_conformance_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would once moved into solvers/."""
    path = tmp_path / "richardson.py"
    path.write_text(
        next(block for block in blocks("CONTRIBUTING.md", "python") if "# richardson.py" in block)
    )
    richardson = type(solvers.load(str(path)))
    monkeypatch.setattr(solvers, "find", lambda name: richardson)
    for problem_id in conformance.PROBLEMS:
        conformance.test_reaches_the_reference_at_the_accuracy_it_claims("richardson", problem_id)
        conformance.test_one_column_alone_equals_the_same_column_in_a_block("richardson", problem_id)
        conformance.test_a_seed_fixes_everything_but_seconds("richardson", problem_id)
