"""Which settings do theory's rules give, and what comes of them?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch

import solvers
from bench.experiments._batches import parts_of
from bench.experiments._bias import MeanError, krylov_bytes
from bench.experiments._budget import (
    KRYLOV_STEPS,
    LANCZOS_PRODUCTS,
    check_budget,
    papers_rule_work,
    pencil_work,
    product_work,
    reference_work,
    spectrum_work,
)
from bench.experiments._numbers import NAN, number
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem
from problems.footprint import Footprint
from problems.scaling import relative_norms
from problems.spectrum import Spectrum, measure
from problems.spectrum.smoothness import second_moment_constant
from reports.settings import build_settings
from solvers import Record, Solution, theory
from solvers.certify import certify
from solvers.measured import sample_of
from solvers.solution import worst

RULES = ("paper", "sharp")
# What LiSSA reports of the settings it chose, numbers apart from `rule`, `batch_size` and `why`.
NUMBERS = (
    "step_size", "num_steps", "chains", "largest_eigenvalue", "trace", "noise_constant", "second_moment",
    "sufficient_batch", "predicted_error", "predicted_bias", "predicted_noise", "predicted_epochs",
    "full_data_epochs", "estimated_error", "pilot_work", "back_offs",
)  # fmt: skip


# LOBPCG for L_b of a problem too large for a dense reference: one vector, and as many steps as it takes to
# know L_b to some per cent.
OF_LARGE: Mapping[str, Any] = {"width": 1, "tolerance": 2e-2, "max_steps": 6}
# Steps that it takes of a small one, as a rule.
OF_SMALL_STEPS = 10
# What the rules' solves take as a rule: the paper's in gradient equivalents, the sharp one's, with its pilot,
# in products with all columns.
PAPERS_RUN, SHARP_PRODUCTS = 20.0, 40


@dataclass(frozen=True)
class Prepared:
    """The measured spectrum, and the problem with a reference."""

    spectrum: Spectrum
    problem: Problem


@dataclass(frozen=True)
class Settings(Study):
    """LiSSA's η, b and T by the rule of Klochkov & Liu (2024) and by the sharp one, and what they end at.

    `target` is the relative error that both rules are asked for; `budget` gradient equivalents go into the
    spectrum that is shown beside, and up to `reference_work` into the reference of a problem too large for a
    dense one, where 0 is none.
    """

    title: ClassVar[str] = "Which settings, and do they work?"
    description: ClassVar[str] = (
        "LiSSA's step size, batch size and number of steps by the paper's rule and by the sharp one, from "
        "measured spectra, with the errors that each ends at."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(
            (
                "quadratic",
                "quadratic:traces=heavy_tailed",
                "softmax_regression",
                "image_classifier",
                "image_classifier:damping=0.2",
                "image_classifier:damping=200",
            ),
            seeds=3,
        ),
        "small": Scale(
            (
                "resnet18:curvature_size=150,num_queries=1",
                "resnet50:curvature_size=150,num_queries=1",
                "opt-small:training_size=24,num_queries=1",
                "smollm2-135m:training_size=3,num_queries=1",
            ),
            dtype="float32",
            parameters={"budget": 60.0, "reference_work": 150.0},
        ),
        "paper": Scale(
            (
                "resnet18:width=64,curvature_size=1000,num_queries=1",
                "resnet50:width=64,data=cifar10,curvature_size=500,num_queries=1",
                "smollm2-135m:parameters=no_embeddings_no_norms,context=128,training_size=32,num_queries=1,"
                "damping=5",
            ),
            dtype="float32",
            parameters={"budget": 100.0, "reference_work": 200.0},
        ),
    }

    target: float = 0.05
    budget: float = 200.0
    reference_work: float = 300.0

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if not 0 < self.target < 1:
            raise ValueError(f"target is {self.target}; a relative error between 0 and 1 is needed")
        if not self.reference_work >= 0:
            raise ValueError(f"reference_work is {self.reference_work}; gradient equivalents ≥ 0 are needed")

    def pieces(self) -> Sequence[Piece]:
        return [{"rule": rule} for rule in RULES]

    def expected_work(self, problem: Problem) -> float:
        columns, operator = problem.num_columns, problem.operator
        papers = papers_rule_work(problem) + PAPERS_RUN
        if operator.has_examples:
            width, steps = (3, OF_SMALL_STEPS) if problem.is_dense else (1, OF_LARGE["max_steps"])
            papers += pencil_work(problem, 5, width, steps)
        if not problem.is_dense:
            papers += KRYLOV_STEPS * columns * product_work(problem)
        sharp = 2 * LANCZOS_PRODUCTS * product_work(problem) + SHARP_PRODUCTS * product_work(problem, columns)
        reference = reference_work(problem, self.reference_work)
        return spectrum_work(problem, self.budget) + reference + papers + sharp

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Prepared:
        def show(step: int, error: float) -> None:
            on_progress(f"reference by CG, step {step}, error ≤ {error:.1e}", 0)

        spectrum = measure(
            problem.operator, budget=self.budget, damping=problem.damping, on_progress=on_progress
        )
        if self.reference_work:
            problem = certify(problem, max_work=self.reference_work, on_step=show)
        return Prepared(spectrum, problem)

    def measure(
        self, problem: Problem, prepared: Prepared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        problem = prepared.problem

        def show(record: Record) -> None:
            on_progress(f"step {record.step}", 0)

        solver = solvers.load("lissa", rule=piece["rule"], target=self.target)
        solution = solvers.solve(problem, solver, seed=seed, on_record=show)
        row = {
            "target": self.target,
            **_spectrum(prepared.spectrum),
            **_outcome(solution),
            **_chosen(solution, problem),
            "reference_error": number(problem.reference_error),
        }
        return [row | (_decomposition(problem, solution, row) if piece["rule"] == "paper" else {})]

    def host_bytes(self, size: Footprint, dtype: torch.dtype) -> float:
        return krylov_bytes(size, dtype)

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_settings(rows, run, directory)


def _spectrum(spectrum: Spectrum) -> Row:
    unequal, constant = spectrum.heterogeneity, spectrum.noise_constant
    return {
        "measured_largest": spectrum.extremes.largest.value,
        "measured_trace": spectrum.trace.value,
        "measured_trace_error": spectrum.trace.standard_error,
        "measured_heterogeneity": unequal.ratio.value if unequal else NAN,
        "measured_heterogeneity_error": unequal.ratio.standard_error if unequal else NAN,
        "measured_noise_constant": constant.value.value if constant else NAN,
        "unit": spectrum.unit,
        "units_per_draw": spectrum.units_per_draw,
    }


def _outcome(solution: Solution) -> Row:
    return {
        "status": str(solution.status),
        "reason": solution.reason,
        "error": number(worst(solution.error)),
        "residual": number(worst(solution.residual)),
        "steps": solution.steps,
        "total_work": solution.setup_work + solution.work,
        "setup_work": solution.setup_work,
        "total_seconds": solution.setup_seconds + solution.solve_seconds,
        "diagnostics": json.dumps(dict(solution.diagnostics), default=str),
    }


def _chosen(solution: Solution, problem: Problem) -> Row:
    told = solution.diagnostics
    batch = told.get("batch_size")
    return {
        **{name: number(told.get(name)) for name in NUMBERS},
        "batch_size": problem.operator.num_examples if batch == "full" else number(batch),
        "full_data": batch == "full",
        "why": str(told.get("why", "")),
    }


def _decomposition(problem: Problem, solution: Solution, row: Row) -> Row:
    """The error at η, b, T in its parts: what is left of the start, and what sampling added.

    ‖E u_T − u*‖ = ‖(I − η(H + λ))ᵀ (b/λ − u*)‖; noise is u_T − E u_T.
    """
    step, batch, steps = row["step_size"], row["batch_size"], row["num_steps"]
    reference = problem.reference
    if reference is None or not step > 0 or not steps > 0:
        return {}
    b = problem.columns().double()
    left = MeanError(problem).after(step, int(steps))
    found: Row = {
        "bias_bound": theory.bias_from_rhs(step, problem.damping, int(steps)),
        # The smallest ‖u*‖ relative to ‖b‖/λ: what makes a small bias of the one a large one of the other.
        "solution_share": float((problem.damping * reference.norm(dim=0) / b.norm(dim=0)).min()),
        "bias": worst(relative_norms(left, reference)),
        "bias_from_rhs": worst(relative_norms(left, b / problem.damping)),
    }
    if solution.x is not None and solution.steps == steps:
        found["noise"] = worst(relative_norms(solution.x.double() - reference - left, reference))
    if problem.operator.has_examples and not row["full_data"]:
        generator = torch.Generator().manual_seed(0)
        operator = sample_of(problem.operator, generator)
        limits: Mapping[str, Any] = {} if problem.is_dense else OF_LARGE
        parts = parts_of(problem, int(batch))
        sharp = second_moment_constant(
            operator, problem.damping, int(batch), generator, parts=parts, **limits
        )
        found["half_step_second_moment"] = step * sharp.value.value / 2
    elif row["full_data"] and problem.is_dense:
        found["half_step_second_moment"] = (
            step * (float(problem.ground_truth.eigen[0][-1]) + problem.damping) / 2
        )
    return {name: number(value) for name, value in found.items()}
