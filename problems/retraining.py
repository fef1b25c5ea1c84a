"""Training a problem's model again on some of its examples: in parallel, resumable, and each kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import pickle
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from problems.cache import cache_directory, check_can_be_kept, load_checkpoint, save_checkpoint
from problems.progress import progress_bar
from problems.validation import check_counts, unknown

if TYPE_CHECKING:
    from problems.problem import Problem

# From the weights θˢ that the problem has, or from a fresh initialisation.
Start = Literal["warm", "cold"]
STARTS: tuple[Start, ...] = get_args(Start)
# Is told how many trainings of how many are done.
OnTrained = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Retrained:
    """What became of a training: the loss of every query (q,), float64.

    `gradient` is the norm of the objective's gradient at the end, in units of what an example pulls; NaN of
    a recipe of so many steps, which ends where it ends and counts as `converged`.
    """

    losses: Tensor
    converged: bool = True
    gradient: float = math.nan
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Attempt:
    """A training to be made: on the examples `kept` (m,), in increasing order.

    `seed` is that of a fresh initialisation and of the order of mini-batches. `damping` is the problem's λ,
    which a warm start of a network needs.
    """

    kept: Tensor
    seed: int
    start: Start
    damping: float


class Retraining(ABC):
    """How a problem's model is trained again. It is sent to other processes, so that it must pickle."""

    @property
    @abstractmethod
    def count(self) -> int:
        """N, the training examples that there are."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it is trained."""

    @abstractmethod
    def key(self, attempt: Attempt) -> Mapping[str, Any]:
        """All that the losses depend on beside `kept` and, from a cold start, the seed; for JSON."""

    @abstractmethod
    def is_seeded(self, start: Start) -> bool:
        """Whether another seed is another model: not so where there is one optimum, or one way to it."""

    @abstractmethod
    def train(self, attempt: Attempt) -> Retrained:
        """Train, the same for the same attempt. ValueError for a start that cannot be made."""

    def check(self, start: Start) -> None:
        """ValueError, before any work, for a start that cannot be made."""
        if start not in STARTS:
            raise ValueError(unknown("start", start, STARTS))


def retraining_of(problem: Problem) -> Retraining:
    """How the problem's model is trained again; ValueError where that is not known, or not of all of H's."""
    found, task = problem.retraining, problem.task
    if found is None or task is None:
        raise ValueError(
            f"{problem.name} cannot be trained again; softmax_regression and image_classifier (any MLP or "
            "ResNet) can, and a model of your own with dataclasses.replace(problem, retraining="
            "problems.optimum.proximal(problem))"
        )
    if found.count != len(task.training):
        raise ValueError(
            f"{problem.name} was trained on {found.count} examples, and H is of {len(task.training)}; of the "
            "others there are no scores: set curvature_size=null, which is all of them, or a smaller "
            "training_size"
        )
    return found


def attempts_of(
    problem: Problem, subsets: Sequence[Tensor], seeds: Sequence[int], start: Start
) -> list[Attempt]:
    """One for each of the `subsets`, indices (m,), and each seed, seeds outermost; ValueError for bad ones.

    Another order of the same indices is the same subset.
    """
    retraining = retraining_of(problem)
    retraining.check(start)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}; name at least one, and each once")
    for subset in subsets:
        if not len(subset):
            raise ValueError("a subset is empty; at least one training example must be kept")
        if subset.min() < 0 or subset.max() >= retraining.count or len(subset.unique()) < len(subset):
            raise ValueError(
                f"a subset has the examples {int(subset.min())} to {int(subset.max())}; they must be from 0 "
                f"to {retraining.count - 1}, each once"
            )
    ordered = [subset.sort().values for subset in subsets]
    return [Attempt(subset, seed, start, problem.damping) for seed in seeds for subset in ordered]


