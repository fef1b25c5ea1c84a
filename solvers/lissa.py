"""LiSSA: stochastic Richardson iteration on mini-batch curvature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from problems import Problem
from solvers.solver import Example, Iterate, Solver, State, check_positive


@dataclass(frozen=True)
class LiSSA(Solver):
    """u ← u − η((H̃ + λ)u − b), H̃ the curvature of a fresh mini-batch (Agarwal, Bullins & Hazan 2017).

    With step size η, batch size b and A = I − η(H + λ): the mean iterate converges iff
    0 < η < 2/(λ_max + λ); the mean square iff S ↦ A S A + η² E[(H̃ − H) S (H̃ − H)] contracts (Klochkov & Liu
    2024), for which `solvers.theory.mean_square_threshold` gives the largest η. A step costs
    (1 + 4k)/3 · b/n gradient equivalents.

    `batch_size`: examples, or tokens of a language model, drawn with replacement at each step, or "full"
    for all of them once.
    `start`: "rhs" begins at b/λ, exact where H is flat; "zero" at 0. In the terms of Koh & Liang (2017),
    scale = 1/η and their damping is λ·η.
    """

    step_size: float
    num_steps: int
    batch_size: int | Literal["full"] = "full"
    start: Literal["rhs", "zero"] = "rhs"

    remedy: ClassVar[str] = "lower step_size, or raise batch_size if it diverges on mini-batches alone"

    def __post_init__(self) -> None:
        check_positive(step_size=self.step_size, num_steps=self.num_steps)
        if self.batch_size != "full" and self.batch_size < 1:
            raise ValueError(
                f'batch_size is {self.batch_size}; it must be at least 1, or "full" for all examples'
            )
        if self.start not in ("rhs", "zero"):
            raise ValueError(f'start is {self.start!r}; it must be "rhs" or "zero"')

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        operator = problem.operator
        u = b / problem.damping if self.start == "rhs" else torch.zeros_like(b)
        for _ in range(self.num_steps):
            batch = operator if self.batch_size == "full" else operator.minibatch(self.batch_size, generator)
            u = u - self.step_size * (batch @ u + problem.damping * u - b)
            yield Iterate(u)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        largest = float(problem.eigenvalues.abs().max()) + problem.damping
        num_steps = math.ceil(problem.condition_number * math.log(1e4 * problem.condition_number))
        # All data: at most κ e^{−ηλT}. Mini-batches at a small step: stable, but a noise floor of its own.
        return [
            Example(cls(1 / largest, num_steps), 1e-4),
            Example(cls(0.1 / largest, 200, batch_size=32), None),
        ]
