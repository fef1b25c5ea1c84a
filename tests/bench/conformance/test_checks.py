"""Each check fails a solver that is wrong in just that way, and passes one that is right."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bench.conformance import CHECKS, NotApplicable, Outcome, Subject, Trial, every_trial, judge, subject
from problems import Problem
from solvers import Breakdown, Example, Iterate, Solver

TRIALS = {trial.name: trial for trial in every_trial()}
DENSE = TRIALS["dense"]


@dataclass(frozen=True)
class Right(Solver):
    """A dense solve, which every wrong one below spoils in its own way."""

    @classmethod
    def examples(cls, problem: Problem) -> list[Example]:
        return [Example(cls(), 1e-8)]

    def iterates(
        self, problem: Problem, state: object, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield from self.spoiled(problem, b, self.solution(problem, b))

    def solution(self, problem: Problem, b: Tensor) -> Tensor:
        """(H + λI)⁻¹b."""
        return torch.linalg.solve(
            problem.operator.dense() + problem.damping * torch.eye(problem.size).to(b), b
        )

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        """What is yielded."""
        yield Iterate(x)


class Undocumented(Right):
    __doc__ = None


class SkipsWithoutReason(Right):
    """Skips."""

    def skip(self, problem: Problem) -> str | None:
        return " "


class Inaccurate(Right):
    """1 % off."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(1.01 * x)


@dataclass(frozen=True)
class BreaksItsPromise(Right):
    """1e-4 off whatever is asked."""

    tolerance: float = 1e-3

    @classmethod
    def examples(cls, problem: Problem) -> list[Example]:
        return [Example(cls(), 1e-2)]

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x * (1 + 1e-4))


class MixesColumns(Right):
    """Adds the mean of all answers."""

    @classmethod
    def examples(cls, problem: Problem) -> list[Example]:
        return [Example(cls(), 1e-2)]

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x + 1e-6 * x.mean(dim=1, keepdim=True))


class WritesAfterwards(Right):
    """Changes x once it was yielded."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x)
        x *= 1 + 1e-9


class DrawsElsewhere(Right):
    """Draws from torch's own generator."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x * (1 + 1e-12 * torch.rand(1).to(x)))


class ReadsTheProblemsRightHandSide(Right):
    """Looks at B as it is in the problem, where its numbers may be of any size."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x * (1 + 1e-10 * float(problem.columns().abs().max() > 1e100)))


class AddsAJitter(Right):
    """λ + 1e-10, whatever the units of H are."""

    def solution(self, problem: Problem, b: Tensor) -> Tensor:
        return Right.solution(self, problem.with_damping(problem.damping + 1e-10), b)


class PrefersTheFirstExample(Right):
    """Depends on which example comes first."""

    @classmethod
    def examples(cls, problem: Problem) -> list[Example]:
        return [Example(cls(), 1e-4)]

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        first = problem.operator.subset(torch.tensor([0])).dense().trace()
        yield Iterate(x * (1 + 1e-5 * first / (1 + first)))


class DividesByTheNorm(Right):
    """NaN for b = 0."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x / b.norm(dim=0) * b.norm(dim=0))


class StopsAtAnInvariantSpace(Right):
    """Breaks down when one step of steepest descent leaves no residual."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        product = problem.operator @ b + problem.damping * b
        step = b.square().sum(dim=0) / (b * product).sum(dim=0)
        if ((b - step * product).norm(dim=0) < 1e-12 * b.norm(dim=0)).any():
            raise Breakdown("0/0")
        yield Iterate(x)


class HalvesPrecision(Right):
    """In float32 it multiplies in bfloat16."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x.bfloat16().to(x) if x.dtype == torch.float32 else x)


