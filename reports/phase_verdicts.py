"""Does theory know where LiSSA converges? Paragraphs from the numbers alone."""

import math
from itertools import combinations

import numpy as np
import pandas as pd

from reports.conclusions import Conclusion, together
from reports.formats import count, number, share
from reports.phase_rows import CONTRACTS, GROWS, NO_MEAN, OPEN, STABLE, classified, edges, over_seeds
from reports.rows import in_order

# Of the cells that theory decides, the share that must agree; single paths and short runs may not.
# 2/(λ_max + λ) in units of 1/(λ_max + λ).
MEAN_LIMIT = 2.0
_AGREE = 0.9


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph on each thing that theory predicts."""
    solves = classified(rows)
    grid = over_seeds(solves)
    told = {
        "The prediction": _prediction(solves),
        "The edge": _edge(solves),
        "The size of the error": _sizes(grid),
        "The batch": _batch(grid),
        "The time": _time(solves),
    }
    return {heading: paragraph for heading, paragraph in told.items() if paragraph}


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """Ours: whether what diverges is what theory says, and at smaller steps for smaller batches."""
    solves = classified(rows)
    grid = over_seeds(solves)
    # Between 2/L_b and 2/(λ_max + λ), and at that edge itself, single runs may do either.
    beyond = (grid["predicted"] == NO_MEAN) & (grid["step_size"] > grid["mean_limit"] * (1 + 1e-9))
    sure = grid[(grid["predicted"] == STABLE) | beyond]
    agrees = (sure["share_diverged"] > 0.5) == (sure["predicted"] == NO_MEAN)
    found = edges(solves)
    verdicts: list[bool | None] = []
    for problem in in_order(grid["problem"]):
        own = agrees[sure["problem"] == problem]
        falls = _falls(found[found["problem"] == problem], _factor(grid[grid["problem"] == problem]))
        verdicts.append(None if not len(own) or falls is None else bool(own.mean() >= _AGREE and falls))
    stable, diverging = (sure["predicted"] == STABLE), (sure["predicted"] == NO_MEAN)
    crossed = found.dropna(subset=["first_diverged"])
    edge = ""
    if len(crossed):
        low, high = _ends(crossed["first_diverged"] / crossed["sufficient"])
        edge = f" The step from which on most seeds diverge is {low} to {high} times 2/L_b."
    return [
        Conclusion(
            "The step size at which mini-batches diverge falls with the batch size as theory's boundary "
            "says.",
            "",
            together(verdicts),
            f"Theory decides {count(len(sure))} of {count(len(grid))} cells of the grid and is right in "
            f"{count(int(agrees.sum()))}: {_of(agrees[stable])} below 2/L_b stayed, {_of(agrees[diverging])} "
            f"beyond 2/(λ_max + λ) diverged.{edge}",
        )
    ]


def _factor(grid: pd.DataFrame) -> float:
    """Between neighbouring step sizes of the grid; ∞ of a single one."""
    steps = np.sort(grid["step_fraction"].unique())
    return float((steps[1:] / steps[:-1]).max()) if len(steps) > 1 else math.inf


def _falls(own: pd.DataFrame, factor: float) -> bool | None:
    """Whether the step that diverges first falls from larger batches to smaller ones as 2/L_b does.

    Of two batches whose 2/L_b are more than a `factor` of the grid apart the smaller must diverge at smaller
    steps already, unless both do within that factor of their 2/L_b. Beyond 2/(λ_max + λ) the mean diverges
    whatever the batch, so that two that stay up to there tell nothing; if no other two do, it does not fall.
    None where no two that did diverge are so far apart.
    """
    known = own.dropna(subset=["first_diverged"]).sort_values("batch_size")
    allowed = factor * (1 + 1e-9)
    found: list[bool | None] = []
    for small, large in combinations(known.to_dict("records"), 2):
        if large["sufficient"] > small["sufficient"] * allowed:
            ratios = [each["first_diverged"] / each["sufficient"] for each in (small, large)]
            near = all(1 / allowed <= ratio <= allowed for ratio in ratios)
            falls = small["first_diverged"] < large["first_diverged"]
            untold = small["first_diverged"] == large["first_diverged"] >= MEAN_LIMIT
            found.append(True if near or falls else None if untold else False)
    decided = [each for each in found if each is not None]
    return (bool(decided) and all(decided)) if found else None


def _of(agrees: pd.Series) -> str:
    return f"{count(int(agrees.sum()))} of {count(len(agrees))}"


def spread(values: pd.Series) -> tuple[float, float]:
    """The 10 % and 90 % quantiles."""
    low, high = np.quantile(values, [0.1, 0.9])
    return float(low), float(high)


def _prediction(solves: pd.DataFrame) -> str:
    sentences = []
    opening = {
        STABLE: "with η < 2/L_b, predicted stable,",
        CONTRACTS: "between 2/L_b and the exact edge η* of the second moment",
        GROWS: "between η* and 2/(λ_max + λ), where the second moment grows but the mean contracts,",
        OPEN: "between 2/L_b and 2/(λ_max + λ) where η* is out of reach",
        NO_MEAN: "with η ≥ 2/(λ_max + λ), where the mean does not converge,",
    }
    for label, text in opening.items():
        own = solves[solves["predicted"] == label]
        if len(own):
            sentences.append(f"Of {count(len(own))} solves {text} {_how_many(own)} diverged.")
    stayed = solves[(solves["predicted"] == NO_MEAN) & ~solves["diverged"]]
    if len(stayed):
        longest = stayed["step_fraction"].max()
        sentences.append(
            f"Those that did not had η(λ_max + λ) ≤ {number(longest)} and at most "
            f"{count(stayed['num_steps'].max())} steps to grow in."
        )
    stable = solves[(solves["predicted"] == STABLE) & solves["diverged"]]
    if len(stable):
        worst = stable.sort_values("half_step").iloc[0]
        sentences.append(
            "The smallest step that diverged against the prediction had ηL_b/2 = "
            f"{number(worst['half_step'])} ({worst['problem']}, b = {count(worst['batch_size'])})."
        )
    return " ".join(sentences)


def _how_many(own: pd.DataFrame) -> str:
    diverged = int(own["diverged"].sum())
    if diverged == 0:
        return "none"
    if diverged == len(own):
        return "all"
    return f"{count(diverged)} ({share(diverged / len(own))})"


def _edge(solves: pd.DataFrame) -> str:
    found = edges(solves)
    sentences = []
    crossed = found.dropna(subset=["first_diverged"])
    if len(crossed):
        low, high = _ends(crossed["first_diverged"] / crossed["sufficient"])
        sentences.append(
            f"The step size from which on most seeds diverge is {low} to {high} times 2/L_b, over all "
            "problems and batch sizes."
        )
    exact = crossed.dropna(subset=["exact"])
    if len(exact):
        low, high = _ends(exact["first_diverged"] / exact["exact"])
        sentences.append(f"Beside the exact edge of the second moment it is {low} to {high} times η*.")
        low, high = _ends(exact["sufficient"] / exact["exact"])
        sentences.append(f"2/L_b itself is {low} to {high} times η*.")
    # One grid point is the resolution of all of this.
    steps = np.sort(solves["step_fraction"].unique())
    if len(steps) > 1:
        sentences.append(f"Step sizes were tried in factors of {steps[1] / steps[0]:.3g}.")
    return " ".join(sentences)


def _ends(values: pd.Series) -> tuple[str, str]:
    return number(values.min()), number(values.max())


def _sizes(grid: pd.DataFrame) -> str:
    stable = grid[(grid["predicted"] == STABLE) & np.isfinite(grid["noise_over_small_step_floor"])]
    stable = stable[stable["noise_over_small_step_floor"] > 0]
    if not len(stable):
        return ""
    ratio = stable["noise_over_small_step_floor"] * np.sqrt(1 - stable["half_step"])
    low, high = spread(ratio)
    raw_low, raw_high = spread(stable["noise"])
    over = int((ratio > 1).sum())
    bound = stable["error"] / stable["predicted_error"]
    bound_low, bound_high = spread(bound)
    return (
        f"Where η < 2/L_b, the noise ‖u_T − E u_T‖ lies between {number(low)} and {number(high)} of theory's "
        f"floor in 80 % of {count(len(stable))} grid cells, and above it in {count(over)}; the floor is a "
        "bound. Relative to ‖u*‖ the same noise spreads over a factor of "
        f"{raw_high / raw_low:.2g}, relative to the floor over one of "
        f"{high / low:.2g}. "
        f"The whole error, bias and noise, lies between {number(bound_low)} and {number(bound_high)} of the "
        f"predicted bound, and above it in {count(int((bound > 1).sum()))} cells."
    )


def _batch(grid: pd.DataFrame) -> str:
    """At η = 1/(λ_max + λ), for each problem."""
    full = grid[np.isclose(grid["step_fraction"], 1)]
    clauses = []
    for problem, own in full.groupby("problem", sort=False):
        own = own.sort_values("batch_size")
        diverged = own[own["share_diverged"] > 0]
        needed = own["sufficient_batch"].iloc[0]
        if not len(diverged):
            clauses.append(f"{problem} diverged at no batch size (b* = {number(needed)})")
            continue
        last = diverged["batch_size"].max()
        clauses.append(
            f"{problem} diverged up to b = {count(last)}, {last / needed:.2g} times b* = {number(needed)}"
        )
    if not clauses:
        return ""
    return f"At the full-batch step η = 1/(λ_max + λ): {'; '.join(clauses)}."


def _time(solves: pd.DataFrame) -> str:
    asked = number(solves["asked_time"].iloc[0])
    short = solves[solves["time"] < solves["asked_time"] * (1 - 1e-9)]
    if not len(short):
        return f"Every solve ran for ηλT = {asked}, T rounded up."
    return (
        f"Solves ran for ηλT = {asked}, but {count(len(short))} of {count(len(solves))}, those of the "
        f"smallest steps, were cut short at T = {count(short['num_steps'].max())}, the shortest at ηλT = "
        f"{number(short['time'].min())}."
    )
