"""What makes two sentences alike: products of their gradients, with and without the inverse Hessian."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

import solvers
from bench.experiments._numbers import NAN, number
from bench.experiments._solver import solver_of
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem, ProblemFamily
from problems.data import facts
from problems.language_model import CUT, LanguageModel
from problems.models.tokens_source import read_sentences
from problems.named import NAMED, name_of
from reports.similarity import build_similarity
from solvers import Record, Solution, Solver
from solvers.lissa import LiSSA
from solvers.solution import worst

# A standard error of pairs takes a few of them.
FEWEST_PAIRS = 3
# Rows of which products are taken at once, in float64.
CHUNK = 2**18
# What a solver that chooses its steps takes, as far as that can be told before: its pilot in gradient
# equivalents, and products with all columns, the two that judge the answer included.
PILOT_WORK = 20.0
PRODUCTS = 7
JUDGING = 2


@dataclass(frozen=True)
class Similarity(Study):
    """gᵢᵀ(H + λ)⁻¹gⱼ against gᵢᵀgⱼ over sentences and a paraphrase of each (Klochkov & Liu 2024, Figure 3).

    gᵢ is the gradient of a sentence's mean loss. `sentences` are "facts", ten and their paraphrases, or a
    file in which each line is followed by its paraphrase; all of it is asked about, so that num_queries is
    not set. `solver` gives X ≈ (H + λ)⁻¹G of all columns together, and with R = G − (H + λ)X the influences
    are S = XᵀG + RᵀX: their error is Rᵀ(H + λ)⁻¹R, of second order, and at most ‖rᵢ‖‖rⱼ‖/λ where H ⪰ 0.
    Memory: G, X and R beside what the solver takes; 20 float32 columns of p parameters are 80 p bytes.
    """

    title: ClassVar[str] = "What makes two sentences alike?"
    description: ClassVar[str] = (
        "Similarity of sentences by their gradients, gᵢᵀgⱼ, and by influence, gᵢᵀ(H + λ)⁻¹gⱼ, over sentences "
        "and a paraphrase of each: does the inverse suppress what all gradients share?"
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(("language_model",)),
        # At a tenth of λ_max as well as at a hundredth: how much the inverse can do depends on it.
        "small": Scale(("opt-small", "opt-small:damping=0.1", "smollm2-135m"), dtype="float32"),
        # Linear maps of 20 layers of 30: 20 gradients of all are 8.5 GB, and `auto` holds 14 such blocks,
        # more than a large GPU has.
        "paper": Scale(
            (r"smollm2-135m:parameters=layers\.[12]\d\..*proj,context=128,training_size=32,damping=5",),
            dtype="float32",
        ),
    }

    sentences: str = facts.NAME
    solver: str = "auto:target=0.1"

    def __post_init__(self) -> None:
        solver_of(self.solver)

    def ask(self, family: ProblemFamily) -> ProblemFamily:
        if not isinstance(family, LanguageModel):
            raise ValueError(
                f"{family} takes no sentences; similarity needs a language model: take language_model, "
                "opt-small or smollm2-135m"
            )
        if family.queries is not None:
            raise ValueError(
                f"queries is {family.queries!r}; leave it out, and give the file to the study: "
                f"similarity:sentences={family.queries}"
            )
        if family.num_queries not in (None, _own_queries(family)):
            raise ValueError(
                f"num_queries is {family.num_queries}; all of {self.sentences} is asked about: leave it out, "
                f"or write fewer pairs into a file, similarity:sentences=FILE"
            )
        count = len(read_sentences(self.sentences))
        if count % 2 or count < 2 * FEWEST_PAIRS:
            raise ValueError(
                f"sentences is {self.sentences}, which has {count} lines; write each sentence followed by "
                f"its paraphrase, at least {FEWEST_PAIRS} pairs"
            )
        return replace(family, queries=self.sentences, num_queries=None)

    def measure(
        self, problem: Problem, prepared: None, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        def show(record: Record) -> None:
            on_progress(f"step {record.step}", 0)

        on_progress("solving", 0)
        work = problem.operator.work
        before = work.passes
        solver = solver_of(self.solver)
        solution = solvers.solve(problem, solver, seed=seed, compare=False, on_record=show)
        b = problem.columns()
        gradient = products(b, b)
        influence, bound = torch.full_like(gradient, NAN), torch.full_like(gradient, NAN)
        known: Row = {
            "method": _called(solver, solution),
            "status": str(solution.status),
            "reason": solution.reason,
            "steps": solution.steps,
            "residual": number(worst(solution.residual)),
            "asymmetry": NAN,
            "correction": NAN,
            "cut": float(problem.facts.get(CUT, 0.0)),
        }
        if solution.usable:
            assert solution.x is not None
            plain = products(solution.x, b)
            influence, bound = corrected(problem, solution.x, b, plain)
            known["asymmetry"] = float((plain - plain.T).norm() / plain.norm())
            known["correction"] = float((influence - plain).norm() / influence.norm())
        known["work"] = work.equivalents(work.passes - before)
        known["seconds"] = solution.setup_seconds + solution.solve_seconds
        # Sentences first, then their paraphrases in the same order.
        order = [*range(0, problem.num_columns, 2), *range(1, problem.num_columns, 2)]
        shown = problem.exhibits
        return [
            {
                "first": first,
                "second": second,
                "text": shown.query(i).text if shown else "",
                "gradient": float(gradient[i, j]),
                "influence": float(influence[i, j]),
                "influence_bound": float(bound[i, j]),
                **known,
            }
            for first, i in enumerate(order)
            for second, j in enumerate(order)
            if first <= second
        ]

    def expected_work(self, problem: Problem) -> float:
        solver = solver_of(self.solver)
        product = (1 + 4 * problem.num_columns) / 3
        if isinstance(solver, LiSSA) and "auto" not in (
            solver.step_size,
            solver.num_steps,
            solver.batch_size,
        ):
            assert solver.num_steps != "auto"
            return product * (solver.num_steps * _share(problem, solver) + JUDGING)
        return PILOT_WORK + product * PRODUCTS

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_similarity(rows, run, directory)


def _own_queries(family: LanguageModel) -> int | None:
    """The num_queries that a network's name stands for."""
    name = name_of(family.name, {"model": family.model})
    return None if name is None else NAMED[name][1].get("num_queries")


