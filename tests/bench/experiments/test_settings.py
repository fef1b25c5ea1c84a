"""Rules, what they chose, and the parts of the paper's error, against a run without noise."""

from __future__ import annotations

import math

import pytest
import torch

import problems
import solvers
from bench.experiments.settings import Settings
from bench.study import plan
from problems import Problem, ground_truth
from problems.specification import Specification, parse


def rows_of(problem: Problem, rule: str, seed: int = 0) -> dict:
    study = Settings(target=0.1, budget=60.0)
    prepared = study.prepare(problem, lambda what, share: None)
    (row,) = study.measure(problem, prepared, {"rule": rule}, seed, lambda what, share: None)
    return row


@pytest.fixture(scope="module")
def quadratic() -> Problem:
    return problems.load("quadratic", dimension=12, num_examples=60, num_columns=3, damping=0.5)


def test_the_papers_error_is_taken_apart_exactly(quadratic: Problem) -> None:
    """The mean iterate is that of a run on all data, by LiSSA's own recursion."""
    row = rows_of(quadratic, "paper")
    step, steps, batch = row["step_size"], int(row["num_steps"]), int(row["batch_size"])
    mean = solvers.solve(quadratic, solvers.load("lissa", step_size=step, num_steps=steps, batch_size="full"))
    sampled = solvers.solve(quadratic, solvers.load("lissa", rule="paper", target=0.1), seed=0)
    assert mean.error is not None
    assert mean.x is not None
    assert sampled.x is not None
    reference = quadratic.reference
    assert reference is not None
    assert row["bias"] == pytest.approx(float(mean.error.max()), rel=1e-9)
    noise = (sampled.x - mean.x).norm(dim=0) / reference.norm(dim=0)
    assert row["noise"] == pytest.approx(float(noise.max()), rel=1e-9)
    rhs = quadratic.columns()
    start = rhs.norm(dim=0) / 0.5
    assert row["bias_from_rhs"] == pytest.approx(
        float(((mean.x - reference).norm(dim=0) / start).max()), rel=1e-9
    )
    assert row["solution_share"] == pytest.approx(float((reference.norm(dim=0) / start).min()), rel=1e-12)
    assert row["bias_from_rhs"] <= row["bias_bound"]
    matrix = quadratic.operator.matrix
    shifted = matrix + 0.5 * torch.eye(12, dtype=matrix.dtype)
    moment = quadratic.operator.second_moment(batch) + 2 * 0.5 * matrix + 0.25 * torch.eye(12)
    sharp = float(torch.linalg.eigvals(torch.linalg.solve(shifted, moment)).real.max())
    assert row["half_step_second_moment"] == pytest.approx(step * sharp / 2, rel=1e-2)


def test_the_papers_rule_is_what_the_spectrum_says(quadratic: Problem) -> None:
    row = rows_of(quadratic, "paper")
    whole = row["measured_largest"] + 0.5
    assert row["step_size"] == pytest.approx(1 / whole, rel=1e-2)
    assert row["step_size"] * 0.5 * row["num_steps"] == pytest.approx(2.25, rel=0.5 / row["num_steps"] + 1e-9)
    assert row["batch_size"] == math.ceil(row["measured_trace"] / whole)


def test_the_sharp_rule_reaches_its_target(quadratic: Problem) -> None:
    row = rows_of(quadratic, "sharp")
    assert row["status"] == "finished"
    assert row["error"] <= 0.2  # a root mean square, of which a single run may end at twice
    assert row["predicted_error"] <= 0.1
    assert row["why"]
    assert "bias" not in row


def test_a_problem_too_large_for_a_dense_reference_has_one_by_cg(monkeypatch: pytest.MonkeyPatch) -> None:
    small = problems.load("quadratic", dimension=12, num_examples=60, num_columns=3, damping=0.5)
    expected = rows_of(small, "paper")
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 5)
    large = problems.load("quadratic", dimension=12, num_examples=60, num_columns=3, damping=0.5)
    row = rows_of(large, "paper")
    assert 0 < row["reference_error"] <= 2e-3
    assert row["error"] == pytest.approx(expected["error"], abs=2 * row["reference_error"])
    assert row["solution_share"] == pytest.approx(expected["solution_share"], rel=row["reference_error"])
    assert row["half_step_second_moment"] == pytest.approx(expected["half_step_second_moment"], rel=2e-2)
    # By Lanczos, to TOLERANCE of ‖u*‖, in the place of an eigendecomposition.
    for part in ("bias", "noise"):
        assert row[part] == pytest.approx(expected[part], abs=5e-3)
    study = Settings(target=0.1, budget=60.0, reference_work=0)
    prepared = study.prepare(large, lambda what, share: None)
    assert prepared.problem.reference is None
    (row,) = study.measure(large, prepared, {"rule": "paper"}, 0, lambda what, share: None)
    assert math.isnan(row["error"])
    assert "bias" not in row


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_scales_are_well_formed(scale: str) -> None:
    found = plan(Specification("settings", {}), scale=scale)
    assert len(found.cells) == 2 * len(found.families)
    assert found.request.dtype == "float32"
    if scale == "paper":
        assert all(family.damping == 5 for family in found.families.values())
        assert found.cells[-1].problem.startswith("smollm2-135m(")
        assert all("num_queries=1" in cell.problem for cell in found.cells)


@pytest.mark.parametrize(
    "name", ["quadratic", "image_classifier:width=2,training_size=200,epochs=5,damping=1"]
)
def test_the_work_that_is_expected_is_taken_but_for_a_factor_of_two(name: str) -> None:
    asked = parse(name)
    problem = problems.load(asked.name, **asked.settings)
    study = Settings(target=0.1, budget=60.0)
    expected = study.expected_work(problem)
    before = problem.operator.work.total
    prepared = study.prepare(problem, lambda what, share: None)
    for piece in study.pieces():
        study.measure(problem, prepared, piece, 0, lambda what, share: None)
    assert expected / 2 <= problem.operator.work.total - before <= 2 * expected
