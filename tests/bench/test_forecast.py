"""What a study will take is told, and refused, before it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import problems
from bench import forecast, study
from bench.forecast import check_memory, gradient_seconds
from problems.specification import parse
from tests.bench.studies import COUNTING
from tests.bench.test_cli import invoke


@dataclass(frozen=True)
class Told:
    """What a command ended with and printed, its lines joined."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    def run(*arguments: str) -> Told:
        code = invoke(*arguments, monkeypatch=monkeypatch)
        shown = capsys.readouterr()
        return Told(code, " ".join(shown.out.split()), " ".join(shown.err.split()))

    return run


WORKING = COUNTING.replace(
    "    def prepare(",
    "    def expected_work(self, problem):\n        return 10.0 * problem.size\n\n    def prepare(",
)


@pytest.fixture
def working(tmp_path: Path) -> str:
    path = tmp_path / "counting.py"
    path.write_text(WORKING)
    return str(path)


def test_work_of_all_seeds_by_the_time_of_one_gradient(working: str) -> None:
    plan = study.plan(parse(working))
    found = list(forecast.forecast(plan))
    assert [each.problem for each in found] == list(plan.families)
    assert [each.parameters for each in found] == [3, 2]
    assert [each.work for each in found] == [60.0, 40.0]  # ten gradients for each of p, two seeds
    for each in found:
        assert each.seconds == each.gradient_seconds * each.work
        assert 0 < each.gradient_seconds < 1


def test_a_gradient_takes_as_long_as_it_does() -> None:
    # Large enough for the clock: some 20 ms for a gradient over all images.
    problem = problems.load("image_classifier", width=200)
    assert problem.task is not None
    told = min(gradient_seconds(problem) for _ in range(3))
    took = []
    for _ in range(5):
        began = time.perf_counter()
        problem.operator @ problem.columns(slice(0, 1))
        took.append((time.perf_counter() - began) / (5 / 3))
    # Small mini-batches are slower by what a call costs, and machines are noisy.
    assert min(took) / 4 < told < 40 * min(took)


def test_the_command_line_prints_it_before_the_run(
    working: str, tmp_path: Path, command: Callable[..., Told]
) -> None:
    result = command("run", working, "--out", str(tmp_path / "run"))
    assert result.code == 0, result.err
    head, _, rest = result.out.partition("A gradient is over all training examples;")
    assert "what it will take, about" in head
    assert "all" in head
    assert "Sum:" in rest


def test_a_study_that_cannot_tell_says_so(tmp_path: Path, command: Callable[..., Told]) -> None:
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    out = command("run", str(path), "--out", str(tmp_path / "run")).out
    assert "Where there is no time, it cannot be told before." in out


def test_what_the_machine_cannot_hold_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Told]
) -> None:
    monkeypatch.setattr(forecast, "_memory_of", lambda device: 2.0**30 * 1.5)
    trained = pytest.fail
    monkeypatch.setattr("problems.image_classifier.ImageClassifier.build", lambda *_, **__: trained())
    large = "image_classifier:model=resnet18,width=64,num_queries=200"
    result = command("run", "condition", "-p", large, "--out", str(tmp_path / "run"))
    assert result.code == 2
    # 8 · p · 200 numbers alone, of p > 10⁷, are beyond that.
    assert "takes about" in result.err
    assert "and cpu has 1.5 GiB" in result.err
    assert "num_queries" in result.err
    assert not (tmp_path / "run").exists()


def test_vectors_and_network_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    family = problems.family("image_classifier", model="resnet18", width=8, num_queries=5)
    size = family.footprint()
    assert size is not None
    needed = forecast.BASE_BYTES + 4 * (forecast.COPIES * size.network + forecast.BLOCKS * size.selected * 5)
    plan = study.plan(
        parse("condition"),
        [parse("image_classifier:model=resnet18,width=8,num_queries=5")],
        dtype="float32",
    )
    monkeypatch.setattr(forecast, "_memory_of", lambda device: float(needed))
    check_memory(plan)
    monkeypatch.setattr(forecast, "_memory_of", lambda device: needed - 1.0)
    with pytest.raises(ValueError, match="num_queries=5"):
        check_memory(plan)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_a_study_keeps_beside_the_accelerator_is_counted(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Krylov bases of phase: fifteen vectors for each column, in the machine's own memory."""
    plan = study.plan(
        parse("phase"), [parse("image_classifier:model=resnet18,width=8,num_queries=5")], dtype="float32"
    )
    plan = replace(plan, request=plan.request.model_copy(update={"device": device}))
    size = next(iter(plan.families.values())).footprint()
    assert size is not None
    bases = 4 * 15 * size.selected * 5
    elsewhere = forecast.BASE_BYTES + 4 * (
        forecast.COPIES * size.network + forecast.BLOCKS * size.selected * 5
    )
    host = bases if device == "cuda" else bases + elsewhere
    room = {"cpu": float(host), "cuda": float(elsewhere)}
    monkeypatch.setattr(forecast, "_memory_of", lambda place: room[place.type])
    check_memory(plan)
    room["cpu"] -= 1
    with pytest.raises(ValueError, match="and cpu has"):
        check_memory(plan)


def test_a_problem_whose_data_cannot_be_had_stops_all_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Told]
) -> None:
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    result = command("run", "condition", "-p", "resnet18:width=8", "--out", str(tmp_path / "run"))
    assert result.code == 2
    assert "cannot be had, so nothing was run" in result.err
    assert "`ihvp-bench train resnet18:width=8`" in result.err
    assert not (tmp_path / "run").exists()


def test_train_tells_what_became_of_the_network(command: Callable[..., Told]) -> None:
    result = command("train", "image_classifier:width=2,training_size=40,epochs=2")
    assert result.code == 0, result.err
    assert "MLP 64-2-10" in result.out
    assert "test accuracy" in result.out


def test_a_run_that_was_not_begun_is_forecast_even_if_it_is_to_be_resumed(
    working: str, tmp_path: Path, command: Callable[..., Told]
) -> None:
    out = str(tmp_path / "run")
    assert "what it will take" in command("run", working, "--out", out, "--resume").out
    assert "what it will take" not in command("run", working, "--out", out, "--resume").out


def test_a_study_has_its_own_reference_work(command: Callable[..., Told], tmp_path: Path) -> None:
    result = command("run", "settings", "--reference-work", "7", "--out", str(tmp_path / "run"))
    assert result.code == 2
    assert "settings:reference_work=7" in result.err


def test_what_has_no_network_is_not_trained(command: Callable[..., Told]) -> None:
    result = command("train", "quadratic")
    assert result.code == 2
    assert "quadratic has no network to train" in result.err


def test_train_names_what_there_is_none_of(command: Callable[..., Told]) -> None:
    result = command("train", "resnet81")
    assert result.code == 2
    assert "did you mean 'resnet18'" in result.err
