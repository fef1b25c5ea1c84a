"""Predictions against dense truth and against what solvers then measure; the command as a person uses it."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import problems
import solvers
from bench.diagnosis import predicted_solvers
from bench.diagnosis.diagnose import diagnose
from bench.diagnosis.lissa_settings import Settings
from bench.diagnosis.predicted_solvers import PredictedSolver
from bench.diagnosis.result import Diagnosis
from bench.store import Store
from problems import DenseOperator, Problem
from problems.specification import parse
from tests.bench.test_cli import invoke
from tests.conftest import dense_problem, random_psd_examples

TARGET = 0.05


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Two right-hand sides, both of which a budget of 600 pilots."""
    return dense_problem(random_psd_examples(300, 40, seed=0, rank=2), damping=0.02)


@pytest.fixture(scope="module")
def found(problem: Problem) -> Diagnosis:
    return diagnose(
        problem, specification="dense", budget=600, target=TARGET, settings=Settings(0.2, 8, 400), seed=1
    )


def row(found: Diagnosis, name: str) -> PredictedSolver:
    return next(each for each in found.solvers if each.name.startswith(name))


def solved(problem: Problem, specification: str, seed: int = 0) -> solvers.Solution:
    asked = parse(specification)
    return solvers.solve(problem, solvers.load(asked.name, **asked.settings), seed=seed)


def test_spectrum_holds_the_truth(problem: Problem, found: Diagnosis) -> None:
    values = problem.eigenvalues
    assert values is not None
    truth = {
        "largest_eigenvalue": float(values[-1]),
        "smallest_eigenvalue": float(values[0]),
        "trace": float(values.sum()),
        "trace_of_square": float(values.square().sum()),
        "effective_rank": float(values.sum() / values[-1]),
        "effective_dimension": float((values / (values + problem.damping)).sum()),
    }
    for name, value in truth.items():
        quantity = found.spectrum[name]
        low = -math.inf if quantity.low is None else quantity.low
        high = math.inf if quantity.high is None else quantity.high
        assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9), name
    operator = problem.operator
    assert isinstance(operator, DenseOperator)
    traces = operator.per_example.diagonal(dim1=1, dim2=2).sum(dim=1)
    ratio, quantity = float(traces.max() / traces.mean()), found.spectrum["heterogeneity"]
    assert quantity.low is not None
    assert quantity.low <= ratio * 1.001
    assert problem.condition_number is not None
    assert found.spectrum["condition_number"].high is not None
    assert found.spectrum["condition_number"].high >= problem.condition_number


def test_identitys_error_is_that_of_b_over_lambda(problem: Problem, found: Diagnosis) -> None:
    assert found.subject.piloted_columns == problem.num_columns
    assert problem.reference is not None
    b = problem.columns()
    error = (b / problem.damping - problem.reference).norm(dim=0) / problem.reference.norm(dim=0)
    assert row(found, "identity").error == pytest.approx(float(error.max()), rel=0.02)
    assert row(found, "identity").reaches is False


def test_neumanns_steps_are_those_of_the_eigendecomposition(problem: Problem, found: Diagnosis) -> None:
    predicted = row(found, "Neumann")
    values, vectors = problem.ground_truth.eigen
    shifted = values + problem.damping
    step = float(parse(predicted.specification).settings["step_size"])
    assert step == pytest.approx(1 / float(shifted[-1]), rel=0.01)
    coordinates = vectors.T @ problem.columns() / shifted[:, None]
    steps = 0
    while (
        float(
            (
                (((1 - step * shifted) ** steps)[:, None] * coordinates).norm(dim=0) / coordinates.norm(dim=0)
            ).max()
        )
        > TARGET
    ):
        steps += 1
    assert predicted.steps is not None
    assert 0.9 * steps <= predicted.steps <= 1.1 * steps
    assert predicted.work == pytest.approx(predicted.steps * (1 + 4 * 2) / 3)


def test_cg_arrives_as_predicted(problem: Problem, found: Diagnosis) -> None:
    predicted = row(found, "CG")
    solution = solved(problem, predicted.specification)
    assert solution.error is not None
    assert float(solution.error.max()) <= TARGET
    first = next(each.step for each in solution.history if each.error is not None and each.error <= TARGET)
    assert predicted.steps is not None
    assert predicted.work is not None
    assert first / 2 <= predicted.steps <= 2 * first
    assert predicted.work / 2 <= solution.work <= 2 * predicted.work


