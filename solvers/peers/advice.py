"""What this package knows of a problem, for other libraries' solvers to be set by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """Settings for a relative error of `target`, in our own conventions.

    A solver of another library that has settings to choose has a class method `tuned(advice)`, which gives
    the one that these make. They are as good as can be known, with the solution at hand: `tolerance` is the
    relative residual, and `cg_steps` the number of steps, at which conjugate gradients first have that error;
    `series_terms` the same of the Neumann series with step size 1/(λ_max + λ). `step_size` η, `batch_size`
    b and `num_steps` T are those that self-tuned LiSSA chose, T what it takes from x = 0 where that is more,
    and `rank` the number of eigenvalues that are larger than target · λ, without which x would be off by
    more.
    """

    target: float
    damping: float
    largest_eigenvalue: float
    tolerance: float
    cg_steps: int
    series_terms: int
    step_size: float
    batch_size: int
    num_steps: int
    rank: int
