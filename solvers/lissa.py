"""LiSSA: stochastic Richardson iteration on mini-batch curvature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from problems import Problem
from solvers import tuned_lissa
from solvers.measured import PapersMeasurements, measure_curvature, measure_for_papers_rule
from solvers.solver import Example, Iterate, Solver, State, check_positive
from solvers.tuning import Wanted

Auto = Literal["auto"]


@dataclass(frozen=True)
class LiSSA(Solver):
    """u ← u − η((H̃ + λ)u − b), H̃ the curvature of a fresh mini-batch (Agarwal, Bullins & Hazan 2017).

    With step size η, batch size b and A = I − η(H + λ): the mean iterate converges iff
    0 < η < 2/(λ_max + λ); the mean square iff S ↦ A S A + η² E[(H̃ − H) S (H̃ − H)] contracts (Klochkov & Liu
    2024), for which `solvers.theory.mean_square_threshold` gives the largest η. A step of one chain costs a
    product's (1 + 4k)/3 · b/n gradient equivalents.

    What is "auto" is chosen from the curvature, measured in set-up, and from a pilot on b, by the `rule`:
    "sharp" makes it the cheapest schedule that is predicted to end within the relative error `target` of
    the worst column, confirms that it is stable, averages the tails of two chains, and ends when its own
    estimate of the error says so; where mini-batches would cost more than iterating on all data it does
    that. A budget of `solve` is first looked at after the pilot. "paper" is η = 1/(λ_max + λ), b =
    Tr(H)/(λ_max + λ), ηλT = 2.25 (Klochkov & Liu 2024). What was measured, chosen and predicted stands in
    `Solution.diagnostics`.

    `batch_size`: examples, or tokens of a language model, drawn with replacement at each step, or "full"
    for all of them once. `start`: "rhs" begins at b/λ, exact where H is flat; "zero" at 0. In the terms of
    Koh & Liang (2017), scale = 1/η and their damping is λ·η.
    """

    step_size: float | Auto = "auto"
    num_steps: int | Auto = "auto"
    batch_size: int | Literal["full", "auto"] = "auto"
    start: Literal["rhs", "zero"] = "rhs"
    target: float = 0.05
    rule: Literal["sharp", "paper"] = "sharp"

    remedy: ClassVar[str] = "lower step_size, or raise batch_size if it diverges on mini-batches alone"

    def __post_init__(self) -> None:
        for name in ("step_size", "num_steps", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, str) and value not in ("auto", *["full"] * (name == "batch_size")):
                raise ValueError(f'{name} is {value!r}; it must be a number or "auto"')
        if self.step_size != "auto":
            check_positive(step_size=self.step_size)
        if self.num_steps != "auto":
            check_positive(num_steps=self.num_steps)
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(
                f'batch_size is {self.batch_size}; it must be at least 1, "full" for all examples, or "auto"'
            )
        if self.start not in ("rhs", "zero"):
            raise ValueError(f'start is {self.start!r}; it must be "rhs" or "zero"')
        if self.rule not in ("sharp", "paper"):
            raise ValueError(f'rule is {self.rule!r}; it must be "sharp" or "paper"')
        if not 0 < self.target < 1:
            raise ValueError(f"target is {self.target}; a relative error between 0 and 1 is needed")

    @property
    def columns_are_independent(self) -> bool:
        return not (self._is_tuned and self.rule == "sharp")

    @property
    def _is_tuned(self) -> bool:
        return "auto" in (self.step_size, self.num_steps, self.batch_size)

    def prepare(self, problem: Problem, generator: torch.Generator) -> State:
        if not self._is_tuned:
            return None
        measure = measure_curvature if self.rule == "sharp" else measure_for_papers_rule
        return measure(problem.operator, problem.damping, generator)

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        if state is None:
            return self._by_hand(problem, b, generator)
        if isinstance(state, PapersMeasurements):
            return self._by_the_papers_rule(problem, state, b, generator)
        wanted = Wanted(
            self.target,
            step_size=None if self.step_size == "auto" else self.step_size,
            batch_size=None if self.batch_size == "auto" else self.batch_size,
            num_steps=None if self.num_steps == "auto" else self.num_steps,
        )
        return tuned_lissa.iterates(problem, state, wanted, self.start, b, generator)

    def _by_hand(self, problem: Problem, b: Tensor, generator: torch.Generator) -> Iterator[Iterate]:
        assert self.step_size != "auto"
        assert self.num_steps != "auto"
        assert self.batch_size != "auto"
        operator = problem.operator
        u = b / problem.damping if self.start == "rhs" else torch.zeros_like(b)
        for _ in range(self.num_steps):
            batch = operator if self.batch_size == "full" else operator.minibatch(self.batch_size, generator)
            u = u - self.step_size * (batch @ u + problem.damping * u - b)
            yield Iterate(u)

    def _by_the_papers_rule(
        self, problem: Problem, measured: PapersMeasurements, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        rule = measured.schedule(problem.damping, None if self.step_size == "auto" else self.step_size)
        assert rule.batch_size is not None
        chosen = replace(
            self,
            step_size=rule.step_size,
            batch_size=rule.batch_size if self.batch_size == "auto" else self.batch_size,
            num_steps=rule.last if self.num_steps == "auto" else self.num_steps,
        )
        facts = {
            "rule": self.rule,
            "step_size": chosen.step_size,
            "batch_size": chosen.batch_size,
            "num_steps": chosen.num_steps,
            "chains": 1,
            "largest_eigenvalue": measured.largest,
            "trace": measured.trace,
            "back_offs": 0,
            "why": "the rule of Klochkov & Liu (2024)",
        }
        for iterate in chosen._by_hand(problem, b, generator):
            yield replace(iterate, diagnostics=facts)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        largest = float(problem.eigenvalues.abs().max()) + problem.damping
        num_steps = math.ceil(problem.condition_number * math.log(1e4 * problem.condition_number))
        # All data: at most κ e^{−ηλT}. Mini-batches at a small step: stable, but a noise floor of its own. By
        # itself: within its target as a root mean square, of which a single run may end at twice.
        return [
            Example(cls(1 / largest, num_steps, "full"), 1e-4),
            Example(cls(0.1 / largest, 200, batch_size=32), None),
            Example(cls(), 2 * cls.target),
        ]
