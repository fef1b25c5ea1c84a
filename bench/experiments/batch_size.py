"""Which batch size does LiSSA need? Its influences against the converged ones, step by step, over batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

import solvers
from bench.experiments._batches import check_batch_sizes, whole_units
from bench.experiments._budget import papers_rule_work, product_work, reference_work
from bench.experiments._numbers import NAN, number
from bench.experiments._sampling import Sampling, expected_work, measure_sampling
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem
from problems.validation import check_counts
from reports.batch_size import build_batch_size
from reports.batch_size_rows import FIXED, PAPERS_RULE, SELF_TUNED
from solvers import Record, Solution, Solver, Status, theory
from solvers.certify import certify
from solvers.driver import RUNAWAY, WORSE_THAN_NOTHING
from solvers.measured import PapersMeasurements, measure_for_papers_rule
from solvers.solution import worst

# From one recorded step to the next at least one, and at most this factor.
GROWTH = 1.25
# Gradient equivalents of the self-tuned solver as measured on the named networks, for the forecast.
TUNED_WORK = 120.0
# Gradients taken at once: a call holds all of its own twice.
GRADIENTS_AT_ONCE = 8


@dataclass(frozen=True)
class Prepared:
    """What all batch sizes of a problem share."""

    problem: Problem  # with a reference
    gradients: Tensor  # of the training examples that influence is told of, shape (m, p)
    converged: Tensor  # their influences on the queries by the reference, (m, k), float64
    measured: PapersMeasurements  # λ_max and Tr(H)
    measurement_work: float  # gradient equivalents that these took
    sampling: Sampling


@dataclass(frozen=True)
class BatchSize(Study):
    """LiSSA at the full-batch step η = 1/(λ_max + λ) with mini-batches of b, each for `num_steps` steps.

    That step is the largest at which all data would converge without oscillation, so that whatever keeps a
    smaller batch from converging is its noise. `batch_sizes` are in examples; of a language model each
    example stands for `tokens_per_example` tokens, and what holds a sequence is rounded to whole ones.
    Batches of up to `many_trials_up_to` examples run `trials` times, larger ones `few_trials` times.

    Influence is g_iᵀx_q of the first `num_influences` training examples i, whose gradients are held, on each
    query q. A batch converges where the correlation with the converged influences ends at `converged` or
    more, and no lower than it began. The self-tuned solver, asked for the relative error `target`, and the
    paper's rule run beside. Up to `reference_work` gradient equivalents go into the reference where p is too
    large for a dense one.
    """

    title: ClassVar[str] = "Which batch size does LiSSA need?"
    description: ClassVar[str] = (
        "The correlation of LiSSA's influences with the converged ones, against steps and against data, for "
        "mini-batches small to large at the full-batch step, beside the batch size that theory asks for."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(
            ("image_classifier:damping=0.05,num_queries=2", "image_classifier:damping=0.5,num_queries=2"),
        ),
        "small": Scale(
            ("resnet18:width=8,data=fashion_mnist", "opt-small:num_queries=1"),
            dtype="float32",
            parameters={"batch_sizes": (4, 16, 64, 256), "num_steps": 40, "many_trials_up_to": 16},
        ),
        "paper": Scale(
            ("resnet18:width=64,curvature_size=1000,num_queries=1",),
            dtype="float32",
            parameters={"batch_sizes": (5, 20, 100, 500), "num_steps": 150, "many_trials_up_to": 20},
        ),
    }

    batch_sizes: tuple[int, ...] = (2, 8, 32, 128, 512)
    tokens_per_example: int = 8
    num_steps: int = 200
    trials: int = 10
    few_trials: int = 3
    many_trials_up_to: int = 128
    num_influences: int = 50
    converged: float = 0.95
    target: float = 0.05
    reference_work: float = 300.0

    def __post_init__(self) -> None:
        check_batch_sizes(self.batch_sizes, self.tokens_per_example)
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise ValueError(f"batch_sizes is {self.batch_sizes}; name each size once")
        check_counts(
            num_steps=self.num_steps,
            trials=self.trials,
            few_trials=self.few_trials,
            many_trials_up_to=self.many_trials_up_to,
        )
        if self.num_influences < 3:
            raise ValueError(
                f"num_influences is {self.num_influences}; a correlation needs at least 3 training examples"
            )
        for name in ("converged", "target"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a number between 0 and 1 is needed")
        if not 0 < self.reference_work < math.inf:
            raise ValueError(
                f"reference_work is {self.reference_work}; finite gradient equivalents > 0 are needed"
            )

    def pieces(self) -> Sequence[Piece]:
        fixed = [{"method": FIXED, "examples": size} for size in self.batch_sizes]
        return [*fixed, {"method": SELF_TUNED}, {"method": PAPERS_RULE}]

    def sizes(self, problem: Problem) -> dict[int, int]:
        """Of each batch size in examples that in units of `problem`: tokens of whole sequences, or of a part.

        ValueError where two of them are the same.
        """
        found: dict[int, int] = {}
        for examples in self.batch_sizes:
            units = whole_units(problem, examples, self.tokens_per_example)
            for other, same in found.items():
                if same == units:
                    raise ValueError(
                        f"batch_sizes {other} and {examples} are both {units} tokens of {problem.name}, "
                        "whose sequences count as wholes: leave one of them out, or change tokens_per_example"
                    )
            found[examples] = units
        return found

    def trials_of(self, examples: int) -> int:
        """How often a batch of so many examples runs."""
        return self.trials if examples <= self.many_trials_up_to else self.few_trials

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Prepared:
        def show(step: int, error: float) -> None:
            on_progress(f"reference by CG, step {step}, error ≤ {error:.1e}", 0)

        _check(problem)
        sizes = sorted(self.sizes(problem).values())
        problem = certify(problem, max_work=self.reference_work, on_step=show)
        if problem.reference is None:
            raise ValueError(
                f"CG found no reference within {self.reference_work:g} gradient equivalents: raise "
                "reference_work, or the problem's damping"
            )
        on_progress("gradients of training examples", 0.2)
        assert problem.task is not None
        count = min(self.num_influences, len(problem.task.training))
        operator = problem.operator
        gradients = torch.empty(count, problem.size, dtype=operator.dtype, device=operator.device)
        for some in torch.arange(count).split(GRADIENTS_AT_ONCE):
            gradients[some] = problem.task.gradients(problem.task.training, some).T
        converged = (gradients @ problem.reference.to(gradients)).double()
        on_progress("λ_max and Tr(H)", 0.3)
        work, before = operator.work, operator.work.passes
        # As LiSSA's own set-up by the paper's rule measures them with seed 0.
        measured = measure_for_papers_rule(operator, problem.damping, torch.Generator().manual_seed(0))
        spent = work.equivalents(work.passes - before)
        on_progress("L_b and R", 0.4)
        return Prepared(problem, gradients, converged, measured, spent, measure_sampling(problem, sizes))

    def measure(
        self, problem: Problem, prepared: Prepared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        common = _common(prepared, self)
        if piece["method"] == FIXED:
            size = self.sizes(prepared.problem)[piece["examples"]]
            shared = common | _theory(prepared, size)
            rows = []
            for trial in range(count := self.trials_of(piece["examples"])):
                on_progress(f"trial {trial + 1} of {count}", trial / count)
                rows += _trial(prepared, self._lissa(common["step_size"], size), seed, trial)
            return [shared | row for row in rows]
        if piece["method"] == SELF_TUNED:
            solver, setup_work = solvers.load("lissa", target=self.target), 0.0
        else:
            rule = prepared.measured.schedule(problem.damping)
            assert rule.batch_size is not None
            solver = self._lissa(rule.step_size, rule.batch_size, rule.last)
            setup_work = prepared.measurement_work
        return [common | _solved(prepared, solver, setup_work, seed, on_progress)]

    def expected_work(self, problem: Problem) -> float:
        """ValueError where there is no influence to be told of, so that it is said before anything runs."""
        _check(problem)
        operator, sizes = problem.operator, self.sizes(problem)
        whole = product_work(problem, problem.num_columns)
        # As many draws go through the network as hold the batch, whole even where parts of them count.
        steps = sum(
            self.trials_of(size) * self.num_steps * operator.draws_in(units) / operator.num_draws * whole
            for size, units in sizes.items()
        )
        reference = reference_work(problem, self.reference_work)
        sampling = expected_work(problem, list(sizes.values()))
        return steps + reference + papers_rule_work(problem) + sampling + TUNED_WORK

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_batch_size(rows, run, directory)

    def _lissa(self, step_size: float, batch_size: int, num_steps: int | None = None) -> Solver:
        return solvers.load(
            "lissa", step_size=step_size, batch_size=batch_size, num_steps=num_steps or self.num_steps
        )


def recorded_steps(num_steps: int) -> list[int]:
    """1, 2, 3, …, in steps of a factor of at most 1.25 from where that is more than one, and the last."""
    steps = [1]
    while steps[-1] < num_steps:
        steps.append(min(num_steps, max(steps[-1] + 1, math.floor(steps[-1] * GROWTH))))
    return steps


def correlations(found: Tensor, truth: Tensor) -> Tensor:
    """Pearson's over the training examples (m,) of each query, shape (k,); NaN where one does not vary."""
    found, truth = (values - values.mean(dim=0) for values in (found.double(), truth.double()))
    return (found * truth).sum(dim=0) / (found.norm(dim=0) * truth.norm(dim=0))


