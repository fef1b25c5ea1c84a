"""Is the paper's sampling condition met? Both sides of its trace comparison, over mini-batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch

from bench.experiments._budget import check_budget
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem
from problems.spectrum import Spectrum, measure
from problems.spectrum.estimate import Estimate
from problems.spectrum.sampling_noise import sampling_noise
from problems.validation import check_counts
from reports.condition import build_condition

NAN = float("nan")


@dataclass(frozen=True)
class Condition(Study):
    """Tr(E H̃² − H²) against C·Tr(H)²/b for mini-batches of b (Klochkov & Liu 2024, Figure 4).

    `pairs` of mini-batches are drawn for each b; `budget` gradient equivalents go into Tr(H), C and R. Of a
    language model b counts tokens; C and R are measured of whole sequences, each one draw, and become those
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
    }

    batch_sizes: tuple[int, ...] = (1, 4, 16, 64)
    pairs: int = 2000
    budget: float = 2000.0

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if not self.batch_sizes:
            raise ValueError("batch_sizes is empty; name at least one mini-batch size")
        for batch_size in self.batch_sizes:
            check_counts(batch_sizes=batch_size)
        if self.pairs < 2:
            raise ValueError(f"pairs is {self.pairs}; a standard error needs at least 2")

    def pieces(self) -> Sequence[Piece]:
        return [{"batch_size": batch_size} for batch_size in self.batch_sizes]

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Spectrum:
        return measure(problem.operator, budget=self.budget, damping=problem.damping, on_progress=on_progress)

    def measure(
        self, problem: Problem, prepared: Spectrum, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        on_progress(f"{self.pairs} pairs of mini-batches", 0)
        generator = torch.Generator().manual_seed(seed)
        noise = sampling_noise(problem.operator, piece["batch_size"], self.pairs, generator).trace_of_noise
        trace, unequal, constant = prepared.trace, prepared.heterogeneity, prepared.noise_constant
        ratio = unequal.ratio if unequal else Estimate(NAN, NAN)
        worth = prepared.correlation.worth if prepared.correlation else Estimate(NAN, NAN)
        return [
            {
                "pairs": self.pairs,
                "noise": noise.value,
                "noise_error": noise.standard_error,
                "trace": trace.value,
                "trace_error": trace.standard_error,
                "heterogeneity": ratio.value,
                "heterogeneity_error": ratio.standard_error,
                "largest": prepared.extremes.largest.value,
                "largest_residual": prepared.extremes.largest_residual,
                "noise_constant": constant.value.value if constant else NAN,
                "noise_constant_residual": constant.residual if constant else NAN,
                "unit": prepared.unit,
                "units_per_draw": prepared.units_per_draw,
                "sequence_worth": worth.value,
                "sequence_worth_error": worth.standard_error,
            }
        ]

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_condition(rows, run, directory)
