"""Measures what a diagnosis needs within a budget, and keeps account of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from bench.diagnosis import predicted_solvers as predicted
from bench.diagnosis.predicted_solvers import Piloted, PredictedSolver
from bench.diagnosis.result import (
    Spent,
    Subject,
    lowest_ritz_value,
)
from problems import CurvatureOperator, Problem
from problems.spectrum import Spectrum, measure
from problems.spectrum.lanczos import Tridiagonal, lanczos
from problems.spectrum.smoothness import sampled_noise_constant
from problems.spectrum.spectral_measure import SpectralMeasure
from problems.spectrum.summary import SMALLEST_BUDGET
from problems.work import Work
from solvers.krylov_prediction import (
    cg_history,
    conjugate_gradients,
    last_error,
    minres_residuals,
    with_column,
)
from solvers.measured import SAMPLED_EXAMPLES, Measured, margin, sample_of
from solvers.pilot import NOISE_STEPS as PILOT_NOISE_STEPS
from solvers.pilot import STEPS, pilot
from solvers.solver import Breakdown

# Shares of the budget: a pilot as wide as it may be, and CG steps on one right-hand side, by which small
# eigenvalues are seen. The spectrum has the rest; what it leaves goes into more CG steps.
PILOT_SHARE = 0.2
CG_SHARE = 0.35
# Products, with all its columns, that a pilot takes: CG from b and from the noise, two mini-batches of a
# quarter, and twice a product and two of each example.
PILOT_PRODUCTS = STEPS + PILOT_NOISE_STEPS + 6.5
MOST_CG_STEPS = 200
# CG is followed until its error may be this share of the target.
ENOUGH = 0.3
# Products of each drawn example, and half as many of all data, by which R is found from drawn examples, and
# the share of the budget that the former may take.
DRAWN_PRODUCTS = 18
DRAWN_SHARE = 0.1
# What Lanczos may hold, in bytes.
LARGEST_MEMORY = 2**31
# Products that `measure` makes at least, its smallest counts being what they are.
LEAST_PRODUCTS = 32

OnProgress = Callable[[str, float], None]
Found = TypeVar("Found")


class NotDefinite(Exception):
    """H + λI was found not to be positive definite; the message gives the direction's curvature."""


@contextmanager
def _definite() -> Iterator[None]:
    """A pilot breaks down for one reason only."""
    try:
        yield
    except Breakdown as reason:
        raise NotDefinite(str(reason)) from None


