"""The grid, what theory predicts of it and what is measured, against explicit matrices."""

from __future__ import annotations

import math

import pytest
import torch

import problems
import solvers
from bench.experiments import phase
from bench.experiments.phase import Phase
from bench.study import plan
from problems import Problem, ground_truth
from problems.specification import Specification, parse
from tests.bench.experiments.devices import pretend_two_devices
from tests.conftest import dense_problem, random_psd_examples


def quiet(what: str, share: float) -> None:
    """No progress."""


def rows_of(problem: Problem, study: Phase, batch_size: int, seed: int = 0) -> list[dict]:
    return list(
        study.measure(problem, study.prepare(problem, quiet), {"batch_size": batch_size}, seed, quiet)
    )


def test_the_grid_goes_from_a_32nd_to_4_and_T_follows_from_the_time() -> None:
    problem = dense_problem(random_psd_examples(20, 4, 3), damping=0.2)
    rows = rows_of(problem, Phase(batch_sizes=(2,), steps_per_octave=1, time=2.0, max_steps=300), 2)
    assert [row["step_fraction"] for row in rows] == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4]
    assert problem.eigenvalues is not None
    whole = float(problem.eigenvalues[-1]) + 0.2
    for row in rows:
        assert row["step_size"] == pytest.approx(row["step_fraction"] / whole, rel=1e-12)
        assert row["num_steps"] == min(300, math.ceil(2.0 / (row["step_size"] * 0.2)))
        assert row["time"] == pytest.approx(row["step_size"] * 0.2 * row["num_steps"], rel=1e-12)


def test_predictions_against_dense_matrices() -> None:
    damping, batch = 0.3, 4
    problem = dense_problem(random_psd_examples(25, 5, 2, heavy_tailed=True), damping)
    study = Phase(batch_sizes=(batch,), steps_per_octave=1)
    prepared = study.prepare(problem, quiet)
    operator, identity = problem.operator, torch.eye(5, dtype=torch.float64)
    shifted = operator.matrix + damping * identity
    moment = operator.second_moment(batch) + 2 * damping * operator.matrix + damping**2 * identity
    sharp = float(torch.linalg.eigvals(torch.linalg.solve(shifted, moment)).real.max())
    single = float(torch.linalg.eigvals(torch.linalg.solve(shifted, operator.second_moment(1))).real.max())
    assert prepared.second_moments[batch] == pytest.approx(sharp, rel=1e-3)
    assert prepared.noise_constant == pytest.approx(single, rel=1e-3)
    solution = torch.linalg.solve(shifted, problem.columns())
    deviations = (operator.per_example - operator.matrix) @ solution
    assert torch.allclose(prepared.noises[batch], deviations.square().sum(dim=1).mean(dim=0) / batch)
    # η* ≥ 2/L_b, which is sufficient; and beyond 2/(λ_max + λ) nothing contracts.
    assert 2 / sharp <= prepared.thresholds[batch] * (1 + 1e-6)
    assert prepared.thresholds[batch] <= 2 / (prepared.largest + damping) * (1 + 1e-6)


def test_without_sampling_noise_the_error_is_the_bias_and_the_edge_is_sharp() -> None:
    """One example: H̃ = H, so that L_b = λ_max + λ and η* = 2/(λ_max + λ)."""
    problem = dense_problem(random_psd_examples(1, 4, 5, rank=4), damping=0.2)
    for row in rows_of(problem, Phase(batch_sizes=(3,), time=4.0), 3):
        assert row["second_moment"] == pytest.approx(row["largest"] + 0.2, rel=1e-3)
        assert row["threshold"] == pytest.approx(row["mean_limit"], rel=1e-6)
        if row["step_fraction"] < 2:
            assert row["error"] == pytest.approx(row["bias"], rel=1e-6)
            assert row["noise"] == pytest.approx(0, abs=1e-9)
            assert row["error"] < row["start_error"]
        if row["step_fraction"] > 2:
            assert row["status"] == "diverged" or row["error"] > row["start_error"]


def test_noise_is_what_a_run_on_all_data_lacks() -> None:
    problem = dense_problem(random_psd_examples(25, 5, 2), damping=0.3)
    study = Phase(batch_sizes=(8,), steps_per_octave=1)
    row = next(row for row in rows_of(problem, study, 8, seed=7) if row["step_fraction"] == 0.25)
    settings = {"step_size": row["step_size"], "num_steps": row["num_steps"]}
    sampled, mean = (
        solvers.solve(problem, solvers.load("lissa", batch_size=size, **settings), seed=7).x
        for size in (8, "full")
    )
    assert sampled is not None
    assert mean is not None
    assert problem.reference is not None
    lengths = problem.reference.norm(dim=0)
    assert row["noise"] == pytest.approx(float(((sampled - mean).norm(dim=0) / lengths).max()), rel=1e-9)
    assert row["bias"] == pytest.approx(
        float(((mean - problem.reference).norm(dim=0) / lengths).max()), rel=1e-6
    )
    deviations = (problem.operator.per_example - problem.operator.matrix) @ problem.reference
    floor = (row["step_size"] * deviations.square().sum(dim=1).mean(dim=0) / 8 / (2 * 0.3)).sqrt()
    collapsed = ((sampled - mean).norm(dim=0) / floor).square().mean().sqrt()
    assert row["noise_over_small_step_floor"] == pytest.approx(float(collapsed), rel=1e-9)


