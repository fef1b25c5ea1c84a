"""Each check of a family fails one that is wrong in just that way; ours pass all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import problems
from bench.conformance import FAMILY_CHECKS, Failure, Family, every_trial
from bench.conformance.families import members
from problems import DenseOperator, Problem, ProblemFamily
from problems.discovery import PluginWarning
from problems.quadratic import Quadratic
from tests.conftest import random_psd_examples

MEMBERS = {
    f"{name}-{index}": member
    for name, cls in problems.available().items()
    for index, member in enumerate(cls.examples())
}
SMALL = Quadratic(dimension=4, num_examples=6, num_columns=2)


@pytest.mark.parametrize("check", FAMILY_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("member", list(MEMBERS.values()), ids=list(MEMBERS))
def test_ours_pass(member: ProblemFamily, check) -> None:
    check.run(Family(member))


@dataclass(frozen=True)
class Draws(ProblemFamily):
    """B from torch's own generator."""

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        problem = SMALL.build(device=device, dtype=dtype, seed=seed)
        return replace(problem, rhs=torch.randn(problem.rhs.shape).to(dtype))


@dataclass(frozen=True)
class AlwaysDouble(ProblemFamily):
    """float64 whatever is asked."""

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        return SMALL.build(device=device, dtype=torch.float64, seed=seed)


class Skewed(DenseOperator):
    """Products with a matrix that is not symmetric."""

    def _product(self, columns: Tensor) -> Tensor:
        return self.matrix.triu() @ columns


class Indefinite(DenseOperator):
    """Says that it is positive semi-definite."""

    @property
    def is_psd(self) -> bool:
        return True


class Biased(DenseOperator):
    """Mini-batches of the first example alone."""

    def subset(self, indices: Tensor) -> DenseOperator:
        return super().subset(torch.zeros_like(indices))


class Nothing(ProblemFamily):
    """Forgets to return the problem."""

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        return None  # type: ignore[return-value]


@dataclass(frozen=True)
class Explicit(ProblemFamily):
    """`operator` on four examples that have unequal matrices; B has columns of zeros if there is no `rhs`."""

    operator: type[DenseOperator]
    sign: float = 1.0
    rhs: float = 1.0
    closed_form_times: float | None = None
    closed_form_dtype: torch.dtype | None = None

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        matrices = self.sign * random_psd_examples(4, 3, seed, heavy_tailed=True)
        times = self.closed_form_times
        rounded = matrices.to(self.closed_form_dtype or dtype).double()
        known = None if times is None else lambda: times * rounded.mean(dim=0)
        rhs = torch.full((3, 2), self.rhs, dtype=dtype)
        return Problem("explicit", self.operator(matrices.to(dtype)), 50.0, rhs, closed_form=known)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        (Draws(), "a seed gives the same problem", "generator of that seed alone"),
        (AlwaysDouble(), "dtypes are as asked", "asked for torch.float32 it builds H and B in torch.float64"),
        (Explicit(Skewed), "the matrix is symmetric", "H is not symmetric"),
        (Explicit(Indefinite, sign=-1.0), "the matrix is symmetric", "is_psd is True and vᵀHv is -"),
        (Explicit(Biased), "the mean mini batch is the matrix", "with equal probability"),
        (Explicit(DenseOperator, rhs=0.0), "right hand sides are finite", r"the columns \[0, 1\] of B are 0"),
        (Explicit(DenseOperator, closed_form_times=2.0), "the reference is certified", "more than rounding"),
        (
            Explicit(DenseOperator, closed_form_times=1.0, closed_form_dtype=torch.float64),
            "the reference is certified",
            r"built in torch.float32, .*: is the closed form that of the data in the problem's dtype\?",
        ),
        (Nothing(), "dtypes are as asked", "`build` of .* returned None: return a Problem"),
        (Explicit(Indefinite, sign=-1.0), "the reference is certified", "lowest eigenvalue of H is -"),
    ],
    ids=lambda value: str(value).split(" ")[0],
)
def test_a_wrong_one_is_told_what_is_wrong(family: ProblemFamily, name: str, message: str) -> None:
    check = next(check for check in FAMILY_CHECKS if check.name == name)
    with pytest.raises(AssertionError, match=message):
        check.run(Family(family))


def test_a_closed_form_in_the_problems_dtype_is_right() -> None:
    certified = next(check for check in FAMILY_CHECKS if check.name == "the reference is certified")
    certified.run(Family(Explicit(DenseOperator, closed_form_times=1.0)))


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ((), "OffersWrongly: `examples` offers nothing: return at least one"),
        (None, "OffersWrongly: `examples` returned None: return a list"),
        (["quadratic"], "OffersWrongly: `examples` offers 'quadratic': return OffersWrongly"),
    ],
)
def test_examples_that_are_none_are_a_failure(
    offered: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OffersWrongly(Nothing):
        """Offers what is given."""

        @classmethod
        def examples(cls):  # type: ignore[no-untyped-def]
            return offered

    with pytest.raises(Failure, match=message):
        members(OffersWrongly)
    monkeypatch.setattr(problems, "available", lambda: {"wrong": OffersWrongly})
    every_trial.cache_clear()
    try:
        with pytest.warns(PluginWarning, match=f"no solver is tried on wrong: {message}"):
            assert "dense" in [trial.name for trial in every_trial()]
    finally:
        every_trial.cache_clear()


def test_settings_without_a_default_need_examples() -> None:
    with pytest.raises(Failure, match=r"Explicit: write `examples`, which gives operator a value"):
        members(Explicit)
