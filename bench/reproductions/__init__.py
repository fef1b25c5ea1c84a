"""Where another library's answer differs from its own documentation: scripts, each as small as can be.

Each is a file of its own that its library's maintainers could run as it stands: it needs that library alone,
and leaves LIBRARY, `expected`, `got` and `differs` behind.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import io
import runpy
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Reproduction:
    """One script and what came of it; `missing` says why nothing did, else it is "".

    `title` and `documented` are its docstring's, `source` the rest of it.
    """

    script: str
    title: str
    documented: str
    source: str
    library: str
    version: str = ""
    expected: str = ""
    got: str = ""
    differs: bool = False
    missing: str = ""


def scripts() -> list[Path]:
    """All there are, by name."""
    return sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@functools.cache
def reproductions() -> tuple[Reproduction, ...]:
    """All scripts, run once in this process."""
    return tuple(reproduce(path) for path in scripts())


def reproduce(path: Path) -> Reproduction:
    """Run one script; its library is asked for first."""
    known = _read(path)
    try:
        version = importlib.metadata.version(known["library"])
    except importlib.metadata.PackageNotFoundError:
        return Reproduction(**known, missing=f"{known['library']} is not installed")
    silent = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(silent), redirect_stderr(silent):
        warnings.simplefilter("ignore")
        try:
            left = runpy.run_path(str(path))
        except Exception as error:
            return Reproduction(**known, version=version, missing=f"{type(error).__name__}: {error}")
    expected, got = _text(left["expected"]), _text(left["got"])
    return Reproduction(**known, version=version, expected=expected, got=got, differs=bool(left["differs"]))


def _read(path: Path) -> dict[str, Any]:
    """What a script says of itself; ValueError names what it lacks."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    title, _, documented = (ast.get_docstring(tree) or "").partition("\n\n")
    assigned = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    lacking = [name for name in ("LIBRARY", "expected", "got", "differs") if name not in assigned]
    if lacking or not title or not documented.startswith("Documented: "):
        raise ValueError(
            f"{path.name} must begin with a docstring of a title and a paragraph “Documented: …”, and assign "
            f"LIBRARY, expected, got and differs; it lacks {', '.join(lacking) or 'the docstring'}"
        )
    body = "\n".join(text.splitlines()[tree.body[0].end_lineno :]).strip()
    return {
        "script": path.stem,
        "title": " ".join(title.split()),
        "documented": " ".join(documented.removeprefix("Documented: ").split()),
        "source": body,
        "library": ast.literal_eval(assigned["LIBRARY"]),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):.3g}"
