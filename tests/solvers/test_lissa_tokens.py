"""LiSSA on a small OPT whose mini-batches count tokens, against a dense float64 solve."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

import problems
import solvers
from problems import Problem
from solvers import Status
from tests.problems.tiny_language_models import tiny


@cache
def language_model(damping: float) -> Problem:
    """p = 400, 60 sequences of 4 to 11 tokens padded to 12; λ_max is about 0.5, Tr(H) about 3.4."""
    generator = torch.Generator().manual_seed(0)

    def sequences(count: int) -> list[dict[str, torch.Tensor]]:
        found = []
        for _ in range(count):
            counted = torch.arange(12) < torch.randint(4, 12, (1,), generator=generator)
            ids = torch.randint(3, 50, (12,), generator=generator).where(counted, 1)
            labels = ids.where(counted, -100)
            found.append({"input_ids": ids, "attention_mask": counted.long(), "labels": labels})
        return found

    return problems.from_model(
        tiny("opt"),
        "next_token_cross_entropy",
        sequences(60),
        sequences(2),
        damping=damping,
        parameters=r"layers\.1\.fc2",
    )


@pytest.mark.parametrize("damping", [3.0, 0.3, 0.01])
def test_it_reaches_its_target_by_itself(damping: float) -> None:
    solution = solvers.solve(language_model(damping), solvers.load("lissa"), seed=0)
    assert solution.status is Status.FINISHED, solution.reason
    assert solution.error is not None
    assert float(solution.error.max()) <= 0.05


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_it_reaches_it_on_parts_of_sequences(batch_size: int) -> None:
    """Of 6.4 tokens on average; 10 are parts of two sequences."""
    solution = solvers.solve(language_model(0.3), solvers.load("lissa", batch_size=batch_size), seed=0)
    assert solution.status is Status.FINISHED, solution.reason
    assert solution.diagnostics["batch_size"] == batch_size
    assert solution.error is not None
    assert float(solution.error.max()) <= 0.05


@pytest.mark.parametrize("damping", [3.0, 0.3, 0.03])
def test_the_papers_rule_counts_tokens(damping: float) -> None:
    """H is a mean over tokens, so that Tr(H)/(λ_max + λ) is a number of them."""
    problem = language_model(damping)
    values = problem.ground_truth.eigen[0]
    whole = float(values[-1]) + damping
    solution = solvers.solve(problem, solvers.load("lissa", rule="paper"), seed=0)
    told = solution.diagnostics
    # λ_max to 3 % of Ritz residual, the trace by 30 products.
    expected = max(1.0, float(values.sum()) / whole)
    assert abs(told["batch_size"] - math.ceil(expected)) <= 1
    assert told["step_size"] == pytest.approx(1 / whole, rel=0.03)
    assert told["num_steps"] == math.ceil(2.25 / (told["step_size"] * damping))
    operator = problem.operator
    drawn = [
        operator.minibatch(told["batch_size"], torch.Generator().manual_seed(seed)).num_examples
        for seed in range(150)
    ]
    mean = torch.tensor(drawn, dtype=torch.float64)
    # As many tokens as the rule says, but for what rounding to whole tokens, or to a sequence, adds.
    assert abs(float(mean.mean()) - told["batch_size"]) <= 1