def retrain(
    retraining: Retraining,
    attempts: Sequence[Attempt],
    *,
    workers: int | None = None,
    on_trained: OnTrained | None = None,
) -> list[Retrained]:
    """The losses of all attempts, in their order: from the cache, or trained now and kept there.

    One that is cut off goes on with what is missing. `workers` processes of one thread each train at once: by
    default as many as torch has threads, and on another device than the CPU one. With 1 all is done here, on
    one thread, which gives the same numbers. A script of your own that has several needs
    `if __name__ == "__main__":`, as all that start processes do.
    """
    workers = default_workers(retraining.device) if workers is None else workers
    check_counts(workers=workers)
    paths = [path_of(retraining, attempt) for attempt in attempts]
    # An attempt that is there twice is made once; of those that no seed changes the first is all.
    wanted = dict(zip(reversed(paths), reversed(attempts), strict=True))
    found = {path: kept for path in wanted if (kept := _kept(path)) is not None}
    missing = {path: wanted[path] for path in paths if path not in found}
    if missing:
        check_can_be_kept(next(iter(missing)))
    total = len(wanted)
    with progress_bar("training again", total) as show:
        show(len(found))
        if on_trained:
            on_trained(len(found), total)
        for path, trained in _train_all(retraining, missing, min(workers, len(missing))):
            found[path] = trained
            show(len(found))
            if on_trained:
                on_trained(len(found), total)
    return [found[path] for path in paths]


def seconds_of(found: Sequence[Retrained]) -> float:
    """What all took; a training that several attempts share counts once."""
    return sum(each.seconds for each in {id(each): each for each in found}.values())


def default_workers(device: torch.device) -> int:
    """As many processes as torch has threads; one on a device that they would have to share."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def path_of(retraining: Retraining, attempt: Attempt) -> Path:
    """Where the losses are kept: a file for each attempt, named by all that they depend on."""
    kept = hashlib.sha256(attempt.kept.to("cpu", torch.int64).numpy().tobytes()).hexdigest()
    seed = attempt.seed if retraining.is_seeded(attempt.start) else None
    key = {**retraining.key(attempt), "start": attempt.start, "seed": seed, "kept": kept}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return cache_directory() / "retrainings" / name[:2] / f"{name}.safetensors"


def fingerprint(*tensors: Tensor) -> str:
    """A hash of tensors: their numbers, shapes and dtypes."""
    found = hashlib.sha256()
    for tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()[:24]


def _kept(path: Path) -> Retrained | None:
    found = load_checkpoint(path)
    if found is None:
        return None
    tensors, metadata = found
    known = json.loads(metadata["known"])
    return Retrained(tensors["losses"], known["converged"], known["gradient"], known["seconds"])


def _train_one(retraining: Retraining, path: Path, attempt: Attempt) -> Retrained:
    """Train, and keep it where the next run finds it, also if this one is cut off before it hears of it."""
    began = time.perf_counter()
    with _one_thread():
        trained = retraining.train(attempt)
    trained = replace(trained, losses=trained.losses.double().cpu(), seconds=time.perf_counter() - began)
    known = {"converged": trained.converged, "gradient": trained.gradient, "seconds": trained.seconds}
    save_checkpoint(path, {"losses": trained.losses}, {"known": json.dumps(known)})
    return trained


def _train_all(
    retraining: Retraining, missing: Mapping[Path, Attempt], workers: int
) -> Iterator[tuple[Path, Retrained]]:
    """Each as it is done."""
    if workers <= 1:
        for path, attempt in missing.items():
            yield path, _train_one(retraining, path, attempt)
        return
    try:
        sent = pickle.dumps(retraining)
    except Exception as error:
        raise ValueError(
            f"{type(retraining).__name__} cannot be sent to other processes ({error}): set workers=1"
        ) from error
    # Spawned, since a process that is forked from one with threads may wait for ever.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin_process, (sent, os.environ.copy()))
    try:
        futures = {pool.submit(_in_process, path, each): path for path, each in missing.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        # What has begun is finished and kept.
        pool.shutdown(wait=True, cancel_futures=True)


# Of a process of the pool.
_OWN: list[Retraining] = []


def _begin_process(sent: bytes, environment: Mapping[str, str]) -> None:
    # Ctrl-C reaches the whole group; it is the first process that ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    torch.set_num_threads(1)
    _OWN.append(pickle.loads(sent))


def _in_process(path: Path, attempt: Attempt) -> Retrained:
    return _train_one(_OWN[0], path, attempt)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of other numbers of threads round otherwise, which training makes a difference of."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
