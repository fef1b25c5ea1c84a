"""What a solver must do when the problem is varied.

Tried on one matrix; on one network those settings that need its layers, and of all settings the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.conformance.ordinary import HARD, allowed, assert_finite, same_answer, shifted_matrix
from bench.conformance.outcome import Failure, NotApplicable
from bench.conformance.subject import TIGHT, Subject
from problems import Problem
from problems.scaling import relative_norms
from solvers import Example, Status

# λ over λ_max. Steps are limited where a stationary method would need some multiple of κ ≥ 1e3.
DAMPINGS = (1e-6, 1e-3, 1e-1, 10.0)
STEPS, HARD_STEPS = 3000, 300
# Exact in binary; the squares of the small ones underflow, those of the large ones overflow.
FAR = {torch.float64: (2.0**-600, 2.0**600), torch.float32: (2.0**-90, 2.0**90)}
SINGLE_TOLERANCE = 1e-4
# Of H and λ: far below any threshold that is not relative to H.
SMALL = 2.0**-40


def a_seed_fixes_everything_but_seconds(subject: Subject) -> None:
    """Two runs with one seed give the same bits, history, status and work, whatever torch's own seed is."""
    problem = subject.problem
    for example in subject.examples(problem):
        first = subject.solve(problem, example.solver, anew=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(123)
            again = subject.solve(problem, example.solver, anew=True)
        remedy = (
            "draw from the generator that `prepare` and `iterates` are given, on the CPU, and nowhere else"
        )
        if first.x is None or again.x is None or not _same_bits(first.x, again.x):
            raise Failure(f"{example.solver}: two runs with seed 0 gave different answers; {remedy}")
        histories = [[replace(each, seconds=0) for each in run.history] for run in (first, again)]
        # By what they read, since NaN is not equal to itself.
        if repr(histories[0]) != repr(histories[1]):
            raise Failure(f"{example.solver}: two runs with seed 0 have different histories; {remedy}")
        facts = [(run.status, run.reason, run.setup_work, run.work) for run in (first, again)]
        if repr(facts[0]) != repr(facts[1]):
            raise Failure(f"{example.solver}: two runs with seed 0 ended {facts[0]} and {facts[1]}; {remedy}")


def scales_with_the_right_hand_side(subject: Subject) -> None:
    """B times 2^±600, column by column, gives X times the same, exactly; B itself is left as it was."""
    problem = subject.problem
    runnable = subject.varied(problem)
    before = problem.columns().clone()
    scaled, scale = _far(problem)
    for example in runnable:
        one, other = subject.answered(problem, example.solver), subject.answered(scaled, example.solver)
        assert one.x is not None
        assert other.x is not None
        if one.status != other.status or not torch.equal(other.x, scale * one.x):
            raise Failure(
                f"{example.solver} does not give exactly the same for B times powers of two: use the b that "
                "`iterates` is given, which is scaled, and not problem.rhs"
            )
    if not torch.equal(problem.columns(), before):
        raise Failure("the right-hand sides of the problem were written to: work on the b given, or a copy")


def scales_with_the_matrix(subject: Subject) -> None:
    """H and λ times 2^−40 give X times 2^40: to rounding, of a solver that draws within the claimed error."""
    scaled = subject.trial.scaled(SMALL)
    if scaled is None:
        raise NotApplicable("its H cannot be multiplied by a number")
    pairs = _paired(subject, subject.problem, scaled)
    what = f"with H and λ times {SMALL:.0e}: make every threshold relative to the size of H or of b"
    _compare(subject, subject.problem, scaled, pairs, SMALL, what)


def the_order_of_examples_does_not_matter(subject: Subject) -> None:
    """The examples in another order give the same X: to rounding, if it draws within the claimed error."""
    problem = subject.problem
    order = torch.randperm(problem.operator.num_draws, generator=torch.Generator().manual_seed(1))
    permuted = replace(problem, operator=problem.operator.subset(order))
    pairs = [(example, example) for example in subject.varied(problem)]
    what = "with the examples in another order: treat all examples alike"
    _compare(subject, problem, permuted, pairs, 1.0, what)


def no_right_hand_side_no_answer(subject: Subject) -> None:
    """b = 0 gives x = 0, alone and beside another column."""
    problem = subject.problem
    runnable = subject.varied(problem)
    zeros = torch.zeros(problem.size, 1, dtype=torch.float64)
    for rhs in (zeros, torch.cat([problem.columns()[:, :1], zeros], dim=1)):
        zero = replace(problem, rhs=rhs)
        for example in runnable:
            x = subject.answered(zero, example.solver).x
            assert x is not None
            if x[:, -1].any():
                raise Failure(
                    f"{example.solver}: x is {float(x[:, -1].abs().max()):.2e} for b = 0, beside "
                    f"{rhs.shape[1] - 1} other columns; it must be 0: guard divisions by ‖b‖ and ‖r‖"
                )


def an_eigenvector_is_only_scaled(subject: Subject) -> None:
    """b an eigenvector of H, of the largest, middle and least eigenvalue μ, gives b/(μ + λ)."""
    base = subject.problem
    values, vectors = base.ground_truth.eigen
    chosen = [base.size - 1, base.size // 2, 0]
    problem = replace(base, rhs=vectors[:, chosen].contiguous())
    answer = vectors[:, chosen] / (values[chosen] + base.damping)
    for example in subject.varied(problem):
        solution = subject.answered(problem, example.solver)
        claim = subject.claim(problem, example)
        if claim is None:
            continue
        assert solution.x is not None
        error = float(relative_norms(solution.x - answer, answer).max())
        if not error <= claim + 1e-9:
            raise Failure(
                f"{example.solver}: b/(μ + λ) is the answer for an eigenvector b; x is {error:.2e} off, "
                f"claimed is {claim:.2e}: check what happens when the residual is 0 after a step"
            )


def float32_is_as_good_as_rounding_allows(subject: Subject) -> None:
    """In float32 x is within the claim and 10·κ·1e-7 for rounding; at tolerance 1e-4, for B times 2^±90."""
    problem, _ = _far(subject.trial.problem(torch.float32))
    assert problem.condition_number is not None
    for example in subject.varied(problem):
        solver = subject.with_tolerance(example.solver, SINGLE_TOLERANCE)
        solution = subject.answered(problem, solver)
        claim = subject.claim(problem, example)
        if claim is None:
            continue
        if solver.promised_tolerance is not None:
            claim += 2 * problem.condition_number * SINGLE_TOLERANCE
        assert solution.error is not None
        worst = float(solution.error.max())
        if not worst <= claim:
            raise Failure(
                f"{solver} in float32 is {worst:.2e} off, claimed with rounding is {claim:.2e}: form and "
                "factor matrices in float64, or accumulate the residual anew"
            )


def every_damping_ends_honestly(subject: Subject) -> None:
    """From λ = 1e-6 λ_max to 10 λ_max: the claim is reached, or the status says that it is not.

    CONVERGED means a residual within the tolerance and FINISHED an error within the claim. BREAKDOWN and
    SKIPPED are honest; BUDGET_SPENT and DIVERGED only below λ = 1e-2 λ_max. H must be positive semi-definite.
    """
    base = subject.problem
    if not base.operator.is_psd:
        raise NotApplicable("H is indefinite, so that H + λI is singular for some λ")
    assert base.eigenvalues is not None
    skipped = []
    for share in DAMPINGS:
        problem = base.with_damping(share * float(base.eigenvalues[-1]))
        matrix = shifted_matrix(problem)
        try:
            runnable = subject.varied(problem)
        except NotApplicable as reason:
            skipped.append(reason)
            continue
        for example in runnable:
            _ends_honestly(subject, problem, example, share, matrix)
    if len(skipped) == len(DAMPINGS):
        raise skipped[0]


def _ends_honestly(
    subject: Subject, problem: Problem, example: Example, share: float, matrix: Tensor
) -> None:
    solver = example.solver
    solution = subject.solve(problem, solver, max_steps=HARD_STEPS if share < HARD else STEPS)
    where = f"{solver} at λ = {share:g} λ_max ended {solution.status}"
    if solution.usable:
        assert_finite(solution.x, where)
    if solution.status in (Status.BUDGET_SPENT, Status.DIVERGED) and share >= HARD:
        raise Failure(f"{where}: {solution.reason}")
    if solution.status is Status.CONVERGED:
        assert solution.x is not None
        assert solver.promised_tolerance is not None
        residual = problem.columns() - matrix @ solution.x
        worst = float(relative_norms(residual, problem.columns()).max())
        if not worst <= solver.promised_tolerance * (1 + 1e-6):
            raise Failure(f"{where} at residual {worst:.2e}, above {solver.promised_tolerance:g}")
    claim = subject.claim(problem, example)
    if solution.status in (Status.CONVERGED, Status.FINISHED) and claim is not None:
        assert solution.error is not None
        worst = float(solution.error.max())
        if not worst <= claim:
            raise Failure(f"{where} at relative error {worst:.2e} and claims {claim:.2e}: {solution.reason}")


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are the same, NaN where the other is NaN."""
    both_nan = one.isnan() & other.isnan()
    return bool(((one == other) | both_nan).all())


def _far(problem: Problem) -> tuple[Problem, Tensor]:
    """The problem with its columns times powers of two, and these, shape (k,)."""
    b = problem.columns()
    scale = torch.tensor(FAR[b.dtype], dtype=b.dtype).repeat(problem.num_columns)[: problem.num_columns]
    return replace(problem, rhs=scale * b), scale


def _paired(subject: Subject, one: Problem, other: Problem) -> list[tuple[Example, Example]]:
    ours, theirs = subject.varied(one), subject.varied(other)
    if len(ours) != len(theirs):
        raise Failure(
            f"{len(ours)} of `examples` run on a problem and {len(theirs)} on a multiple of it: settings and "
            "`skip` must not depend on the units of H"
        )
    return list(zip(ours, theirs, strict=True))


def _compare(
    subject: Subject,
    one: Problem,
    other: Problem,
    pairs: Sequence[tuple[Example, Example]],
    factor: float,
    what: str,
) -> None:
    """Failure where the answers to `one`, and to `other` times `factor`, are not the same."""
    for ours, theirs in pairs:
        if not subject.draws(one, ours.solver):
            solver, others = (subject.with_tolerance(each.solver, TIGHT) for each in (ours, theirs))
            first, second = subject.answered(one, solver).x, subject.answered(other, others).x
            assert first is not None
            assert second is not None
            at_most = allowed(subject, solver.promised_tolerance)
            same_answer(factor * second, first, at_most, f"{solver}: X, and X", what)
            continue
        claim = subject.claim(other, theirs)
        error = subject.answered(other, theirs.solver).error
        assert error is not None
        if claim is not None and not float(error.max()) <= claim:
            raise Failure(f"{theirs.solver} claims {claim:.2e} and is {float(error.max()):.2e} off {what}")


CHECKS = (
    a_seed_fixes_everything_but_seconds,
    scales_with_the_right_hand_side,
    scales_with_the_matrix,
    the_order_of_examples_does_not_matter,
    no_right_hand_side_no_answer,
    an_eigenvector_is_only_scaled,
    float32_is_as_good_as_rounding_allows,
    every_damping_ends_honestly,
)
