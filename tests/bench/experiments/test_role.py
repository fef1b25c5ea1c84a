"""Rankings with and without the inverse, against dense float64 matrices and SciPy."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from torch import Tensor

import problems
import solvers
from bench import study, study_runner
from bench.experiments._solver import solver_of
from bench.experiments.role import Role, rank_correlations
from problems import Problem
from problems.specification import parse
from tests.conftest import dense_problem, random_psd_examples

ACCURATE = "cg:tolerance=1e-11"
STUDY = Role(multiples=(0.01, 1.0, 30.0), top=6, shown=4, solver=ACCURATE)
SMALL: dict[str, Any] = {"width": 2, "training_size": 60, "epochs": 5, "num_queries": 3, "damping": 0.1}

Rows = list[dict[str, Any]]


def quiet(what: str, share: float) -> None:
    """No progress."""


def rows_of(problem: Problem, asked: Role = STUDY, seed: int = 0) -> Rows:
    prepared = asked.prepare(problem, quiet)
    return [
        dict(piece) | dict(row)
        for piece in asked.pieces()
        for row in asked.measure(problem, prepared, piece, seed, quiet)
    ]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problems.load("image_classifier", **SMALL)


@pytest.fixture(scope="module")
def gradients(problem: Problem) -> Tensor:
    """All g_i as columns (p, n), one by one by torch's reverse mode."""
    task = problem.task
    assert task is not None
    parameters = {
        name: value.detach().clone().requires_grad_() for name, value in task.function.parameters.items()
    }
    found = []
    for index in range(len(task.training)):
        inputs, targets = task.training.batch(torch.tensor([index]))
        assert isinstance(inputs, Tensor)
        logits = torch.func.functional_call(task.function.model, parameters, (inputs,))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        parts = torch.autograd.grad(loss, list(parameters.values()))
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found, 1)


@pytest.fixture(scope="module")
def rows(problem: Problem) -> Rows:
    return rows_of(problem)


def scores(problem: Problem, gradients: Tensor, multiple: float) -> Mapping[str, np.ndarray]:
    """By side, (n, k)."""
    b, curvature = problem.columns(), problem.operator.dense()
    damped = curvature + multiple * problem.damping * torch.eye(problem.size, dtype=torch.float64)
    return {
        "with": (gradients.T @ torch.linalg.solve(damped, b)).numpy(),
        "without": (gradients.T @ b).numpy(),
    }


@pytest.mark.parametrize("multiple", STUDY.multiples)
def test_lists_are_those_of_dense_solutions(
    problem: Problem, gradients: Tensor, rows: Rows, multiple: float
) -> None:
    norms = gradients.norm(dim=0).numpy()
    assert problem.task is not None
    classes = problem.task.training.batch(torch.arange(60))[1].tolist()
    for side, values in scores(problem, gradients, multiple).items():
        for query in range(3):
            own = [
                row for row in rows if (row["multiple"], row["side"], row["query"]) == (multiple, side, query)
            ]
            best = sorted(range(60), key=lambda index: -values[index, query])[:6]
            assert [row["example"] for row in own] == best
            assert [row["rank"] for row in own] == [1, 2, 3, 4, 5, 6]
            np.testing.assert_allclose([row["score"] for row in own], values[best, query], rtol=1e-6)
            np.testing.assert_allclose([row["gradient_norm"] for row in own], norms[best], rtol=1e-9)
            assert [row["norm_rank"] for row in own] == [1 + int((norms > norms[i]).sum()) for i in best]
            assert [row["label"] for row in own] == [str(classes[index]) for index in best]


@pytest.mark.parametrize("multiple", STUDY.multiples)
def test_rank_correlations_are_scipys(
    problem: Problem, gradients: Tensor, rows: Rows, multiple: float
) -> None:
    values = scores(problem, gradients, multiple)
    own = [row for row in rows if row["multiple"] == multiple and row["side"] == "query"]
    assert [row["query"] for row in own] == [0, 1, 2]
    for query, row in enumerate(own):
        alike = spearmanr(values["with"][:, query], values["without"][:, query]).statistic
        assert row["rank_correlation"] == pytest.approx(alike)
        others = [other for other in range(3) if other != query]
        for side in ("with", "without"):
            found = [spearmanr(values[side][:, query], values[side][:, i]).statistic for i in others]
            assert row[f"between_{side}"] == pytest.approx(np.abs(found).mean())
        assert row["solved_damping"] == pytest.approx(0.1 * multiple)
        assert row["gradient_norm"] == pytest.approx(float(problem.columns()[:, query].norm()))
        assert row["status"] == "converged"
        assert row["residual"] <= 1e-11
        assert (row["top"], row["num_ranked"]) == (6, 60)


