"""Plug-ins found by their file: solvers and problem families need no registry."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from problems.validation import explain, unknown

T = TypeVar("T")

# Plug-ins given as a file are modules of a package that does not exist, one for each path, so that they can
# hide neither an installed module nor each other.
_FILE_PREFIX = "ihvp_bench_plugin_"


class PluginWarning(UserWarning):
    """A plug-in that is left out, and why."""


class NoPlugin(ValueError):
    """A file that holds no plug-in of the kind asked for."""


def discover(package: ModuleType, base: type[T], group: str) -> dict[str, type[T]]:
    """Every concrete public subclass of `base` in the files of `package`, its folders' too, and of plug-ins.

    A class is named after its file; where a file holds several, each has a `variant` and is named
    `file_variant`. Installed packages offer classes through the entry-point group `group`; they are named
    in the same way, whatever the entry is called. A file or class that cannot be loaded, is no such class or
    claims a name that is taken is left out with a PluginWarning, so that all else can go on.
    """
    found: dict[str, type[T]] = {}
    root = Path(str(package.__file__)).parent
    # First its own, then those of folders within that are packages.
    folders = [root, *sorted(each.parent for each in root.glob("*/__init__.py"))]
    for path in [path for folder in folders for path in sorted(folder.glob("*.py"))]:
        parts = path.relative_to(root).with_suffix("").parts
        if not any(part.startswith("_") for part in parts):
            try:
                module = importlib.import_module(".".join((package.__name__, *parts)))
                _claim(found, _classes(module, base, path.stem))
            except (Exception, SystemExit) as error:
                _leave_out(str(path), f"{_raised(path, error)}. Correct or remove it")
    for entry in sorted(_entries(group), key=lambda entry: (_distribution(entry), entry.value)):
        try:
            cls = entry.load()
            if not (inspect.isclass(cls) and issubclass(cls, base)):
                raise TypeError(f"it is no class derived from {base.__name__}")
            _claim(found, {plugin_name(cls): cls})
        except (Exception, SystemExit) as error:
            owner = _distribution(entry)
            _leave_out(
                f"{entry.value} of the installed package {owner}",
                f"{type(error).__name__}: {error}. Correct it, or `pip uninstall {owner}`",
            )
    return found


def _entries(group: str) -> list[EntryPoint]:
    """What installed packages offer: all are read again once a folder that Python looks in has changed."""
    return _entries_in(group, tuple((path, _changed(path)) for path in sys.path))


@functools.lru_cache(maxsize=8)
def _entries_in(group: str, folders: tuple[tuple[str, int], ...]) -> list[EntryPoint]:
    return list(entry_points(group=group))


def _changed(path: str) -> int:
    try:
        return os.stat(path or os.curdir).st_mtime_ns
    except OSError:
        return 0


def _leave_out(what: str, why: str) -> None:
    # As if `discover`'s caller said so.
    warnings.warn(f"{what} is left out: {why}", PluginWarning, stacklevel=3)


def find(name: str, package: ModuleType, base: type[T], group: str, kind: str) -> type[T]:
    """The class called `name`, or the only one in the file `name`.py; ValueError names the nearest.

    NoPlugin where the file holds none, ValueError where it has the name of one of `package`.
    """
    if name.endswith(".py"):
        path = Path(name)
        found = _from_file(path, base, kind)
        return _alone_of_its_name(path, found, package, discover(package, base, group))
    known = discover(package, base, group)
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return known[name]


def plugin_name(cls: type) -> str:
    """The name under which `discover` finds `cls`: its file's, with its variant where it has one."""
    stem = cls.__module__.rpartition(".")[2]
    return f"{stem}_{vars(cls)['variant']}" if "variant" in vars(cls) else stem


def label(name: str, plugin: Any, own: Mapping[str, Any] | None = None) -> str:
    """The name and those settings that differ from their defaults, or from `own`: `cg(tolerance=1e-10)`."""
    defaults = {setting.name: setting.default for setting in fields(plugin)} | dict(own or {})
    changed = [
        f"{setting}={value:g}" if isinstance(value, float) else f"{setting}={value}"
        for setting, default in defaults.items()
        for value in [getattr(plugin, setting)]
        if default is MISSING or value != default
    ]
    return f"{name}({', '.join(changed)})" if changed else name


