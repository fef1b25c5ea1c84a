"""What does the inverse change? The most influential training examples with it and without."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from bench.experiments._budget import ASSUMED
from bench.experiments._numbers import NAN
from bench.experiments._solver import answer_of, solver_of
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem
from problems.exhibits import Exhibit, Exhibits
from problems.influence import gradient_norms, gradient_products
from problems.spectrum.lanczos import extreme_eigenvalues
from problems.validation import check_counts
from reports.role import build_role
from solvers.measured import MOST_PRODUCTS, SAMPLE, TOLERANCE, sample_of
from solvers.solution import worst
from solvers.theory import cg_steps

# The problem's own λ, at which the examples themselves are kept.
OWN = 1.0
SIDES = ("with", "without")


@dataclass(frozen=True)
class Prepared:
    """What no λ changes: λ_max; g_iᵀg_q (m, k) and ‖g_i‖ (m,) of those that are ranked; ‖g_q‖ (k,)."""

    largest: float
    similarity: Tensor
    norms: Tensor
    query_norms: Tensor


@dataclass(frozen=True)
class Role(Study):
    """Influence g_iᵀ(H + λI)⁻¹g_q against plain gradient similarity g_iᵀg_q (Klochkov & Liu 2024, § 5).

    λ is the problem's own times each of `multiples`, of which one must be 1. The `top` examples of largest
    score are kept for every query, and what the first `shown` of them look like. Ranked are the first
    `num_examples` training examples, by default all. `solver` is written as on the command line; its default
    suffices for rankings: at a tenth of λ on the digits MLP, the tiny OPT and a tiny ResNet, there also at a
    hundredth, the ten most influential were those of a solution to 1e-10, in their order, and Spearman's ρ
    with it was 0.9996 and more.
    """

    title: ClassVar[str] = "What does the inverse change?"
    description: ClassVar[str] = (
        "The most influential training examples by g_iᵀ(H + λI)⁻¹g_q, over λ, and by plain gradient "
        "similarity, g_iᵀg_q."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(("image_classifier:damping=0.1,num_queries=8", "language_model")),
        "small": Scale(
            (
                "resnet18:num_queries=3",
                "resnet18:width=8,data=fashion_mnist,num_queries=6",
                "opt-small:num_queries=3",
            ),
            dtype="float32",
        ),
        "paper": Scale(
            (
                "resnet18:width=64,curvature_size=1000,num_queries=4",
                "resnet50:width=64,data=cifar10,curvature_size=500,num_queries=3",
                "smollm2-135m:parameters=no_embeddings_no_norms,context=128,training_size=32,num_queries=3,"
                "damping=5",
            ),
            dtype="float32",
        ),
    }

    multiples: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    top: int = 10
    shown: int = 5
    num_examples: int | None = None
    solver: str = "cg:tolerance=1e-3"

    def __post_init__(self) -> None:
        for multiple in self.multiples:
            if not 0 < multiple < math.inf:
                raise ValueError(
                    f"multiples has {multiple}; λ must stay positive and finite: give numbers > 0"
                )
        if OWN not in self.multiples:
            raise ValueError(
                f"multiples is {list(self.multiples)}; one of them must be 1, the problem's own λ, at which "
                "the examples are shown"
            )
        if len(set(self.multiples)) < len(self.multiples):
            raise ValueError(f"multiples is {list(self.multiples)}; each must be there once")
        check_counts(top=self.top, shown=self.shown)
        if self.shown > self.top:
            raise ValueError(f"shown is {self.shown}; it must be at most top, which is {self.top}")
        if self.num_examples is not None and self.num_examples <= self.top:
            raise ValueError(
                f"num_examples is {self.num_examples}; of so many the {self.top} most influential say "
                f"nothing: take more than top = {self.top}, or a smaller top"
            )
        solver_of(self.solver)

    def pieces(self) -> Sequence[Piece]:
        return [{"multiple": multiple} for multiple in self.multiples]

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Prepared:
        indices = self._indices(problem)
        task = problem.task
        assert task is not None
        on_progress("largest eigenvalue", 0)
        generator = torch.Generator().manual_seed(0)
        operator = sample_of(problem.operator, generator)
        extremes = extreme_eigenvalues(operator, generator, tolerance=TOLERANCE, max_products=MOST_PRODUCTS)
        on_progress("gradients of the training examples", 0.5)
        b = problem.columns()
        return Prepared(
            extremes.largest.value,
            gradient_products(task, b, indices).double().cpu(),
            gradient_norms(task, indices).double().cpu(),
            b.norm(dim=0).double().cpu(),
        )

    def measure(
        self, problem: Problem, prepared: Prepared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        task = problem.task
        assert task is not None
        shifted = problem.with_damping(piece["multiple"] * problem.damping)
        solution = answer_of(self.solver, shifted, seed, on_progress)
        assert solution.x is not None
        on_progress("gradients of the training examples", 0.9)
        scores = gradient_products(task, solution.x, self._indices(problem)).double().cpu()
        common = {
            "top": self.top,
            "num_ranked": len(scores),
            "solved_damping": shifted.damping,
            "largest": prepared.largest,
            "status": str(solution.status),
            "residual": NAN if solution.residual is None else worst(solution.residual),
            "steps": solution.steps,
            "total_work": solution.setup_work + solution.work,
            "total_seconds": solution.setup_seconds + solution.solve_seconds,
        }
        looks = piece["multiple"] == OWN
        rows = _summaries(scores, prepared) + _lists(scores, prepared, self.top)
        return [common | row | self._look(problem.exhibits, row, looks) for row in rows]

    def expected_work(self, problem: Problem) -> float | None:
        """CG's steps by its bound, for λ_max = ASSUMED · λ; of another solver CG's to its accuracy.

        ValueError where there is nothing to be ranked, so that it is said before anything runs.
        """
        indices = self._indices(problem)
        solver = solver_of(self.solver)
        accuracy = solver.promised_tolerance or getattr(solver, "target", None)
        if accuracy is None:
            return None
        assert problem.task is not None
        draws = problem.operator.num_draws
        measured = SAMPLE / draws if draws > 2 * SAMPLE else 1.0
        ranked = len(indices) / len(problem.task.training)
        product = (1 + 4 * problem.num_columns) / 3
        steps = sum(cg_steps(1 + ASSUMED / multiple, accuracy) for multiple in self.multiples)
        return (
            cg_steps(1 + ASSUMED, TOLERANCE) * measured * 5 / 3
            + (2 + len(self.multiples)) * ranked
            + (steps + 2 * len(self.multiples)) * product
        )

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_role(rows, run, directory)

    def _indices(self, problem: Problem) -> Tensor:
        """The training examples that are ranked; ValueError where there are none, or too few."""
        if problem.task is None:
            raise ValueError(
                f"{problem.name} is a bare matrix without training examples to be ranked: choose a network, "
                "such as image_classifier"
            )
        available = len(problem.task.training)
        count = available if self.num_examples is None else self.num_examples
        if count > available:
            raise ValueError(
                f"num_examples is {count}; {problem.name} has {available} training examples: take fewer"
            )
        if count <= self.top:
            raise ValueError(
                f"{problem.name} has {count} training examples, of which the {self.top} most influential say "
                "nothing: take a larger curvature_size or training_size, or a smaller top"
            )
        return torch.arange(count)

    def _look(self, exhibits: Exhibits | None, row: Row, looks: bool) -> Row:
        """What people see of the query, or of the example, in the row."""
        exhibit = Exhibit()
        if exhibits is not None:
            query = row["side"] == "query"
            exhibit = exhibits.query(row["query"]) if query else exhibits.training(int(row["example"]))
        looks = looks and row["rank"] <= self.shown
        return {
            "label": exhibit.label,
            "text": exhibit.text if looks else "",
            "picture": base64.b64encode(exhibit.picture).decode("ascii") if looks else "",
        }


def _summaries(scores: Tensor, prepared: Prepared) -> list[Row]:
    """A row for each query: Spearman's ρ of its scores with and without, and mean |ρ| with other queries'.

    |ρ|, since of a direction that all gradients share queries may point either way.
    """
    correlations = rank_correlations(torch.cat([scores, prepared.similarity], dim=1).numpy())
    k = scores.shape[1]
    parts = {"with": correlations[:k, :k], "without": correlations[k:, k:]}
    return [
        {
            "query": query,
            "side": "query",
            "rank": 0,
            "gradient_norm": float(prepared.query_norms[query]),
            "rank_correlation": float(correlations[query, k + query]),
            **{
                f"between_{side}": float(np.abs(np.delete(part[query], query)).mean()) if k > 1 else NAN
                for side, part in parts.items()
            },
        }
        for query in range(k)
    ]


def rank_correlations(columns: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each of the columns (m, j) with each, shape (j, j); NaN with a constant one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(rankdata(columns, axis=0), rowvar=False))


def _lists(scores: Tensor, prepared: Prepared, top: int) -> list[Row]:
    """A row for each of the `top` examples of largest score, by query and side."""
    norms = prepared.norms
    norm_ranks = torch.empty(len(norms), dtype=torch.long)
    norm_ranks[norms.argsort(descending=True, stable=True)] = torch.arange(1, len(norms) + 1)
    rows: list[Row] = []
    for query in range(scores.shape[1]):
        for side, values in zip(SIDES, (scores[:, query], prepared.similarity[:, query]), strict=True):
            first = values.argsort(descending=True, stable=True)[:top].tolist()
            rows += [
                {
                    "query": query,
                    "side": side,
                    "rank": rank,
                    "example": example,
                    "score": float(values[example]),
                    "gradient_norm": float(norms[example]),
                    "norm_rank": int(norm_ranks[example]),
                }
                for rank, example in enumerate(first, 1)
            ]
    return rows
