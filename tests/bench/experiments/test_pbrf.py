"""Influences against responses, by dense linear algebra and NumPy."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import problems
from bench import study, study_runner
from bench.experiments.pbrf import Pbrf
from problems import Problem
from problems.cache import ENVIRONMENT_VARIABLE
from problems.pbrf import responses
from problems.specification import parse
from tests.conftest import dense_problem, random_psd_examples

SMALL: dict[str, Any] = {"width": 2, "training_size": 60, "epochs": 5, "num_queries": 6, "damping": 0.1}
STUDY = Pbrf(
    solver="cg:tolerance=1e-11", multiples=(1.0, 3.0), num_examples=3, epsilons=(0.001, -0.001),
    tolerance=1e-8, preconditioner="nystrom(rank=30)", max_steps=200,
)  # fmt: skip

Rows = list[dict[str, Any]]


def quiet(what: str, share: float) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problems.load("image_classifier", **SMALL)


def rows_of(problem: Problem, asked: Pbrf = STUDY) -> Rows:
    prepared = asked.prepare(problem, quiet)
    return [
        dict(piece) | dict(row)
        for piece in asked.pieces()
        for row in asked.measure(problem, prepared, piece, 0, quiet)
    ]


@pytest.fixture(scope="module")
def rows(problem: Problem) -> Rows:
    return rows_of(problem)


@pytest.mark.parametrize("multiple", STUDY.multiples)
def test_influences_are_those_of_dense_solutions(problem: Problem, rows: Rows, multiple: float) -> None:
    own = [row for row in rows if row["multiple"] == multiple]
    examples = [row["example"] for row in own]
    assert examples == sorted(set(examples))
    task = problem.task
    assert task is not None
    gradients = task.gradients(task.training, torch.tensor(examples))
    damped = problem.operator.dense() + 0.1 * multiple * torch.eye(problem.size, dtype=torch.float64)
    exact = -(problem.columns().T @ torch.linalg.solve(damped, gradients)).T.numpy()
    truth = responses(problem.with_damping(0.1 * multiple), examples, [0.001], tolerance=1e-9, keeps=False)
    for row, scores, response in zip(own, exact, truth, strict=True):
        # Four digits are kept.
        np.testing.assert_allclose(json.loads(row["scores"]), scores, rtol=6e-4)
        found = response.influences.numpy()
        np.testing.assert_allclose(json.loads(row["responses"]), found, rtol=6e-4)
        assert row["pearson"] == pytest.approx(np.corrcoef(scores, found)[0, 1], abs=1e-7)
        assert row["pearson_low"] <= row["pearson"] <= row["pearson_high"]
        assert row["spearman"] == pytest.approx(spearmanr(scores, found).statistic)
        length = np.linalg.norm(found)
        assert row["difference"] == pytest.approx(np.linalg.norm(scores - found) / length, rel=1e-4)
        assert row["slope"] == pytest.approx(scores @ found / length**2, rel=1e-6)
        # The response tends to the exact influence, and the limit is known to be nearer it.
        assert row["difference_limit"] < 0.1 * row["difference"]
        assert row["nonlinearity"] == pytest.approx(row["difference"], rel=0.1)
        assert (row["converged"], row["num_converged"], row["why"]) == (1, 2, "")
        assert row["relative_gradient"] <= 1e-8
        assert row["solved_damping"] == pytest.approx(0.1 * multiple)
        assert row["error"] < 1e-9


def test_the_training_images_are_kept_and_drawn_from_all(problem: Problem, rows: Rows) -> None:
    assert problem.exhibits is not None
    for row in rows:
        assert base64.b64decode(row["picture"]) == problem.exhibits.training(row["example"]).picture
    whole = Pbrf(num_examples=60).prepare(problem, quiet)
    assert whole.tolist() == list(range(60))
    drawn = Pbrf(num_examples=10).prepare(problem, quiet).tolist()
    assert len(set(drawn)) == 10
    assert max(drawn) > 10


def test_the_same_rows_again_from_the_cache(problem: Problem, rows: Rows) -> None:
    def timeless(found: Rows) -> str:
        return json.dumps([{key: row[key] for key in row if not key.endswith("seconds")} for row in found])

    assert timeless(rows_of(problem)) == timeless(rows)


def test_of_a_single_epsilon_there_is_no_limit(problem: Problem) -> None:
    (row,) = rows_of(problem, replace(STUDY, multiples=(3.0,), num_examples=1, epsilons=(0.001,)))
    assert row["converged"] == 1
    assert row["pearson"] > 0.9
    assert np.isnan([row["nonlinearity"], row["pearson_limit"], row["difference_limit"]]).all()


def test_responses_that_do_not_converge_judge_nothing(problem: Problem) -> None:
    asked = replace(STUDY, multiples=(1.0,), epsilons=(0.002,), max_steps=1, preconditioner="none")
    for row in rows_of(problem, asked):
        assert (row["converged"], row["num_converged"]) == (0, 0)
        assert np.isnan(row["pearson"])
        assert np.isnan(row["nonlinearity"])
        assert "take more steps" in row["why"]
        assert set(json.loads(row["responses"])) == {None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pbrf:multiples=[]", "name at least one"),
        ("pbrf:multiples=[1,-2]", "multiples has -2"),
        ("pbrf:multiples=[1,1]", "each once"),
        ("pbrf:num_examples=0", "num_examples is 0"),
        ("pbrf:epsilons=[0.01,0]", "must be a finite number other than 0"),
        ("pbrf:tolerance=2", "tolerance is 2"),
        ("pbrf:solver=lisa", "no solver 'lisa'"),
        ("pbrf:preconditioner=nystroem", "no preconditioner 'nystroem'"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.plan(parse(text), [parse("image_classifier")])


def test_problems_that_cannot_be_judged(problem: Problem) -> None:
    bare = dense_problem(random_psd_examples(5, 4, 0), damping=0.1)
    with pytest.raises(ValueError, match="without training examples: choose a model"):
        Pbrf().prepare(bare, quiet)
    assert Pbrf().expected_work(bare) is None
    with pytest.raises(ValueError, match="num_examples is 61; image_classifier has 60"):
        Pbrf(num_examples=61).prepare(problem, quiet)
    with pytest.raises(ValueError, match="has 2 queries; a correlation over queries needs at least 3"):
        Pbrf(num_examples=3).prepare(problems.load("image_classifier", **SMALL | {"num_queries": 2}), quiet)


def test_a_solver_without_an_answer_is_a_failure_that_says_why(problem: Problem) -> None:
    asked = Pbrf(solver="lissa:step_size=1e3,num_steps=50,batch_size=full", num_examples=2)
    with pytest.raises(RuntimeError, match=r"gave no answer at λ = 0\.1 \(diverged\)"):
        asked.measure(problem, asked.prepare(problem, quiet), {"multiple": 1.0}, 0, quiet)


def test_the_work_is_foretold(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))  # nothing is kept yet
    asked = Pbrf(
        solver="cg:tolerance=1e-3", multiples=(1.0,), num_examples=3, preconditioner="nystrom(rank=30)"
    )
    told, work = asked.expected_work(problem), problem.operator.work
    before = work.total
    rows_of(problem, asked)
    assert told is not None
    assert (work.total - before) / 2.5 <= told <= 2.5 * (work.total - before)
    assert Pbrf(solver="ekfac").expected_work(problem) is None


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_can_be_planned(scale: str) -> None:
    plan = study.plan(parse("pbrf"), scale=scale)
    assert plan.request.dtype == ("float64" if scale == "quick" else "float32")
    assert len(plan.cells) == len(plan.families) * 2


def test_a_run_gives_a_page_with_scatters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.paper.DPI", 30)
    image = "image_classifier:" + ",".join(f"{name}={value}" for name, value in SMALL.items())
    plan = study.plan(
        parse("pbrf:solver=cg,num_examples=3,epsilons=[0.01],multiples=[1],tolerance=0.001"), [parse(image)]
    )
    assert study_runner.run(plan, tmp_path / "run")
    report = tmp_path / "run" / "report"
    assert "3 training examples on 6 queries" in (report / "findings.txt").read_text("utf-8")
    assert {"pbrf.png", "pbrf_damping.png", "conclusions.json"} <= {path.name for path in report.iterdir()}
