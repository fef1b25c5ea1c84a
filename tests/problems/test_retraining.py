"""Trainings that are kept, resumed and made in parallel."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import problems
from problems import Problem
from problems.retraining import (
    Attempt,
    Retrained,
    Retraining,
    Start,
    attempts_of,
    default_workers,
    path_of,
    retrain,
    retraining_of,
    seconds_of,
)
from tests.conftest import dense_problem, random_psd_examples

SMALL: dict[str, Any] = {"width": 2, "training_size": 40, "epochs": 2, "num_queries": 3}


@dataclass(frozen=True, eq=False)
class Counted(Retraining):
    """Its loss is the sum of what is kept; it says what it trained, and may be cut off after some."""

    name: str
    seeded: bool = True
    trained: list[int] = field(default_factory=list)
    most: int = 10**9

    @property
    def count(self) -> int:
        return 40

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def key(self, attempt: Attempt) -> Mapping[str, Any]:
        return {"name": self.name, "damping": attempt.damping}

    def is_seeded(self, start: Start) -> bool:
        return self.seeded

    def train(self, attempt: Attempt) -> Retrained:
        if len(self.trained) >= self.most:
            raise KeyboardInterrupt
        self.trained.append(attempt.seed)
        return Retrained(torch.tensor([float(attempt.kept.sum()), attempt.seed]), False, 0.25)


def asked(*seeds: int, kept: int = 5, damping: float = 0.1) -> list[Attempt]:
    return [Attempt(torch.arange(kept), seed, "cold", damping) for seed in seeds]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problems.load("image_classifier", **SMALL)


def test_what_was_trained_is_kept() -> None:
    first, second = Counted("kept"), Counted("kept")
    heard: list[tuple[int, int]] = []
    wanted = retrain(first, asked(0, 1, 2), workers=1, on_trained=lambda *done: heard.append(done))
    found = retrain(second, asked(2, 0, 1), workers=1)
    assert first.trained == [0, 1, 2]
    assert second.trained == []
    assert [each.losses.tolist() for each in found] == [[10, 2], [10, 0], [10, 1]]
    assert [(each.converged, each.gradient) for each in found] == [(False, 0.25)] * 3
    assert [each.seconds for each in wanted] == [found[1].seconds, found[2].seconds, found[0].seconds]
    assert heard == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_training_that_several_attempts_share_takes_its_time_once() -> None:
    one, other = (Retrained(torch.zeros(1), seconds=seconds) for seconds in (2.0, 3.0))
    assert seconds_of([one, other, one]) == 5


def test_an_interrupted_run_goes_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        retrain(Counted("interrupted", most=2), asked(0, 1, 2, 3, 4), workers=1)
    second = Counted("interrupted")
    found = retrain(second, asked(0, 1, 2, 3, 4), workers=1)
    assert second.trained == [2, 3, 4]
    assert [each.losses[1].item() for each in found] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"kept": torch.arange(6)},
        {"kept": torch.tensor([0, 1, 2, 3, 5])},
        {"seed": 1},
        {"start": "warm"},
        {"damping": 0.2},
    ],
)
def test_each_thing_that_losses_depend_on_has_a_file_of_its_own(change: dict[str, Any]) -> None:
    here = Counted("files")
    assert path_of(here, asked(0)[0]) == path_of(here, asked(0)[0])
    assert path_of(here, asked(0)[0]) != path_of(here, replace(asked(0)[0], **change))
    assert path_of(here, asked(0)[0]) != path_of(Counted("others"), asked(0)[0])


def test_seeds_that_change_nothing_are_trained_once() -> None:
    here = Counted("once", seeded=False)
    found = retrain(here, asked(0, 1, 2), workers=1)
    assert here.trained == [0]
    assert len(found) == 3


@pytest.mark.parametrize(
    "changes",
    [{"num_queries": 2}, {"epochs": 3}, {"width": 3}, {"training_size": 41}],
)
def test_another_network_is_another_file(problem: Problem, changes: dict[str, Any]) -> None:
    other = problems.load("image_classifier", **SMALL | changes)
    attempt = asked(0, kept=30)[0]
    assert path_of(retraining_of(problem), attempt) != path_of(retraining_of(other), attempt)


def test_of_a_cold_start_only_what_trains_counts_and_of_a_warm_one_the_damping(problem: Problem) -> None:
    other = problems.load("image_classifier", **SMALL, damping=0.5, curvature="empirical_fisher")
    for start, alike in (("cold", True), ("warm", False)):
        paths = [
            path_of(retraining_of(each), Attempt(torch.arange(9), 0, start, each.damping))  # type: ignore[arg-type]
            for each in (problem, other)
        ]
        assert (paths[0] == paths[1]) is alike


def test_a_cold_start_with_the_problems_seed_on_all_images_gives_its_weights(problem: Problem) -> None:
    task = problem.task
    assert task is not None
    inputs, targets = task.queries.batch(torch.arange(3))
    own = task.loss.per_example(task.function.outputs(task.function.parameters, inputs), targets)
    found = retraining_of(problem).train(Attempt(torch.arange(40), 0, "cold", 0.1))
    assert torch.equal(found.losses, own.detach())
    other = retraining_of(problem).train(Attempt(torch.arange(40), 1, "cold", 0.1))
    assert not torch.allclose(other.losses, found.losses, rtol=1e-3)


def test_a_resnets_cold_start_gives_its_weights() -> None:
    resnet = problems.load(
        "resnet18", data="digits", width=1, training_size=9, curvature_size=9, epochs=1, dtype=torch.float32
    )
    task = resnet.task
    assert task is not None
    inputs, targets = task.queries.batch(torch.arange(2))
    own = task.loss.per_example(task.function.outputs(task.function.parameters, inputs), targets)
    found = retraining_of(resnet).train(Attempt(torch.arange(9), 0, "cold", 0.1))
    torch.testing.assert_close(found.losses.float(), own.detach(), rtol=1e-5, atol=1e-6)


class Inline:
    """A pool that does at once, here, what it is sent."""

    def __init__(self, workers: int, context: Any, begin: Any, arguments: Any) -> None:
        begin(*arguments)

    def submit(self, do: Any, *sent: Any) -> Future[Retrained]:
        future: Future[Retrained] = Future()
        future.set_result(do(*pickle.loads(pickle.dumps(sent))))
        return future

    def shutdown(self, **_: Any) -> None:
        """Nothing is left to do."""


def test_what_processes_are_sent_suffices_them(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("problems.retraining.ProcessPoolExecutor", Inline)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("problems.retraining._OWN", [])
    attempts = attempts_of(problem, [torch.arange(20), torch.arange(10, 40)], (0, 3), "cold")
    alone = [retraining_of(problem).train(attempt) for attempt in attempts]
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path))
    together = retrain(retraining_of(problem), attempts, workers=2)
    for first, second in zip(alone, together, strict=True):
        assert torch.equal(first.losses, second.losses)


def test_what_does_not_pickle_says_so() -> None:
    class Here(Counted):
        """Of a class in a function."""

    with pytest.raises(ValueError, match=r"Here cannot be sent to other processes .*: set workers=1"):
        retrain(Here("here"), asked(0, 1), workers=2)


@pytest.mark.slow
def test_many_processes_give_what_one_does(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    subsets = [torch.arange(20), torch.arange(10, 40)]
    attempts = attempts_of(problem, subsets, (0,), "cold")
    alone = retrain(retraining_of(problem), attempts, workers=1)
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path))
    together = retrain(retraining_of(problem), attempts, workers=2)
    assert len(list(tmp_path.glob("retrainings/*/*.safetensors"))) == 2
    for first, second in zip(alone, together, strict=True):
        assert torch.equal(first.losses, second.losses)


def test_a_device_trains_one_at_a_time() -> None:
    assert default_workers(torch.device("cuda")) == 1
    assert default_workers(torch.device("cpu")) == torch.get_num_threads()


def test_what_cannot_be_asked(problem: Problem) -> None:
    bare = dense_problem(random_psd_examples(5, 4, 0), damping=0.1)
    with pytest.raises(ValueError, match=r"softmax_regression and image_classifier .* can"):
        retraining_of(bare)
    some = problems.load("image_classifier", **SMALL, curvature_size=30)
    with pytest.raises(ValueError, match=r"was trained on 40 examples, and H is of 30.*curvature_size=null"):
        retraining_of(some)
    with pytest.raises(ValueError, match="no start 'wram'; did you mean 'warm'"):
        attempts_of(problem, [torch.arange(3)], (0,), "wram")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a subset is empty"):
        attempts_of(problem, [torch.arange(0)], (0,), "warm")
    with pytest.raises(ValueError, match="examples 0 to 40; they must be from 0 to 39"):
        attempts_of(problem, [torch.arange(41)], (0,), "warm")
    with pytest.raises(ValueError, match="each once"):
        attempts_of(problem, [torch.tensor([1, 1])], (0,), "warm")
    with pytest.raises(ValueError, match=r"seeds is \[\]"):
        attempts_of(problem, [torch.arange(3)], (), "warm")
    with pytest.raises(ValueError, match="workers is 0"):
        retrain(retraining_of(problem), [], workers=0)


def test_a_file_of_weights_has_no_recipe(problem: Problem, tmp_path: Any) -> None:
    assert problem.task is not None
    torch.save(problem.task.function.model.state_dict(), tmp_path / "weights.pt")
    settings = {name: value for name, value in SMALL.items() if name != "epochs"}
    read = problems.load("image_classifier", **settings, weights=str(tmp_path / "weights.pt"))
    with pytest.raises(ValueError, match="by what recipe they were trained is not known"):
        attempts_of(read, [torch.arange(3)], (0,), "cold")
    assert attempts_of(read, [torch.arange(3)], (0,), "warm")
