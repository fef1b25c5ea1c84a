"""Where does LiSSA converge? Its measured error over step sizes × batch sizes, beside theory's boundaries."""

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
from bench.experiments._bias import bias, error_of_start
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import DenseOperator, Problem
from problems.spectrum.smoothness import noise_constant, second_moment_constant
from problems.validation import check_counts
from reports.phase import build_phase
from solvers import Solution, theory
from solvers.solution import worst

# LOBPCG to this residual: L_b and R then hold to four digits, as far as a lower bound can be known to.
TOLERANCE, MAX_STEPS = 1e-3, 100
# Multiplications of one map of an error covariance, n·p³, up to which the exact threshold η* is computed.
LARGEST_MAP = 10**8
FINEST, COARSEST = 1 / 32, 4.0


@dataclass(frozen=True)
class Prepared:
    """What theory needs to know of a problem."""

    largest: float
    noise_constant: float
    second_moments: Mapping[int, float]  # L_b by batch size b
    thresholds: Mapping[int, float]  # η* by batch size, NaN where out of reach
    noises: Mapping[int, Tensor]  # Δ̃ = u*ᵀ(E H̃² − H²)u*, (k,), by batch size
    start: Tensor  # ‖b/λ − u*‖, (k,)


@dataclass(frozen=True)
class Phase(Study):
    """LiSSA from b/λ at every step size × batch size, for the same ηλT, against what theory predicts.

    Step sizes go from 1/32 to 4 of 1/(λ_max + λ) in factors of 2^(1/`steps_per_octave`). T = `time`/(ηλ), at
    most `max_steps`.
    """

    title: ClassVar[str] = "Where does LiSSA converge?"
    description: ClassVar[str] = (
        "LiSSA's measured error over step sizes η and batch sizes b, with theory's boundaries drawn over it."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(
            (
                "quadratic:dimension=32,damping=0.05",
                "quadratic:dimension=32,damping=0.05,traces=heavy_tailed",
                "image_classifier:width=8,damping=0.3",
            ),
            seeds=3,
        ),
    }

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    steps_per_octave: int = 2
    time: float = 3.0
    max_steps: int = 4000

    def __post_init__(self) -> None:
        check_counts(steps_per_octave=self.steps_per_octave, max_steps=self.max_steps)
        if not self.batch_sizes:
            raise ValueError("batch_sizes is empty; name at least one mini-batch size")
        for batch_size in self.batch_sizes:
            check_counts(batch_sizes=batch_size)
        if not 0 < self.time < math.inf:
            raise ValueError(f"time is {self.time}; ηλT must be a finite number > 0")

    @property
    def step_fractions(self) -> list[float]:
        """η(λ_max + λ) of each row of the grid, ascending."""
        octaves = round(math.log2(COARSEST / FINEST))
        return [
            FINEST * 2 ** (index / self.steps_per_octave)
            for index in range(octaves * self.steps_per_octave + 1)
        ]

    def pieces(self) -> Sequence[Piece]:
        return [{"batch_size": batch_size} for batch_size in self.batch_sizes]

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Prepared:
        reference, operator = problem.reference, problem.operator.to(torch.float64)
        if reference is None:
            raise ValueError(
                f"p = {problem.size} is out of reach of the dense reference that errors are measured by: "
                "choose a smaller problem"
            )
        if not operator.has_examples:
            raise ValueError(
                "H offers no curvature of single examples, from which theory predicts; choose another"
            )
        eigenvalues = problem.ground_truth.eigen[0]
        on_progress("R", 0)
        generator = torch.Generator().manual_seed(0)
        constant = noise_constant(
            operator, problem.damping, generator, tolerance=TOLERANCE, max_steps=MAX_STEPS
        )
        moments, thresholds, noises = {}, {}, {}
        once = (operator @ reference).square().sum(dim=0)
        for index, batch in enumerate(self.batch_sizes):
            on_progress(f"L_b and η* at b = {batch}", (index + 1) / (len(self.batch_sizes) + 1))
            found = second_moment_constant(
                operator, problem.damping, batch, generator, tolerance=TOLERANCE, max_steps=MAX_STEPS
            )
            moments[batch] = found.value.value
            thresholds[batch] = _threshold(problem, batch)
            single = operator.single_draws(batch, generator)
            square = (reference * single.mean_square(reference)).sum(dim=0)
            noises[batch] = (square - once).clamp_min(0) / operator.draws_in(batch)
        return Prepared(
            float(eigenvalues[-1]),
            constant.value.value,
            moments,
            thresholds,
            noises,
            error_of_start(problem).norm(dim=0),
        )

    def measure(
        self, problem: Problem, prepared: Prepared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        rows = []
        for index, fraction in enumerate(self.step_fractions):
            on_progress(f"η(λ_max + λ) = {fraction:.3g}", index / len(self.step_fractions))
            step = fraction / (prepared.largest + problem.damping)
            num_steps = min(self.max_steps, math.ceil(self.time / (step * problem.damping)))
            lissa = solvers.load(
                "lissa", step_size=step, num_steps=num_steps, batch_size=piece["batch_size"], start="rhs"
            )
            solution = solvers.solve(problem, lissa, seed=seed)
            row = {
                "step_fraction": fraction,
                "step_size": step,
                "num_steps": num_steps,
                "asked_time": self.time,
            }
            row |= _predicted(problem, prepared, piece["batch_size"], step, num_steps)
            rows.append(row | _measured(problem, prepared, solution, {**row, **piece}))
        return rows

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_phase(rows, run, directory)


def _threshold(problem: Problem, batch_size: int) -> float:
    operator = problem.operator
    if not isinstance(operator, DenseOperator) or operator.num_examples * problem.size**3 > LARGEST_MAP:
        return math.nan
    return theory.mean_square_threshold(operator.per_example.double().cpu(), problem.damping, batch_size)


def _predicted(problem: Problem, prepared: Prepared, batch: int, step: float, num_steps: int) -> Row:
    """What theory says of η, b and T before the solve; relative to ‖u*‖, of the worst column."""
    assert problem.reference is not None
    moment, damping, operator = prepared.second_moments[batch], problem.damping, problem.operator
    tokens = operator.num_examples / operator.num_draws
    floors, errors = [], []
    for noise, start, length in zip(
        prepared.noises[batch].tolist(),
        prepared.start.tolist(),
        problem.reference.norm(dim=0).tolist(),
        strict=True,
    ):
        bound = theory.MeanSquare(step, damping, moment, noise)
        floors.append(bound.floor / length)
        errors.append(bound.error(start, num_steps) / length)
    return {
        "time": step * damping * num_steps,
        "largest": prepared.largest,
        "second_moment": moment,
        "noise_constant": prepared.noise_constant,
        "unit": operator.unit,
        "units_per_draw": tokens,
        "sufficient_batch": tokens
        * theory.batch_for_full_step(prepared.largest, damping, prepared.noise_constant),
        "threshold": prepared.thresholds[batch],
        "mean_limit": theory.largest_mean_step(prepared.largest, damping),
        "predicted_floor": max(floors),
        "predicted_error": max(errors),
    }


def _measured(problem: Problem, prepared: Prepared, solution: Solution, row: Row) -> Row:
    """The worst column's error, and what of it is noise: u_T − E u_T, with E u_T from the eigendecomposition.

    `noise_over_small_step_floor` divides each column's noise by √(ηΔ̃/2λ), theory's floor for η → 0, and is
    the root mean square over the columns.
    """
    reference = problem.reference
    assert reference is not None
    lengths = reference.norm(dim=0)
    start_error = float((prepared.start / lengths).max())
    step, num_steps = row["step_size"], row["num_steps"]
    left = bias(problem, step, num_steps)
    error, noise, collapsed = worst(solution.error), math.inf, math.inf
    if solution.x is not None and solution.steps == num_steps and bool(torch.isfinite(solution.x).all()):
        lost = (solution.x.double() - reference - left).norm(dim=0)
        noise = float((lost / lengths).max())
        floor = (step * prepared.noises[row["batch_size"]] / (2 * problem.damping)).sqrt()
        # No noise to be compared with a floor of 0.
        collapsed = float((lost / floor).square().mean().sqrt()) if bool((floor > 0).all()) else math.nan
    return {
        "status": str(solution.status),
        "error": math.inf if error is None or not math.isfinite(error) else error,
        "start_error": start_error,
        "bias": float((left.norm(dim=0) / lengths).max()),
        "noise": noise,
        "noise_over_small_step_floor": collapsed,
        "solve_work": solution.work,
        "solve_seconds": solution.solve_seconds,
    }