def test_the_default_accuracy_ranks_as_a_dense_solution_at_a_tenth_of_the_own_damping(
    problem: Problem, gradients: Tensor
) -> None:
    asked = Role(multiples=(0.1, 1.0))
    prepared = asked.prepare(problem, quiet)
    found = list(asked.measure(problem, prepared, {"multiple": 0.1}, 0, quiet))
    assert found[0]["residual"] > 1e-6  # it was not solved exactly
    values = scores(problem, gradients, 0.1)["with"]
    x = solvers.solve(problem.with_damping(0.01), solver_of(asked.solver), compare=False).x
    assert x is not None
    for query in range(3):
        own = [row["example"] for row in found if (row["side"], row["query"]) == ("with", query)]
        assert own == np.argsort(-values[:, query])[:10].tolist()
        alike = spearmanr((gradients.T @ x)[:, query].numpy(), values[:, query]).statistic
        assert alike >= 0.999


def test_the_largest_eigenvalue(problem: Problem, rows: Rows) -> None:
    truth = float(torch.linalg.eigvalsh(problem.operator.dense())[-1])
    assert 0.97 * truth <= rows[0]["largest"] <= truth * (1 + 1e-9)


def test_what_people_see_is_kept_at_the_own_damping_of_the_first_ones(problem: Problem, rows: Rows) -> None:
    shown = problem.exhibits
    assert shown is not None
    for row in rows:
        assert row["text"] == ""
        if row["multiple"] == 1 and row["rank"] <= 4:
            see, index = (
                (shown.query, row["query"]) if row["side"] == "query" else (shown.training, row["example"])
            )
            assert base64.b64decode(row["picture"]) == see(index).picture
        else:
            assert row["picture"] == ""


def test_of_a_large_damping_nothing_is_left_of_the_inverse(problem: Problem) -> None:
    found = rows_of(problem, Role(multiples=(1.0, 1e9), top=6, shown=1, solver=ACCURATE))
    last = [row for row in found if row["multiple"] == 1e9]
    for query in range(3):
        lists = {
            side: [row["example"] for row in last if (row["side"], row["query"]) == (side, query)]
            for side in ("with", "without")
        }
        assert lists["with"] == lists["without"]
    assert min(row["rank_correlation"] for row in last if row["side"] == "query") > 0.9999


def test_only_so_many_examples_are_ranked(problem: Problem, gradients: Tensor) -> None:
    asked = Role(multiples=(1.0,), top=3, shown=3, num_examples=9, solver=ACCURATE)
    found = rows_of(problem, asked)
    values = scores(problem, gradients[:, :9], 1.0)["with"]
    own = [row["example"] for row in found if row["side"] == "with" and row["query"] == 2]
    assert own == np.argsort(-values[:, 2])[:3].tolist()
    assert {row["num_ranked"] for row in found} == {9}


def test_one_query_has_no_others() -> None:
    single = problems.load("image_classifier", **SMALL | {"num_queries": 1})
    found = rows_of(single, Role(multiples=(1.0,), top=2, shown=1))
    first = found[0]
    assert np.isnan(first["between_with"])
    assert np.isnan(first["between_without"])
    assert -1 <= first["rank_correlation"] <= 1


def test_the_same_rows_for_the_same_seed(problem: Problem, rows: Rows) -> None:
    def timeless(found: Rows) -> str:
        return json.dumps(
            [{name: row[name] for name in row if not name.endswith("seconds")} for row in found]
        )

    assert timeless(rows_of(problem)) == timeless(rows)


@settings(max_examples=60, deadline=None)
@given(arrays(float, (9, 3), elements=st.integers(-3, 3).map(float)))
def test_rank_correlations_with_ties_are_scipys(columns: np.ndarray) -> None:
    found = rank_correlations(columns)
    for i in range(3):
        for j in range(3):
            if np.ptp(columns[:, i]) and np.ptp(columns[:, j]):
                assert found[i, j] == pytest.approx(spearmanr(columns[:, i], columns[:, j]).statistic)
            else:
                assert np.isnan(found[i, j])


