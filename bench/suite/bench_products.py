"""Curvature products against a gradient on the same batch: ratios measured interleaved, in one run.

The floor of each is its count of operations, a forward pass being a third of a gradient. `make products`
turns the numbers into a page.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.memory import PeakMemory
from bench.suite.networks import CONTEXT, VOCABULARY, Transformer
from bench.suite.subjects import Subject, parametrize, synchronise
from problems import FiniteDifference, GaussNewton, Hessian, NetworkOperator
from problems.examples import Examples, Inputs
from problems.losses import CrossEntropy, Loss, TokenCrossEntropy
from problems.model_function import ModelFunction
from problems.models.resnet import resnet
from problems.operators.curvature import Curvature
from problems.operators.recording import RECORD_AFTER

COLUMNS = 8
ROUNDS = 15
# In each round, of which the median counts: every ratio is over it.
GRADIENTS = 5
# Of a problem that was asked for: images, or sequences.
BATCH = {"example": 32, "token": 8}
LIBRARY = "ihvp-bench"

ONE = "one column, fresh mini-batch"
EAGER = "one column, eager"
MANY = f"{COLUMNS} columns, per column"
SAME = "same batch again"
HESSIAN = "true Hessian, one column"
DIFFERENCES = "central differences, one column"
MEMORY = "peak memory, one column"

TARGETS = {
    "resnet18": {ONE: 1.75, MANY: 1.45, SAME: 1.45, MEMORY: 2.0},
    "transformer": {ONE: 1.75, MANY: 1.45, SAME: 1.40, MEMORY: 2.0},
}


@dataclass(frozen=True)
class Network:
    """A network as a function of its parameters, its loss, and the batch that both are measured on."""

    function: ModelFunction
    loss: Loss
    data: Examples

    def operator(self, curvature: Curvature) -> NetworkOperator:
        """The matrix over the batch, for a language model the mean over tokens."""
        return NetworkOperator(curvature, self.function, self.loss, self.data)

    def batch(self) -> tuple[Inputs, Tensor]:
        """Inputs and targets, all of them."""
        return self.data.batch(torch.arange(len(self.data)))

    def parameters(self) -> list[Tensor]:
        """Those that H is of."""
        named = dict(self.function.model.named_parameters())
        return [named[name] for name in self.function.names]

    def gradient(self) -> tuple[Tensor, ...]:
        """As anyone computes it: forward, backward."""
        inputs, targets = self.batch()
        model = self.function.model
        outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        if isinstance(outputs, Mapping):
            outputs = outputs["logits"]
        loss = self.loss.per_unit(outputs, targets).sum() / self.loss.counted(targets).sum()
        return torch.autograd.grad(loss, self.parameters())

    def curvlinops(self) -> Any:
        """The same matrix as curvlinops has it; None where that is not installed, or takes no such inputs."""
        inputs, targets = self.batch()
        try:
            import curvlinops
        except ImportError:
            return None
        if not isinstance(inputs, Tensor):
            return None
        model = self.function.model
        return curvlinops.GGNLinearOperator(
            nn.Sequential(model, nn.Flatten(0, 1)) if targets.ndim == 2 else model,
            nn.CrossEntropyLoss(),
            self.parameters(),
            [(inputs, targets.flatten())],
            check_deterministic=False,
        )


@dataclass(frozen=True)
class Entry:
    """One thing that is timed; its cost is quoted per column. `floor` is by count of operations."""

    row: str
    library: str
    run: Callable[[], Any]
    columns: int = 1
    floor: float | None = None


@dataclass(frozen=True)
class Own:
    """One of the suite's own networks, at random weights and on random data."""

    name: str

    @property
    def network(self) -> Network:
        """The network with its batch."""
        torch.manual_seed(0)
        if self.name == "resnet18":
            model = resnet(18, torch.Generator().manual_seed(0), width=32, classes=10, stem="cifar")
            return network(model, torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))
        tokens = torch.randint(VOCABULARY, (8, CONTEXT))
        return network(Transformer(), tokens, tokens.roll(-1, dims=1))


