"""Is the paper's sampling condition met? Both sides of its trace comparison, over mini-batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from bench.experiments._batches import check_batch_sizes, units
from bench.experiments._budget import check_budget, product_work, spectrum_work
from bench.experiments._numbers import NAN
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem
from problems.operators.base import CurvatureOperator
from problems.spectrum import Spectrum, measure
from problems.spectrum.estimate import Estimate
from problems.spectrum.sampling_noise import sampling_noise
from problems.spectrum.trace import xtrace
from reports.condition import build_condition

# XTrace takes half of its products at first, with two vectors at least.
FEWEST_PRODUCTS = 4
# Bytes that it may hold; where it would be more, pairs have to do.
LARGEST_MEMORY = 2**33


@dataclass(frozen=True)
class Prepared:
    """The measured spectrum, and Tr(E h² − H²) of single whole draws h where it was asked for."""

    spectrum: Spectrum
    of_draws: Estimate | None


@dataclass(frozen=True)
class Condition(Study):
    """Tr(E H̃² − H²) against C·Tr(H)²/b for mini-batches of b (Klochkov & Liu 2024, Figure 4).

    `pairs` of mini-batches are drawn for each b; `budget` gradient equivalents go into Tr(H), C and R. With
    `products` the noise of mini-batches of m whole examples, or sequences, is Tr(E h² − H²)/m instead, h
    running through all of them and the trace by XTrace from so many vectors: where few examples carry it,
    pairs mostly miss them. Of a language model b counts tokens, `tokens_per_example` for each of
    `batch_sizes`; C and R are measured of whole sequences, each one draw, and become those
    of tokens by the tokens of a sequence: with C = N max Tr(g)/Tr(H), g a sequence's mean of N tokens, the
    traces' inequality holds however alike its tokens are, which with the largest single token it need not.
    """

    title: ClassVar[str] = "Is the sampling condition met?"
    description: ClassVar[str] = (
        "Both sides of the condition under which LiSSA may draw mini-batches of b: the trace of their noise, "
        "Tr(E H̃² − H²), and C·Tr(H)²/b."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(
            (
                "quadratic",
                "quadratic:traces=heavy_tailed",
                "softmax_regression",
                "image_classifier",
            ),
        ),
        "small": Scale(
            ("resnet18", "resnet50", "opt-small"),
            dtype="float32",
            parameters={"pairs": 80, "budget": 100.0, "products": 12, "tokens_per_example": 64},
        ),
        "paper": Scale(
            (
                "resnet18:width=64,curvature_size=1000,num_queries=1",
                "resnet50:width=64,data=cifar10,curvature_size=500,num_queries=1",
                "smollm2-135m:parameters=no_embeddings_no_norms,context=128,training_size=32,num_queries=1,"
                "damping=5",
            ),
            dtype="float32",
            parameters={"pairs": 200, "budget": 100.0, "products": 20, "tokens_per_example": 64},
        ),
    }

    batch_sizes: tuple[int, ...] = (1, 4, 16, 64)
    pairs: int = 2000
    budget: float = 2000.0
    products: int = 0
    tokens_per_example: int = 1

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_batch_sizes(self.batch_sizes, self.tokens_per_example)
        if self.products != 0 and self.products < FEWEST_PRODUCTS:
            raise ValueError(
                f"products is {self.products}; a trace takes at least {FEWEST_PRODUCTS}, and 0 is pairs alone"
            )
        if self.pairs < 2:
            raise ValueError(f"pairs is {self.pairs}; a standard error needs at least 2")

    def pieces(self) -> Sequence[Piece]:
        return [{"batch_size": batch_size} for batch_size in self.batch_sizes]

    def expected_work(self, problem: Problem) -> float:
        operator, total = problem.operator, spectrum_work(problem, self.budget)
        whole, sizes = self._of_draws(problem)
        if whole:
            # Two blocks of vectors; of each, two products of all data and two of every draw alone.
            total += 2 * 4 * product_work(problem, self.products // 2)
        draws = sum(operator.draws_in(size) for size in sizes if size not in whole)
        return total + 2 * self.pairs * product_work(problem, draws=draws)

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Prepared:
        spectrum = measure(
            problem.operator, budget=self.budget, damping=problem.damping, on_progress=on_progress
        )
        if not self._of_draws(problem)[0]:
            return Prepared(spectrum, None)
        on_progress("the noise of single draws", 1)
        noise = _NoiseOfDraws(problem.operator)
        return Prepared(spectrum, xtrace(noise, self.products, torch.Generator().manual_seed(0)))

    def measure(
        self, problem: Problem, prepared: Prepared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        operator, size = problem.operator, units(problem, piece, self.tokens_per_example)
        if prepared.of_draws and size in self._of_draws(problem)[0]:
            noise, pairs = prepared.of_draws.times(1 / operator.draws_in(size)), 0
        else:
            on_progress(f"{self.pairs} pairs of mini-batches", 0)
            generator, pairs = torch.Generator().manual_seed(seed), self.pairs
            noise = sampling_noise(operator, size, pairs, generator).trace_of_noise
        spectrum = prepared.spectrum
        trace, unequal, constant = spectrum.trace, spectrum.heterogeneity, spectrum.noise_constant
        ratio = unequal.ratio if unequal else Estimate(NAN, NAN)
        worth = spectrum.correlation.worth if spectrum.correlation else Estimate(NAN, NAN)
        return [
            {
                "batch_size": size,
                "pairs": pairs,
                "noise": noise.value,
                "noise_error": noise.standard_error,
                "trace": trace.value,
                "trace_error": trace.standard_error,
                "heterogeneity": ratio.value,
                "heterogeneity_error": ratio.standard_error,
                "largest": spectrum.extremes.largest.value,
                "largest_residual": spectrum.extremes.largest_residual,
                "noise_constant": constant.value.value if constant else NAN,
                "noise_constant_residual": constant.residual if constant else NAN,
                "unit": spectrum.unit,
                "units_per_draw": spectrum.units_per_draw,
                "sequence_worth": worth.value,
                "sequence_worth_error": worth.standard_error,
            }
        ]

    def _of_draws(self, problem: Problem) -> tuple[list[int], list[int]]:
        """The batch sizes whose noise is that of all whole draws, and all of them, in the problem's units."""
        operator = problem.operator
        sizes = [units(problem, {"batch_size": size}, self.tokens_per_example) for size in self.batch_sizes]
        fits = 1.5 * self.products * problem.size * 8 <= LARGEST_MEMORY
        if not (self.products and operator.has_examples and fits):
            return [], sizes
        generator = torch.Generator()
        return [size for size in sizes if operator.single_draws(size, generator, 1) is operator], sizes

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_condition(rows, run, directory)


class _NoiseOfDraws(CurvatureOperator):
    """E h² − H² over all draws h: the covariance of a mini-batch of one."""

    def __init__(self, operator: CurvatureOperator) -> None:
        super().__init__(
            operator.shape[0], operator.num_examples, operator.dtype, operator.device, operator.work
        )
        self._operator = operator

    def _count(self, columns: int) -> None:
        """Its products are counted where they are made."""

    def _product(self, columns: Tensor) -> Tensor:
        operator = self._operator
        return operator.mean_square(columns) - operator @ (operator @ columns)

    @property
    def is_psd(self) -> bool:
        return True

    def subset(self, indices: Tensor) -> CurvatureOperator:
        return _NoiseOfDraws(self._operator.subset(indices))

    def to(self, dtype: torch.dtype) -> CurvatureOperator:
        return _NoiseOfDraws(self._operator.to(dtype))
