"""The study of truths, against dense float64 matrices, SciPy and plain bootstraps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor

import problems
from bench import study, study_runner
from bench.experiments.truth import Prepared, Truth
from problems import Problem
from problems.datamodels import random_subsets, subset_losses
from problems.leave_one_out import leave_one_out
from problems.models.mlp import mlp
from problems.specification import parse
from tests.conftest import dense_problem, random_psd_examples

SMALL: dict[str, Any] = {
    "training_size": 40, "pooling": 4, "num_queries": 3, "damping": 0.05, "regularization": 0.05,
}  # fmt: skip
STUDY = Truth(
    solvers=("cg:tolerance=1e-11", "identity"),
    num_responses=5,
    num_left_out=10,
    num_subsets=6,
    resamples=100,
    workers=1,
)

Rows = list[dict[str, Any]]


def quiet(what: str, share: float) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problems.load("softmax_regression", **SMALL)


@pytest.fixture(scope="module")
def prepared(problem: Problem) -> Prepared:
    return STUDY.prepare(problem, quiet)


def measured(problem: Problem, prepared: Prepared, solver: str, asked: Truth = STUDY) -> Rows:
    return [dict(row) for row in asked.measure(problem, prepared, {"solver": solver}, 0, quiet)]


@pytest.fixture(scope="module")
def rows(problem: Problem, prepared: Prepared) -> dict[str, Rows]:
    return {solver: measured(problem, prepared, solver) for solver in STUDY.solvers}


@pytest.fixture(scope="module")
def scores(problem: Problem) -> dict[str, Tensor]:
    """I(m, q) = −g_mᵀ x_q of each solver, from gradients in closed form, (p − e_y) ⊗ (x, 1)."""
    task = problem.task
    assert task is not None

    def gradients(examples: Any) -> Tensor:
        inputs, targets = examples.batch(torch.arange(len(examples)))
        off = (inputs @ task.function.parameters["weight"].T + task.function.parameters["bias"]).softmax(1)
        off = off - torch.eye(10, dtype=off.dtype)[targets]
        return torch.cat([(off[:, :, None] * inputs[:, None]).flatten(1), off], dim=1)

    damped = problem.operator.dense() + 0.05 * torch.eye(problem.size, dtype=torch.float64)
    right = gradients(task.queries).T
    left = gradients(task.training)
    return {
        "cg:tolerance=1e-11": -left @ torch.linalg.solve(damped, right),
        "identity": -left @ right / 0.05,
    }


def value(rows: Rows, truth: str, metric: str) -> float:
    (row,) = [row for row in rows if (row["truth"], row["metric"]) == (truth, metric)]
    assert row["low"] <= row["high"]
    return float(row["value"])


def mean_pearson(first: Tensor, second: Tensor) -> float:
    pairs = zip(first.T.numpy(), second.T.numpy(), strict=True)
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in pairs]))


def mean_spearman(first: Tensor, second: Tensor) -> float:
    pairs = zip(first.T.numpy(), second.T.numpy(), strict=True)
    return float(np.mean([spearmanr(x, y).statistic for x, y in pairs]))


@pytest.mark.parametrize("solver", STUDY.solvers)
def test_against_the_exact_scores(rows: dict[str, Rows], scores: dict[str, Tensor], solver: str) -> None:
    own, exact = scores[solver], scores["cg:tolerance=1e-11"]
    assert value(rows[solver], "exact", "pearson") == pytest.approx(mean_pearson(own, exact))
    assert value(rows[solver], "exact", "spearman") == pytest.approx(mean_spearman(own, exact), abs=1e-6)
    shared = [
        len(set(x.argsort()[:10].tolist()) & set(y.argsort()[:10].tolist())) / 10
        for x, y in zip(own.T, exact.T, strict=True)
    ]
    assert value(rows[solver], "exact", "top") == pytest.approx(np.mean(shared))


@pytest.mark.parametrize("solver", STUDY.solvers)
def test_against_responses_which_are_the_exact_scores_of_a_convex_model(
    rows: dict[str, Rows], scores: dict[str, Tensor], solver: str
) -> None:
    places = torch.arange(5) * 40 // 5
    own, exact = scores[solver][places], scores["cg:tolerance=1e-11"][places]
    assert value(rows[solver], "pbrf", "pearson") == pytest.approx(mean_pearson(own, exact), abs=2e-3)


@pytest.mark.parametrize("solver", STUDY.solvers)
def test_against_leave_one_out(
    problem: Problem, rows: dict[str, Rows], scores: dict[str, Tensor], solver: str
) -> None:
    places = torch.arange(10) * 40 // 10
    changes = leave_one_out(problem, places, workers=1).changes[0]
    own = scores[solver][places]
    assert value(rows[solver], "loo", "pearson") == pytest.approx(mean_pearson(own, -changes))
    assert value(rows[solver], "loo", "spearman") == pytest.approx(mean_spearman(own, -changes))
    if solver != "identity":
        assert value(rows[solver], "loo", "pearson") > 0.8


@pytest.mark.parametrize("solver", STUDY.solvers)
def test_against_models_of_subsets(
    problem: Problem, rows: dict[str, Rows], scores: dict[str, Tensor], solver: str
) -> None:
    truth = subset_losses(problem, random_subsets(40, 6), workers=1)
    # What has one optimum has no noise of seeds.
    assert {row["ceiling"] for row in rows[solver] if row["truth"] == "lds"} == {1.0}
    sums = torch.stack([scores[solver][subset].sum(dim=0) for subset in truth.subsets])
    assert value(rows[solver], "lds", "lds") == pytest.approx(mean_spearman(sums, truth.losses[0]))


def test_what_it_cost_and_how_it_ended(
    problem: Problem, rows: dict[str, Rows], scores: dict[str, Tensor]
) -> None:
    for solver, own in rows.items():
        assert {row["status"] for row in own} == {"finished" if solver == "identity" else "converged"}
        assert len({row["total_work"] for row in own}) == 1
    assert rows["identity"][0]["total_work"] == 0
    reference = problem.reference
    assert reference is not None
    off = problem.columns() / 0.05 - reference
    wanted = float((off.norm(dim=0) / reference.norm(dim=0)).max())
    assert rows["identity"][0]["error"] == pytest.approx(wanted)


def test_the_kept_resamples_are_those_of_the_interval(rows: dict[str, Rows]) -> None:
    for row in rows["identity"]:
        drawn = np.array(json.loads(row["drawn"])) / 10_000
        assert len(drawn) == 100
        assert tuple(np.quantile(drawn, [0.025, 0.975])) == pytest.approx((row["low"], row["high"]), abs=1e-4)


def test_without_an_answer_there_is_a_row_without_a_value(
    problem: Problem, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solvers.identity.Identity.skip", lambda self, problem: "not today")
    found = measured(problem, prepared, "identity")
    assert {row["status"] for row in found} == {"skipped"}
    assert {row["reason"] for row in found} == {"not today"}
    assert all(np.isnan(row["value"]) for row in found)
    assert len(found) == 10


def test_a_truth_that_is_too_much_says_so(problem: Problem) -> None:
    asked = Truth(
        solvers=("identity",), truths=("pbrf", "loo"), most_parameters=10, most_response_parameters=10
    )
    found = measured(problem, asked.prepare(problem, quiet), "identity", asked)
    missing = {row["truth"]: row["missing"] for row in found}
    assert missing == {
        "pbrf": "p = 50 is more than most_response_parameters = 10",
        "loo": "p = 50 is more than most_parameters = 10",
    }
    assert all(np.isnan(row["value"]) for row in found)


def test_several_seeds_of_training_have_a_ceiling() -> None:
    network = problems.load("image_classifier", width=2, training_size=20, epochs=2, num_queries=2)
    asked = Truth(
        solvers=("identity",), truths=("lds",), num_subsets=5, num_seeds=2, resamples=100, workers=1
    )
    prepared = asked.prepare(network, quiet)
    (row,) = measured(network, prepared, "identity", asked)
    losses = subset_losses(network, random_subsets(20, 5), seeds=(0, 1), workers=1).losses
    assert row["ceiling"] == pytest.approx(mean_spearman(losses[0], losses[1]))
    assert row["compared"] == 5


def test_the_same_rows_for_the_same_seed(problem: Problem, prepared: Prepared, rows: dict[str, Rows]) -> None:
    def timeless(found: Rows) -> str:
        return json.dumps([{k: row[k] for k in row if not k.endswith("seconds")} for row in found])

    assert timeless(measured(problem, STUDY.prepare(problem, quiet), "identity")) == timeless(
        rows["identity"]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("truth:solvers=[]", r"solvers is \[\]; name at least one"),
        ("truth:solvers=[cg,cg]", "each once"),
        ("truth:solvers=[gc]", "no solver 'gc'"),
        ("truth:truths=[exakt]", "no truth 'exakt'; did you mean 'exact'"),
        ("truth:num_responses=2", "num_responses is 2"),
        ("truth:num_left_out=0", "num_left_out is 0"),
        ("truth:num_subsets=2", "num_subsets is 2"),
        ("truth:share=1.5", r"share is 1\.5"),
        ("truth:num_seeds=0", "num_seeds is 0"),
        ("truth:top=0", "top is 0"),
        ("truth:workers=0", "workers is 0"),
        ("truth:resamples=5", "resamples is 5"),
        ("truth:response_tolerance=0", "response_tolerance is 0"),
        ("truth:large_response_tolerance=1", "large_response_tolerance is 1"),
        ("truth:max_work=0", "max_work is 0"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(text: str, message: str) -> None:
    text = text.replace("[cg,cg]", '["cg","cg"]').replace("[gc]", '["gc"]').replace("[exakt]", '["exakt"]')
    with pytest.raises(ValueError, match=message):
        study.plan(parse(text), [parse("softmax_regression")])


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("quadratic", "bare matrix without training examples"),
        ("language_model", "cannot be trained again, which loo and lds need: leave them out"),
        (
            "resnet18",
            "trained on 50000 examples, and H is of 500; .*: set curvature_size=null, or training_s",
        ),
    ],
)
def test_problems_without_a_truth_are_refused_before_the_run(problem: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.plan(parse('truth:solvers=["identity"]'), [parse(problem)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('truth:num_responses=101,truths=["pbrf"]', r"num_responses is 101; .* has 100 training examples"),
        ("truth:num_left_out=200", r"num_left_out is 200; .* has 100 training examples"),
        ("truth:share=0.001", r"share is 0\.001, which of 100 examples keeps 0"),
    ],
)
@pytest.mark.parametrize("family", ["softmax_regression", "image_classifier"])
def test_more_examples_than_there_are_is_refused_before_the_run(text: str, message: str, family: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.plan(parse(text), [parse(f"{family}:training_size=100")])


def test_weights_of_no_known_recipe_have_no_models_of_subsets(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(mlp([64, 12, 10], torch.Generator()).state_dict(), path)
    given = [parse(f"image_classifier:weights={path}")]
    with pytest.raises(ValueError, match="by what recipe they were trained is not known: leave lds out"):
        study.plan(parse('truth:solvers=["identity"]'), given)
    assert study.plan(parse('truth:solvers=["identity"],truths=["loo"]'), given).cells


def test_a_language_model_may_be_judged_by_what_needs_no_training() -> None:
    asked = 'truth:solvers=["identity"],truths=["exact","pbrf"]'
    assert len(study.plan(parse(asked), [parse("language_model")]).cells) == 1


def test_problems_that_have_no_truth(problem: Problem) -> None:
    bare = dense_problem(random_psd_examples(5, 4, 0), damping=0.1)
    with pytest.raises(ValueError, match="bare matrix without training examples"):
        STUDY.prepare(bare, quiet)
    assert STUDY.expected_work(bare) is None
    with pytest.raises(ValueError, match="41 training examples are asked for; softmax_regression has 40"):
        Truth(solvers=("identity",), num_left_out=41, truths=("loo",)).prepare(problem, quiet)


def test_more_work_is_foretold_of_more_trainings_and_truths(problem: Problem) -> None:
    told = [
        replace(STUDY, **settings).expected_work(problem)
        for settings in ({}, {"num_subsets": 200}, {"truths": ("exact",)})
    ]
    assert None not in told
    assert told[1] > told[0] > told[2]  # type: ignore[operator]


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_can_be_planned(scale: str) -> None:
    plan = study.plan(parse("truth"), scale=scale)
    assert len(plan.cells) == len(plan.families) * len(Truth().solvers)


def test_a_run_gives_a_page(tmp_path: Path) -> None:
    asked = 'truth:solvers=["cg:tolerance=1e-6","identity"],num_responses=5,num_left_out=5,num_subsets=4'
    problem = "softmax_regression:" + ",".join(f"{name}={setting}" for name, setting in SMALL.items())
    assert study_runner.run(study.plan(parse(asked), [parse(problem)]), tmp_path / "run")
    report = tmp_path / "run" / "report"
    html = (report / "index.html").read_text("utf-8")
    assert "gradient similarity" in html
    assert {"truth.png", "conclusions.json"} <= {path.name for path in report.iterdir()}