@pytest.mark.parametrize("name", ["problem", "softmax"])
def test_self_tuned_lissa_costs_what_is_predicted(name: str, problem: Problem, found: Diagnosis) -> None:
    """On all data or on mini-batches, whichever is cheaper."""
    if name == "softmax":
        sizes = {"pooling": 2, "training_size": 200, "num_queries": 2}
        problem = problems.load("softmax_regression", damping=0.01, **sizes)
        found = diagnose(problem, target=TARGET)
    predicted = row(found, "LiSSA, self-tuned")
    solution = solved(problem, predicted.specification)
    assert solution.error is not None
    assert float(solution.error.max()) <= 2 * TARGET
    assert predicted.work is not None
    total = solution.setup_work + solution.work
    assert total / 3 <= predicted.work <= 3 * total


def test_settings_are_judged_by_their_true_limits(problem: Problem, found: Diagnosis) -> None:
    yours = found.settings[0]
    assert yours.name == "yours"
    assert (yours.step_size, yours.batch_size, yours.num_steps) == (0.2, 8, 400)
    values = problem.eigenvalues
    assert values is not None
    mean, square, target = yours.conditions
    assert mean.limit == pytest.approx(2 / (float(values[-1]) + problem.damping), rel=0.01)
    assert mean.met
    assert mean.factor == pytest.approx(mean.limit / 0.2)
    # L_b from the dense second moment: the top of the pencil (E (H̃ + λ)², H + λ), of which ours is a bound.
    operator = problem.operator
    assert isinstance(operator, DenseOperator)
    identity = torch.eye(40, dtype=torch.float64)
    moment = operator.second_moment(8) + 2 * problem.damping * operator.matrix + problem.damping**2 * identity
    root = torch.linalg.inv(torch.linalg.cholesky(operator.matrix + problem.damping * identity))
    sharp = float(torch.linalg.eigvalsh(root @ moment @ root.T)[-1])
    assert 0.9 * sharp <= 2 / square.limit <= 1.5 * sharp
    # The root mean square over seeds is what is predicted.
    errors = torch.stack(
        [solved(problem, "lissa:step_size=0.2,batch_size=8,num_steps=400", seed).error for seed in range(12)]  # type: ignore[arg-type]
    )
    measured = float(errors.square().mean(dim=0).sqrt().max())
    assert yours.error == pytest.approx(measured, rel=0.3)
    assert target.met == (yours.error <= TARGET)


def test_the_recommended_is_the_cheapest_that_arrives(found: Diagnosis) -> None:
    reaching = [each for each in found.solvers if each.reaches and each.work is not None]
    cheapest = min(reaching, key=lambda each: each.work or 0.0)
    assert found.recommendation.specification == cheapest.specification
    assert found.recommendation.command == f"ihvp-bench run -p dense -s {cheapest.specification}"
    assert cheapest.name in found.recommendation.why


def test_budget_is_kept_and_told(problem: Problem) -> None:
    told: list[tuple[str, float]] = []
    before = problem.operator.work.total
    found = diagnose(problem, budget=120, on_progress=lambda name, share: told.append((name, share)))
    assert found.spent.total <= 125
    assert found.spent.total == pytest.approx(found.spent.total)
    # But for the two products of one example that say what a product costs.
    assert problem.operator.work.total - before == pytest.approx(found.spent.total, abs=0.1)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert {name for name, _ in told} == set(found.spent.parts) - {"product"}


def test_json_has_plain_values_and_no_infinity(found: Diagnosis) -> None:
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert {"subject", "spectrum", "density", "settings", "solvers", "recommendation", "warnings"} <= set(
        plain
    )
    assert plain["solvers"][0]["work"] == found.solvers[0].work
    assert plain["spectrum"]["trace"]["value"] == found.spectrum["trace"].value


def test_one_dominant_example_is_named() -> None:
    """Of multiples of the identity random signs give the exact trace."""
    examples = torch.eye(10, dtype=torch.float64).repeat(60, 1, 1)
    examples[17] *= 20
    found = diagnose(dense_problem(examples, damping=0.05))
    warning = next(text for text in found.warnings if text.startswith("example 17 carries"))
    share = re.search(r"carries (\S+) % of Tr\(H\)", warning)
    assert share is not None
    assert float(share[1]) == pytest.approx(100 * 20 / 79, rel=0.02)


def test_of_a_few_alike_examples_none_is_named() -> None:
    """Each of four carries a quarter."""
    found = diagnose(dense_problem(torch.eye(10, dtype=torch.float64).repeat(4, 1, 1), damping=0.05))
    assert not any("carries" in text for text in found.warnings)


def test_many_examples_are_sampled_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of C's example is that in the data; work is counted over the sample."""
    monkeypatch.setattr("solvers.measured.sample_of.__defaults__", (100,))
    examples = random_psd_examples(400, 8, seed=0)
    examples[:] = examples[0]
    examples[7::8] *= 3
    found = diagnose(dense_problem(examples, damping=0.5))
    assert (found.subject.measured_draws, found.subject.num_draws) == (100, 400)
    assert any("100 of the 400 examples" in note for note in found.notes)
    assert found.spent.over_all_data == pytest.approx(found.spent.total / 4)
    index = re.search(r"example (\d+)", found.spectrum["heterogeneity"].meaning)
    assert index is not None
    assert int(index[1]) % 8 == 7