def construct(cls: type[T], settings: Mapping[str, Any], label: str) -> T:
    """`cls(**settings)`, settings converted to their fields' types; ValueError names a wrong one."""
    fields = inspect.signature(cls).parameters
    file = file_of(cls)
    for name in settings:
        if name not in fields:
            raise ValueError(f"{label}: {unknown('setting', name, fields)}")
    try:
        return TypeAdapter(cls).validate_python(dict(settings))
    except ValidationError as error:
        raise ValueError(f"{label}: {explain(error)}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{label}: {_raised(file, error)}") from error


def file_of(cls: type) -> Path:
    """The Python file that `cls` is defined in."""
    return Path(str(getattr(sys.modules.get(cls.__module__), "__file__", None)))


def _own(module: ModuleType, base: type[T]) -> list[type[T]]:
    """The public subclasses of `base` that the module defines, each once, whatever its other names."""
    own = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and issubclass(value, base)
        and not name.startswith("_")
    ]
    return list(dict.fromkeys(own))


def _classes(module: ModuleType, base: type[T], stem: str) -> dict[str, type[T]]:
    own = [cls for cls in _own(module, base) if not inspect.isabstract(cls)]
    if len(own) == 1:
        return {stem: own[0]}
    nameless = [cls.__name__ for cls in own if "variant" not in vars(cls)]
    if nameless:
        raise ValueError(
            f"{module.__file__} holds several classes; give {', '.join(nameless)} a class attribute `variant`"
        )
    return {f"{stem}_{vars(cls)['variant']}": cls for cls in own}


def _claim(found: dict[str, type[T]], offered: Mapping[str, type[T]]) -> None:
    for name, cls in offered.items():
        if name in found and found[name] is not cls:
            raise ValueError(
                f"two classes claim the name {name!r}: {found[name].__module__}.{found[name].__name__} and "
                f"{cls.__module__}.{cls.__name__}; rename one"
            )
        found[name] = cls


def _distribution(entry: EntryPoint) -> str:
    """The name that pip knows the entry's package by."""
    return entry.dist.name if entry.dist else entry.module


def import_file(path: Path) -> ModuleType:
    """The module in the Python file `path`; ValueError names what it raises, and at which line."""
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"{_FILE_PREFIX}{place}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be imported: {_raised(path, error)}") from error
    return module


def _raised(path: Path, error: BaseException) -> str:
    """ "RuntimeError at line 12: what it says", the line that of the file."""
    return f"{type(error).__name__}{line_in(path, error)}: {error}"


def line_in(path: Path, error: BaseException) -> str:
    """ " at line 12", the last line of the file on the way to the error."""
    found, trace = "", error.__traceback__
    while trace:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            found = f" at line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _from_file(path: Path, base: type[T], kind: str) -> type[T]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; a {kind} given as a path must be a Python file")
    module = import_file(path)
    own = _own(module, base)
    concrete = [cls for cls in own if not inspect.isabstract(cls)]
    if len(concrete) > 1:
        raise ValueError(
            f"{path} holds several classes, {' and '.join(cls.__name__ for cls in concrete)}; a file that is "
            "given by its path must hold one: give each a file of its own"
        )
    if concrete:
        return concrete[0]
    for cls in own:
        lacks = " and ".join(f"`{name}`" for name in sorted(getattr(cls, "__abstractmethods__", ())))
        raise ValueError(f"{path}: {cls.__name__} lacks {lacks}")
    raise NoPlugin(f"{path} holds no class derived from {base.__name__}")


def _alone_of_its_name(
    path: Path, cls: type[T], package: ModuleType, known: Mapping[str, type[T]]
) -> type[T]:
    """`cls` of the file `path`, or the built-in one if it is its file; ValueError if only the name is."""
    name = plugin_name(cls)
    other = known.get(name)
    if other is None or not other.__module__.startswith(f"{package.__name__}."):
        return cls
    if file_of(other).resolve() == path.resolve():
        return other
    raise ValueError(f"{path} and the built-in {name} both have the name {name}: rename the file")