def _check(problem: Problem) -> None:
    if problem.task is None:
        raise ValueError(
            f"{problem.name} is a bare matrix without training examples whose influence could be told: "
            "choose a network, such as image_classifier"
        )
    if not problem.operator.has_examples:
        raise ValueError(
            "H offers no curvature of single examples, from which theory predicts; choose curvature=ggn"
        )
    if len(problem.task.training) < 3:
        raise ValueError(
            f"there are {len(problem.task.training)} training examples; a correlation needs at least 3"
        )


def _common(prepared: Prepared, study: BatchSize) -> Row:
    """What every row of a problem says."""
    problem, measured = prepared.problem, prepared.measured
    operator = problem.operator
    length = operator.num_examples / operator.num_draws
    step = 1 / (measured.largest + problem.damping)
    start = problem.columns() / problem.damping
    error = problem.error(start)
    return {
        "largest": measured.largest,
        "trace": measured.trace,
        "noise_constant": prepared.sampling.noise_constant,
        "step_size": step,
        "time": step * problem.damping * study.num_steps,
        "num_steps": study.num_steps,
        "converged_from": study.converged,
        "target": study.target,
        "unit": operator.unit,
        "units_per_draw": length,
        "sufficient_batch": length
        * theory.batch_for_full_step(measured.largest, problem.damping, prepared.sampling.noise_constant),
        "papers_batch": theory.batch_by_trace(measured.trace, measured.largest, problem.damping),
        "num_influences": len(prepared.gradients),
        "gradient_bytes": prepared.gradients.numel() * prepared.gradients.element_size(),
        "start_correlation": _correlation(prepared, start)["correlation"],
        "start_error": number(worst(error)),
        "reference_error": number(problem.reference_error),
    }


