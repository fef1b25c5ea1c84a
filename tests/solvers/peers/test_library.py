"""Other libraries, there or not: what can be known without them."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files

import pytest
from packaging.requirements import Requirement

import solvers
from solvers import Status, solve
from solvers.peers.library import Library, library_of, unavailable
from tests.conftest import dense_problem, random_psd_examples

PEERS = {name: library for name, cls in solvers.available().items() if (library := library_of(cls))}


def test_solvers_are_told_apart_by_their_library() -> None:
    modules = {name: cls.__module__ for name, cls in solvers.available().items()}
    assert set(PEERS) == {name for name, module in modules.items() if module.startswith("solvers.peers.")}
    assert PEERS["curvlinops_cg"].distribution == "curvlinops-for-pytorch"
    assert unavailable(solvers.find("cg")) is None


def test_what_is_pinned_is_supported() -> None:
    lines = files("solvers.peers").joinpath("requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {each.name: each for each in map(Requirement, filter(re.compile("[^#]").match, lines))}
    for library in PEERS.values():
        if library.distribution in pinned:
            [exactly] = pinned[library.distribution].specifier
            assert exactly.operator == "=="
            assert Requirement(f"x {library.supported}").specifier.contains(exactly.version)


def test_a_library_is_missing_that_is_not_there_or_not_in_a_version_that_is_known() -> None:
    assert Library("pytest", "pytest", ">=8").missing() is None
    assert Library("no_such_module", "no-such-library", ">=1", "`pip install it`").missing() == (
        "no-such-library is not installed: `pip install it`"
    )
    old = Library("pytest", "pytest", ">=1,<2")
    found = f"pytest {pytest.__version__} is installed; supported is >=1,<2"
    assert old.missing() == f"{found}: `make peers` installs it beside this package"
    # One that was put on the path has no version to be compared.
    copied = Library("tests", "no-such-library", ">=1")
    assert (copied.missing(), copied.version) == (None, "unversioned")


def test_a_solver_whose_library_is_missing_says_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "missing", lambda self: f"{self.distribution} is gone")
    bare = dense_problem(random_psd_examples(5, 4, seed=0), damping=0.1)
    for name, library in PEERS.items():
        solution = solve(bare, solvers.load(name))
        assert (solution.status, solution.reason) == (Status.SKIPPED, f"{library.distribution} is gone")


WITHOUT = """
import sys

LIBRARIES = {libraries}


class Blind:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LIBRARIES:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]

import solvers
from solvers.peers.library import library_of, unavailable

peers = [cls for cls in solvers.available().values() if library_of(cls)]
assert all("is not installed" in unavailable(cls) for cls in peers)
print(len(peers))
"""


def test_nothing_else_needs_the_libraries() -> None:
    """In a process of its own, which finds none of them, with no warning that a solver is left out."""
    code = WITHOUT.format(libraries={library.module for library in PEERS.values()})
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == len(PEERS)
