"""Which solver's influence is right? Each against the exact one, PBRF, leave-one-out and subsets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

import solvers
from bench.experiments._budget import product_work, reference_work
from bench.experiments._numbers import NAN, number
from bench.experiments._solver import solver_of
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem, ProblemFamily
from problems.agreement import (
    Agreement,
    over_columns,
    pearson_resampled,
    spearman_resampled,
    top_overlap_resampled,
)
from problems.datamodels import (
    FEWEST_SUBSETS,
    SubsetLosses,
    check_subsets,
    linear_datamodelling_score,
    random_subsets,
    reliability,
    subset_losses,
)
from problems.image_classifier import ImageClassifier
from problems.influence import influence_scores
from problems.language_model import LanguageModel
from problems.leave_one_out import leave_one_out
from problems.pbrf import Response, extrapolated, responses
from problems.quadratic import Quadratic
from problems.retraining import OnTrained, Start, retraining_of
from problems.softmax_regression import SoftmaxRegression
from problems.validation import check_counts, unknown
from reports.truth import build_truth
from solvers import Record, Solution
from solvers.certify import certify
from solvers.solution import worst

TRUTHS = ("exact", "pbrf", "loo", "lds")
# What is trained again begins so.
STARTS: Mapping[str, Start] = {"loo": "warm", "lds": "cold"}
# Fewer examples have no rank correlation worth the name.
FEWEST = 5
# Steps and products with H of one Newton's method, and of one response, as measured on the digits.
NEWTON_WORK, RESPONSE_WORK = 200.0, 150.0
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """A truth about the training `examples` (m,) and all queries, in influence's sign: (m, q).

    `asked` examples were asked for; those whose training did not converge are left out. `off` is the
    root mean square of the errors that are known, relative to that of the values; of the exact scores the
    relative error of x at most.
    """

    examples: Tensor
    values: Tensor
    asked: int
    seconds: float
    off: float = NAN


@dataclass(frozen=True, eq=False)
class Prepared:
    """The problem with a reference, and the truths; what could not be had says why in `missing`."""

    problem: Problem
    scores: Mapping[str, Scores]
    losses: SubsetLosses | None
    ceiling: Agreement
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Truth(Study):
    """Influences by each of `solvers` against what they stand for, and what they cost.

    Truths: "exact", the scores of the reference, of all training examples; "pbrf", proximal Bregman responses
    of `num_responses` examples, from ε = ±1/N and half of it to ε → 0; "loo", warm leave-one-out retraining
    of `num_left_out` examples; "lds", `num_subsets` random subsets of a `share` of the examples, each trained
    on `num_seeds` times from a fresh initialisation. Examples lie evenly over the training set. A response's
    gradient ends at `response_tolerance` times its first length, at `large_response_tolerance` of models
    beyond `most_parameters`, on whose kinks it jumps by up to a hundredth. Leave-one-out, to an optimum, and
    responses are for models of at most `most_parameters` and `most_response_parameters`.

    `top` of the most helpful examples are compared, of few examples a quarter at most. `workers` processes
    train at once, by default as many as torch has threads. A solver ends after `max_work` gradient
    equivalents.
    """

    title: ClassVar[str] = "Which solver’s influence is right?"
    description: ClassVar[str] = (
        "Influences by each solver against those of the exact solution, proximal Bregman responses, "
        "leave-one-out retraining and models trained on random subsets, and what each costs."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(
            (
                "softmax_regression:training_size=200,num_queries=8,pooling=2",
                "image_classifier:training_size=200,num_queries=8,width=6,epochs=120,damping=0.1",
            ),
            parameters={"num_subsets": 16, "num_left_out": 16, "num_responses": 12, "max_work": 2000.0},
        ),
        "small": Scale(
            (
                "softmax_regression:num_queries=20",
                "image_classifier:num_queries=20,damping=0.01",
                "image_classifier:num_queries=20,damping=0.1",
                "resnet18:data=digits,width=4,training_size=500,curvature_size=500,epochs=20,num_queries=10,"
                "damping=0.1",
            ),
            dtype="float32",
            parameters={
                "num_subsets": 50,
                "num_seeds": 2,
                "num_left_out": 50,
                "num_responses": 15,
                "max_work": 20_000.0,
            },
        ),
        "paper": Scale(
            (
                "resnet18:width=64,training_size=2000,curvature_size=2000,num_queries=10,damping=0.1",
                "resnet18:width=64,training_size=2000,curvature_size=2000,num_queries=10,damping=5",
            ),
            dtype="float32",
            parameters={
                "num_subsets": 24,
                "num_responses": 8,
                "most_response_parameters": 10**8,
                "max_work": 1000.0,
            },
        ),
    }

    solvers: tuple[str, ...] = (
        "cg:tolerance=1e-5",
        "auto",
        "lissa",
        "lissa:preconditioner=ekfac",
        "ekfac",
        "kfac",
        "nystrom",
        "datainf",
        "identity",
    )
    truths: tuple[str, ...] = TRUTHS
    num_responses: int = 25
    response_tolerance: float = 1e-4
    large_response_tolerance: float = 1e-2
    num_left_out: int = 25
    num_subsets: int = 60
    share: float = 0.5
    num_seeds: int = 1
    top: int = 10
    most_parameters: int = 5000
    most_response_parameters: int = 50_000
    max_work: float = 5000.0
    resamples: int = 400
    workers: int | None = None

    def __post_init__(self) -> None:
        for kind, names in (("solvers", self.solvers), ("truths", self.truths)):
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{kind} is {list(names)}; name at least one, and each once")
        for text in self.solvers:
            solver_of(text)
        for name in self.truths:
            if name not in TRUTHS:
                raise ValueError(unknown("truth", name, TRUTHS))
        for name, value in (("num_responses", self.num_responses), ("num_left_out", self.num_left_out)):
            if value < FEWEST:
                raise ValueError(f"{name} is {value}; a correlation over fewer than {FEWEST} says nothing")
        check_subsets(self.num_subsets, self.share)
        check_counts(
            num_seeds=self.num_seeds, top=self.top, workers=1 if self.workers is None else self.workers
        )
        if self.resamples < 100:
            raise ValueError(f"resamples is {self.resamples}; an interval of 95 % takes at least 100")
        for name in ("response_tolerance", "large_response_tolerance"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1, as 1e-4")
        if not self.max_work > 0:
            raise ValueError(f"max_work is {self.max_work}; it must be > 0 gradient equivalents")

    def pieces(self) -> Sequence[Piece]:
        return [{"solver": text} for text in self.solvers]

    def ask(self, family: ProblemFamily) -> ProblemFamily:
        """As is; ValueError for what is known to have no training examples, or no way to train again."""
        if isinstance(family, Quadratic):
            raise ValueError(f"{family} is a bare matrix without training examples: choose a model")
        again = [truth for truth in self.truths if truth in ("loo", "lds")]
        if again and isinstance(family, LanguageModel):
            raise ValueError(
                f"{family} cannot be trained again, which {' and '.join(again)} need: leave them out, as in "
                'truth:truths=["exact","pbrf"]'
            )
        if again and isinstance(family, ImageClassifier):
            count = family.num_trained
            if (family.curvature_size or count) != count:
                raise ValueError(
                    f"{family} was trained on {count} examples, and H is of {family.curvature_size}; of the "
                    f"others there are no scores: set curvature_size=null, or training_size="
                    f"{family.curvature_size}"
                )
            if "lds" in again and family.weights is not None:
                raise ValueError(
                    f"{family} reads its weights from a file, and by what recipe they were trained is not "
                    "known: leave lds out of truths"
                )
        self._check_examples(family)
        return family

    def _check_examples(self, family: ProblemFamily) -> None:
        """ValueError for more examples than there are, and subsets that hold none or all."""
        if isinstance(family, ImageClassifier):
            count = family.curvature_size or family.num_trained
        elif isinstance(family, SoftmaxRegression):
            count = family.training_size
        else:
            return
        for truth, name in (("pbrf", "num_responses"), ("loo", "num_left_out")):
            if truth in self.truths and getattr(self, name) > count:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; {family} has {count} training examples: lower it"
                )
        if "lds" in self.truths:
            random_subsets(count, FEWEST_SUBSETS, share=self.share)

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Prepared:
        _check(problem, self.truths)
        ways: dict[str, Callable[[Problem, OnProgress], Scores]] = {
            "exact": self._exact,
            "pbrf": self._responses,
            "loo": self._left_out,
        }
        on_progress("reference", 0)
        began = time.perf_counter()
        judged = certify(problem, on_step=lambda step, error: on_progress(f"reference, step {step}", 0))
        certified = time.perf_counter() - began
        found: dict[str, Scores] = {}
        missing: dict[str, str] = {}
        for name, way in ways.items():
            if name in self.truths:
                try:
                    found[name] = way(judged, on_progress)
                except (_TooMuch, ArithmeticError) as error:
                    missing[name] = str(error)
        if "exact" in found:
            exact = found["exact"]
            found["exact"] = replace(exact, seconds=exact.seconds + certified)
        losses, ceiling = None, Agreement(NAN, NAN, NAN)
        if "lds" in self.truths:
            losses = self._subsets(problem, on_progress)
            if retraining_of(judged).is_seeded(STARTS["lds"]):
                half = reliability(losses, resamples=self.resamples)
                ceiling = half.score if half else ceiling
            else:
                ceiling = Agreement(1.0, 1.0, 1.0)
        return Prepared(judged, found, losses, ceiling, missing)

    def measure(
        self, problem: Problem, prepared: Prepared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        def show(record: Record) -> None:
            on_progress(f"step {record.step}", min(record.work / self.max_work, 0.9))

        solution = solvers.solve(
            prepared.problem, solver_of(piece["solver"]), seed=seed, max_work=self.max_work, on_record=show
        )
        common = {
            "status": str(solution.status),
            "reason": solution.reason,
            "error": number(worst(solution.error)),
            "residual": number(worst(solution.residual)),
            "total_work": solution.setup_work + solution.work,
            "total_seconds": solution.setup_seconds + solution.solve_seconds,
        }
        on_progress("scores of the training examples", 0.9)
        return [common | row for row in self._judge(prepared, solution)]

    def expected_work(self, problem: Problem) -> float | None:
        """At most: each solver that has no other end spends `max_work`, and nothing is kept from before."""
        if problem.task is None or problem.retraining is None:
            return None
        size = problem.size
        epochs = _epochs(problem)
        work = reference_work(problem)
        for text in self.solvers:
            iterates = solver_of(text).promised_tolerance is not None or text.startswith("lissa")
            work += self.max_work / 2 if iterates else 20 * product_work(problem)
        if "pbrf" in self.truths and size <= self.most_response_parameters:
            work += self.num_responses * RESPONSE_WORK
        if "loo" in self.truths and size <= self.most_parameters:
            work += self.num_left_out * NEWTON_WORK
        if "lds" in self.truths:
            work += self.num_subsets * self.num_seeds * self.share * epochs
        return work

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_truth(rows, run, directory)

    def _judge(self, prepared: Prepared, solution: Solution) -> list[Row]:
        """A row for each truth and measure, without a value where there is no answer, or no such truth."""
        estimate = None
        if solution.usable:
            task = prepared.problem.task
            assert task is not None
            assert solution.x is not None
            estimate = influence_scores(task, solution.x).double().cpu()
        rows = []
        for truth in self.truths:
            known = {"truth": truth, "missing": prepared.missing.get(truth, "")}
            if truth == "lds":
                rows.append(known | self._lds(prepared, estimate))
                continue
            scores = prepared.scores.get(truth)
            rows += [known | row for row in self._agreements(scores, estimate)]
        return rows

    def _agreements(self, truth: Scores | None, estimate: Tensor | None) -> list[Row]:
        names = ("pearson", "spearman", "top")
        if truth is None:
            return [_unknown(name) for name in names]
        count = len(truth.examples)
        top = max(1, min(self.top, count // 4))
        about = {
            "compared": count,
            "asked": truth.asked,
            "off": truth.off,
            "truth_seconds": truth.seconds,
            "top": top,
        }
        if estimate is None:
            return [_unknown(name) | about for name in names]
        # Most helpful is what has the most negative influence.
        found, wanted = -estimate[truth.examples], -truth.values
        drawn = {
            "pearson": pearson_resampled(found, wanted, resamples=self.resamples),
            "spearman": spearman_resampled(found, wanted, resamples=self.resamples),
            "top": top_overlap_resampled(found, wanted, top, resamples=self.resamples),
        }
        return [_unknown(name) | about | _told(*over_columns(*drawn[name])) for name in names]

    def _lds(self, prepared: Prepared, estimate: Tensor | None) -> Row:
        truth = prepared.losses
        assert truth is not None
        about = {
            "compared": len(truth.subsets),
            "asked": len(truth.subsets),
            "truth_seconds": truth.seconds,
            "ceiling": prepared.ceiling.value,
            "ceiling_low": prepared.ceiling.low,
            "ceiling_high": prepared.ceiling.high,
        }
        if estimate is None:
            return _unknown("lds") | about
        found = linear_datamodelling_score(estimate, truth, resamples=self.resamples)
        return _unknown("lds") | about | _told(found.score, found.drawn)

    def _exact(self, problem: Problem, on_progress: OnProgress) -> Scores:
        began = time.perf_counter()
        if problem.reference is None:
            raise _TooMuch(
                f"no reference is certain at λ = {problem.damping:g} and {problem.operator.dtype}: raise the "
                "damping, or take float64"
            )
        task = problem.task
        assert task is not None
        on_progress("exact scores", 0)
        x = problem.reference.to(problem.operator.device, problem.operator.dtype)
        values = influence_scores(task, x).double().cpu()
        assert problem.reference_error is not None
        everything = torch.arange(len(values))
        return Scores(everything, values, len(values), time.perf_counter() - began, problem.reference_error)

    def _responses(self, problem: Problem, on_progress: OnProgress) -> Scores:
        if problem.size > self.most_response_parameters:
            raise _TooMuch(
                f"p = {problem.size} is more than most_response_parameters = {self.most_response_parameters}"
            )
        examples = _evenly(problem, self.num_responses)
        weight = 1 / problem.operator.num_examples
        sizes = (weight, -weight, weight / 2, -weight / 2)
        large = problem.size > self.most_parameters
        tolerance = self.large_response_tolerance if large else self.response_tolerance
        found = responses(problem, examples, sizes, tolerance=tolerance, on_progress=on_progress)
        by_example = {int(m): [each for each in found if each.example == int(m)] for m in examples}
        kept = [m for m, own in by_example.items() if all(each.converged for each in own)]
        if len(kept) < FEWEST:
            raise _TooMuch(f"{len(kept)} of {len(examples)} responses converged: {_why(found)}")
        limits = [extrapolated(by_example[m]) for m in kept]
        values = torch.stack([each.values for each in limits]).double().cpu()
        errors = torch.stack([each.errors for each in limits]).double().cpu()
        return Scores(
            torch.tensor(kept),
            values,
            len(examples),
            sum(each.seconds for each in found),
            float(errors.square().mean().sqrt() / values.square().mean().sqrt()),
        )

    def _left_out(self, problem: Problem, on_progress: OnProgress) -> Scores:
        if problem.size > self.most_parameters:
            raise _TooMuch(f"p = {problem.size} is more than most_parameters = {self.most_parameters}")
        examples = _evenly(problem, self.num_left_out)
        found = leave_one_out(
            problem, examples, workers=self.workers, on_trained=_shower("left out", on_progress)
        )
        sure = found.converged[0]
        if int(sure.sum()) < FEWEST:
            raise _TooMuch(f"{int(sure.sum())} of {len(examples)} trainings without one reached an optimum")
        # −N times the change, which is what influence stands for.
        values = -found.changes[0] * problem.operator.num_examples
        return Scores(found.examples[sure], values[sure], len(examples), found.seconds)

    def _subsets(self, problem: Problem, on_progress: OnProgress) -> SubsetLosses:
        subsets = random_subsets(retraining_of(problem).count, self.num_subsets, share=self.share)
        seeds = tuple(range(self.num_seeds))
        shower = _shower("models of subsets", on_progress)
        return subset_losses(problem, subsets, seeds=seeds, workers=self.workers, on_trained=shower)


class _TooMuch(ValueError):
    """A truth that cannot be had."""


def _check(problem: Problem, truths: Sequence[str]) -> None:
    """ValueError where nothing can be asked of the problem."""
    if problem.task is None:
        raise ValueError(f"{problem.name} is a bare matrix without training examples: choose a model")
    for truth, start in STARTS.items():
        if truth in truths:
            retraining_of(problem).check(start)


def _evenly(problem: Problem, count: int) -> Tensor:
    """Training examples that lie evenly over all; ValueError for more than there are."""
    available = problem.operator.num_examples
    if count > available:
        raise ValueError(
            f"{count} training examples are asked for; {problem.name} has {available}: lower num_responses "
            "or num_left_out"
        )
    return torch.arange(count) * available // count


def _epochs(problem: Problem) -> float:
    """Gradients over all data that a training takes; of one to an optimum Newton's products."""
    family = getattr(problem.retraining, "family", None)
    return float(family.recipe.training.epochs) if family is not None else NEWTON_WORK


def _shower(what: str, on_progress: OnProgress) -> OnTrained:
    return lambda done, total: on_progress(f"{what}: {done} of {total}", done / total)


def _why(found: Sequence[Response]) -> str:
    return next((each.reason for each in found if not each.converged), "")


def _unknown(metric: str) -> Row:
    names = (
        "value", "low", "high", "compared", "asked", "off", "top", "truth_seconds", "ceiling", "ceiling_low",
        "ceiling_high",
    )  # fmt: skip
    return {"metric": metric, **dict.fromkeys(names, NAN), "drawn": ""}


def _told(found: Agreement, drawn: Array) -> Row:
    """The resamples are kept too, in ten-thousandths: those of two solvers are paired."""
    kept = [round(10_000 * float(value)) for value in drawn] if np.isfinite(drawn).all() else []
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "drawn": json.dumps(kept, separators=(",", ":")) if kept else "",
    }
