"""Curvature products against a gradient on the same batch: ratios measured interleaved, in one run.

The floor by count of operations: 5/3 of a gradient for one column, (1 + 4k)/3k a column for k on one
mini-batch, 4/3 where the batch, and so its forward pass, is the same as before.
"""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.memory import PeakMemory
from bench.suite.networks import CONTEXT, IMAGE_CLASSES, VOCABULARY, Transformer, resnet18
from problems import GaussNewton, NetworkOperator
from problems.examples import Examples
from problems.losses import CrossEntropy, TokenCrossEntropy
from problems.model_function import ModelFunction
from problems.operators.recording import RECORD_AFTER

COLUMNS = 8
ROUNDS = 11


@dataclass(frozen=True)
class Network:
    """A model with the batch it is measured on."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor

    def operator(self) -> NetworkOperator:
        """H over the batch, for the language model the mean over tokens."""
        function = ModelFunction(self.model)
        data = Examples((self.inputs, self.targets), function.device, function.dtype)
        loss = TokenCrossEntropy() if self.targets.ndim == 2 else CrossEntropy()
        return NetworkOperator(GaussNewton(), function, loss, data)

    def gradient(self) -> tuple[Tensor, ...]:
        """As anyone computes it: forward, backward."""
        outputs = self.model(self.inputs)
        loss = F.cross_entropy(outputs.flatten(0, -2), self.targets.flatten())
        return torch.autograd.grad(loss, list(self.model.parameters()))

    def curvlinops(self) -> Any:
        """The same matrix as curvlinops has it; None where that is not installed."""
        try:
            import curvlinops
        except ImportError:
            return None
        function = nn.Sequential(self.model, nn.Flatten(0, 1)) if self.targets.ndim == 2 else self.model
        return curvlinops.GGNLinearOperator(
            function,
            nn.CrossEntropyLoss(),
            list(self.model.parameters()),
            [(self.inputs, self.targets.flatten())],
            check_deterministic=False,
        )


def _network(name: str) -> Network:
    torch.manual_seed(0)
    if name == "resnet18":
        return Network(resnet18(), torch.randn(32, 3, 32, 32), torch.randint(IMAGE_CLASSES, (32,)))
    tokens = torch.randint(VOCABULARY, (8, CONTEXT))
    return Network(Transformer(), tokens, tokens.roll(-1, dims=1))


@pytest.mark.parametrize("name", ["resnet18", "transformer"])
def bench_products(benchmark: BenchmarkFixture, name: str) -> None:
    """Seconds over a gradient's, per column, in `extra_info`, and the peak memory of one column likewise."""
    network = _network(name)
    operator = network.operator()
    same_batch = network.operator()
    vectors = torch.randn(COLUMNS, operator.shape[0]).T  # as gradients come: each in one piece
    everything = torch.arange(len(network.inputs))
    work: dict[str, Callable[[], object]] = {
        "gradient": network.gradient,
        # A new subset each time: its forward pass is run anew, as for a mini-batch that was just drawn.
        "one column": lambda: operator.subset(everything) @ vectors[:, 0],
        f"{COLUMNS} columns": lambda: operator.subset(everything) @ vectors,
        "same batch": lambda: same_batch @ vectors[:, 0],
    }
    eager = network.operator()
    eager.shared.recorder._recordings = _Never()
    work["eager"] = lambda: eager.subset(everything) @ vectors[:, 0]
    peer = network.curvlinops()
    if peer is not None:
        work["curvlinops"] = lambda: peer @ vectors[:, 0]
        work[f"curvlinops, {COLUMNS} columns"] = lambda: peer @ vectors
    began = time.perf_counter()
    for _ in range(RECORD_AFTER + 1):
        work["one column"]()
        work["same batch"]()
    warm_up = time.perf_counter() - began
    seconds: dict[str, list[float]] = {label: [] for label in work}

    def interleaved() -> None:
        for label, run in work.items():
            began = time.perf_counter()
            run()
            seconds[label].append(time.perf_counter() - began)

    benchmark.pedantic(interleaved, rounds=ROUNDS, warmup_rounds=1)
    gradient = statistics.median(seconds["gradient"])
    ratios = {
        label: statistics.median(times) / gradient / (COLUMNS if "columns" in label else 1)
        for label, times in seconds.items()
        if label != "gradient"
    }
    memory = _peak(work["one column"]) / _peak(work["gradient"])
    benchmark.extra_info.update(p=operator.shape[0], ratios=ratios, memory=memory, warm_up_seconds=warm_up)
    table = ", ".join(f"{label} {ratio:.2f}" for label, ratio in ratios.items())
    print(f"\n{name}: p = {operator.shape[0]}, gradient {1e3 * gradient:.0f} ms; per column: {table}; "
          f"memory {memory:.2f}")  # fmt: skip


class _Never(dict):
    """Recordings that are never made."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: object) -> None:
        return None


def _peak(run: Callable[[], object]) -> float:
    """Bytes held at the peak beyond those held before; NaN where the system does not tell."""
    run()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
    with PeakMemory(torch.device("cpu")) as before:
        pass
    with PeakMemory(torch.device("cpu")) as peak:
        run()
    return peak.bytes - before.bytes
