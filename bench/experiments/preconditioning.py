"""What does a preconditioner save? CG and LiSSA with and without one, set-up counted."""

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
from bench.experiments._numbers import NAN, number
from bench.study import OnProgress, Piece, Row, Scale, Study
from problems import Problem
from problems.validation import check_counts
from reports.preconditioning import build_preconditioning
from solvers import Breakdown, Record, Solution, Solver, Status
from solvers.cg import ConjugateGradient
from solvers.preconditioner import NONE, ApproximateInverse, Preconditioner, as_preconditioner
from solvers.solution import worst

# With CG also a small sketch, for few right-hand sides, and the exact blocks of layers: no preconditioner by
# layers can do what they cannot. Not with LiSSA the diagonal, which makes more steps necessary.
PRECONDITIONERS = (NONE, "jacobi", "nystrom", "nystrom(rank=64)", "ekfac", "block_diagonal")
OF_LISSA = (NONE, "nystrom", "ekfac")
# Points of a path lie so much apart at least, steps that reach a target excepted.
GROWTH = 1.05
# CG's residual is its recurrence's own until it claims to have converged: a check is a product of its own.
NEVER = 10**9


@dataclass(frozen=True)
class _Shared:
    """What all cells of a problem need: H + λI, dense, in float64, and what its spectrum says."""

    matrix: Tensor
    facts: Row