def indefinite(damping: float) -> Problem:
    values = torch.linspace(-0.3, 1, 30, dtype=torch.float64)
    rhs = torch.randn(30, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Problem("indefinite", DenseOperator.from_matrix(torch.diag(values)), damping, rhs)


def test_indefinite_gets_minres_and_the_damping_that_would_do() -> None:
    found = diagnose(indefinite(0.1), specification="mine")
    assert not found.definite
    assert found.settings == ()
    assert [each.name for each in found.solvers] == ["MINRES"]
    assert found.recommendation.solver == "minres"
    warning = found.warnings[0]
    lowest, safe = (
        float(re.search(pattern, warning)[1])  # type: ignore[index]
        for pattern in (r"at most (\S+), so", r"damping above (\S+), use")
    )
    assert -0.3 <= lowest <= -0.1
    assert 0.25 <= safe <= 0.4
    assert (
        found.spectrum["smallest_eigenvalue"].low is None
        or found.spectrum["smallest_eigenvalue"].low <= -0.29
    )


def test_indefinite_h_with_enough_damping_is_as_any_other() -> None:
    problem = indefinite(2.0)
    found = diagnose(problem, budget=400)
    assert found.definite
    assert "makes H + λI positive definite" in found.warnings[0]
    solution = solved(problem, found.recommendation.specification)
    assert solution.error is not None
    assert float(solution.error.max()) <= TARGET


def test_tiny_damping_needs_more_steps_than_anyone_waits_for() -> None:
    """Eigenvalues over nine decades: CG itself cannot see b's small ones in time."""
    values = 10 ** torch.linspace(-9, 0, 300, dtype=torch.float64)
    rhs = torch.randn(300, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Problem("steep", DenseOperator.from_matrix(torch.diag(values)), 1e-9, rhs)
    found = diagnose(problem)
    tuned = row(found, "LiSSA, self-tuned")
    assert tuned.reaches is False
    assert any("LiSSA" in text and "steps" in text and "cg" in text for text in found.warnings)
    assert found.recommendation.solver in ("cg", "exact")
    assert row(found, "Neumann").basis == "bound"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"budget": 20.0}, "budget is 20 gradient equivalents; at least"), ({"target": 1.5}, "target is 1.5")],
)
def test_bad_numbers_are_refused_before_any_work(changes: dict, message: str, problem: Problem) -> None:
    before = problem.operator.work.total
    with pytest.raises(ValueError, match=message):
        diagnose(problem, **changes)
    assert problem.operator.work.total - before < 0.1


USERS_FILE = """
import torch
from {sibling} import network
import problems

def problem():
    torch.manual_seed(0)
    inputs = torch.randn(120, 6)
    targets = (inputs[:, 0] > 0).long()
    return problems.from_model(
        network(), "cross_entropy", (inputs, targets), (inputs[:2], targets[:2]), damping=0.05
    )
"""
SIBLING = """
import torch

def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).eval()
"""