class Measuring:
    """Measures within a budget, and keeps account of it."""

    def __init__(self, problem: Problem, budget: float, seed: int, on_progress: OnProgress | None) -> None:
        self.problem = problem
        self.budget = budget
        self.seed = seed
        self.operator, self.indices = _sample(problem.operator, seed)
        if not _not_zero(problem, 1).shape[1]:
            raise ValueError(
                "every right-hand side is 0, and so is every solution: there is nothing to diagnose"
            )
        self.columns = _cost_of_products(self.operator)
        self.spent: dict[str, float] = {}
        self.lowest, self.lowest_residual = 0.0, 0.0
        self.krylov: Tridiagonal | None = None
        self._on_progress = on_progress
        least = (LEAST_PRODUCTS + PILOT_PRODUCTS) * self.columns(1)
        if not budget >= least:
            raise ValueError(
                f"budget is {budget:g} gradient equivalents; at least {math.ceil(least)} are needed for "
                "estimates with errors worth stating and a pilot on one right-hand side"
            )
        self.piloted_columns = self._affordable()

    def spectrum(self) -> Spectrum:
        pilot = PILOT_PRODUCTS * self.columns(self.piloted_columns)
        least = max(SMALLEST_BUDGET, LEAST_PRODUCTS * self.columns(1))
        share = max(least, (1 - CG_SHARE) * self.budget - pilot)

        def tell(name: str, spent: float) -> None:
            self._tell(name, spent * share)

        before = self.operator.work.total
        _check_not_zero(self.operator)
        found = measure(
            self.operator, budget=share, damping=self.problem.damping, seed=self.seed, on_progress=tell
        )
        self.spent |= found.spent
        # A product by which others are priced, and one that shows that H is not 0.
        self.spent["product"] = self.operator.work.total - before - sum(found.spent.values())
        return found

    def pilot(self, spectrum: Spectrum, target: float) -> Piloted:
        """A pilot on as many right-hand sides as there is work for, and CG on them until it is near.

        Raises NotDefinite where H + λI proves not to be positive definite.
        """
        damping = self.problem.damping
        # Of H ⪰ 0 that is 0: no Ritz value bounds λ_min from below.
        smallest = 0.0 if self.operator.is_psd else min(0.0, lowest_ritz_value(spectrum), self.lowest)
        b = _not_zero(self.problem, self.piloted_columns)
        products = self.columns(b.shape[1])
        with _definite():
            sides = self._spend(
                "pilot",
                lambda: pilot(
                    self.operator,
                    self.operator,
                    damping,
                    smallest + damping,
                    b,
                    self._generator(1),
                    "rhs",
                    # CG goes on from there, as far as the budget allows.
                    most_steps=STEPS,
                ),
            )
            measured = self._measured(spectrum)
            found = self._spend("cg", lambda: self._conjugate_gradients(b, smallest + damping, target))
        rules = sides.measure.nodes, sides.measure.weights
        for column, each in found:
            nodes, weights = each.measure
            rules = with_column(*rules, column, nodes - damping, each.start_norm**2 * weights)
        histories = tuple(cg_history(each, smallest + damping) for _, each in found)
        return Piloted(
            self.problem,
            target,
            spectrum,
            measured,
            replace(sides, measure=SpectralMeasure(*rules)),
            histories,
            self.columns,
            self.spent["pilot"] / products,
            self._share,
            smallest,
            max((float(history.errors[-1]) for history in histories), default=0.0),
        )

    def _conjugate_gradients(
        self, b: Tensor, smallest: float, target: float
    ) -> list[tuple[int, Tridiagonal]]:
        """CG on one column after the other while the budget lasts, on the first in any case."""
        began, left = self.operator.work.total, self.budget - sum(self.spent.values())
        found: list[tuple[int, Tridiagonal]] = []
        for column in range(b.shape[1]):
            steps = int((left - (self.operator.work.total - began)) / self.columns(1))
            if found and steps < len(found[0][1].diagonal):
                continue
            last = None
            steps = min(MOST_CG_STEPS, max(STEPS, steps))
            one = b[:, column : column + 1]
            for _, (last,) in conjugate_gradients(self.operator, self.problem.damping, one, steps):
                assert last is not None
                if last_error(last, smallest) <= ENOUGH * target:
                    break
            assert last is not None
            found.append((column, last))
        return found

    def definite(self, spectrum: Spectrum) -> bool:
        """Whether H + λI ≻ 0 as far as can be seen: Lanczos from a right-hand side where H need not be ⪰ 0.

        It keeps back what a pilot costs until it finds that no pilot is needed.
        """
        damping, operator = self.problem.damping, self.operator
        self.lowest = lowest_ritz_value(spectrum)
        self.lowest_residual = spectrum.extremes.smallest_residual
        if operator.is_psd:
            return True
        if self.lowest + damping <= 0:
            return False
        b = _not_zero(self.problem, 1)[:, 0]
        left = self.budget - sum(self.spent.values())
        drawn = self._drawn_examples / operator.num_draws + 0.5
        kept = PILOT_PRODUCTS * self.columns(self.piloted_columns)
        kept += DRAWN_PRODUCTS * drawn * self.columns(1)
        fits = int(LARGEST_MEMORY / (operator.shape[0] * b.element_size()))
        most = max(2, min(int(left / self.columns(1)), MOST_CG_STEPS, fits))

        def search() -> bool:
            for step, self.krylov in enumerate(lanczos(operator, b, most), start=1):
                lowest = float(self.krylov.eigen[0][0])
                self.lowest, self.lowest_residual = min(self.lowest, lowest), float(self.krylov.residuals[0])
                if lowest + damping <= 0:
                    return False
                # Before a dozen steps a Ritz value says little, however small its residual.
                affordable = step * self.columns(1) + kept <= left
                if step >= min(STEPS, most) and affordable and lowest - self.lowest_residual + damping > 0:
                    return True
            return False

        return self._spend("definiteness", search)

    def minres(self, target: float) -> PredictedSolver:
        """MINRES, as far as Lanczos from one right-hand side shows its residual."""
        self.piloted_columns = 1
        residuals = [1.0] if self.krylov is None else minres_residuals(self.krylov, self.problem.damping)
        done = next((step for step, residual in enumerate(residuals) if residual <= target), None)
        product = self.problem.num_columns * self.columns(1)
        note = f"its residual on one right-hand side is {residuals[-1]:.2g} after {len(residuals) - 1} steps"
        if done is not None:
            note += f"; steps are those to a residual of {target:g}, which says little of the error"
        return PredictedSolver(
            "MINRES",
            f"minres:tolerance={target:g}",
            done,
            0.0,
            None if done is None else (done + 1) * product,
            None,
            None,
            predicted.NONE if done is None else predicted.MEASURED,
            note,
        )

    def subject(self, specification: str) -> Subject:
        problem, data = self.problem, self.problem.operator
        return Subject(
            specification,
            problem.name,
            problem.size,
            data.num_examples,
            data.unit,
            problem.num_columns,
            problem.damping,
            data.is_psd,
            str(data.dtype).removeprefix("torch."),
            str(data.device),
            data.num_draws,
            self.operator.num_draws,
            self.piloted_columns,
        )

    def notes(self, definite: bool) -> list[str]:
        found = []
        whole, part = self.problem.operator.num_draws, self.operator.num_draws
        unit = "sequences" if self.problem.operator.unit == "token" else "examples"
        if part < whole:
            found.append(
                f"measured on {part:,} of the {whole:,} {unit}, drawn at random: H's tail and the largest "
                "h_i may differ on all of them"
            )
        if definite and self.piloted_columns < self.problem.num_columns:
            found.append(
                f"predicted from {self.piloted_columns} of the {self.problem.num_columns} right-hand sides, "
                "which the budget allows; work is that of all of them"
            )
        return found

    def account(self) -> Spent:
        total = sum(self.spent.values())
        return Spent(self.budget, self.spent, total, total * self._share)

    @property
    def _share(self) -> float:
        return self.operator.num_draws / self.problem.operator.num_draws

    def _affordable(self) -> int:
        """As many right-hand sides as a pilot may cost, at least one."""
        count, room = 1, PILOT_SHARE * self.budget / PILOT_PRODUCTS
        while count < self.problem.num_columns and self.columns(count + 1) <= room:
            count += 1
        return count

    @property
    def _drawn_examples(self) -> int:
        """From how many draws R is found where H offers no single examples: few where there are few."""
        affordable = DRAWN_SHARE * self.budget / (DRAWN_PRODUCTS * self.columns(1))
        return max(2, min(SAMPLED_EXAMPLES, int(affordable * self.operator.num_draws)))

    def _measured(self, spectrum: Spectrum) -> Measured:
        damping, operator = self.problem.damping, self.operator
        if spectrum.noise_constant is None:
            constant = self._spend(
                "constant",
                lambda: (
                    sampled_noise_constant(
                        operator, damping, self._drawn_examples, self._generator(2)
                    ).value.value
                ),
            )
        else:
            constant = spectrum.noise_constant.value.value
        return Measured(
            operator,
            damping,
            max(0.0, spectrum.largest),
            spectrum.extremes.smallest.value,
            constant,
            operator.num_examples / operator.num_draws,
            margin(operator, damping, spectrum.extremes),
        )

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(4 * self.seed + stream)

    def _spend(self, name: str, estimate: Callable[[], Found]) -> Found:
        self._tell(name, sum(self.spent.values()))
        before = self.operator.work.total
        found = estimate()
        self.spent[name] = self.operator.work.total - before
        return found

    def _tell(self, name: str, spent: float) -> None:
        if self._on_progress:
            self._on_progress(name, min(1.0, spent / self.budget))