def _theory(prepared: Prepared, batch_size: int) -> Row:
    """What theory says of batches of this size at the full-batch step before they run."""
    problem, moment = prepared.problem, prepared.sampling.second_moments[batch_size]
    step = 1 / (prepared.measured.largest + problem.damping)
    assert problem.reference is not None
    lengths = problem.reference.norm(dim=0).tolist()
    floors = [
        theory.MeanSquare(step, problem.damping, moment, noise).floor / length
        for noise, length in zip(prepared.sampling.noises[batch_size].tolist(), lengths, strict=True)
    ]
    return {
        "batch_size": batch_size,
        "second_moment": moment,
        "half_step": step * moment / 2,
        "predicted_floor": max(floors),
    }


def _correlation(prepared: Prepared, x: Tensor) -> Row:
    """Of the influences by x with the converged ones: the mean over queries, and the worst query's."""
    found = correlations(prepared.gradients @ x, prepared.converged)
    return {"correlation": float(found.mean()), "least_correlation": float(found.min())}


def _trial(prepared: Prepared, solver: Solver, seed: int, trial: int) -> list[Row]:
    """A row for each recorded step of one run, which ends early where it runs away.

    It has diverged where it ends beyond twice ‖b‖/λ, which no solution exceeds: from the step on since when
    it has been there.
    """
    problem = prepared.problem
    operator, work = problem.operator, problem.operator.work
    generator = torch.Generator().manual_seed(2**20 * seed + trial)
    b = problem.columns()
    limit = b.norm(dim=0) / problem.damping
    batch_size, num_steps = solver.batch_size, solver.num_steps  # type: ignore[attr-defined]
    recorded = set(recorded_steps(num_steps))
    state = solver.prepare(problem, generator)
    before = work.passes
    rows: list[Row] = []
    beyond: int | None = None
    for step, iterate in enumerate(solver.iterates(problem, state, b, generator), 1):
        times = float((iterate.x.norm(dim=0) / limit).max())
        beyond = (beyond or step) if not times <= WORSE_THAN_NOTHING else None
        gone = not times <= RUNAWAY
        if step in recorded or gone:
            rows.append(
                {
                    "trial": trial,
                    "step": step,
                    "epochs": step * batch_size / operator.num_examples,
                    "work": work.equivalents(work.passes - before),
                    **_correlation(prepared, iterate.x),
                    "error": number(worst(problem.error(iterate.x))),
                }
            )
        if gone:
            break
    ended = {"diverged": float(beyond is not None), "diverged_at": NAN if beyond is None else float(beyond)}
    return [row | ended for row in rows]