def test_a_users_file_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Diagnosed, and the recommended command run as it stands."""
    monkeypatch.syspath_prepend(str(tmp_path))  # put back at the end
    path = tmp_path / "my model.py"
    path.write_text(USERS_FILE.format(sibling="network_of_diagnose_test"))
    (tmp_path / "network_of_diagnose_test.py").write_text(SIBLING)
    out = tmp_path / "out"
    arguments = ["diagnose", str(path), "--out", str(out), "--damping", "0.1", "--step-size", "0.1"]
    assert invoke(*arguments, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert f"Report: {out}/index.html" in printed
    assert {entry.name for entry in out.iterdir()} == {
        "index.html", "diagnosis.json", "density.png", "density.pdf", "costs.png", "costs.pdf",
    }  # fmt: skip
    stored = json.loads((out / "diagnosis.json").read_text(encoding="utf-8"))
    subject = stored["diagnosis"]["subject"]
    assert (subject["size"], subject["damping"], subject["dtype"]) == (47, 0.1, "float32")
    assert stored["diagnosis"]["settings"][0]["step_size"] == 0.1
    command = stored["diagnosis"]["recommendation"]["command"]
    assert command in printed
    run = [*shlex.split(command)[1:], "--seeds", "1", "--out", str(tmp_path / "run")]
    assert invoke(*run, monkeypatch=monkeypatch) == 0
    cells = Store(tmp_path / "run").read()[0]
    assert cells["error"][0] <= 2 * TARGET
    assert cells["problem"][0] == "my model(damping=0.1)"


def test_json_alone_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["diagnose", "quadratic:dimension=6,num_examples=12", "--json", "--dtype", "float32"]
    assert invoke(*arguments, monkeypatch=monkeypatch) == 0
    stored = json.loads(capsys.readouterr().out)
    assert stored["diagnosis"]["subject"]["dtype"] == "float32"
    assert "--dtype float32 -s" in stored["diagnosis"]["recommendation"]["command"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", r"no function problem\(\).*\ndef problem\(\):\n    import problems\n    return"),
        ("def problem():\n    return 1\n", r"problem\(\) returned int, no Problem; it needs\ndef problem"),
        ("def problem():\n    return 1 / 0\n", r"raised ZeroDivisionError at line 2: division by zero"),
        ("import nowhere_to_be_found\ndef problem(): ...\n", "cannot be imported: ModuleNotFoundError"),
        ("def problem(:\n", "cannot be imported: SyntaxError"),
        ("problem = 3\n", "problem is no function"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(
    content: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine.py").write_text(content)
    assert invoke("diagnose", "mine.py", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "mine.py" in error
    assert "Traceback" not in error
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quadratik"], "did you mean 'quadratic'"),
        (["quadratic:dimension=0"], "dimension is 0"),
        (["quadratic", "--damping", "-1"], "damping is -1"),
        (["nowhere.py"], "there is no file nowhere.py"),
        (["quadratic", "--budget", "10"], "budget is 10 gradient equivalents; at least"),
        (["quadratic", "--target", "0"], "target is 0"),
        (["quadratic", "--batch-size", "all"], "batch_size is 'all'.*\"full\""),
        (["quadratic", "--num-steps", "0"], "num_steps is 0"),
        (["quadratic", "--device", "abacus"], "device is 'abacus'"),
        (["quadratic", "--dtype", "float16"], "dtype is 'float16'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("diagnose", *arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error), error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [("--budget", "10"), ("--target", "2"), ("--dtype", "float16")])
def test_bad_input_trains_no_network(
    wrong: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path / "cache"))
    assert invoke("diagnose", "image_classifier:epochs=1", *wrong, monkeypatch=monkeypatch) == 2
    assert not (tmp_path / "cache").exists()


def test_settings_given_in_part_are_those_of_the_command_that_is_printed() -> None:
    """What LiSSA chooses beside a given step size is chosen again by the printed command, pilot and all."""
    problem = problems.load("quadratic")
    found = diagnose(problem, specification="quadratic", target=0.2, settings=Settings(step_size=0.2))
    predicted = row(found, "LiSSA, your settings")
    assert predicted.specification == "lissa:step_size=0.2,target=0.2"
    solution = solved(problem, predicted.specification)
    assert solution.error is not None
    assert predicted.error is not None
    assert predicted.work is not None
    assert 1 / 3 <= float(solution.error.max()) / predicted.error <= 3
    assert 1 / 3 <= (solution.work + solution.setup_work) / predicted.work <= 3


def test_where_the_answer_is_known_nothing_is_measured() -> None:
    problem = problems.load("quadratic", dimension=6, num_examples=12)
    nothing = replace(problem, rhs=torch.zeros_like(problem.columns()))
    with pytest.raises(ValueError, match="every right-hand side is 0"):
        diagnose(nothing)
    flat = Problem("flat", DenseOperator(torch.zeros(5, 4, 4).double()), 0.1, torch.ones(4, 1).double())
    with pytest.raises(ValueError, match="H is 0"):
        diagnose(flat)
    first_zero = problem.columns().clone()
    first_zero[:, 0] = 0
    assert diagnose(replace(problem, rhs=first_zero)).solvers


def test_the_budget_holds_at_a_small_damping_too() -> None:
    problem = problems.load("quadratic", damping=1e-9)
    found = diagnose(problem, budget=150)
    assert found.spent.total <= 1.1 * 150


def test_a_folder_that_is_taken_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("mine")
    code = invoke("diagnose", "quadratic", "--out", str(tmp_path), monkeypatch=monkeypatch)
    assert code == 2
    told = capsys.readouterr()
    assert "'a.txt', which is no part of a report" in told.err
    assert "Spent" not in told.out


def test_the_exact_solution_goes_the_way_it_would_choose(found: Diagnosis) -> None:
    """By what `exact` itself counts when it runs."""
    problem = problems.load("image_classifier", width=40, training_size=50, epochs=2)
    predicted = predicted_solvers.exact(problem)
    solution = solvers.solve(problem, solvers.load("exact"), compare=False)
    assert solution.diagnostics["method"] == "dual"
    assert predicted.name == "exact (dual)"
    assert predicted.work == pytest.approx(solution.setup_work + solution.work, rel=0.02)
    assert row(found, "exact").reaches is True