def _sample(data: CurvatureOperator, seed: int) -> tuple[CurvatureOperator, Tensor]:
    """The data, or of many a sample that keeps an account of its own; and the indices of what is in it."""
    sample = sample_of(data, torch.Generator().manual_seed(4 * seed))
    if sample is data:
        return data, torch.arange(data.num_draws)
    drawn = torch.randperm(data.num_draws, generator=torch.Generator().manual_seed(4 * seed))
    alone = copy.copy(sample)
    alone.work = Work(sample.num_draws)
    return alone, drawn[: sample.num_draws]


def _not_zero(problem: Problem, count: int) -> Tensor:
    """The first `count` right-hand sides that are not 0, built one by one, since all may not fit."""
    found: list[Tensor] = []
    for column in range(problem.num_columns):
        b = problem.columns(slice(column, column + 1))
        if b.any():
            found.append(b)
        if len(found) == count:
            break
    return torch.cat(found, dim=1) if found else b[:, :0]


def _check_not_zero(operator: CurvatureOperator) -> None:
    """ValueError where H is 0, by one product."""
    drawn = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if not (operator @ drawn.to(operator.device, operator.dtype)).any():
        raise ValueError("H is 0, as a product with a random vector shows: x = b/λ, whatever the solver")


def _cost_of_products(operator: CurvatureOperator) -> Callable[[int], float]:
    """Gradient equivalents of a product with k columns, from the smallest mini-batch there is."""
    single = operator.minibatch(1, torch.Generator().manual_seed(0))

    def passes(columns: int) -> int:
        before = operator.work.passes
        _ = single @ torch.zeros(operator.shape[0], columns, dtype=operator.dtype, device=operator.device)
        return operator.work.passes - before

    one, two = passes(1), passes(2)
    return lambda columns: (one + (columns - 1) * (two - one)) / 3