def products(a: Tensor, b: Tensor) -> Tensor:
    """AᵀB of A (p, j) and B (p, k) in float64, shape (j, k), on the CPU."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for some, others in zip(a.split(CHUNK), b.split(CHUNK), strict=True):
        total += some.double().T @ others.double()
    return total.cpu()


def corrected(problem: Problem, x: Tensor, b: Tensor, plain: Tensor) -> tuple[Tensor, Tensor]:
    """S = XᵀB + RᵀX, symmetric, and how far its entries may be off, both (k, k); `plain` is XᵀB.

    With X = X* + E it is BᵀX* − Eᵀ(H + λ)E. The bound is NaN where H may be indefinite.
    """
    residual = problem.operator @ x
    residual.add_(x, alpha=problem.damping).neg_().add_(b)
    found = plain + products(residual, x)
    lengths = torch.linalg.vector_norm(residual, dim=0).double().cpu()
    bound = lengths[:, None] * lengths / problem.damping
    return (found + found.T) / 2, bound if problem.operator.is_psd else torch.full_like(bound, NAN)


def _called(solver: Solver, solution: Solution) -> str:
    """The solver, and the one that it chose."""
    chosen = solution.diagnostics.get("chosen")
    return f"{solver}: {chosen}" if chosen else str(solver)


def _share(problem: Problem, solver: LiSSA) -> float:
    """The sequences of a mini-batch over all."""
    if solver.batch_size == "full":
        return 1.0
    assert isinstance(solver.batch_size, int)
    draws = math.ceil(solver.batch_size * problem.operator.num_draws / problem.operator.num_examples)
    return draws / problem.operator.num_draws