def network(model: nn.Module, inputs: Tensor, targets: Tensor) -> Network:
    """A model on a batch, all its parameters; targets of two dimensions are tokens."""
    function = ModelFunction(model)
    loss = TokenCrossEntropy() if targets.ndim == 2 else CrossEntropy()
    return Network(function, loss, Examples((inputs, targets), function.device, function.dtype))


def network_of(subject: Subject) -> Network:
    """The network of a problem, on the first of its examples; skips where H is no network's."""
    task = subject.problem.task
    if task is None:
        pytest.skip("products are measured against a network's gradient, and this is a bare matrix")
    few = torch.arange(min(len(task.training), BATCH[task.loss.unit]))
    function = task.function
    return Network(function, task.loss, Examples(task.training.batch(few), function.device, function.dtype))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without --problem on the suite's own networks."""
    parametrize(metafunc, lambda: [Own(name) for name in TARGETS])


def bench_products(benchmark: BenchmarkFixture, subject: Own | Subject) -> None:
    """Seconds over a gradient's, per column, and the peak memory of one column likewise, in `extra_info`.

    There too the relative errors of central differences.
    """
    network = subject.network if isinstance(subject, Own) else network_of(subject)
    name, function = subject.name, network.function
    vectors = torch.randn(COLUMNS, function.num_parameters).to(function.device, function.dtype).T
    ours, peers = _ours(network, vectors), _peers(network, vectors)
    _check_that_all_agree([*ours, *peers])
    began = time.perf_counter()
    for _ in range(RECORD_AFTER + 1):
        for entry in ours:
            if entry.columns == 1:  # several columns of these sizes go one by one through the same recording
                entry.run()
    warm_up = time.perf_counter() - began
    entries = [Entry("", "", network.gradient), *ours, *peers]
    for entry in entries:
        entry.run()
    schedule = [0] * GRADIENTS + list(range(1, len(entries)))
    order = random.Random(0)
    rounds: list[list[float]] = []

    def interleaved() -> None:
        seconds: list[list[float]] = [[] for _ in entries]
        # In another order each time, so that what one leaves in the caches falls on no other in particular.
        for index in order.sample(schedule, len(schedule)):
            synchronise(function.device)
            began = time.perf_counter()
            entries[index].run()
            synchronise(function.device)
            seconds[index].append(time.perf_counter() - began)
        rounds.append([statistics.median(times) for times in seconds])

    benchmark.pedantic(interleaved, rounds=ROUNDS)
    gradients, *others = np.array(rounds).T
    records = [
        _record(name, entry, seconds / gradients / entry.columns)
        for entry, seconds in zip(entries[1:], others, strict=True)
    ]
    memory = _more_memory(_peak(ours[0].run, function.device), _peak(network.gradient, function.device))
    if memory == memory:
        records.append(_record(name, Entry(MEMORY, LIBRARY, ours[0].run), np.array([memory])))
    gradient = float(np.median(gradients))
    benchmark.extra_info.update(
        parameters=len(vectors), gradient_seconds=gradient, warm_up_seconds=warm_up, products=records
    )
    errors = _errors_of_differences(network, vectors[:, 0])
    benchmark.extra_info.update(errors)
    table = "; ".join(f"{each['library']}, {each['row']} {each['ratio']:.2f}" for each in records)
    off = "; ".join(f"{label} {error:.2g}" for label, error in errors.items())
    print(f"\n{name}: p = {len(vectors)}, gradient {1e3 * gradient:.0f} ms; {table}; {off}")


