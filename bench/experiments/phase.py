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
from bench.experiments._batches import check_batch_sizes, parts_of, units
from bench.experiments._bias import MeanError, error_of_start, krylov_bytes
from bench.experiments._budget import (
    KRYLOV_STEPS,
    LANCZOS_PRODUCTS,
    pencil_work,
    product_work,
    reference_work,
)
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import DenseOperator, Problem
from problems.footprint import Footprint
from problems.spectrum.lanczos import extreme_eigenvalues
from problems.spectrum.smoothness import noise_constant, second_moment_constant
from problems.validation import check_counts
from reports.phase import build_phase
from solvers import Solution, theory
from solvers.certify import certify
from solvers.solution import worst

# LOBPCG to this residual: L_b and R then hold to four digits, as far as a lower bound can be known to.
OF_SMALL: Mapping[str, Any] = {"tolerance": 1e-3, "max_steps": 100}
# Steps that it takes as a rule.
OF_SMALL_STEPS = 12
# Of a problem too large for a dense reference one vector and few steps, which tell some per cent.
OF_LARGE: Mapping[str, Any] = {"width": 1, "tolerance": 2e-2, "max_steps": 6}
LARGEST_EIGENVALUE: Mapping[str, Any] = {"tolerance": 1e-2, "max_products": 20}
# Multiplications of one map of an error covariance, n·p³, up to which the exact threshold η* is computed.
LARGEST_MAP = 10**8
COARSEST = 4.0


@dataclass(frozen=True)
class Prepared:
    """What theory needs to know of a problem, which has a reference."""

    problem: Problem
    mean_error: MeanError
    largest: float
    noise_constant: float
    second_moments: Mapping[int, float]  # L_b by batch size b
    thresholds: Mapping[int, float]  # η* by batch size, NaN where out of reach
    noises: Mapping[int, Tensor]  # Δ̃ = u*ᵀ(E H̃² − H²)u*, (k,), by batch size, where u* is
    start: Tensor  # ‖b/λ − u*‖, (k,)


