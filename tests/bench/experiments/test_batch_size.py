"""Influences step by step, and what theory says of each batch, against dense matrices in float64."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import problems
import solvers
from bench.experiments._batches import units, whole_units
from bench.experiments.batch_size import BatchSize, Prepared, correlations, recorded_steps
from problems import Problem
from reports.batch_size_rows import FIXED, PAPERS_RULE, SELF_TUNED
from tests.conftest import dense_problem, random_psd_examples
from tests.problems.operators.test_token_batches import DAMPING, exact_second_moment, language_model

STUDY = BatchSize(
    batch_sizes=(2, 30), num_steps=12, trials=3, few_trials=2, many_trials_up_to=2, num_influences=20
)


def quiet(what: str, share: float) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problems.load("image_classifier", width=2, training_size=60, epochs=5, num_queries=2, damping=0.05)


@pytest.fixture(scope="module")
def prepared(problem: Problem) -> Prepared:
    return STUDY.prepare(problem, quiet)


def rows_of(problem: Problem, prepared: Prepared, study: BatchSize = STUDY, seed: int = 0) -> list[dict]:
    return [
        dict(piece) | row
        for piece in study.pieces()
        for row in study.measure(problem, prepared, piece, seed, quiet)
    ]


@pytest.fixture(scope="module")
def rows(problem: Problem, prepared: Prepared) -> list[dict]:
    return rows_of(problem, prepared)


@pytest.fixture(scope="module")
def examples(problem: Problem) -> Tensor:
    """The h_i of all 60 examples, dense."""
    return torch.stack([problem.operator.subset(torch.tensor([i])).dense() for i in range(60)])


def top(a: Tensor, b: Tensor) -> float:
    return float(scipy.linalg.eigh(a.numpy(), b.numpy(), eigvals_only=True)[-1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**5))
def test_recorded_steps_go_from_the_first_to_the_last_in_small_steps(num_steps: int) -> None:
    steps = recorded_steps(num_steps)
    assert (steps[0], steps[-1]) == (1, num_steps)
    assert all(
        before < after <= max(before + 1, 1.25 * before) for before, after in itertools.pairwise(steps)
    )


@given(st.integers(0, 10**6), st.integers(3, 20))
@settings(max_examples=20, deadline=None)
def test_correlations_are_pearsons_of_each_query(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found, truth = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    expected = [scipy.stats.pearsonr(found[:, q], truth[:, q]).statistic for q in range(3)]
    assert correlations(found, truth).tolist() == pytest.approx(expected, rel=1e-9)
    # Neither scale nor shift nor precision changes them.
    assert correlations(3e4 * found.float() + 7, truth).tolist() == pytest.approx(expected, abs=1e-2)


def test_what_does_not_vary_has_no_correlation() -> None:
    assert math.isnan(float(correlations(torch.ones(4, 1), torch.arange(4.0)[:, None])))


def test_theory_against_dense_matrices(problem: Problem, rows: list[dict], examples: Tensor) -> None:
    matrix, identity = examples.mean(dim=0), torch.eye(problem.size, dtype=torch.float64)
    shifted, square = matrix + 0.05 * identity, (examples @ examples).mean(dim=0)
    largest, trace = float(torch.linalg.eigvalsh(matrix)[-1]), float(matrix.trace())
    noise_constant = top(square, shifted)
    solutions = torch.linalg.solve(shifted, problem.columns())
    for row in rows:
        # By Lanczos to a residual r of 3 %, whose error is about r², and from thirty products.
        assert largest * (1 - 0.03**2) <= row["largest"] <= largest * (1 + 1e-9)
        assert row["trace"] == pytest.approx(trace, rel=0.02)
        assert row["step_size"] == pytest.approx(1 / (row["largest"] + 0.05), rel=1e-9)
        assert row["time"] == pytest.approx(12 * 0.05 * row["step_size"], rel=1e-9)
        assert row["noise_constant"] == pytest.approx(noise_constant, rel=2e-3)
        enough = (noise_constant - largest**2 / (largest + 0.05)) / (largest + 0.05)
        assert row["sufficient_batch"] == pytest.approx(max(1.0, enough), rel=1e-2)
        if row["method"] != FIXED:
            continue
        size = row["batch_size"]
        assert size == row["examples"]
        moment = (1 - 1 / size) * matrix @ matrix + square / size + 0.1 * matrix + 0.05**2 * identity
        half = row["step_size"] * top(moment, shifted) / 2
        assert row["half_step"] == pytest.approx(half, rel=2e-3)
        deviations = ((examples - matrix) @ solutions).square().sum(dim=1).mean(dim=0) / size
        if half < 1:
            floor = (row["step_size"] * deviations / ((2 - 2 * half) * 0.05)).sqrt() / solutions.norm(dim=0)
            assert row["predicted_floor"] == pytest.approx(float(floor.max()), rel=1e-2)
        else:
            assert row["predicted_floor"] == math.inf


def test_a_trial_is_the_recursion_with_dense_mini_batches(
    problem: Problem, prepared: Prepared, examples: Tensor
) -> None:
    """An iteration of its own, on the same draws: from b/λ, a product with the dense H̃ each step."""
    own = STUDY.measure(problem, prepared, {"method": FIXED, "examples": 30}, 1, quiet)
    matrix = examples.mean(dim=0)
    shifted = matrix + 0.05 * torch.eye(problem.size, dtype=torch.float64)
    b = problem.columns()
    solutions = torch.linalg.solve(shifted, b)
    step_size = own[0]["step_size"]
    assert problem.task is not None
    gradients = problem.task.gradients(problem.task.training, torch.arange(20))
    truth = gradients.T @ solutions
    assert {row["trial"] for row in own} == {0, 1}
    for trial in range(2):
        generator = torch.Generator().manual_seed(2**20 + trial)
        by_step: dict[int, dict[str, Any]] = {row["step"]: row for row in own if row["trial"] == trial}
        u = b / 0.05
        for step in range(1, 13):
            drawn = torch.randint(60, (30,), generator=generator)
            u = u - step_size * (examples[drawn].mean(dim=0) @ u + 0.05 * u - b)
            if step not in by_step:
                continue
            row = by_step[step]
            expected = [scipy.stats.pearsonr((gradients.T @ u)[:, q], truth[:, q])[0] for q in range(2)]
            assert row["correlation"] == pytest.approx(sum(expected) / 2, abs=1e-6)
            assert row["least_correlation"] == pytest.approx(min(expected), abs=1e-6)
            error = float(((u - solutions).norm(dim=0) / solutions.norm(dim=0)).max())
            assert row["error"] == pytest.approx(error, rel=1e-6)
            assert row["epochs"] == pytest.approx(step * 30 / 60)
            assert row["work"] == pytest.approx(step * 30 / 60 * 3)  # (1 + 4k)/3 with two queries
        assert set(by_step) == set(recorded_steps(12))


def test_trials_and_seeds_differ_and_a_seed_repeats(problem: Problem, prepared: Prepared) -> None:
    first, again, other = (
        STUDY.measure(problem, prepared, {"method": FIXED, "examples": 2}, seed, quiet) for seed in (0, 0, 1)
    )
    assert repr(first) == repr(again)
    assert repr(first) != repr(other)
    ends = [row["correlation"] for row in first if row["step"] == 12]
    assert len(set(ends)) == 3


def test_a_run_that_runs_away_is_cut_off_and_said(problem: Problem, prepared: Prepared) -> None:
    """λ_max taken for an eighth of what it is: top directions grow seven times a step."""
    whole = prepared.measured.largest + 0.05
    small = dataclasses.replace(prepared.measured, largest=whole / 8 - 0.05)
    study = BatchSize(batch_sizes=(30,), num_steps=60, trials=1, few_trials=1)
    wrong = dataclasses.replace(prepared, measured=small)
    own = study.measure(problem, wrong, {"method": FIXED, "examples": 30}, 0, quiet)
    last = own[-1]
    assert last["step_size"] == pytest.approx(8 / whole)
    assert last["half_step"] >= 4 * (1 - 1e-3)  # L_b ≥ λ_max + λ
    assert last["predicted_floor"] == math.inf
    assert last["diverged"] == 1
    # From twice to a thousand times ‖b‖/λ at a factor of about seven a step.
    assert 2 <= last["step"] - last["diverged_at"] <= 6
    assert last["step"] < 20
    # ‖x*‖ ≤ ‖b‖/λ, and it was cut off beyond a thousand times that.
    assert last["error"] > 999
    assert {row["diverged_at"] for row in own} == {last["diverged_at"]}


def test_chosen_settings_have_one_row_with_all_they_took(problem: Problem, rows: list[dict]) -> None:
    (tuned,) = (row for row in rows if row["method"] == SELF_TUNED)
    (rule,) = (row for row in rows if row["method"] == PAPERS_RULE)
    assert tuned["correlation"] > 0.99
    assert tuned["error"] <= 2 * 0.05
    assert tuned["epochs"] == pytest.approx(tuned["work"] / 3)
    assert rule["batch_size"] == math.ceil(rule["papers_batch"])
    assert rule["step"] == math.ceil(2.25 / (rule["step_size"] * 0.05))
    assert rule["papers_batch"] == pytest.approx(rule["trace"] / (rule["largest"] + 0.05))
    # As where LiSSA measures for itself.
    alone = solvers.solve(problem, solvers.load("lissa", rule="paper"), seed=0)
    assert alone.error is not None
    assert (rule["chosen_step_size"], rule["batch_size"], rule["step"], rule["error"]) == (
        alone.diagnostics["step_size"],
        alone.diagnostics["batch_size"],
        alone.steps,
        float(alone.error.max()),
    )


def test_the_forecast_is_near_what_is_counted(problem: Problem) -> None:
    work, before = problem.operator.work, problem.operator.work.total
    fresh = problem.with_damping(0.06)
    rows = rows_of(fresh, STUDY.prepare(fresh, quiet))
    spent = work.total - before
    # Of the fixed batches it is exact: 12 steps, 3 trials of 2 examples and 2 of 30, 3 gradients a product.
    fixed = 12 * (3 * 2 + 2 * 30) / 60 * 3
    ends = {(row["examples"], row["trial"]): row["work"] for row in rows if row["method"] == FIXED}
    assert sum(ends.values()) == pytest.approx(fixed)
    dense = (1 + 4 * problem.size) / 3  # shared with the first problem
    assert 0.4 * spent <= STUDY.expected_work(fresh) - dense <= 2.5 * spent


def tokens() -> Problem:
    network = language_model(unequal=False)
    found = problems.from_model(
        network.model, network.loss, (network.inputs, network.targets),
        (network.inputs[:2], network.targets[:2]), damping=DAMPING,
    )  # fmt: skip
    assert found.operator.num_examples == 35
    return found


def test_of_tokens_batches_are_whole_sequences_or_parts() -> None:
    """Five tokens count in each of seven sequences."""
    problem = tokens()
    study = BatchSize(
        batch_sizes=(1, 4, 9), tokens_per_example=2, num_steps=3, trials=1, few_trials=1, num_influences=7
    )
    assert [whole_units(problem, size, 2) for size in (1, 2, 3, 4, 9)] == [2, 4, 5, 10, 20]
    assert [units(problem, {"batch_size": size}, 2) for size in (1, 2, 3, 4, 9)] == [2, 4, 6, 8, 18]
    assert study.sizes(problem) == {1: 2, 4: 10, 9: 20}
    prepared = study.prepare(problem, quiet)
    for size, moment in prepared.sampling.second_moments.items():
        # Of pairs of tokens E h̃² is a mean over parts that were drawn.
        assert moment == pytest.approx(exact_second_moment(False, size), rel=0.05 if size == 2 else 2e-3)
    row = study.measure(problem, prepared, {"method": FIXED, "examples": 4}, 0, quiet)[-1]
    assert (row["batch_size"], row["unit"], row["units_per_draw"], row["step"]) == (10, "token", 5, 3)
    assert row["epochs"] == pytest.approx(3 * 10 / 35)
    # Two of seven sequences a step.
    assert row["work"] == pytest.approx(3 * 2 / 7 * 3)


def test_sizes_that_become_the_same_batch_are_refused_by_name() -> None:
    """Ten and twelve tokens are both two sequences of five."""
    study = BatchSize(batch_sizes=(1, 3, 5, 6), tokens_per_example=2)
    for ask in (lambda: study.prepare(tokens(), quiet), lambda: study.expected_work(tokens())):
        with pytest.raises(ValueError, match="batch_sizes 5 and 6 are both 10 tokens"):
            ask()


@pytest.mark.parametrize("count", [7, 8, 20])
def test_gradients_are_those_of_the_first_examples(problem: Problem, count: int) -> None:
    """Taken some at a time, of which the last are fewer."""
    study = dataclasses.replace(STUDY, num_influences=count)
    assert problem.task is not None
    expected = problem.task.gradients(problem.task.training, torch.arange(count)).T
    torch.testing.assert_close(study.prepare(problem, quiet).gradients, expected)


def test_a_matrix_without_examples_is_refused() -> None:
    bare = dense_problem(random_psd_examples(5, 3, 0), 0.1)
    for ask in (lambda: BatchSize().prepare(bare, quiet), lambda: BatchSize().expected_work(bare)):
        with pytest.raises(ValueError, match="bare matrix without training examples"):
            ask()
    hessian = problems.load(
        "image_classifier", width=2, training_size=60, epochs=5, curvature="hessian", damping=3.0
    )
    with pytest.raises(ValueError, match="no curvature of single examples"):
        BatchSize().prepare(hessian, quiet)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"batch_sizes": ()}, "batch_sizes is empty"),
        ({"batch_sizes": (4, 0)}, "batch_sizes is 0"),
        ({"batch_sizes": (4, 4)}, "name each size once"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"trials": 0}, "trials is 0"),
        ({"tokens_per_example": 0}, "tokens_per_example is 0"),
        ({"num_influences": 2}, "num_influences is 2; a correlation needs at least 3"),
        ({"converged": 1.0}, "converged is 1.0"),
        ({"target": 0.0}, "target is 0.0"),
        ({"reference_work": math.inf}, "reference_work is inf"),
    ],
)
def test_what_makes_no_sense_is_said_before_any_work(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchSize(**parameters)
