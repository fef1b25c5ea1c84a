"""LiSSA: stochastic Richardson iteration on mini-batch curvature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

import solvers
from problems import Problem
from solvers import tuned_lissa
from solvers.geometry import Geometry, plain, preconditioned
from solvers.measured import Measured, PapersMeasurements, measure_for_papers_rule
from solvers.preconditioner import (
    NONE,
    Preconditioner,
    Preconditioning,
    as_preconditioner,
    prepare,
    skip_reason,
)
from solvers.solver import Example, Iterate, Solver, check_positive
from solvers.tuning import Wanted

Auto = Literal["auto"]


@dataclass(frozen=True)
class _Prepared:
    """What depends on H and λ alone; `measured` is None where all settings are set by hand."""

    preconditioner: Preconditioner | None
    measured: Measured | PapersMeasurements | None = None
    geometry: Geometry | None = None


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

    `preconditioner` P, "ekfac", "nystrom" or another: u ← u − ηP⁻¹((H̃ + λ)u − b) from P⁻¹b, with EK-FAC
    the ASTRA of Wang et al. (2025). All the above then holds of P^-½(H + λ)P^-½ in the place of H + λ, where
    the settings are measured, and η is near 1; batches must be larger, up to d(λ) = Tr H(H + λ)⁻¹.
    Of settings by hand alone: `momentum` β adds β(u_t − u_{t−1}) (Polyak 1964), with which the mean converges
    iff 0 ≤ β < 1 and 0 < η < 2(1 + β)/(λ_max + λ); `average_after` is the share of the steps after which
    the answer is the mean of the iterates since, 1 for none.
    """

    step_size: float | Auto = "auto"
    num_steps: int | Auto = "auto"
    batch_size: int | Literal["full", "auto"] = "auto"
    start: Literal["rhs", "zero"] = "rhs"
    target: float = 0.05
    rule: Literal["sharp", "paper"] = "sharp"
    preconditioner: Preconditioning = NONE
    momentum: float = 0.0
    average_after: float = 1.0

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
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and less than 1")
        if not 0 <= self.average_after <= 1:
            raise ValueError(f"average_after is {self.average_after}; it is a share of the steps, 0 to 1")
        if self._is_tuned and (self.momentum or self.average_after < 1):
            raise ValueError(
                "momentum and average_after are for settings by hand: set step_size, batch_size and "
                "num_steps too, or leave these two out (what is chosen averages by itself)"
            )
        if self._is_tuned and self.rule == "paper" and self.preconditioner != NONE:
            raise ValueError('rule is "paper", which knows no preconditioner: use rule="sharp"')
        preconditioner = as_preconditioner(self.preconditioner)
        if self._is_tuned and preconditioner and not isinstance(preconditioner, Solver):
            raise ValueError(
                "preconditioner is a function, which applies P⁻¹; to choose settings LiSSA needs P^-½ too: "
                'set step_size, batch_size and num_steps, or name "ekfac", "nystrom" or "jacobi"'
            )

    @property
    def columns_are_independent(self) -> bool:
        return not (self._is_tuned and self.rule == "sharp")

    @property
    def _is_tuned(self) -> bool:
        return "auto" in (self.step_size, self.num_steps, self.batch_size)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(self.preconditioner, problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> _Prepared:
        preconditioner = prepare(self.preconditioner, problem, generator)
        if not self._is_tuned:
            return _Prepared(preconditioner)
        if self.rule == "paper":
            return _Prepared(None, measure_for_papers_rule(problem.operator, problem.damping, generator))
        geometry = preconditioned(problem, preconditioner) if preconditioner else plain(problem)
        return _Prepared(preconditioner, geometry.measure(generator), geometry)

    def iterates(
        self, problem: Problem, state: _Prepared, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        if state.measured is None:
            return self._by_hand(problem, state.preconditioner, b, generator)
        if isinstance(state.measured, PapersMeasurements):
            return self._by_the_papers_rule(problem, state.measured, b, generator)
        wanted = Wanted(
            self.target,
            step_size=None if self.step_size == "auto" else self.step_size,
            batch_size=None if self.batch_size == "auto" else self.batch_size,
            num_steps=None if self.num_steps == "auto" else self.num_steps,
        )
        return tuned_lissa.iterates(problem, state.measured, wanted, self.start, b, generator, state.geometry)

    def _by_hand(
        self, problem: Problem, preconditioner: Preconditioner | None, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        assert self.step_size != "auto"
        assert self.num_steps != "auto"
        assert self.batch_size != "auto"
        operator = problem.operator
        start = preconditioner.apply(b) if preconditioner else b / problem.damping
        u = start if self.start == "rhs" else torch.zeros_like(b)
        before, total = u, torch.zeros_like(b)
        first = min(round(self.average_after * self.num_steps), self.num_steps - 1)
        for t in range(1, self.num_steps + 1):
            batch = operator if self.batch_size == "full" else operator.minibatch(self.batch_size, generator)
            gradient = batch @ u + problem.damping * u - b
            step = self.step_size * (preconditioner.apply(gradient) if preconditioner else gradient)
            if self.momentum:
                step = step - self.momentum * (u - before)
            before, u = u, u - step
            if self.average_after == 1 or t <= first:
                yield Iterate(u)
            else:
                total += u
                yield Iterate(total / (t - first))

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
        for iterate in chosen._by_hand(problem, None, b, generator):
            yield replace(iterate, diagnostics=facts)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        largest = float(problem.eigenvalues.abs().max()) + problem.damping
        num_steps = math.ceil(problem.condition_number * math.log(1e4 * largest / problem.damping))
        # All data from b/λ, which is μ/λ times the solution off: at most λ_max/λ (1 − 1/κ)ᵀ. Mini-batches at
        # a small step: stable, but a noise floor of its own. By itself: within its target as a root mean
        # square, of which a single run may end at twice.
        known = solvers.available()
        return [
            Example(cls(1 / largest, num_steps, "full"), 1e-4),
            Example(cls(0.1 / largest, 200, batch_size=32, momentum=0.5, average_after=0.5), None),
            Example(cls(), 2 * cls.target),
            *(
                Example(cls(preconditioner=name), 2 * cls.target)
                for name in ("ekfac", "nystrom")
                if name in known
            ),
        ]
