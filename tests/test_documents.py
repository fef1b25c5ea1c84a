"""The documents' code runs as it stands, and what they list exists."""

from __future__ import annotations

import os
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
from tests.bench.test_cli import invoke

ROOT = Path(__file__).parents[1]


SUITE = str(ROOT / "bench" / "suite")


def blocks(document: str) -> list[tuple[str, str]]:
    """(language, code) of every block of code, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def named(block: str) -> str | None:
    """The file that a block is, as its first line says."""
    found = re.match(r"# (\w+\.(?:py|toml))\n", block)
    return found[1] if found else None


# One round of a benchmark shows that it runs.
PROGRAMS = {
    "pytest": ["pytest", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "--benchmark-disable"],
    "pip": ["pip"],
}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_python_blocks_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, in order; those that are a file are for the next test."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for language, block in blocks(document):
        if language == "python" and not named(block):
            exec(compile(block, document, "exec"), namespace)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_commands_run(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `ihvp-bench`, `pytest` and `pip` line, as it stands; `make` is what runs this test.

    From top to bottom: a block that begins with `# name.py` or `# name.toml` becomes that file, in the place
    of what an earlier command wrote. pip installs into a folder of the test's own, without a network.
    """
    monkeypatch.chdir(tmp_path)
    site = tmp_path / "site"
    for language, block in blocks(document):
        if name := named(block):
            Path(name).write_text(block)
        for line in block.splitlines() if language == "sh" else []:
            program, *arguments = shlex.split(line, comments=True)
            if program == "ihvp-bench":
                # In this process: in one of its own it would take seconds to begin.
                status, told = invoke(*arguments, monkeypatch=monkeypatch), capsys.readouterr()
                assert status == 0, f"{line}\n{told.out[-2000:]}\n{told.err[-2000:]}"
            elif program != "make":
                run_program(program, arguments, site, line)
                # What pip has put there is found from now on.
                monkeypatch.syspath_prepend(site)


def run_program(program: str, arguments: list[str], site: Path, line: str) -> None:
    # A command is run by a person, and by none of this test's own workers.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = own | {
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        "PIP_TARGET": str(site),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say that isolation is off
    }
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            *PROGRAMS[program],
            *(argument.replace("bench/suite", SUITE) for argument in arguments),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
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
        assert not cls.__doc__.startswith(f"{cls.__name__}(")