@dataclass(frozen=True)
class Preconditioning(Study):
    """Steps, products and work to a relative error, plain and preconditioned, and κ under each P.

    `targets` are the errors that CG is run to, `target` the one that LiSSA is asked for. LiSSA ends after
    `max_steps`, whatever it planned.
    """

    title: ClassVar[str] = "What does a preconditioner save?"
    description: ClassVar[str] = (
        "CG and self-tuned LiSSA, plain and preconditioned by the diagonal, a Nyström sketch and EK-FAC, on "
        "ill-conditioned problems: what is saved with the set-up counted, and why it is not more."
    )
    scales: ClassVar[Mapping[str, Scale]] = {
        "quick": Scale(
            (
                "image_classifier:damping=1e-3",
                "image_classifier:damping=1e-4",
                "image_classifier:damping=1e-4,num_queries=20",
                "image_classifier:damping=1e-5",
                "softmax_regression:damping=1e-5",
            ),
        ),
    }

    targets: tuple[float, ...] = (0.05, 1e-2, 1e-4)
    target: float = 0.05
    max_steps: int = 12_000

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets is empty; name at least one relative error")
        for target in (*self.targets, self.target):
            if not 0 < target < 1:
                raise ValueError(f"a target is {target}; a relative error between 0 and 1 is needed")
        check_counts(max_steps=self.max_steps)

    def pieces(self) -> Sequence[Piece]:
        return [
            {"method": method, "preconditioner": preconditioner}
            for method, names in (("cg", PRECONDITIONERS), ("lissa", OF_LISSA))
            for preconditioner in names
        ]

    def prepare(self, problem: Problem, on_progress: OnProgress) -> _Shared:
        on_progress("eigenvalues of H", 0)
        if problem.eigenvalues is None or problem.reference is None:
            raise ValueError(
                f"p = {problem.size} is out of the reference's reach: choose a smaller problem, whose errors "
                "and condition numbers can be known"
            )
        if not problem.operator.is_psd:
            raise ValueError("H may be indefinite, where CG and a Nyström sketch have no place: use ggn")
        values, vectors = problem.ground_truth.eigen
        matrix = (vectors * (values + problem.damping)) @ vectors.T
        positive = values.clamp_min(0)
        facts = {
            "condition": problem.condition_number,
            "largest": float(values[-1]),
            "effective_dimension": float((positive / (positive + problem.damping)).sum()),
        }
        return _Shared(matrix, facts)

    def measure(
        self, problem: Problem, prepared: _Shared, piece: Piece, seed: int, on_progress: OnProgress
    ) -> Sequence[Row]:
        name = piece["preconditioner"]
        found = as_preconditioner(name)
        reason = found.skip(problem) if isinstance(found, Solver) else None
        if reason:
            return [prepared.facts | _ended(str(Status.SKIPPED), reason) | _missed(self.target)]
        if piece["method"] == "lissa":
            return [prepared.facts | row for row in self._lissa(problem, name, seed, on_progress)]
        rows = self._cg(problem, prepared, found, seed, on_progress)
        return [prepared.facts | row for row in rows]

    def report(self, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
        return build_preconditioning(rows, run, directory)

    def _cg(
        self,
        problem: Problem,
        shared: _Shared,
        found: Any,
        seed: int,
        on_progress: OnProgress,
    ) -> list[Row]:
        """A row for each target, and the path there. A product is one with one column over all data."""
        work = problem.operator.work
        before = work.passes
        inverse, state = None, None
        if isinstance(found, Solver):
            on_progress("set-up", 0)
            inverse = found.prepare(problem, torch.Generator().manual_seed(seed))
            state = Preconditioner.of(inverse, work)
        setup_work = work.equivalents(work.passes - before)
        told = inverse.diagnostics if inverse is not None and hasattr(inverse, "diagnostics") else {}
        setup_products = float(told.get("products", 0))
        assert problem.condition_number is not None
        # ‖e‖/‖x*‖ ≤ κ‖r‖/‖b‖, so that a column that ends has met every target.
        solver = ConjugateGradient(min(self.targets) / problem.condition_number, check_every=NEVER)
        known = {
            "setup_work": setup_work,
            "setup_products": setup_products,
            "rank": float(told.get("rank", NAN)),
            "predicted_condition": float(told.get("condition", NAN)),
            **_condition(shared.matrix, inverse),
            **_ended(str(Status.FINISHED), ""),
        }
        path: list[Row] = []
        products, active, recorded, reached = setup_products, problem.num_columns, 0, dict[float, Row]()
        began = work.passes
        try:
            steps = solver.iterates(problem, state, problem.columns(), torch.Generator().manual_seed(seed))
            for step, iterate in enumerate(steps, start=1):
                spent = work.equivalents(work.passes - began)
                products += active
                error = worst(problem.error(iterate.x.double()))
                assert error is not None
                point = {
                    "step": step,
                    "products": products,
                    "work": setup_work + spent,
                    "error": error,
                }
                met = [target for target in self.targets if error <= target and target not in reached]
                reached |= dict.fromkeys(met, point)
                if met or step <= 10 or step >= GROWTH * recorded:
                    path.append(point)
                    recorded = step
                    on_progress(f"step {step}", math.log(min(error, 1)) / math.log(min(self.targets)))
                if len(reached) == len(set(self.targets)):
                    break
                assert iterate.converged is not None
                active = problem.num_columns - int(iterate.converged.sum())
        except Breakdown as breakdown:
            known |= _ended(str(Status.BREAKDOWN), str(breakdown))
        rows = [{"target": target, **reached[target]} if target in reached else _missed(target)
                for target in self.targets]  # fmt: skip
        return [known | row for row in rows + [{"target": NAN, **point} for point in path]]

    def _lissa(self, problem: Problem, name: str, seed: int, on_progress: OnProgress) -> list[Row]:
        """A row for where it ended, and the path there."""

        def show(record: Record) -> None:
            on_progress(f"step {record.step}", record.step / self.max_steps)

        solver = solvers.load("lissa", target=self.target, preconditioner=name)
        on_progress("set-up", 0)
        solution = solvers.solve(problem, solver, seed=seed, max_steps=self.max_steps, on_record=show)
        told = solution.diagnostics
        batch = told.get("batch_size")
        known = {
            "setup_work": solution.setup_work,
            "setup_products": NAN,
            "planned_steps": number(told.get("num_steps")),
            "batch_size": problem.operator.num_examples if batch == "full" else number(batch),
            "chains": number(told.get("chains")),
            "step_size": number(told.get("step_size")),
            "noise_constant": number(told.get("noise_constant")),
            "pilot_work": number(told.get("pilot_work")),
            **_ended(str(solution.status), solution.reason),
            "why": str(told.get("why", "")),
        }
        end = {
            "target": self.target,
            "step": solution.steps,
            "products": NAN,
            "work": solution.setup_work + solution.work,
            "error": number(worst(solution.error)),
        }
        return [known | end, *({**known, "target": NAN, **point} for point in _path(solution))]


def _path(solution: Solution) -> list[Row]:
    return [
        {
            "step": record.step,
            "products": NAN,
            "work": solution.setup_work + record.work,
            "error": number(record.error),
        }
        for record in solution.history
    ]


def _condition(matrix: Tensor, inverse: ApproximateInverse | None) -> Row:
    """κ of P^-½(H + λI)P^-½ and the ends of its spectrum, exact."""
    if inverse is not None:
        # P^-½ in the problem's dtype takes vectors of any.
        matrix = inverse.half_solve(inverse.half_solve(matrix).T)
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return {
        "preconditioned_condition": float(values[-1] / values[0]),
        "preconditioned_smallest": float(values[0]),
        "preconditioned_largest": float(values[-1]),
    }


def _missed(target: float) -> Row:
    return {"target": target, "step": NAN, "products": NAN, "work": NAN, "error": NAN}


def _ended(status: str, reason: str) -> Row:
    return {"status": status, "reason": reason}
