"""Imports run one way: problems ← solvers ← reports ← bench, and reports knows rows and theory alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "problems": {"problems"},
    "solvers": {"problems", "solvers"},
    "reports": {"reports", "solvers.theory"},
    "bench": {"problems", "solvers", "reports", "bench"},
}
FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name for name in imported(path) if name.partition(".")[0] in {*ALLOWED, "tests"}}
    assert {name for name in ours if not {name, name.partition(".")[0]} & ALLOWED[package]} == set()
