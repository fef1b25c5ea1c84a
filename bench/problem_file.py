"""A user's own problem: a Python file, anywhere, with a function `problem()`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import problems
from problems import Problem, ProblemFamily
from problems.discovery import NoPlugin, construct, import_file, line_in

EXAMPLE = """\
def problem():
    import problems
    return problems.from_model(model, "cross_entropy", data, queries, damping=0.01)"""


@dataclass(frozen=True)
class ProblemFile(ProblemFamily):
    """The problem that the function `problem()` of the file `path` returns; `damping` puts another λ in it.

    It is taken as it is: its dtype, device and seed are the file's.
    """

    path: str
    damping: float | None = None

    @property
    def name(self) -> str:
        """The file's stem."""
        return Path(self.path).stem

    def __str__(self) -> str:
        return self.name if self.damping is None else f"{self.name}(damping={self.damping:g})"

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        """Run the file and its function; ValueError names the file and what went wrong in it."""
        function = _function(Path(self.path))
        try:
            built = function()
        except Exception as error:
            where = line_in(Path(self.path), error)
            raise ValueError(
                f"{self.path}: problem() raised {type(error).__name__}{where}: {error}"
            ) from error
        if not isinstance(built, Problem):
            raise ValueError(
                f"{self.path}: problem() returned {type(built).__name__}, no Problem; it needs\n{EXAMPLE}"
            )
        return built if self.damping is None else built.with_damping(self.damping)


def find_family(name: str, parameters: Mapping[str, Any]) -> ProblemFamily:
    """The family `name`, the one in the file `name`, or the problem that this file's `problem()` returns.

    Builds nothing. ValueError for a file that has neither says what is needed.
    """
    if not name.endswith(".py"):
        return problems.family(name, **parameters)
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"there is no file {name}")
    defined, has_classes = _defined(path)
    if "problem" in defined:
        return construct(ProblemFile, {"path": name, **parameters}, name)
    if has_classes:
        return problems.family(name, **parameters)
    raise NoPlugin(f"{name} has no function problem() that returns a Problem; it needs\n{EXAMPLE}")


def _defined(path: Path) -> tuple[set[str], bool]:
    """The names that the file defines at its top, and whether a class is among them; runs nothing."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from None
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names, any(isinstance(node, ast.ClassDef) for node in tree.body)


def _function(path: Path) -> Callable[[], Any]:
    # As `python FILE` does: what lies beside the file can be imported, now and when data are read.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = import_file(path)
    function = getattr(module, "problem", None)
    if not callable(function):
        raise ValueError(f"{path}: problem is no function; it needs\n{EXAMPLE}")
    return function