def _solved(prepared: Prepared, solver: Solver, setup_work: float, seed: int, on_progress: OnProgress) -> Row:
    """Where a solver ends whose settings were chosen for it: one row, with what the choice took."""
    problem = prepared.problem

    def show(record: Record) -> None:
        on_progress(f"step {record.step}", 0)

    solution = solvers.solve(problem, solver, seed=seed, on_record=show)
    work = setup_work + solution.setup_work + solution.work
    x = solution.x
    ended = {"correlation": NAN, "least_correlation": NAN} if x is None else _correlation(prepared, x)
    return {
        "trial": 0,
        "step": solution.steps,
        # What was spent, set-up and pilot included, as if all of it were products with all queries.
        "epochs": work * 3 / (1 + 4 * problem.num_columns),
        "work": work,
        **ended,
        **_chosen(solution, solver, problem),
        "error": number(worst(solution.error)),
        "diverged": float(solution.status == Status.DIVERGED),
        "diverged_at": NAN,
        "status": str(solution.status),
        "reason": solution.reason,
    }


def _chosen(solution: Solution, solver: Solver, problem: Problem) -> Row:
    """Step and batch size, as chosen; the full data's where it iterates on all of them."""
    settings = {name: getattr(solver, name) for name in ("step_size", "batch_size")}
    chosen = {name: solution.diagnostics.get(name, value) for name, value in settings.items()}
    batch = chosen["batch_size"]
    return {
        "chosen_step_size": number(chosen["step_size"]),
        "batch_size": problem.operator.num_examples if batch == "full" else number(batch),
        "full_data": float(batch == "full"),
        "why": str(solution.diagnostics.get("why", "")),
    }
