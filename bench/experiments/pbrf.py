"""Influences against proximal Bregman responses: Figures 1 and 5 of Klochkov & Liu."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from bench.experiments._budget import ASSUMED
from bench.experiments._numbers import NAN
from bench.experiments._solver import answer_of, solver_of
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem
from problems.agreement import FEWEST_ROWS, Agreement, pearson_per_column, spearman_per_column
from problems.descent import QuasiNewton
from problems.exhibits import Exhibit
from problems.footprint import Footprint
from problems.influence import influence_scores
from problems.pbrf import Response, check_epsilons, extrapolated, responses
from problems.validation import check_counts
from reports.pbrf import build_pbrf
from solvers import Solution
from solvers.preconditioner import NONE, as_preconditioner, prepare
from solvers.theory import cg_steps

# Evaluations of the objective for a response from nothing, and for one from those before it, and how many of
# them are in float64; measured on ResNet-18. At a smaller λ as many more as CG's steps.
FIRST, NEXT, CERTAIN = 8, 8, 2
# What an evaluation in float64 takes on a CPU, in those of float32: its convolutions are not oneDNN's.
DOUBLE = 6.0
DIGITS = 4


@dataclass(frozen=True)
class Pbrf(Study):
    """A solver's influences of training examples on all queries against their proximal Bregman responses.

    `num_examples` training examples are drawn without replacement from all of H's by a seed of their own. The
    `solver`, written as on the command line, solves for their gradients, and −g_qᵀx_m are its influences at λ
    times each of `multiples`. Their responses are computed at each of `epsilons`: the first one is compared
    with, and from all of them follows the limit ε → 0. A response is converged at a gradient of `tolerance`
    times its first length; on networks with kinks no much shorter one is to be had. `preconditioner`, or
    "none", is the first matrix of the optimiser, never the solver that is judged.
    """

    title: ClassVar[str] = "Are the influences right?"
    description: ClassVar[str] = (
        "Influences by a solver against the proximal Bregman response function, which solves no linear "
        "system: each training image's on all test queries."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(
            ("image_classifier:damping=0.1,num_queries=50",),
            parameters={"num_examples": 6, "tolerance": 1e-6, "max_steps": 300},
        ),
        "small": Scale(
            (
                "resnet18:width=8,data=fashion_mnist,curvature_size=250,num_queries=500",
                "resnet50:curvature_size=100,num_queries=500",
            ),
            dtype="float32",
        ),
        "paper": Scale(
            (
                "resnet18:width=64,curvature_size=500,num_queries=500",
                "resnet50:width=64,data=cifar10,curvature_size=200,num_queries=500",
            ),
            dtype="float32",
            parameters={"preconditioner": "nystrom(rank=64,memory_gib=64)"},
        ),
    }

    solver: str = "lissa"
    multiples: tuple[float, ...] = (1.0, 0.1)
    num_examples: int = 25
    epsilons: tuple[float, ...] = (0.01, -0.01, 0.005)
    tolerance: float = 2e-2
    preconditioner: str = "nystrom(rank=64)"
    max_steps: int = 60

    def __post_init__(self) -> None:
        for multiple in self.multiples:
            if not 0 < multiple < math.inf:
                raise ValueError(
                    f"multiples has {multiple}; λ must stay positive and finite: give numbers > 0"
                )
        if not self.multiples or len(set(self.multiples)) < len(self.multiples):
            raise ValueError(f"multiples is {list(self.multiples)}; name at least one, each once")
        check_counts(num_examples=self.num_examples, max_steps=self.max_steps)
        check_epsilons(self.epsilons)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; it must lie between 0 and 1")
        solver_of(self.solver)
        as_preconditioner(self.preconditioner)

    def pieces(self) -> Sequence[Piece]:
        return [{"multiple": multiple} for multiple in self.multiples]

    def prepare(self, problem: Problem, on_progress: OnProgress) -> Tensor:
        """The training examples that are judged, in order; ValueError where there are not so many."""
        if problem.task is None:
            raise ValueError(f"{problem.name} is a bare matrix without training examples: choose a model")
        available = len(problem.task.training)
        if self.num_examples > available:
            raise ValueError(
                f"num_examples is {self.num_examples}; {problem.name} has {available} training examples: "
                "take fewer"
            )
        if len(problem.task.queries) < FEWEST_ROWS:
            raise ValueError(
                f"{problem.name} has {len(problem.task.queries)} queries; a correlation over queries needs "
                f"at least {FEWEST_ROWS}: raise num_queries"
            )
        drawn = torch.randperm(available, generator=torch.Generator().manual_seed(0))
        return drawn[: self.num_examples].sort().values

    def measure(
        self, problem: Problem, prepared: Tensor, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        shifted = problem.with_damping(piece["multiple"] * problem.damping)
        assert shifted.task is not None
        solution = self._solve(shifted, prepared, seed, on_progress)
        assert solution.x is not None
        scores = influence_scores(shifted.task, solution.x, solved="training").double().cpu()
        truth = self._responses(shifted, prepared, on_progress)
        first, limits, errors = _tables(truth, len(self.epsilons), scores)
        agreement = {
            "pearson": pearson_per_column(scores.T, first.T),
            "spearman": spearman_per_column(scores.T, first.T),
            "pearson_limit": pearson_per_column(scores.T, limits.T),
        }
        common = {
            "solved_damping": shifted.damping,
            "epsilon": self.epsilons[0],
            "num_queries": scores.shape[1],
            "num_responses": len(self.epsilons),
            "status": str(solution.status),
            "reason": solution.reason,
            "solver": self.solver,
            "total_work": solution.setup_work + solution.work,
            "total_seconds": solution.setup_seconds + solution.solve_seconds,
            "estimated_error": float(solution.diagnostics.get("estimated_error", NAN)),
        }
        rows: list[Row] = []
        for place, example in enumerate(prepared.tolist()):
            own = truth[place * len(self.epsilons) : (place + 1) * len(self.epsilons)]
            exhibit = problem.exhibits.training(example) if problem.exhibits else Exhibit()
            rows.append(
                common
                | {"example": example, "label": exhibit.label, "picture": _text(exhibit.picture)}
                | dict(pair for key, found in agreement.items() for pair in _ends(key, found[place]))
                | _sizes(scores[place], first[place], limits[place], errors[place])
                | _certificate(own)
                | {
                    "residual": NAN if solution.residual is None else float(solution.residual[place]),
                    "error": NAN if solution.error is None else float(solution.error[place]),
                    "scores": _listed(scores[place]),
                    "responses": _listed(first[place]),
                }
            )
        return rows

    def expected_work(self, problem: Problem) -> float | None:
        """CG's steps by its bound for λ_max = ASSUMED · λ, to the solver's accuracy; and the responses'."""
        solver = solver_of(self.solver)
        accuracy = solver.promised_tolerance or getattr(solver, "target", None)
        if problem.task is None or accuracy is None:
            return None
        product = (1 + 4 * self.num_examples) / 3
        steps = sum(cg_steps(1 + ASSUMED / multiple, accuracy) for multiple in self.multiples)
        inverse = as_preconditioner(self.preconditioner)
        rank = getattr(inverse, "rank", 0)
        sketch = (1 + 4 * rank) / 3 if isinstance(rank, int) else 0.0
        slow = DOUBLE if _computes_twice(problem) else 1.0
        evaluations = FIRST + NEXT * (len(self.epsilons) - 1) + (slow - 1) * CERTAIN * len(self.epsilons)
        longer = sum(max(1.0, multiple**-0.5) for multiple in self.multiples)
        return steps * product + len(self.multiples) * sketch + longer * self.num_examples * evaluations

    def held_columns(self, size: Footprint) -> int:
        """Gradients of the training examples: those of queries are built some at a time."""
        return self.num_examples

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_pbrf(rows, run, directory)

    def _solve(self, problem: Problem, examples: Tensor, seed: int, on_progress: OnProgress) -> Solution:
        """x_m of all examples; RuntimeError where the solver gives none."""
        task = problem.task
        assert task is not None
        asked = replace(problem, rhs=task.gradients(task.training, examples), certified=None)
        return answer_of(self.solver, asked, seed, on_progress, compare=True)

    def _responses(self, problem: Problem, examples: Tensor, on_progress: OnProgress) -> list[Response]:
        solve = None
        if self.preconditioner != NONE:
            on_progress(self.preconditioner, 0.1)
            found = prepare(self.preconditioner, problem, torch.Generator().manual_seed(0))
            assert found is not None
            inverse, dtype = found.apply, problem.operator.dtype

            def solve(residuals: Tensor) -> Tensor:
                return inverse(residuals.to(dtype))

        return responses(
            problem,
            examples,
            self.epsilons,
            optimiser=QuasiNewton(solve, max_steps=self.max_steps),
            tolerance=self.tolerance,
            on_progress=lambda what, share: on_progress(what, 0.2 + 0.8 * share),
        )


