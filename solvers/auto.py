"""The solver that chooses a solver."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from problems import Problem
from solvers.candidate import Candidate
from solvers.candidates import ranked
from solvers.solver import Breakdown, Divergence, Example, Iterate, Solver, State
from solvers.survey import Survey

# A solver that has taken so many times the work predicted of it is given up for the next.
PATIENCE = 3.0
# The tolerance of a solver that is ended by its recurrence, over the residual that ends it.
UNREACHED = 1e-3
# Steps over which it is seen how far each column still moves.
APART = 2


@dataclass(frozen=True)
class Auto(Solver):
    """The cheapest solver to a relative error of `target`, as a pilot on one right-hand side predicts it.

    CG on one column, on at most 2048 draws of the data, shows the spectrum as b weighs it: how many steps
    lead to the target, by Gauss–Radau quadrature (Golub & Meurant 2010, § 6.2), and at which residual. Where
    they are many it looks into CG with EK-FAC and with Nyström, into self-tuned LiSSA where the data are, and
    counts the exact solve; b/λ and the diagonal where they may do. A look is taken once CG's own pilot has
    cost as much, if it costs no more than half of the best that is known. The cheapest by prediction runs,
    with the tolerance that the pilot found; where it breaks down, diverges or takes three times its predicted
    work, the next one does. Where H + λI is not positive definite it is MINRES, piloted likewise, or the
    exact solve.

    `Solution.diagnostics`: `chosen` and `why`; `chosen_work`, `predicted_work` of it, and `measurement_work`,
    which is all else (gradient equivalents); `predictions` of every solver that was looked into. A budget of
    `solve` is first looked at after the pilot. Of one column the error is known, of the others it is
    estimated, from how far they still move. Memory: b and two iterates beside what the chosen solver takes,
    and up to 48 vectors.
    """

    target: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"target is {self.target}; a relative error between 0 and 1 is needed")

    @property
    def columns_are_independent(self) -> bool:
        return False

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        solved = b.any(dim=0).nonzero().flatten()
        if not len(solved):
            yield Iterate(torch.zeros_like(b), reason="every right-hand side is 0")
            return
        begin = problem.operator.work.passes
        asked = replace(problem, rhs=b[:, solved])
        survey = Survey(asked, self.target, generator)
        candidates = ranked(survey)
        given_up: list[str] = []
        for candidate in candidates:
            last = candidate is candidates[-1]
            told = self._told(survey, candidate, candidates, given_up)
            before = problem.operator.work.passes
            try:
                for iterate in _run(survey, candidate, generator, last):
                    work = problem.operator.work
                    chosen = candidate.spent + work.equivalents(work.passes - before)
                    told["chosen_work"] = chosen
                    told["measurement_work"] = work.equivalents(work.passes - begin) - chosen
                    x = torch.zeros_like(b)
                    x[:, solved] = iterate.x
                    reason = f"{told['why']}" + (f"; {iterate.reason}" if iterate.reason else "")
                    yield Iterate(x, diagnostics={**iterate.diagnostics, **told}, reason=reason)
                return
            except (Breakdown, Divergence) as reason:
                given_up.append(f"{candidate}: {reason}")
        raise Breakdown("no solver gets there. " + "; ".join(given_up))

    def _told(
        self, survey: Survey, chosen: Candidate, candidates: Sequence[Candidate], given_up: Sequence[str]
    ) -> dict[str, Any]:
        others = [each for each in candidates if each is not chosen]
        why = f"{chosen}: {chosen.basis}"
        if math.isfinite(chosen.work):
            why = f"{chosen}: {chosen.work:.3g} gradient equivalents by {chosen.basis}"
        if others:
            nearest = min(others, key=lambda each: each.work)
            if math.isfinite(nearest.work):
                why += f", {nearest}: {nearest.work:.3g}"
        if given_up:
            why += f"; given up: {'; '.join(given_up)}"
        return {
            "target": self.target,
            "chosen": str(chosen),
            "why": why,
            "predicted_work": chosen.work,
            "predictions": {str(each): each.work for each in candidates if math.isfinite(each.work)},
            "given_up": list(given_up),
            **survey.facts,
        }

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        # Of one column the error is known; LiSSA's is a root mean square.
        return [Example(cls(), 2 * cls.target), Example(cls(target=1e-3), 2e-3)]


def _run(survey: Survey, candidate: Candidate, generator: torch.Generator, last: bool) -> Iterator[Iterate]:
    """The candidate's iterates; Breakdown where it takes far more than was predicted, but for the last."""
    if candidate.answer is not None:
        yield Iterate(candidate.answer)
        return
    problem, solver = survey.problem, candidate.solver
    goal = solver.promised_tolerance
    if candidate.trusted and goal is not None:
        # Its own tolerance is out of reach, where it would spend a product to confirm it.
        solver = replace(solver, tolerance=UNREACHED * goal)  # type: ignore[call-arg]
    work, state = problem.operator.work, candidate.state
    before = work.passes
    if not candidate.prepared:
        state = solver.prepare(problem, generator)
    path: deque[Tensor] = deque(maxlen=APART)
    for iterate in solver.iterates(problem, state, problem.columns(), generator):
        yield iterate
        if candidate.trusted and goal is not None and iterate.residual is not None:
            residual = float(iterate.residual.max())
            earlier = path[0] if len(path) == APART else None
            if residual <= goal and survey.is_there(iterate.x, earlier, residual):
                return
        path.append(iterate.x.clone())
        taken = candidate.spent + work.equivalents(work.passes - before)
        if not last and taken > PATIENCE * candidate.work and not _converged(iterate):
            raise Breakdown(f"took {taken:.3g} gradient equivalents, and is not there")


def _converged(iterate: Iterate) -> bool:
    return iterate.converged is not None and bool(iterate.converged.all())
