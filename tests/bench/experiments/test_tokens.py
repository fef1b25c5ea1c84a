"""Studies, a diagnosis and theory's facts of a language model, whose mini-batches count tokens.

Five tokens count in each of seven sequences; the truth is that of dense matrices, by enumeration.
"""

from __future__ import annotations

import math

import pytest
import torch

from bench.diagnosis.diagnose import diagnose
from bench.experiments.condition import Condition
from bench.experiments.phase import Phase
from bench.experiments.settings import Settings
from bench.theory_facts import theory_facts
from problems import GaussNewton, Problem
from solvers.theory import second_moment_bound
from tests.problems.operators.test_token_batches import (
    DAMPING,
    enumerated_square,
    exact_second_moment,
    language_model,
    operator,
    top,
    whole_sequences,
)


def quiet(what: str, share: float) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    found = language_model(unequal=False).operator(GaussNewton())
    rhs = torch.randn(found.shape[0], 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return Problem("tokens", found, DAMPING, rhs)


@pytest.fixture(scope="module")
def matrix() -> torch.Tensor:
    return language_model(unequal=False).gauss_newton()


def test_both_sides_of_the_condition_count_tokens(problem: Problem, matrix: torch.Tensor) -> None:
    study = Condition(batch_sizes=(1, 2, 5, 10), pairs=200, budget=600.0)
    prepared = study.prepare(problem, quiet)
    sequences = whole_sequences(False)
    traces = sequences.diagonal(dim1=1, dim2=2).sum(dim=1)
    square = matrix @ matrix
    for piece in study.pieces():
        (row,) = study.measure(problem, prepared, piece, 0, quiet)
        size = piece["batch_size"]
        moment = enumerated_square(False, size) if size < 5 else (sequences @ sequences).mean(dim=0)
        exact = float((moment - square).trace()) / (2 if size == 10 else 1)
        assert abs(row["noise"] - exact) <= 4 * row["noise_error"]
        assert (row["unit"], row["units_per_draw"]) == ("token", 5)
        largest = float(traces.max() / traces.mean())
        assert abs(row["heterogeneity"] - largest) <= 5 * row["heterogeneity_error"] + 0.1 * largest
        # What C promises whatever the matrices are.
        assert exact <= 5 * largest * float(traces.mean()) ** 2 / size
        assert row["sequence_worth"] > 0


def test_whole_sequences_are_all_looked_at_and_parts_by_pairs(problem: Problem, matrix: torch.Tensor) -> None:
    """Sizes are five tokens for each of 1 and 2; 3 of 5 tokens are a part."""
    sequences = whole_sequences(False)
    exact = float(((sequences @ sequences).mean(dim=0) - matrix @ matrix).trace())
    study = Condition(batch_sizes=(1, 2), pairs=3, budget=60.0, products=12, tokens_per_example=5)
    prepared = study.prepare(problem, quiet)
    for piece, draws in zip(study.pieces(), (1, 2), strict=True):
        (row,) = study.measure(problem, prepared, piece, 0, quiet)
        assert (row["batch_size"], row["pairs"]) == (5 * draws, 0)
        assert abs(row["noise"] - exact / draws) <= 5 * row["noise_error"] + 1e-9
        assert row["noise_error"] < 0.3 * row["noise"]
    study = Condition(batch_sizes=(1,), pairs=3, budget=60.0, products=12, tokens_per_example=3)
    (row,) = study.measure(problem, study.prepare(problem, quiet), {"batch_size": 1}, 0, quiet)
    assert (row["batch_size"], row["pairs"]) == (3, 3)


@pytest.mark.parametrize("seed", range(3))
def test_c_of_tokens_bounds_the_noise_however_alike_tokens_are(seed: int) -> None:
    """All tokens of a sequence the same rank-one matrix: the noise is N times that of independent ones."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    sequences = vectors[:, :, None] * vectors[:, None, :]
    mean = sequences.mean(dim=0)
    noise = float(((sequences @ sequences).mean(dim=0) - mean @ mean).trace())
    ratio = float(sequences.diagonal(dim1=1, dim2=2).sum(dim=1).max() / mean.trace())
    length = 10
    right = float(mean.trace()) ** 2 / length
    # With the largest token, whose trace is that of its sequence, it does not hold.
    assert ratio * right < noise <= length * ratio * right


def test_facts_of_theory_bound_batches_of_any_size(problem: Problem, matrix: torch.Tensor) -> None:
    found = theory_facts(problem)
    sequences = whole_sequences(False)
    square = (sequences @ sequences).mean(dim=0)
    shifted = matrix + DAMPING * torch.eye(len(matrix), dtype=torch.float64)
    single = enumerated_square(False, 1)
    assert found.noise_constant == pytest.approx(
        max(5 * top(square, shifted), top(single, shifted)), rel=1e-3
    )
    largest = float(torch.linalg.eigvalsh(matrix)[-1])
    for size in (1, 2, 4, 5, 8, 20):
        bound = second_moment_bound(largest, DAMPING, found.noise_constant, size)
        assert exact_second_moment(False, size) <= bound * (1 + 1e-6)
    solutions = torch.linalg.solve(shifted, problem.columns())
    unit = solutions / solutions.norm(dim=0)
    of_sequence, of_token = (
        float(((unit * (moment @ unit)).sum(dim=0) - (matrix @ unit).square().sum(dim=0)).max())
        for moment in (square, single)
    )
    assert found.noise_at_solution == pytest.approx(max(5 * of_sequence, of_token), rel=1e-6)


def test_the_phase_study_predicts_batches_of_tokens(problem: Problem, matrix: torch.Tensor) -> None:
    study = Phase(batch_sizes=(1, 10), steps_per_octave=1, time=0.5, max_steps=40)
    prepared = study.prepare(problem, quiet)
    shifted = matrix + DAMPING * torch.eye(len(matrix), dtype=torch.float64)
    solutions = torch.linalg.solve(shifted, problem.columns())
    sequences = whole_sequences(False)
    squares = {1: enumerated_square(False, 1), 10: (sequences @ sequences).mean(dim=0)}
    for size, square in squares.items():
        draws = 2 if size == 10 else 1
        assert prepared.second_moments[size] == pytest.approx(exact_second_moment(False, size), rel=1e-3)
        noise = (solutions * (square @ solutions)).sum(dim=0) - (matrix @ solutions).square().sum(dim=0)
        torch.testing.assert_close(prepared.noises[size], noise / draws, rtol=1e-6, atol=1e-12)
    row = study.measure(problem, prepared, {"batch_size": 10}, 0, quiet)[0]
    assert (row["unit"], row["units_per_draw"]) == ("token", 5)
    constant = top(squares[10], shifted)
    whole = float(torch.linalg.eigvalsh(shifted)[-1])
    expected = 5 * max(1.0, (constant - (whole - DAMPING) ** 2 / whole) / whole)
    assert row["sufficient_batch"] == pytest.approx(expected, rel=1e-2)


def test_the_settings_study_knows_the_papers_stability(problem: Problem) -> None:
    study = Settings(target=0.1, budget=60.0)
    prepared = study.prepare(problem, quiet)
    (row,) = study.measure(problem, prepared, {"rule": "paper"}, 0, quiet)
    size = int(row["batch_size"])
    exact = row["step_size"] * exact_second_moment(False, size) / 2
    # Of parts E h̃² is a mean over drawn ones.
    assert row["half_step_second_moment"] == pytest.approx(exact, rel=0.1)
    assert (row["unit"], row["units_per_draw"]) == ("token", 5)


def test_the_papers_rule_counts_tokens(problem: Problem, matrix: torch.Tensor) -> None:
    study = Settings(target=0.1, budget=60.0)
    (row,) = study.measure(problem, study.prepare(problem, quiet), {"rule": "paper"}, 0, quiet)
    values = torch.linalg.eigvalsh(matrix)
    assert row["batch_size"] == math.ceil(float(values.sum() / (values[-1] + DAMPING)))


def test_a_diagnosis_tells_what_a_sequence_is_worth(problem: Problem, matrix: torch.Tensor) -> None:
    found = diagnose(problem, budget=1500)
    sequences = whole_sequences(False)
    square = (matrix @ matrix).trace()
    whole = float((sequences @ sequences).mean(dim=0).trace() - square)
    one = float(enumerated_square(False, 1).trace() - square)
    quantity = found.spectrum["sequence_worth"]
    assert quantity.low is not None
    assert quantity.high is not None
    assert quantity.low <= one / whole <= quantity.high
    assert "a sequence of 5 is worth" in quantity.meaning
    noise = found.spectrum["trace_of_noise"]
    assert noise.low is not None
    assert noise.high is not None
    assert noise.low <= 5 * whole <= noise.high
    paper = next(each for each in found.settings if each.name == "by the paper's rule")
    assert isinstance(paper.batch_size, int)
    exact = exact_second_moment(False, paper.batch_size)
    assert 0.9 * exact <= paper.second_moment <= 2 * exact
    assert found.as_dict()["spectrum"]["sequence_worth"]["symbol"] == "tokens/sequence"
    assert operator(unequal=False).unit == found.subject.unit == "token"
