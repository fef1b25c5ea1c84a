"""`ihvp-bench new`: a working plug-in to edit, and its test."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import keyword
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import problems
import solvers

# What tables, settings and pytest would take for something else.
TAKEN = {"nan", "null", "none", "true", "false", "conftest"}


class Kind(StrEnum):
    """What can be made anew."""

    SOLVER = "solver"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Written:
    """The files that were written, and the commands to go on with."""

    files: tuple[Path, ...]
    commands: tuple[str, ...]


def write(kind: Kind, name: str, folder: Path | None) -> Written:
    """Write NAME.py and test_NAME.py into `folder`; by default here, in a checkout where they belong.

    ValueError, and nothing is written, for a name that is taken or cannot be a plug-in's, and where one of
    the files exists.
    """
    _check_name(kind, name)
    room = f"{kind}s"
    target = folder if folder else Path(room) if _is_checkout() else Path()
    in_tree = _is_checkout() and target.resolve() == Path(room).resolve()
    tests = Path("tests") / room if in_tree else target
    files = {
        target / f"{name}.py": f"{kind}.py.jinja",
        tests / f"test_{name}.py": f"test_{kind}.py.jinja",
    }
    _check_free(name, files, in_tree)
    templates = Environment(
        loader=PackageLoader("bench", "templates"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    facts = {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "name_literal": f'"{name}"',
        "in_tree": in_tree,
        "file": not in_tree,
        "where": f'"{name}"' if in_tree else f'str(Path(__file__).with_name("{name}.py"))',
    }
    texts = {path: templates.get_template(template).render(facts) for path, template in files.items()}
    _check_class_name(name, str(facts["class_name"]), texts.values())
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not through a link that leads nowhere, and not over a file of this very moment.
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    plugin, test = files
    return Written(tuple(files), _commands(kind, name if in_tree else str(plugin), test, in_tree))


def _commands(kind: Kind, plugin: str, test: Path, in_tree: bool) -> tuple[str, ...]:
    asked = shlex.quote(plugin)
    run = f"-s {asked} -s cg -p quadratic" if kind is Kind.SOLVER else f"-p {asked} -s cg -s lissa"
    pytest = f"pytest {shlex.quote(str(test))}"
    if in_tree and kind is Kind.SOLVER:
        pytest += f" tests/solvers/test_conformance.py -k {asked}"
    return f"ihvp-bench check {asked}", f"ihvp-bench run {run}", pytest


def _is_checkout() -> bool:
    """Whether the current folder is a checkout of ours."""
    return all(Path(room, "__init__.py").is_file() for room in ("solvers", "problems", "bench"))


def _check_name(kind: Kind, name: str) -> None:
    example = "my_solver" if kind is Kind.SOLVER else "my_problem"
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        near = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
        usable = re.fullmatch("[a-z][a-z0-9_]*", near) and not keyword.iskeyword(near)
        raise ValueError(
            f"the name {name!r} cannot be a Python module's: use small letters, digits and _, as in "
            f"{near if usable else example!r}"
        )
    if name.startswith("test_"):
        raise ValueError(f"{name}.py would be taken for a test: choose a name that does not begin with test_")
    if name in TAKEN:
        raise ValueError(f"{name} means something else to Python, JSON or pytest: choose another name")
    # `check NAME` must know which is meant.
    available: dict[Kind, Mapping[str, type]] = {
        Kind.SOLVER: solvers.available(),
        Kind.PROBLEM: problems.available(),
    }
    for other, known in available.items():
        if name in known:
            raise ValueError(
                f"there is a {other} {name!r} already, in {known[name].__module__}: choose another name"
            )


def _check_class_name(name: str, class_name: str, texts: Iterable[str]) -> None:
    """ValueError for a class that would take the place of something that the files use."""
    used = set(dir(builtins))
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                used |= {alias.asname or alias.name for alias in node.names}
    if class_name in used:
        raise ValueError(
            f"the class {class_name} would hide what the file uses under that name: choose another name, "
            f"my_{name} for one"
        )


def _check_free(name: str, files: dict[Path, str], in_tree: bool) -> None:
    taken = [str(path) for path in files if os.path.lexists(path)]
    if taken:
        raise ValueError(f"there is {' and '.join(taken)} already: choose another name, or --folder")
    # Beside a script of the user's, a file of that name would be imported in the module's place.
    found = None if in_tree else importlib.util.find_spec(name)
    if found is not None:
        raise ValueError(
            f"{name}.py would hide the installed module {name}: choose another name, my_{name} for one"
        )
