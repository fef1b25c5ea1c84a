"""`pytest bench/suite --problem …`: every benchmark runs on what was asked for."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.suite import subjects

SUITE = Path(__file__).parents[2] / "bench" / "suite"
SMALL = "image_classifier:width=2,training_size=40,epochs=2,num_queries=2"


def suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", str(SUITE), "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def test_every_benchmark_runs_on_the_problems_that_are_asked_for(tmp_path: Path) -> None:
    """On a network, and on a bare matrix, which has no products to measure against a gradient."""
    path = tmp_path / "benchmark.json"
    chosen = (
        "bench_products or bench_overhead or bench_scores or bench_counterparts and minres and image "
        "or bench_solver and -cg]"
    )
    matrix = "quadratic:dimension=4,num_examples=6"
    asked = ("--problem", SMALL, "--problem", matrix)
    found = suite(*asked, "--benchmark-json", str(path), "-k", chosen, "-rs")
    assert found.returncode == 0, found.stdout
    kept = {each["name"]: each["extra_info"] for each in json.loads(path.read_text())["benchmarks"]}
    subject = "image_classifier(width=2, training_size=40, epochs=2, num_queries=2)"
    assert set(kept) == {
        f"bench_products[{subject}]",
        f"bench_overhead_of_solve_around_cg[{subject}]",
        f"bench_scores[{subject}]",
        f"bench_counterparts[{subject}-minres-1]",
        f"bench_solver[{subject}-cg]",
        "bench_solver[quadratic(dimension=4, num_examples=6)-cg]",
    }
    # p = 64·2 + 2 + 2·10 + 10, in float32.
    assert kept[f"bench_products[{subject}]"]["parameters"] == 160
    assert kept[f"bench_solver[{subject}-cg]"]["status"] == "converged"
    scores = kept[f"bench_scores[{subject}]"]
    assert (scores["examples"], scores["queries"]) == (40, 100)
    assert 0 < scores["quartile_low"] <= scores["ratio"] <= scores["quartile_high"]
    assert {row["network"] for row in kept[f"bench_products[{subject}]"]["products"]} == {subject}
    assert found.stdout.count("this is a bare matrix") == 3


def test_data_that_cannot_be_had_are_told_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    shown = suite("--problem", "resnet18", "-k", "bench_products").stdout
    # pytest's summary names it once more, whole where the variable CI is set.
    assert shown.splitlines().count("cifar10 cannot be had. Tried:") == 1
    assert ".py:" not in shown.replace("bench_products.py::", "")
    assert " error" not in shown.splitlines()[-1]


@dataclass(frozen=True)
class Asked:
    """What stands on pytest's command line."""

    problem: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None

    def getoption(self, name: str) -> object:
        return getattr(self, name.removeprefix("--"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(("resnet81",)), "there is no problem 'resnet81'; did you mean 'resnet18'"),
        (Asked(("quadratic:dimension=0",)), "dimension"),
        (Asked(("quadratic",), device="gpu"), "allowed are 'cpu', 'cuda'"),
        (Asked(dtype="float32"), "--dtype: for the problems that --problem names"),
    ],
)
def test_what_cannot_be_is_refused(asked: Asked, message: str) -> None:
    with pytest.raises(pytest.UsageError, match=message):
        subjects.asked(asked)  # type: ignore[arg-type]


def test_what_cannot_be_is_said_at_once() -> None:
    found = suite("--problem", "resnet81")
    assert found.returncode == 4
    assert "did you mean 'resnet18'?" in found.stderr
    assert found.stderr.count("\n") <= 3
