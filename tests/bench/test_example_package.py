"""A package of its own, installed by pip, whose solver and problem appear in every command by being there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.test_cli import invoke

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed, without a network; of a copy, since a build writes beside it."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(ROOT / "tests" / "example_package", folder / "source")
    install(folder / "source", folder / "site")
    return folder / "site"


def install(source: Path, site: Path) -> None:
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, timeout=120)


def run_with(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_is_listed(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(site)
    invoke("list", "problems", "--json", monkeypatch=monkeypatch)
    listed = json.loads(capsys.readouterr().out)
    [row] = [row for row in listed if row["name"] == "acme_path_graph"]
    assert row["settings"] == {"nodes": 12, "damping": 0.01}


def test_it_is_checked(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(site)
    asked = ("acme_minimal_residual", "-p", "acme_path_graph:nodes=6,damping=0.1")
    status, found = invoke("check", *asked, monkeypatch=monkeypatch), capsys.readouterr().out
    assert status == 0, found
    assert "15 passed, 0 failed, 0 skipped" in found


def test_it_runs(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    out = tmp_path / "run"
    asked = ("-s", "acme_minimal_residual", "-s", "cg", "-p", "acme_path_graph", "--out", str(out))
    assert invoke("run", *asked, monkeypatch=monkeypatch) == 0
    assert "acme_minimal_residual" in (out / "report" / "tables" / "comparison.csv").read_text()


def test_a_broken_package_is_named_and_all_else_goes_on(site: Path, tmp_path: Path) -> None:
    """One whose module cannot be imported, one that offers no solver, one that claims a name of ours."""
    broken = shutil.copytree(site, tmp_path / "site")
    acme = (broken / "acme.py").read_text()
    modules = {
        "ruined": "import nothing_of_this_name",
        "other": "Thing = 3",
        "cg": acme.replace("variant: ClassVar", "label: ClassVar"),
    }
    objects = {"ruined": "Solver", "other": "Thing", "cg": "MinimalResidual"}
    for module, text in modules.items():
        (broken / f"{module}.py").write_text(text)
        metadata = broken / f"{module}_package-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}-package\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[ihvp_bench.solvers]\nx = {module}:{objects[module]}\n")
    finished = run_with(broken, tmp_path, "list", "solvers", "--json")
    assert finished.returncode == 0
    names = {row["name"] for row in json.loads(finished.stdout)}
    assert {"cg", "exact", "acme_minimal_residual"} <= names
    for text in (
        "ruined:Solver of the installed package ruined-package is left out: ModuleNotFoundError: No module "
        "named 'nothing_of_this_name'. Correct it, or `pip uninstall ruined-package`",
        "other:Thing of the installed package other-package is left out: TypeError: it is no class derived "
        "from Solver",
        "cg:MinimalResidual of the installed package cg-package is left out: ValueError: two classes claim "
        "the name 'cg'",
    ):
        assert text in finished.stderr
    assert "Traceback" not in finished.stderr
