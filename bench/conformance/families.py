"""What a problem family must do, on each of its examples."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch

from bench.conformance.offers import offered_by
from bench.conformance.outcome import Failure, NotApplicable
from bench.conformance.place import place_of
from problems import Problem, ProblemFamily
from problems.discovery import file_of
from problems.scaling import relative_norms

CPU = torch.device("cpu")
BATCHES = 400
# Standard errors: by chance one family in millions is this far off.
FAR_OFF = 6.0


class Family:
    """A member of a family and the problems built of it, kept for the checks that follow."""

    def __init__(self, family: ProblemFamily) -> None:
        self.family = family
        self.built = functools.cache(self.build)

    @property
    def file(self) -> Path:
        """The file of the plug-in."""
        return file_of(type(self.family))

    def build(self, dtype: torch.dtype = torch.float64) -> Problem:
        """The problem from seed 0 on the CPU, anew."""
        return build(self.family, dtype)


def build(family: ProblemFamily, dtype: torch.dtype) -> Problem:
    """The problem that `family` builds from seed 0 on the CPU; Failure where that is none."""
    built: object = family.build(device=CPU, dtype=dtype, seed=0)
    if not isinstance(built, Problem):
        raise Failure(f"`build` of {family} returned {built!r}: return a Problem, such as `from_model` gives")
    return built


def members(cls: type[ProblemFamily]) -> list[ProblemFamily]:
    """The family's examples, on which it and all solvers are tried; Failure where there are none."""
    try:
        return offered_by(cls, ProblemFamily, ProblemFamily, f"{cls.__name__}(...), a small one")
    except Failure as failure:
        raise Failure(f"{cls.__name__}: {failure}") from None
    except Exception as error:
        place = place_of(error, file_of(cls))
        raise Failure(
            f"`examples` of {cls.__name__} raised {type(error).__name__}: {error}{place}"
        ) from error


def a_seed_gives_the_same_problem(subject: Family) -> None:
    """Built twice from one seed it has the same λ, B and products bit by bit, whatever torch's own seed."""
    one = subject.built()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        other = subject.build()
    if one.damping != other.damping or not torch.equal(one.columns(), other.columns()):
        raise Failure("two problems of seed 0 have other λ or B: draw from a generator of that seed alone")
    for problem in (one, other):
        problem.operator.forget()
    probe = _normal(one, 2)
    if not torch.equal(one.operator @ probe, other.operator @ probe):
        raise Failure("two problems of seed 0 have other H: draw from a generator of that seed alone")


def dtypes_are_as_asked(subject: Family) -> None:
    """H and B are float32 or float64 as asked, and both describe the same problem to float32's rounding."""
    problems = {dtype: subject.built(dtype) for dtype in (torch.float64, torch.float32)}
    for dtype, problem in problems.items():
        found = {problem.operator.dtype, problem.columns().dtype}
        if found != {dtype}:
            raise Failure(f"asked for {dtype} it builds H and B in {', '.join(map(str, found))}")
    double, single = problems.values()
    if double.rhs.shape != single.rhs.shape:
        raise Failure(f"B has shape {double.rhs.shape} in float64 and {single.rhs.shape} in float32")
    probe = _normal(double, 1)
    exact = double.operator @ probe
    off = float(relative_norms((single.operator @ probe.float()).double() - exact, exact).max())
    if not off <= 1e-2:
        raise Failure(f"a product in float32 is {off:.1e} off that in float64: draw in float64, then convert")


def the_matrix_is_symmetric(subject: Family) -> None:
    """uᵀHv = vᵀHu for random u and v, vᵀHv ≥ 0 where `is_psd`, and a block's product is its columns'."""
    problem = subject.built()
    u, v = _normal(problem, 1), _normal(problem, 2)[:, 1:]
    both = problem.operator @ torch.cat([u, v], dim=1)
    one, other = float(v.T @ both[:, :1]), float(u.T @ both[:, 1:])
    size = float(u.norm() * both[:, 1:].norm()) + float(v.norm() * both[:, :1].norm())
    if not abs(one - other) <= 1e-10 * size:
        raise Failure(f"vᵀHu is {one:.6e} and uᵀHv {other:.6e}: H is not symmetric")
    if problem.operator.is_psd and float(v.T @ both[:, 1:]) < -1e-10 * size:
        raise Failure(f"is_psd is True and vᵀHv is {float(v.T @ both[:, 1:]):.3e}")
    alone = problem.operator @ v[:, 0]
    if not float((alone - both[:, 1]).norm()) <= 1e-10 * float(both[:, 1].norm()):
        raise Failure("H v of one vector and of the same one in a block differ by more than rounding")


def the_mean_mini_batch_is_the_matrix(subject: Family) -> None:
    """The mean of vᵀH̃v over 400 mini-batches of one example is vᵀHv, within 6 standard errors."""
    problem = subject.built()
    v = _normal(problem, 1)
    generator = torch.Generator().manual_seed(2)
    drawn = torch.stack([(v * (problem.operator.minibatch(1, generator) @ v)).sum() for _ in range(BATCHES)])
    expected = float((v * (problem.operator @ v)).sum())
    error = float(drawn.std()) / math.sqrt(BATCHES) + 1e-10 * abs(expected)
    if not abs(float(drawn.mean()) - expected) <= FAR_OFF * error:
        raise Failure(
            f"vᵀH̃v of mini-batches has the mean {float(drawn.mean()):.4e} ± {error:.1e}, vᵀHv is "
            f"{expected:.4e}: draw examples with replacement, all with equal probability"
        )


def right_hand_sides_are_finite(subject: Family) -> None:
    """B is (p, k) with k ≥ 1, finite, and no column of it is 0; λ > 0."""
    problem = subject.built()
    b = problem.columns()
    if not torch.isfinite(b).all():
        raise Failure("B holds NaN or inf")
    empty = (~b.any(dim=0)).nonzero().flatten().tolist()
    if empty:
        raise Failure(f"the columns {empty} of B are 0, and so is their answer: leave them out")


def the_reference_is_certified(subject: Family) -> None:
    """The dense solution leaves no residual but rounding under H's own product, and H ⪰ 0 if `is_psd`.

    In float64 and in float32, each with the matrix of its own rounded data.
    """
    problem = subject.built()
    if not problem.ground_truth.in_reach:
        raise NotApplicable(f"p = {problem.size} is too large for a dense solution")
    for dtype in (torch.float64, torch.float32):
        try:
            _ = subject.built(dtype).reference
        except ArithmeticError as error:
            raise Failure(f"built in {dtype}, {error}") from None
    assert problem.eigenvalues is not None
    lowest, largest = float(problem.eigenvalues[0]), float(problem.eigenvalues[-1])
    if problem.operator.is_psd and lowest < -1e-10 * largest:
        raise Failure(f"is_psd is True and the lowest eigenvalue of H is {lowest:.3e}")


CHECKS = (
    a_seed_gives_the_same_problem,
    dtypes_are_as_asked,
    the_matrix_is_symmetric,
    the_mean_mini_batch_is_the_matrix,
    right_hand_sides_are_finite,
    the_reference_is_certified,
)


def _normal(problem: Problem, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(problem.size, columns, generator=generator, dtype=torch.float64)