@settings(max_examples=30, deadline=None)
@given(arrays(float, (8, 2), elements=st.floats(-5, 5)))
def test_rank_correlations_do_not_see_growing_functions(columns: np.ndarray) -> None:
    columns = columns.round(3)
    np.testing.assert_allclose(rank_correlations(np.exp(columns)), rank_correlations(columns))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("role:multiples=[0.1,10]", "one of them must be 1"),
        ("role:multiples=[]", "one of them must be 1"),
        ("role:multiples=[1,-2]", "multiples has -2"),
        ("role:multiples=[1,1]", "each must be there once"),
        ("role:top=0", "top is 0"),
        ("role:shown=0", "shown is 0"),
        ("role:top=3,shown=4", "shown is 4; it must be at most top, which is 3"),
        ("role:num_examples=10", "num_examples is 10; of so many the 10 most influential say nothing"),
        ("role:solver=gc", "no solver 'gc'"),
        ("role:solver=cg(tolerance=-1)", "tolerance is -1"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.plan(parse(text), [parse("image_classifier")])


def test_problems_that_cannot_be_ranked(problem: Problem) -> None:
    bare = dense_problem(random_psd_examples(5, 4, 0), damping=0.1)
    for ask in (lambda: Role().prepare(bare, quiet), lambda: Role().expected_work(bare)):
        with pytest.raises(ValueError, match=r"without training examples .*: choose a network"):
            ask()
    with pytest.raises(ValueError, match="has 60 training examples, of which the 60 most influential"):
        Role(top=60).prepare(problem, quiet)
    with pytest.raises(ValueError, match="num_examples is 61; image_classifier has 60"):
        Role(num_examples=61).prepare(problem, quiet)


def test_a_solve_without_an_answer_is_a_failure_that_says_why() -> None:
    indefinite = problems.load("image_classifier", **SMALL | {"curvature": "hessian", "damping": 1e-4})
    asked = Role(multiples=(1.0,), top=2, shown=1)
    prepared = asked.prepare(indefinite, quiet)
    with pytest.raises(RuntimeError, match=r"gave no answer at λ = 0.0001 \(breakdown\)"):
        asked.measure(indefinite, prepared, {"multiple": 1.0}, 0, quiet)


@pytest.mark.parametrize("num_examples", [None, 20])
def test_the_work_is_foretold(problem: Problem, num_examples: int | None) -> None:
    """Within a factor of two and a half, which is what CG's bound may be off."""
    asked = Role(num_examples=num_examples)
    told = asked.expected_work(problem)
    work = problem.operator.work
    before = work.total
    rows_of(problem, asked)
    assert told is not None
    assert (work.total - before) / 2.5 <= told <= 2.5 * (work.total - before)


def test_more_accuracy_more_damping_values_and_other_solvers_in_the_forecast(problem: Problem) -> None:
    told = [
        Role(**settings).expected_work(problem)
        for settings in ({}, {"solver": "cg:tolerance=1e-6"}, {"multiples": (1.0,)}, {"solver": "auto"})
    ]
    assert None not in told
    assert told[1] > told[0] > told[2]  # type: ignore[operator]
    assert told[3] < told[0]  # type: ignore[operator]
    assert Role(solver="ekfac").expected_work(problem) is None


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_can_be_planned(scale: str) -> None:
    plan = study.plan(parse("role"), scale=scale)
    assert plan.request.dtype == ("float64" if scale == "quick" else "float32")
    assert len(plan.cells) == len(plan.families) * len(Role().multiples)


def test_a_run_gives_a_page_with_pictures_and_passages(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    image = "image_classifier:" + ",".join(f"{name}={value}" for name, value in SMALL.items())
    text = "language_model:training_size=6,num_queries=2,epochs=1"
    plan = study.plan(parse("role:multiples=[1,100],top=3,shown=2"), [parse(image), parse(text)])
    assert study_runner.run(plan, tmp_path / "run")
    report = tmp_path / "run" / "report"
    html = (report / "index.html").read_text("utf-8")
    problem = problems.load("language_model", training_size=6, num_queries=2, epochs=1)
    assert problem.exhibits is not None
    assert " ".join(problem.exhibits.query(0).text.split()) in " ".join(html.split())
    assert html.count("data:image/png;base64,") == 1 + 3 * (1 + 2 * 2)
    assert {"role.png", "role_examples.png", "conclusions.json"} <= {path.name for path in report.iterdir()}
