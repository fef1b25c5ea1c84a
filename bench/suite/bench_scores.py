"""Influence scores of all pairs against their parts: gradients of each example, and one matrix product."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from bench.suite.subjects import Subject, parametrize, synchronise
from problems import Problem, ProblemFamily, from_model
from problems.influence import gradient_blocks, influence_scores

EXAMPLES, QUERIES = 10_000, 100
# What the gradients may take that are held for the product: of fewer examples where p is large.
HELD_BYTES = 2**31
# Rows of which the product is taken at once: all of 10,000 took a CPU a third longer, which would flatter us.
PIECE = 512
ROUNDS, FEWER_ROUNDS = 5, 3
# A block of scores is to cost no more than so many times its parts.
TARGET = 1.5


@dataclass(frozen=True)
class Perceptron(ProblemFamily):
    """A network of 28 × 28 pixels and 10 classes, p = 25,450, at random weights and on random data."""

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
        inputs = torch.randn(EXAMPLES, 784, generator=generator)
        targets = torch.randint(10, (EXAMPLES,), generator=generator)
        model.to(device, dtype)
        return from_model(model, "cross_entropy", (inputs, targets), (inputs[:1], targets[:1]), damping=0.01)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without --problem on the perceptron."""
    parametrize(metafunc, lambda: [Subject(Perceptron(), dtype="float32")])


def bench_scores(benchmark: BenchmarkFixture, subject: Subject) -> None:
    """`ratio`: seconds of a block of scores over those of its gradients plus those of its product.

    Of each round, all three in random order; the median over rounds counts, and its quartiles are kept.
    """
    task = subject.problem.task
    if task is None:
        pytest.skip("scores are products of a network's gradients, and this is a bare matrix")
    function, training = task.function, task.training
    row = function.num_parameters * function.dtype.itemsize
    indices = torch.arange(min(len(training), EXAMPLES, max(1, HELD_BYTES // row)))
    x = torch.randn(QUERIES, function.num_parameters, dtype=function.dtype, device=function.device).T
    rows = torch.empty(len(indices), function.num_parameters, dtype=function.dtype, device=function.device)
    for some, gradients in gradient_blocks(task, training, indices):
        rows[some] = gradients

    def gradients_alone() -> None:
        for _ in gradient_blocks(task, training, indices):
            pass

    def product_alone() -> None:
        for piece in rows.split(PIECE):
            torch.matmul(piece, x)

    parts: list[Callable[[], object]] = [
        gradients_alone,
        product_alone,
        lambda: influence_scores(task, x, indices),
    ]
    expected = -(rows @ x)
    largest = float(expected.abs().max())
    torch.testing.assert_close(influence_scores(task, x, indices), expected, rtol=0, atol=1e-4 * largest)
    order = random.Random(0)
    rounds: list[list[float]] = []

    def interleaved() -> None:
        seconds = [0.0] * len(parts)
        for part in order.sample(range(len(parts)), len(parts)):
            synchronise(function.device)
            began = time.perf_counter()
            parts[part]()
            synchronise(function.device)
            seconds[part] = time.perf_counter() - began
        rounds.append(seconds)

    benchmark.pedantic(interleaved, rounds=FEWER_ROUNDS if subject.asked else ROUNDS, warmup_rounds=1)
    gradients, product, scores = np.array(rounds).T
    low, ratio, high = np.quantile(scores / (gradients + product), [0.25, 0.5, 0.75])
    medians = {
        "gradient_seconds": float(np.median(gradients)),
        "product_seconds": float(np.median(product)),
        "score_seconds": float(np.median(scores)),
    }
    benchmark.extra_info.update(
        p=function.num_parameters, examples=len(indices), queries=QUERIES, target=TARGET, **medians,
        ratio=float(ratio), quartile_low=float(low), quartile_high=float(high),
    )  # fmt: skip
    print(
        f"\np = {function.num_parameters}, {len(indices)} × {QUERIES} scores: gradients "
        f"{medians['gradient_seconds']:.2f} s, product {medians['product_seconds']:.2f} s, scores "
        f"{medians['score_seconds']:.2f} s, ratio {ratio:.2f} ({low:.2f} to {high:.2f})"
    )
