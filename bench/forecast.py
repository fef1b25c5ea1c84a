"""What a study will take, told before it runs: time from one measured product, memory from sizes."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.experiment import DTYPES
from bench.study import StudyPlan
from problems import Problem
from problems.cache import cache_directory
from problems.footprint import Footprint
from problems.operators.network import NetworkOperator
from problems.specification import Specification, written

HOST = torch.device("cpu")
# Blocks of p × k numbers that a solver holds at once, with right-hand sides, reference and answer: `auto`
# while it predicts held so many of 20 columns.
BLOCKS = 14
# Copies of a network: its weights, those that are read, a gradient.
COPIES = 3
# Python with torch, and data.
BASE_BYTES = 2**30
# Examples, or sequences, of the product that is timed.
TIMED_DRAWS = 64
# Products are timed for so long, and no more of them than this.
SECONDS_TIMED, MOST_TIMED = 0.3, 8


@dataclass(frozen=True)
class Forecast:
    """What a problem takes: gradient equivalents, seconds, bytes at most; NaN for what cannot be told."""

    problem: str
    parameters: int
    gradient_seconds: float
    work: float
    bytes: float

    @property
    def seconds(self) -> float:
        """Of all that is measured on it."""
        return self.gradient_seconds * self.work


def check_memory(plan: StudyPlan) -> None:
    """ValueError for the first problem that the machine cannot hold, before anything is loaded or trained."""
    device, dtype = torch.device(plan.request.device), DTYPES[plan.request.dtype]
    for label, family in plan.families.items():
        size = family.footprint()
        if size is None:
            continue
        needed = {HOST: plan.study.host_bytes(size, dtype)}
        needed[device] = needed.get(device, 0.0) + _bytes(plan, size, dtype)
        for place, total in needed.items():
            there = _memory_of(place)
            if total > there:
                raise ValueError(
                    f"{label} takes about {gib(total)}, and {place} has {gib(there)}: run on a larger "
                    "machine, take another scale with --scale, or with -p fewer queries (num_queries), a "
                    "smaller width or fewer of the parameters (parameters=, a regular expression on their "
                    "names)"
                )


def forecast(plan: StudyPlan) -> Iterator[Forecast]:
    """For every problem of the plan what it will take; one that cannot be built says so when it runs.

    Builds each, so that networks are trained now, and times one product with a mini-batch. OSError where
    data or a model cannot be had.
    """
    device, dtype = torch.device(plan.request.device), DTYPES[plan.request.dtype]
    for entry, (label, family) in zip(plan.request.problems, plan.families.items(), strict=True):
        try:
            problem = family.build(device=device, dtype=dtype, seed=plan.request.problem_seed)
        except OSError as error:
            again = shlex.quote(written(Specification(entry.name, entry.parameters)))
            raise OSError(
                f"{label} cannot be had, so nothing was run: {error}\n"
                f"Where it can, `ihvp-bench train {again}` fetches and trains it; copy the cache from there "
                f"to {cache_directory()}, or name a copy by IHVP_BENCH_CACHE."
            ) from error
        except Exception:
            continue
        work = plan.study.expected_work(problem)
        yield Forecast(
            label,
            problem.size,
            gradient_seconds(problem),
            math.nan if work is None else work * len(plan.request.seeds),
            _bytes_of(plan, problem),
        )


def gradient_seconds(problem: Problem) -> float:
    """Seconds of one gradient equivalent, from products of mini-batches: the fastest of them."""
    operator = problem.operator
    generator = torch.Generator().manual_seed(0)
    draws = min(operator.num_draws, TIMED_DRAWS)
    units = max(1, operator.num_examples * draws // operator.num_draws)
    vector = problem.columns(slice(0, 1))
    batch = operator.minibatch(units, generator)
    batch @ vector  # warms up
    seconds, began = math.inf, time.perf_counter()
    for _ in range(MOST_TIMED):
        batch = operator.minibatch(units, generator)
        before, started = operator.work.total, time.perf_counter()
        batch @ vector
        if operator.device.type == "cuda":
            torch.cuda.synchronize(operator.device)
        ended = time.perf_counter()
        seconds = min(seconds, (ended - started) / (operator.work.total - before))
        if ended - began > SECONDS_TIMED:
            break
    return seconds


def gib(size: float) -> str:
    """A number of bytes as people read it."""
    return f"{size / 2**30:.{1 if size < 10 * 2**30 else 0}f} GiB"


def _bytes(plan: StudyPlan, size: Footprint, dtype: torch.dtype) -> float:
    held = size.selected * plan.study.held_columns(size)
    return BASE_BYTES + dtype.itemsize * (COPIES * size.network + BLOCKS * held)


def _bytes_of(plan: StudyPlan, problem: Problem) -> float:
    """Of a problem whose product has been timed, with what products take: on its device."""
    network = 0 if problem.task is None else sum(v.numel() for v in problem.task.function.model.parameters())
    size = Footprint(network, problem.size, problem.num_columns)
    room = 0.0
    if isinstance(problem.operator, NetworkOperator):
        room = problem.operator.micro_batches.most(problem.operator.num_draws, plan.study.held_columns(size))
    beside = plan.study.host_bytes(size, problem.operator.dtype) if problem.operator.device == HOST else 0.0
    return _bytes(plan, size, problem.operator.dtype) + room + beside


def _memory_of(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
