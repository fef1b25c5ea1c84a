"""Reproductions: each is in the form that maintainers and the report read, and finds what it says."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.reproductions import reproduce, scripts

SCRIPTS = scripts()
LONGEST = 60
by_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


def pinned() -> dict[str, str]:
    """The versions that the adapters are written for, by name."""
    lines = files("solvers.peers").joinpath("requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in found}


def library_of(path: Path) -> str:
    """LIBRARY of a script, as pip knows it, without running it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LIBRARY":
            return str(ast.literal_eval(node.value))
    pytest.fail(f"{path.name} assigns no LIBRARY")


def test_there_are_some() -> None:
    assert SCRIPTS


@by_script
def test_a_script_says_what_is_documented_and_what_comes_of_it(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree) or ""
    title, blank, documented = docstring.partition("\n\n")
    assert re.fullmatch(r"\S[^\n]*\.", title)
    assert blank
    assert documented.startswith("Documented: ")
    # In statements of the script itself, and not several names to several values.
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert {ast.unparse(target) for target in targets} >= {"LIBRARY", "expected", "got", "differs"}
    assert any(isinstance(node, ast.Call) and ast.unparse(node.func) == "print" for node in ast.walk(tree))


@by_script
def test_a_script_is_small_and_needs_its_library_alone(path: Path) -> None:
    """And torch and numpy: a maintainer can run it as it stands."""
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            imported.add(str(node.module).partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"torch", "numpy"}
    assert len(others) == 1, f"it imports {', '.join(sorted(others))}"


@by_script
def test_a_script_finds_what_it_says(path: Path) -> None:
    skip_without(library_of(path))
    before = global_state()
    found = reproduce(path)
    assert not found.missing
    assert found.differs
    assert found.expected != found.got
    assert global_state() == before, "a script leaves torch's defaults as they were"


def skip_without(library: str) -> None:
    """Unless it is there in the version that is pinned."""
    # One that is not in the package index is not pinned either.
    wanted = pinned().get(canonicalize_name(library))
    try:
        version = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{library} is not installed")
    if wanted not in (None, version):
        pytest.skip(f"{library} {version} is installed, and {wanted} is pinned")


def global_state() -> tuple[object, ...]:
    return torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()


def test_a_script_runs_by_itself() -> None:
    path = next((each for each in SCRIPTS if each.stem.startswith("linear_operator")), SCRIPTS[0])
    skip_without(library_of(path))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"expected .*, got ", done.stdout)


FORM = '"""A title.\n\nDocumented: that it is 1.\n"""\n\nLIBRARY = "{library}"\nexpected = 1\ngot = {got}\n'


def test_one_that_finds_nothing_or_fails_is_told_apart(tmp_path: Path) -> None:
    def said(name: str, text: str) -> tuple[bool, str]:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        found = reproduce(path)
        return found.differs, found.missing

    same, other = (FORM.format(library="torch", got=got) + "differs = got != expected\n" for got in (1, 2))
    assert said("same", same) == (False, "")
    assert said("other", other) == (True, "")
    assert said("broken", other.replace("got = 2", "got = 1 / 0"))[1] == "ZeroDivisionError: division by zero"
    absent = FORM.format(library="no-such-library", got=1) + "differs = True\n"
    assert said("absent", absent)[1].startswith("no-such-library is not installed")


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        (FORM.format(library="torch", got=1), "differs"),
        ("differs = True\n" + FORM.format(library="torch", got=1), "docstring"),
        (FORM.format(library="torch", got=1).replace("Documented", "Says") + "differs = True\n", "docstring"),
    ],
)
def test_one_that_is_not_in_the_form_is_an_error(text: str, lacks: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"script\.py must begin with .* it lacks (the )?{lacks}"):
        reproduce(path)