@pytest.mark.parametrize("largest_dense", [5, 4096])
def test_all_of_it_is_on_one_device(largest_dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", largest_dense)
    problem = dense_problem(random_psd_examples(40, 8, 2), damping=0.5)
    study = Phase(batch_sizes=(4,), steps_per_octave=1, finest=0.5, max_steps=50)
    # η* is computed on the CPU, for itself.
    monkeypatch.setattr(phase, "_threshold", lambda problem, batch: math.nan)
    expected = rows_of(problem, study, 4)
    pretend_two_devices(monkeypatch)
    for row, alone in zip(rows_of(problem, study, 4), expected, strict=True):
        assert row | {"solve_seconds": 0} == pytest.approx(alone | {"solve_seconds": 0}, nan_ok=True)


def test_what_theory_cannot_be_asked_is_said() -> None:
    hessian = problems.load(
        "image_classifier", width=2, training_size=60, epochs=5, curvature="hessian", damping=3.0
    )
    with pytest.raises(ValueError, match="no curvature of single examples"):
        Phase().prepare(hessian, quiet)


def test_a_problem_too_large_for_a_dense_reference_has_one_by_cg(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Phase(batch_sizes=(4,), steps_per_octave=1, finest=0.5, max_steps=200)
    problem = dense_problem(random_psd_examples(40, 8, 2), damping=0.5)
    expected = rows_of(problem, study, 4)
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 5)
    rows = rows_of(dense_problem(random_psd_examples(40, 8, 2), damping=0.5), study, 4)
    assert [row["step_fraction"] for row in rows] == [0.5, 1, 2, 4]
    for row, exact in zip(rows, expected, strict=True):
        assert row["largest"] == pytest.approx(exact["largest"], rel=1e-2)
        assert row["second_moment"] == pytest.approx(exact["second_moment"], rel=5e-2)
        assert row["noise_constant"] == pytest.approx(exact["noise_constant"], rel=5e-2)
        assert row["predicted_floor"] == pytest.approx(exact["predicted_floor"], rel=0.1)
        assert row["start_error"] == pytest.approx(exact["start_error"], rel=5e-3)
        if row["step_fraction"] <= 1:
            for part in ("error", "bias", "noise"):
                assert row[part] == pytest.approx(exact[part], rel=0.05, abs=5e-3)


def test_without_a_reference_it_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 5)
    problem = dense_problem(random_psd_examples(40, 8, 2), damping=1e-4)
    with pytest.raises(ValueError, match="raise reference_work or damping"):
        Phase(reference_work=1e-3).prepare(problem, quiet)


@pytest.mark.parametrize(
    "name",
    [
        "quadratic:dimension=32,damping=0.05",
        "image_classifier:width=2,training_size=200,epochs=5,damping=1",
    ],
)
def test_the_work_that_is_expected_is_taken_but_for_a_factor_of_two(name: str) -> None:
    asked = parse(name)
    problem = problems.load(asked.name, **asked.settings)
    study = Phase(batch_sizes=(4, 16), steps_per_octave=1, finest=0.25, max_steps=200)
    expected = study.expected_work(problem)
    before = problem.operator.work.total
    prepared = study.prepare(problem, quiet)
    for piece in study.pieces():
        study.measure(problem, prepared, piece, 0, quiet)
    assert expected / 2 <= problem.operator.work.total - before <= 2 * expected


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_scales_are_well_formed(scale: str) -> None:
    found = plan(Specification("phase", {}), scale=scale)
    assert isinstance(found.study, Phase)
    assert found.study.step_fractions == [0.125, 0.25, 0.5, 1, 2, 4]
    assert len(found.cells) == len(found.families) * len(found.study.batch_sizes)
    if scale == "paper":
        assert all(family.damping == 5 for family in found.families.values())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"finest": 0.3}, "power of 1/2"),
        ({"finest": 2.0}, "finest"),
        ({"time": 0.0}, "time"),
        ({"reference_work": 0.0}, "reference_work"),
        ({"tokens_per_example": 0}, "tokens_per_example"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Phase(**settings)