def _ours(network: Network, vectors: Tensor) -> list[Entry]:
    everything = torch.arange(len(network.data))
    fresh, same, eager = (network.operator(GaussNewton()) for _ in range(3))
    hessian, differences = network.operator(Hessian()), network.operator(FiniteDifference())
    vector = vectors[:, 0]

    def unrecorded() -> Tensor:
        eager.forget()
        return eager.subset(everything) @ vector

    # A new subset each time: its forward pass is run anew, as for a mini-batch that was just drawn.
    return [
        # The forward pass (1) with its tangents (2), and the backward pass (2): 5/3 of a gradient.
        Entry(ONE, LIBRARY, lambda: fresh.subset(everything) @ vector, floor=_floor(GaussNewton(), 1)),
        Entry(EAGER, LIBRARY, unrecorded, floor=_floor(GaussNewton(), 1)),
        # The forward pass once for all k columns: (1 + 4k)/3k.
        Entry(MANY, LIBRARY, lambda: fresh.subset(everything) @ vectors, COLUMNS,
              _floor(GaussNewton(), COLUMNS)),
        # The forward pass is kept from the product before: 4/3.
        Entry(SAME, LIBRARY, lambda: same @ vector, floor=GaussNewton().cost.per_column / 3),
        # A gradient (3), the tangents of its forward pass (2) and of its backward pass (4): 9/3.
        Entry(HESSIAN, LIBRARY, lambda: hessian.subset(everything) @ vector, floor=_floor(Hessian(), 1)),
        # Three forward passes (3) and a backward pass (2): 5/3, as an exact product.
        Entry(DIFFERENCES, LIBRARY, lambda: differences.subset(everything) @ vector,
              floor=_floor(FiniteDifference(), 1)),
    ]  # fmt: skip


def _peers(network: Network, vectors: Tensor) -> list[Entry]:
    """What curvlinops takes for the same rows; it runs two forward passes, (2 + 4k)/3k, and keeps none."""
    peer = network.curvlinops()
    if peer is None:
        return []
    library = f"curvlinops {version('curvlinops-for-pytorch')}"
    return [
        Entry(ONE, library, lambda: peer @ vectors[:, 0]),
        Entry(MANY, library, lambda: peer @ vectors, COLUMNS),
        # Its ordinary product, timed a second time: that each of our rows has its own peer.
        Entry(SAME, library, lambda: peer @ vectors[:, 0]),
    ]


def _floor(curvature: Curvature, columns: int) -> float:
    return (curvature.cost.shared + curvature.cost.per_column * columns) / (3 * columns)


def _errors_of_differences(network: Network, vector: Tensor) -> dict[str, float]:
    """Relative to the exact product, of a random normal vector as it is, of length √p, and of unit length."""
    exact, differences = network.operator(GaussNewton()), network.operator(FiniteDifference())

    def error(v: Tensor) -> float:
        expected = exact @ v
        return float((differences @ v - expected).norm() / expected.norm())

    return {"difference_error": error(vector), "unit_difference_error": error(vector / vector.norm())}


def _check_that_all_agree(entries: list[Entry]) -> None:
    """A ratio to the cost of another matrix would say nothing; central differences have their errors told."""
    products = [entry.run() for entry in entries if entry.row not in (HESSIAN, DIFFERENCES)]
    for product in products:
        first = product if product.ndim == 1 else product[:, 0]
        torch.testing.assert_close(first, products[0], rtol=0, atol=1e-4 * float(products[0].abs().max()))


def _record(network: str, entry: Entry, ratios: np.ndarray) -> dict[str, str | float | None]:
    """One row of the table: the median over the rounds of each round's ratio, and its quartiles."""
    low, high = np.quantile(ratios, [0.25, 0.75]) if len(ratios) > 1 else (None, None)
    target = TARGETS.get(network, {}).get(entry.row) if entry.library == LIBRARY else None
    return {
        "network": network,
        "row": entry.row,
        "library": entry.library,
        "ratio": float(np.median(ratios)),
        "floor": entry.floor,
        "target": target,
        "quartile_low": None if low is None else float(low),
        "quartile_high": None if high is None else float(high),
    }


def _more_memory(product: float, gradient: float) -> float:
    """The ratio of two peaks; NaN where the gradient's is too small to be seen."""
    return product / gradient if gradient else math.nan


def _peak(run: Callable[[], object], device: torch.device) -> float:
    """Bytes held at the peak beyond those held before; NaN where the system does not tell."""
    run()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
    with PeakMemory(device) as before:
        pass
    with PeakMemory(device) as peak:
        run()
    return peak.bytes - before.bytes