def _tables(truth: Sequence[Response], count: int, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By example: influences at the first ε, their limit, and its error (j, q).

    NaN where the first has not converged, and where fewer than two have: a single one has no limit.
    """
    first, limits, errors = (torch.full_like(scores, NAN) for _ in range(3))
    for place in range(len(scores)):
        own = truth[place * count : (place + 1) * count]
        if own[0].converged:
            first[place] = own[0].influences
        if sum(each.converged for each in own) > 1:
            limits[place], errors[place] = extrapolated(own)
    return first, limits, errors


def _ends(name: str, found: Agreement) -> list[tuple[str, float]]:
    return [(name, found.value), (f"{name}_low", found.low), (f"{name}_high", found.high)]


def _sizes(scores: Tensor, first: Tensor, limits: Tensor, errors: Tensor) -> Row:
    """How large influences and what they differ by are, over the length of the responses."""
    length, whole = first.norm(), limits.norm()
    return {
        "slope": float((scores * first).sum() / length.square()),
        "difference": float((scores - first).norm() / length),
        "difference_limit": float((scores - limits).norm() / whole),
        "nonlinearity": float((first - limits).norm() / whole),
        "limit_error": float(errors.norm() / whole),
        "strength": float(first.abs().max()),
    }


def _certificate(own: Sequence[Response]) -> Row:
    """What is known of an example's responses; of the first one unless it says otherwise."""
    refused = [each.reason for each in own if not each.converged]
    return {
        "converged": int(own[0].converged),
        "num_converged": sum(each.converged for each in own),
        "why": refused[0] if refused else "",
        "relative_gradient": own[0].relative_gradient,
        "displacement": own[0].displacement,
        "displacement_error": own[0].displacement_error,
        "floor": own[0].floor,
        "response_steps": sum(each.steps for each in own),
        "response_work": sum(each.work for each in own),
        "response_seconds": sum(each.seconds for each in own),
    }


def _listed(values: Tensor) -> str:
    """As JSON with few digits, which is all that a figure shows."""
    numbers = values.tolist()
    return json.dumps([float(f"{each:.{DIGITS}g}") if math.isfinite(each) else None for each in numbers])


def _text(picture: bytes) -> str:
    return base64.b64encode(picture).decode("ascii")


def _computes_twice(problem: Problem) -> bool:
    """Whether responses leave the network's own dtype for a float64 that is slow."""
    operator = problem.operator
    return operator.dtype == torch.float32 and operator.device.type == "cpu"