class StepsTooFar(Right):
    """The Neumann series with η = 1/λ_max instead of one for λ_max + λ, ever 400 terms."""

    def iterates(
        self, problem: Problem, state: object, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        assert problem.eigenvalues is not None
        step = 1 / float(problem.eigenvalues[-1])
        x = torch.zeros_like(b)
        for _ in range(400):
            x = x + step * (b - problem.operator @ x - problem.damping * x)
            yield Iterate(x)


class LeavesTheReasonOut(Right):
    """Breaks down at small λ without a word."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        if problem.damping < 1e-2:
            raise Breakdown
        yield Iterate(x)


class YieldsNothing(Right):
    """No iterate."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield from ()


class YieldsAnotherShape(Right):
    """One row too few."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x[1:])


class YieldsNaN(Right):
    """NaN."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        yield Iterate(x * float("nan"))


class YieldsForEver(Right):
    """Never ends."""

    def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
        while True:
            yield Iterate(x)


class OffersNothing(Right):
    """No examples."""

    @classmethod
    def examples(cls, problem: Problem) -> list[Example]:
        return []


class OffersNone(Right):
    """Forgets to return its examples."""

    @classmethod
    def examples(cls, problem: Problem) -> list[Example]:
        return None  # type: ignore[return-value]


class OffersAClass(Right):
    """A class in place of a solver."""

    @classmethod
    def examples(cls, problem: Problem) -> list[Example]:
        return [Example(cls, 1e-8)]  # type: ignore[arg-type]


class ClaimsInWords(Right):
    """A claim that is no number."""

    @classmethod
    def examples(cls, problem: Problem) -> list[Example]:
        return [Example(cls(), "1e-8")]  # type: ignore[arg-type]


@dataclass(frozen=True)
class NeedsASetting(Solver):
    """A setting without a default, and no examples."""

    eta: float

    def iterates(
        self, problem: Problem, state: object, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield Iterate(b)


class SkipsWithFalse(Right):
    """Says no in place of nothing."""

    def skip(self, problem: Problem) -> str | None:
        return False  # type: ignore[return-value]


WRONG = [
    (Undocumented, "settings are frozen and shown", "has no docstring"),
    (SkipsWithoutReason, "skip says why", "return None, or why it cannot run"),
    (Inaccurate, "reaches the accuracy it claims", r"relative error 1\.00e-02 and claims 1\.00e-08"),
    (BreaksItsPromise, "a tolerance is kept", "short of 1e-10"),
    (MixesColumns, "a column alone is as in a block", "treat every column by itself"),
    (WritesAfterwards, "work is counted and history in order", "must not change the last x"),
    (DrawsElsewhere, "a seed fixes everything but seconds", "nowhere else"),
    (ReadsTheProblemsRightHandSide, "scales with the right hand side", "use the b that `iterates` is given"),
    (AddsAJitter, "scales with the matrix", "make every threshold relative"),
    (PrefersTheFirstExample, "the order of examples does not matter", "treat all examples alike"),
    (DividesByTheNorm, "no right hand side no answer", "held NaN or inf"),
    (StopsAtAnInvariantSpace, "an eigenvector is only scaled", "ended breakdown: 0/0"),
    (HalvesPrecision, "float32 is as good as rounding allows", "factor matrices in float64"),
    (StepsTooFar, "every damping ends honestly", "λ = 10 λ_max ended diverged"),
    (LeavesTheReasonOut, "every damping ends honestly", "does not say why"),
    (YieldsNothing, "reaches the accuracy it claims", "must yield at least one"),
    (YieldsAnotherShape, "reaches the accuracy it claims", r"x of shape \(8, 3\)"),
    (YieldsNaN, "reaches the accuracy it claims", "held NaN or inf"),
    (YieldsForEver, "reaches the accuracy it claims", "was still going after 300 steps"),
    (OffersNothing, "reaches the accuracy it claims", "return at least one Example"),
    (OffersNone, "reaches the accuracy it claims", "`examples` returned None: return a list of Example"),
    (OffersAClass, "reaches the accuracy it claims", "its first part must be a solver"),
    (ClaimsInWords, "reaches the accuracy it claims", "relative error '1e-8': it must be a number"),
    (NeedsASetting, "reaches the accuracy it claims", "write `examples`, which gives eta a value"),
    (SkipsWithFalse, "skip says why", r"skip\(problem\) is False; return None where it runs"),
]


@pytest.mark.parametrize("trial", list(TRIALS.values()), ids=list(TRIALS))
def test_a_right_solver_passes_everything(trial: Trial) -> None:
    tried = Subject(Right, trial)
    assert {judge(check, tried, "").text for check in CHECKS if trial.thorough and not trial.beside} <= {
        "",
        "it promises no tolerance",
    }
    for check in CHECKS:
        assert judge(check, tried, trial.name).outcome is not Outcome.FAILED


@pytest.mark.parametrize(("wrong", "name", "message"), WRONG, ids=[case[0].__name__ for case in WRONG])
def test_a_wrong_one_is_told_what_is_wrong(
    wrong: type[Solver], name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "MOST_STEPS", 300 if wrong is YieldsForEver else 25_000)
    check = next(check for check in CHECKS if check.name == name)
    with pytest.raises(AssertionError, match=message):
        check.run(Subject(wrong, DENSE))


@pytest.mark.parametrize(
    "wrong",
    [
        MixesColumns,
        WritesAfterwards,
        DrawsElsewhere,
        ReadsTheProblemsRightHandSide,
        AddsAJitter,
        PrefersTheFirstExample,
        DividesByTheNorm,
        StopsAtAnInvariantSpace,
        HalvesPrecision,
        StepsTooFar,
        SkipsWithFalse,
    ],
)
def test_what_is_wrong_in_one_way_reaches_its_accuracy(wrong: type[Solver]) -> None:
    """So that no other check would have told."""
    check = next(check for check in CHECKS if check.name == "reaches the accuracy it claims")
    check.run(Subject(wrong, DENSE))


def test_what_needs_layers_is_varied_on_the_network() -> None:
    class Layered(Right):
        """Skips what is no network."""

        def skip(self, problem: Problem) -> str | None:
            return None if problem.task else "it needs layers"

    varied = next(check for check in CHECKS if check.name == "no right hand side no answer")
    varied.run(Subject(Layered, TRIALS["network"]))
    with pytest.raises(NotApplicable, match="the solver skips it: it needs layers"):
        varied.run(Subject(Layered, DENSE))
    with pytest.raises(NotApplicable, match="varied in their place"):
        varied.run(Subject(Right, TRIALS["network"]))


def test_an_error_in_a_plugins_own_code_is_a_failure_that_names_the_line() -> None:
    class Raises(Right):
        """Its examples raise."""

        @classmethod
        def examples(cls, problem: Problem) -> list[Example]:
            raise KeyError("nothing there")

    finding = judge(CHECKS[0], Subject(Raises, DENSE), "dense")
    assert finding.outcome is Outcome.FAILED
    assert "KeyError: 'nothing there'" in finding.text
    assert "test_checks.py, line" in finding.text


def test_a_claim_of_nothing_is_no_pass() -> None:
    class Modest(Right):
        """Claims nothing."""

        @classmethod
        def examples(cls, problem: Problem) -> list[Example]:
            return [Example(cls(), None)]

    check = next(check for check in CHECKS if check.name == "reaches the accuracy it claims")
    with pytest.raises(NotApplicable, match="it claims nothing: give `examples` a relative_error"):
        check.run(Subject(Modest, DENSE))


def test_nan_from_a_seed_is_the_same_nan() -> None:
    check = next(check for check in CHECKS if check.name == "a seed fixes everything but seconds")
    check.run(Subject(YieldsNaN, DENSE))


@pytest.mark.parametrize("swallows", [False, True])
def test_what_never_comes_back_is_interrupted_at_its_own_line(swallows: bool) -> None:
    class Loops(Right):
        """Loops, and perhaps catches all errors that it can."""

        def spoiled(self, problem: Problem, b: Tensor, x: Tensor) -> Iterator[Iterate]:
            while True:
                try:
                    time.sleep(0.01)
                except BaseException:
                    if not swallows:
                        raise
                    swallowed.append(1)
                    if len(swallowed) > 1:
                        raise
            yield

    swallowed: list[int] = []
    before = signal.getsignal(signal.SIGALRM)
    check = next(check for check in CHECKS if check.name == "usable answers are finite")
    DENSE.problem()
    finding = judge(check, Subject(Loops, DENSE, max_seconds=0.2), "dense", max_seconds=0.2)
    assert finding.took_too_long
    assert re.search(r"did not come back for 0\.4 s \(.*test_checks\.py, line \d+\)", finding.text)
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (before, (0, 0))


def test_every_check_says_what_it_means() -> None:
    for check in CHECKS:
        assert len(check.meaning) > 30
        assert check.meaning.endswith(".")


def test_the_special_trials_are_what_they_are_called() -> None:
    def facts(name: str) -> tuple[int, int, int]:
        problem = TRIALS[name].problem()
        assert problem.eigenvalues is not None
        rank = int((problem.eigenvalues > 1e-10).sum())
        return problem.size, rank, problem.num_columns

    assert facts("dense") == (9, 9, 3)
    assert facts("rank-deficient") == (9, 4, 3)
    assert facts("one-parameter") == (1, 1, 1)
    assert TRIALS["one-example"].problem().operator.num_examples == 1
    assert facts("more-columns-than-parameters") == (3, 3, 7)
    network = TRIALS["network"]
    plain, scaled = network.problem(), network.scaled(2.0**-40)
    assert scaled is not None
    assert torch.equal(scaled.operator.dense(), 2.0**-40 * plain.operator.dense())
    assert torch.equal(scaled.columns(), plain.columns())
    for each in (plain, scaled):
        assert each.task is not None
    indices = torch.arange(12)
    gradients = [each.task.gradients(each.task.training, indices) for each in (plain, scaled) if each.task]
    torch.testing.assert_close(gradients[1], 2.0**-20 * gradients[0], rtol=1e-12, atol=0)