@dataclass(frozen=True)
class Phase(Study):
    """LiSSA from b/λ at every step size × batch size, for the same ηλT, against what theory predicts.

    Step sizes go from `finest` to 4 of 1/(λ_max + λ) in factors of 2^(1/`steps_per_octave`). T = `time`/(ηλ),
    at most `max_steps`. Of a language model b counts tokens, `tokens_per_example` for each of `batch_sizes`.
    Up to `reference_work` gradient equivalents go into the reference of a problem too large for a dense one.
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
        "small": Scale(
            (
                "resnet18:width=8,data=fashion_mnist,curvature_size=256,num_queries=1",
                "opt-small:training_size=16,num_queries=1",
            ),
            dtype="float32",
            parameters={
                "batch_sizes": (1, 4, 16, 64),
                "tokens_per_example": 32,
                "steps_per_octave": 1,
                "finest": 0.125,
                "max_steps": 400,
            },
        ),
        "paper": Scale(
            (
                "resnet18:width=64,curvature_size=1000,num_queries=1",
                "resnet50:width=64,data=cifar10,curvature_size=500,num_queries=1",
                "smollm2-135m:parameters=no_embeddings_no_norms,context=128,training_size=32,num_queries=1,"
                "damping=5",
            ),
            dtype="float32",
            parameters={
                "batch_sizes": (1, 4, 16, 64, 256),
                "tokens_per_example": 32,
                "steps_per_octave": 1,
                "finest": 0.125,
            },
        ),
    }

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    steps_per_octave: int = 2
    time: float = 3.0
    max_steps: int = 4000
    finest: float = 1 / 32
    tokens_per_example: int = 1
    reference_work: float = 300.0

    def __post_init__(self) -> None:
        check_counts(steps_per_octave=self.steps_per_octave, max_steps=self.max_steps)
        check_batch_sizes(self.batch_sizes, self.tokens_per_example)
        # Only so are 1/(λ_max + λ), and 2 and 4 times it, themselves on the grid.
        if not (0 < self.finest <= 1 and math.log2(self.finest).is_integer()):
            raise ValueError(
                f"finest is {self.finest:g}; it must be 1 or a power of 1/2: 0.5, 0.25, 0.125, …"
            )
        if not self.reference_work > 0:
            raise ValueError(f"reference_work is {self.reference_work}; gradient equivalents > 0 are needed")
        if not 0 < self.time < math.inf:
            raise ValueError(f"time is {self.time}; ηλT must be a finite number > 0")

    @property
    def step_fractions(self) -> list[float]:
        """η(λ_max + λ) of each row of the grid, ascending."""
        octaves = round(math.log2(COARSEST / self.finest))
        return [
            self.finest * 2 ** (index / self.steps_per_octave)
            for index in range(octaves * self.steps_per_octave + 1)
        ]

    def pieces(self) -> Sequence[Piece]:
        return [{"batch_size": batch_size} for batch_size in self.batch_sizes]

    def expected_work(self, problem: Problem) -> float:
        operator, columns, damping = problem.operator, problem.num_columns, problem.damping
        generator = torch.Generator().manual_seed(0)
        # Numbers of steps follow from λ_max, of which a few products show enough.
        largest = extreme_eigenvalues(operator, generator, max_products=5).largest.value
        lengths = [self._num_steps(each / (largest + damping), damping) for each in self.step_fractions]
        width, steps = (3, OF_SMALL_STEPS) if problem.is_dense else (1, OF_LARGE["max_steps"])
        total = reference_work(problem, self.reference_work) + pencil_work(problem, 3, width, steps)
        if not problem.is_dense:
            total += (LANCZOS_PRODUCTS + 2 * KRYLOV_STEPS * columns) * product_work(problem)
        for batch in self._batch_sizes(problem):
            single = operator.single_draws(batch, generator, parts_of(problem, batch))
            repeats = single.num_draws / operator.num_draws
            total += pencil_work(problem, 3 + 2 * repeats, width, steps)
            total += 2 * repeats * product_work(problem, columns)
            total += sum(lengths) * product_work(problem, columns, operator.draws_in(batch))
        return total

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Prepared:
        if not problem.operator.has_examples:
            raise ValueError(
                "H offers no curvature of single examples, from which theory predicts; choose another"
            )

        def show(step: int, error: float) -> None:
            on_progress(f"reference by CG, step {step}, error ≤ {error:.1e}", 0)

        problem = certify(problem, max_work=self.reference_work, on_step=show)
        reference = problem.reference
        if reference is None:
            raise ValueError(
                f"p = {problem.size} is out of reach of the dense reference that errors are measured by, "
                f"and CG did not find one with {self.reference_work:g} gradient equivalents: raise "
                "reference_work or damping, or choose a smaller problem"
            )
        generator, limits = torch.Generator().manual_seed(0), _limits(problem)
        operator = problem.operator
        if problem.is_dense:
            operator = operator.to(torch.float64)
            largest = float(problem.ground_truth.eigen[0][-1])
        else:
            reference = reference.to(operator.dtype)
            on_progress("λ_max", 0)
            largest = extreme_eigenvalues(operator, generator, **LARGEST_EIGENVALUE).largest.value
        on_progress("R", 0)
        constant = noise_constant(operator, problem.damping, generator, **limits)
        moments, thresholds, noises = {}, {}, {}
        once = (operator @ reference).double().square().sum(dim=0)
        sizes = self._batch_sizes(problem)
        for index, batch in enumerate(sizes):
            on_progress(f"L_b and η* at b = {batch}", (index + 1) / (len(sizes) + 1))
            parts = parts_of(problem, batch)
            found = second_moment_constant(operator, problem.damping, batch, generator, parts=parts, **limits)
            moments[batch] = found.value.value
            thresholds[batch] = _threshold(problem, batch)
            single = operator.single_draws(batch, generator, parts)
            square = (reference.double() * single.mean_square(reference).double()).sum(dim=0)
            noises[batch] = (square - once).clamp_min(0) / operator.draws_in(batch)
        return Prepared(
            problem,
            MeanError(problem),
            largest,
            constant.value.value,
            moments,
            thresholds,
            noises,
            error_of_start(problem).norm(dim=0),
        )

    def measure(
        self, problem: Problem, prepared: Prepared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        problem, batch = prepared.problem, units(problem, piece, self.tokens_per_example)
        rows: list[Row] = []
        fractions = self.step_fractions
        for index, fraction in enumerate(fractions):
            on_progress(f"η = {fraction:.3g}/(λ_max + λ)", index / len(fractions))
            step = fraction / (prepared.largest + problem.damping)
            num_steps = self._num_steps(step, problem.damping)
            lissa = solvers.load("lissa", step_size=step, num_steps=num_steps, batch_size=batch, start="rhs")
            solution = solvers.solve(problem, lissa, seed=seed)
            row = {
                "batch_size": batch,
                "step_fraction": fraction,
                "step_size": step,
                "num_steps": num_steps,
                "asked_time": self.time,
            }
            row |= _predicted(prepared, batch, step, num_steps)
            rows.append(row | _measured(prepared, solution, row))
        return rows

    def _num_steps(self, step_size: float, damping: float) -> int:
        return min(self.max_steps, math.ceil(self.time / (step_size * damping)))

    def _batch_sizes(self, problem: Problem) -> list[int]:
        return [units(problem, piece, self.tokens_per_example) for piece in self.pieces()]

    def host_bytes(self, size: Footprint, dtype: torch.dtype) -> float:
        return krylov_bytes(size, dtype)

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_phase(rows, run, directory)


def _limits(problem: Problem) -> Mapping[str, Any]:
    return OF_SMALL if problem.is_dense else OF_LARGE


def _threshold(problem: Problem, batch_size: int) -> float:
    operator = problem.operator
    if not isinstance(operator, DenseOperator) or operator.num_examples * problem.size**3 > LARGEST_MAP:
        return math.nan
    return theory.mean_square_threshold(operator.per_example.double().cpu(), problem.damping, batch_size)


def _predicted(prepared: Prepared, batch: int, step: float, num_steps: int) -> Row:
    """What theory says of η, b and T before the solve; relative to ‖u*‖, of the worst column."""
    problem = prepared.problem
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


def _measured(prepared: Prepared, solution: Solution, row: Row) -> Row:
    """The worst column's error, and what of it is noise: u_T − E u_T.

    `noise_over_small_step_floor` divides each column's noise by √(ηΔ̃/2λ), theory's floor for η → 0, and is
    the root mean square over the columns.
    """
    problem, reference = prepared.problem, prepared.problem.reference
    assert reference is not None
    lengths = reference.norm(dim=0)
    start_error = float((prepared.start / lengths).max())
    step, num_steps = row["step_size"], row["num_steps"]
    left = prepared.mean_error.after(step, num_steps)
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
