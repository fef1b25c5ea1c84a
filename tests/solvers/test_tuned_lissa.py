"""LiSSA with settings it chose: what it plans, what it reaches, and what it does when it was wrong."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from dataclasses import replace

import pytest
import torch

import problems
import solvers
from problems import DenseOperator, Problem
from problems.operators.base import CurvatureOperator
from solvers import Breakdown, Solution, Status, solve, tuned_lissa
from solvers.lissa import LiSSA
from solvers.measured import Measured, measure_curvature
from solvers.peers.library import library_of
from solvers.pilot import pilot
from solvers.prediction import Schedule
from solvers.tuning import Wanted, make_plan
from tests.conftest import dense_problem, random_psd_examples
from tests.problems.tiny_language_models import tiny


def tuned(problem: Problem, seed: int = 0, **settings: object) -> Solution:
    return solve(problem, LiSSA(**settings), seed=seed)  # type: ignore[arg-type]


RANDOM = [
    (seed, heavy_tailed, damping)
    for seed, (heavy_tailed, damping) in enumerate(itertools.product([False, True], [1.0, 0.1, 0.01] * 3))
]


@pytest.mark.parametrize(("seed", "heavy_tailed", "damping"), RANDOM)
def test_ends_within_its_target(seed: int, heavy_tailed: bool, damping: float) -> None:
    """A root mean square error may be exceeded by a run, but not by much; nothing ever diverges."""
    problem = dense_problem(
        random_psd_examples(120, 20, seed=seed, heavy_tailed=heavy_tailed),
        damping=damping,
        seed=seed,
        columns=3,
    )
    solution = tuned(problem, seed)
    assert solution.status is Status.FINISHED, solution.reason
    assert solution.error is not None
    assert float(solution.error.max()) <= 1.5 * 0.05
    assert "estimated error" in solution.reason
    assert solution.diagnostics["estimated_error"] <= 0.05


@pytest.mark.parametrize("target", [0.3, 0.02])
def test_the_target_is_what_it_aims_at(target: float) -> None:
    problem = dense_problem(random_psd_examples(200, 10, seed=4), damping=0.5, columns=2)
    solution = tuned(problem, target=target)
    assert solution.error is not None
    assert float(solution.error.max()) <= 1.5 * target


def test_predictions_lie_within_a_factor_of_three_in_median() -> None:
    """Of cost, and of error where it samples; with all data one step more than predicted is taken at most."""
    errors, costs = [], []
    for seed, damping in itertools.product(range(4), [1.0, 0.3, 0.1]):
        per_example = random_psd_examples(2500, 6, seed=seed)
        problem = dense_problem(per_example, damping=damping, seed=seed, columns=2)
        solution = tuned(problem, seed)
        found = solution.diagnostics
        assert solution.error is not None
        if found["batch_size"] == "full":
            assert solution.steps <= found["num_steps"] + 1
            continue
        errors.append(float(solution.error.square().mean().sqrt()) / found["predicted_error"])
        epochs = (solution.work - found["pilot_work"]) / ((1 + 4 * 2) / 3)
        costs.append(epochs / found["predicted_epochs"])
    assert len(errors) > 3
    for ratios in (errors, costs):
        assert 1 / 3 <= float(torch.tensor(ratios).median()) <= 3, (errors, costs)


def test_the_plan_is_the_cheapest_that_is_predicted_to_reach_the_target() -> None:
    """No schedule of a grid of its own reaches the target for less than half of what the plan costs."""
    problem = problems.load("quadratic", dimension=16, num_examples=2000, damping=0.3)
    generator = torch.Generator().manual_seed(0)
    measured = measure_curvature(problem.operator, problem.damping, generator)
    sides = pilot(problem.operator, problem.operator, 0.3, 0.3, problem.columns(), generator, "rhs")
    plan = make_plan(measured, sides, Wanted(0.05, None, None, None), problem.operator)
    assert plan.error <= 0.05
    assert plan.schedule.batch_size is not None
    cheapest = math.inf
    for batch, power, last in itertools.product(
        [1, 2, 4, 8, 16, 32, 64], range(6), [round(4 * 1.3**j) for j in range(30)]
    ):
        step = 2.0**-power / measured.second_moment(batch)
        schedule = Schedule(step, batch, last // 2, last, 2)
        if float(sides.error(schedule).max()) <= 0.05:
            cheapest = min(cheapest, 2 * batch * last / 2000)
    assert plan.epochs <= 2.5 * cheapest


def test_all_data_are_used_where_sampling_costs_more() -> None:
    problem = dense_problem(random_psd_examples(10, 6, seed=0), damping=0.3)
    solution = tuned(problem)
    assert solution.diagnostics["batch_size"] == "full"
    assert "all data" in solution.diagnostics["why"]
    assert solution.diagnostics["predicted_epochs"] <= solution.diagnostics["full_data_epochs"]


def test_what_is_set_is_kept() -> None:
    problem = dense_problem(random_psd_examples(200, 10, seed=4), damping=0.5, columns=2)
    by_batch = tuned(problem, batch_size=7).diagnostics
    assert by_batch["batch_size"] == 7
    by_step = tuned(problem, step_size=0.02).diagnostics
    assert by_step["step_size"] == 0.02
    solution = tuned(problem, num_steps=40)
    assert (solution.diagnostics["num_steps"], solution.steps) == (40, 40)
    full = tuned(problem, batch_size="full")
    assert full.diagnostics["batch_size"] == "full"
    assert full.error is not None
    assert float(full.error.max()) <= 0.05


def test_the_papers_rule_is_the_papers() -> None:
    problem = problems.load("quadratic", dimension=16, num_examples=100, damping=0.1)
    solution = tuned(problem, rule="paper")
    found = solution.diagnostics
    assert problem.eigenvalues is not None
    whole = float(problem.eigenvalues[-1]) + 0.1
    assert found["step_size"] == pytest.approx(1 / whole, rel=0.05)
    trace = float(problem.eigenvalues.sum())
    assert found["batch_size"] == pytest.approx(trace / whole, abs=1.1)
    assert found["num_steps"] * found["step_size"] * 0.1 == pytest.approx(2.25, rel=0.05)
    assert solution.steps == found["num_steps"]


@pytest.mark.parametrize(("seed", "heavy_tailed", "damping"), RANDOM[::2])
def test_from_zero_too(seed: int, heavy_tailed: bool, damping: float) -> None:
    per_example = random_psd_examples(120, 20, seed=seed, heavy_tailed=heavy_tailed)
    problem = dense_problem(per_example, damping=damping, seed=seed, columns=3)
    solution = tuned(problem, seed, start="zero")
    assert solution.error is not None
    assert float(solution.error.max()) <= 1.5 * 0.05


def test_the_few_examples_that_carry_the_noise_are_not_missed() -> None:
    """A thousandth of the examples, each a thousand times the others: a small sample has none of them."""
    curvatures = torch.ones(2000, 1, 1, dtype=torch.float64)
    curvatures[:2] = 1000.0
    problem = dense_problem(curvatures, damping=6.0)
    errors = []
    for seed in range(5):
        solution = tuned(problem, seed)
        assert solution.error is not None
        errors.append(float(solution.error.max()))
    assert statistics.fmean(error**2 for error in errors) ** 0.5 <= 0.05
    assert statistics.median(errors) <= 0.05


def test_diagnostics_are_plain_values() -> None:
    problem = dense_problem(random_psd_examples(60, 6, seed=0), damping=0.3)
    for rule in ("sharp", "paper"):
        json.dumps(dict(tuned(problem, rule=rule).diagnostics), allow_nan=False)


def test_estimates_are_honest() -> None:
    """Over seeds the estimated error covers the measured one: it is made for the worst column."""
    problem = dense_problem(random_psd_examples(300, 10, seed=1), damping=0.3, columns=2)
    covered = 0
    for seed in range(12):
        solution = tuned(problem, seed)
        assert solution.error is not None
        covered += float(solution.error.max()) <= solution.diagnostics["estimated_error"]
    # The estimate is made for the worst of the columns in most runs, not for the mean.
    assert covered >= 10


class Treacherous(DenseOperator):
    """Mini-batches of far more curvature than the examples have on their own."""

    factor = 400.0

    def minibatch(self, size: int, generator: torch.Generator) -> CurvatureOperator:
        if float(torch.rand((), generator=generator)) < 0.3:
            return DenseOperator(self.factor * self.per_example[:1])
        return super().minibatch(size, generator)


def test_what_keeps_growing_is_reported_as_diverged() -> None:
    per_example = random_psd_examples(200, 6, seed=0)
    operator = Treacherous(per_example)
    b = torch.randn(6, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solution = tuned(Problem("treacherous", operator, 0.3, b), batch_size=4)
    assert solution.status is Status.DIVERGED
    assert "still grew" in solution.reason


class Passing(DenseOperator):
    """Mini-batches that are treacherous once, after the probe has passed."""

    def minibatch(self, size: int, generator: torch.Generator) -> CurvatureOperator:
        self.drawn = getattr(self, "drawn", 0) + 1
        batch = super().minibatch(size, generator)
        assert isinstance(batch, DenseOperator)
        return DenseOperator(4000 * batch.per_example) if 50 <= self.drawn < 54 else batch


def test_a_run_that_ran_away_once_begins_again_with_smaller_steps() -> None:
    operator = Passing(random_psd_examples(200, 6, seed=0))
    b = torch.randn(6, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solution = tuned(Problem("passing", operator, 0.3, b), batch_size=4)
    assert solution.status is Status.FINISHED, solution.reason
    assert solution.diagnostics["back_offs"] == 1
    assert solution.error is not None
    assert float(solution.error.max()) <= 1.5 * 0.05


class Late(DenseOperator):
    """Mini-batches that turn treacherous after the probe has passed."""

    harmless = 40

    def minibatch(self, size: int, generator: torch.Generator) -> CurvatureOperator:
        self.drawn = getattr(self, "drawn", 0) + 1
        batch = super().minibatch(size, generator)
        assert isinstance(batch, DenseOperator)
        return batch if self.drawn < self.harmless else DenseOperator(400 * batch.per_example)


def test_a_run_that_ran_away_is_probed_again_before_it_is_begun_again() -> None:
    operator = Late(random_psd_examples(200, 6, seed=0))
    b = torch.randn(6, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solution = tuned(Problem("late", operator, 0.3, b), batch_size=4)
    assert solution.status is Status.DIVERGED
    assert "still grew" in solution.reason
    assert "times its bound" in solution.reason


def test_a_step_that_was_too_large_once_is_cut() -> None:
    """R measured far too small: the probe notices, and the run ends within its target all the same."""
    problem = dense_problem(random_psd_examples(300, 8, seed=2, heavy_tailed=True), damping=0.2, columns=2)
    generator = torch.Generator().manual_seed(0)
    honest = measure_curvature(problem.operator, problem.damping, generator)
    fooled = replace(honest, noise_constant=honest.noise_constant / 30)
    wanted = Wanted(0.05, None, 4, None)
    *_, last = tuned_lissa.iterates(problem, fooled, wanted, "rhs", problem.columns(), generator)
    error = problem.error(last.x)
    assert error is not None
    assert float(error.max()) <= 0.1
    assert last.diagnostics["second_moment"] > fooled.second_moment(4)


def indefinite(damping: float) -> Problem:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    values = torch.tensor([-0.7, 0.1, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    matrix = (basis * values) @ basis.T
    b = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    return Problem("indefinite", DenseOperator.from_matrix((matrix + matrix.T) / 2), damping, b)


@pytest.mark.parametrize("rule", ["sharp", "paper"])
def test_an_indefinite_matrix_is_refused_with_the_damping_it_needs(rule: str) -> None:
    solution = tuned(indefinite(0.1), rule=rule)
    assert solution.status is Status.BREAKDOWN
    found = re.search(r"eigenvalue of at most (-[\d.]+), .* Raise damping above ([\d.]+),", solution.reason)
    assert found
    # The eigenvalue is -0.7; a Ritz value lies above it, within its residual.
    assert -0.7 <= float(found[1]) < -0.6
    assert float(found[2]) >= 0.7


@pytest.mark.parametrize("damping", [0.75, 0.8, 1.0, 1.5])
def test_an_indefinite_matrix_with_damping_enough_is_solved(damping: float) -> None:
    """b along the negative eigenvector, where u* is as many times longer than b/λ as λ is than λ_min + λ."""
    problem = indefinite(damping)
    along = torch.linalg.eigh(problem.operator.dense())[1][:, :1]
    problem = replace(problem, rhs=torch.cat([along, problem.columns()], dim=1))
    solution = tuned(problem)
    assert solution.status is Status.FINISHED, solution.reason
    assert solution.error is not None
    assert float(solution.error.max()) <= 1.2 * 0.05


def test_astronomic_numbers_of_steps_are_refused_with_what_to_do() -> None:
    problem = problems.load("quadratic", dimension=40, num_examples=60, exponent=6.0, damping=1e-8)
    solution = tuned(problem)
    assert solution.status is Status.BREAKDOWN
    assert re.search(r"Use cg|use cg", solution.reason)
    assert "steps" in solution.reason


def test_what_no_batch_of_the_set_size_reaches_is_said_of_the_batch() -> None:
    problem = dense_problem(random_psd_examples(400, 6, seed=0, heavy_tailed=True), damping=0.3)
    solution = tuned(problem, batch_size=1, target=1e-5)
    assert solution.status is Status.BREAKDOWN
    assert "batch_size is 1; with it no step_size reaches 1e-05" in solution.reason


def test_a_step_that_cannot_be_stable_is_refused() -> None:
    problem = dense_problem(random_psd_examples(50, 6, seed=0), damping=0.3)
    solution = tuned(problem, step_size=1e3)
    assert solution.status is Status.BREAKDOWN
    assert "below 2/(λ_max + λ)" in solution.reason


def test_l_b_is_in_units_of_whole_draws() -> None:
    """Sequences of 16 tokens: 32 tokens are two draws."""
    operator = DenseOperator(random_psd_examples(10, 4, seed=0))
    examples = Measured(operator, 0.1, 2.0, 0.0, 5.0, 1.0, 0.1)
    tokens = replace(examples, units_per_draw=16.0)
    assert tokens.second_moment(32) == examples.second_moment(2)
    assert tokens.sufficient_batch == 16 * examples.sufficient_batch


def test_batches_of_a_language_model_count_tokens() -> None:
    """Sequences of unequal lengths; whole ones are drawn, and the target is reached."""
    generator = torch.Generator().manual_seed(0)

    def sequences(count: int) -> list[dict[str, torch.Tensor]]:
        found = []
        for _ in range(count):
            length = int(torch.randint(4, 12, (1,), generator=generator))
            ids = torch.randint(3, 50, (12,), generator=generator)
            ids[length:] = 1
            counted = torch.arange(12) < length
            labels = torch.where(counted, ids, -100)
            found.append({"input_ids": ids, "attention_mask": counted.long(), "labels": labels})
        return found

    problem = problems.from_model(
        tiny("opt"),
        "next_token_cross_entropy",
        sequences(60),
        sequences(2),
        damping=1.0,
        parameters=r"layers\.1\.fc2",
    )
    solution = tuned(problem)
    assert solution.status is Status.FINISHED, solution.reason
    found = solution.diagnostics
    mean = problem.operator.num_examples / problem.operator.num_draws
    assert isinstance(found["batch_size"], int)
    draws = found["batch_size"] / mean
    whole = 2 ** math.ceil(math.log2(draws) - 1e-9)
    # As many tokens as so many sequences have, rounded down: no sequence more is drawn for them.
    assert found["batch_size"] == int(whole * mean)
    assert solution.error is not None
    assert float(solution.error.max()) <= 1.5 * 0.05


@pytest.mark.parametrize("name", [name for name, cls in solvers.available().items() if not library_of(cls)])
def test_columns_share_what_is_chosen_for_all(name: str) -> None:
    problem = dense_problem(random_psd_examples(20, 4, seed=0), damping=0.3)
    for example in solvers.find(name).examples(problem):
        solver = example.solver
        chosen = {"lissa": "step_size", "svrg": "inner_steps"}.get(name)
        shared = name == "auto" or (chosen is not None and getattr(solver, chosen) == "auto")
        assert solver.columns_are_independent is not shared


def test_breakdown_is_an_exception_of_the_interface() -> None:
    with pytest.raises(Breakdown, match="indefinite"):
        measure_curvature(indefinite(0.1).operator, 0.1, torch.Generator().manual_seed(0))
