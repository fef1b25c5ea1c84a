"""What a diagnosis holds: plain values under stable names, as they are written to diagnosis.json."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from bench.diagnosis.lissa_settings import JudgedSettings
from bench.diagnosis.predicted_solvers import PredictedSolver
from problems.spectrum import Spectrum
from problems.spectrum.estimate import Estimate
from reports.formats import number

CONFIDENCE = 0.99


@dataclass(frozen=True)
class Quantity:
    """A measured number; the truth lies in [low, high] with 99 % confidence, None where an end is unknown.

    `kind` is "exact", "estimate", "lower bound" or "upper bound".
    """

    symbol: str
    value: float
    low: float | None
    high: float | None
    kind: str
    meaning: str


@dataclass(frozen=True)
class Subject:
    """The problem that was diagnosed; of `num_draws` examples, or sequences, `measured_draws` were seen."""

    specification: str
    name: str
    size: int
    num_examples: int
    unit: str
    num_columns: int
    damping: float
    is_psd: bool
    dtype: str
    device: str
    num_draws: int
    measured_draws: int
    piloted_columns: int


@dataclass(frozen=True)
class Spent:
    """Gradient equivalents over the data that were measured on; `over_all_data` is the sum over all of it."""

    asked: float
    parts: dict[str, float]
    total: float
    over_all_data: float


@dataclass(frozen=True)
class Recommendation:
    """The solver to use: `command` for a shell, `python` for a program, `why` in a sentence."""

    solver: str
    specification: str
    command: str
    python: str
    why: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `diagnose` found. `density` has Gauss nodes and weights of each random start.

    `definite` says whether H + λI ≻ 0 as far as is known; where it is not, `settings` is empty and
    `solvers` names only what can be used. `solvers` are ordered by predicted work, those that reach the
    target first.
    """

    subject: Subject
    target: float
    definite: bool
    spectrum: dict[str, Quantity]
    density: dict[str, list[list[float]]]
    settings: tuple[JudgedSettings, ...]
    solvers: tuple[PredictedSolver, ...]
    recommendation: Recommendation
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    spent: Spent

    def as_dict(self) -> dict[str, Any]:
        """Plain values, of which JSON is made: ∞ and NaN, which it lacks, are None."""
        plain = dataclasses.asdict(self)
        for row, solver in zip(plain["solvers"], self.solvers, strict=True):
            row["work"] = solver.work
        return _finite(plain)


def quantities(
    spectrum: Spectrum, damping: float, is_psd: bool, example: int | None, lowest: float
) -> dict[str, Quantity]:
    """The numbers of the spectrum with their errors; `example` is the index in the data of C's.

    `lowest` is the smallest of all Ritz values found.
    """
    extremes = spectrum.extremes
    largest, smallest = extremes.largest.value, lowest
    # Of H ⪰ 0 no eigenvalue lies below 0; a Ritz value may, by rounding. Else none bounds λ_min from below.
    floor = 0.0 if is_psd else None
    if extremes.smallest.kind == "exact":
        floor = smallest
    whole, least = spectrum.largest + damping, max(smallest, 0.0 if is_psd else -math.inf) + damping
    trace, square = spectrum.trace, spectrum.trace_of_square
    dimension = spectrum.density.effective_dimension(damping)
    # Sums of what is ≥ 0 are at least the largest term.
    top = max(0.0, largest) if is_psd else -math.inf
    found = {
        "largest_eigenvalue": Quantity(
            "λ_max",
            largest,
            largest,
            spectrum.largest,
            extremes.largest.kind,
            f"by Lanczos, {extremes.products} products; its Ritz residual is {extremes.largest_residual:.2g}",
        ),
        "smallest_eigenvalue": Quantity(
            "λ_min",
            smallest,
            floor,
            smallest,
            extremes.smallest.kind,
            "the smallest Ritz value; eigenvalues below it may be hidden",
        ),
        "trace": _estimated("Tr H", trace, "sum of the eigenvalues", top),
        "trace_of_square": _estimated("Tr H²", square, "sum of their squares", largest**2),
        "trace_of_noise": _estimated(
            "Tr(E h² − H²)",
            spectrum.trace_of_noise,
            "b times the noise of b tokens in whole sequences"
            if spectrum.unit == "token"
            else "noise of one draw; a mini-batch of b has 1/b of it",
            0.0,
        ),
        "effective_rank": _estimated(
            "Tr H/λ_max",
            trace.times(1 / largest if largest > 0 else math.nan),
            "effective rank",
            top / largest if largest > 0 else -math.inf,
        ),
        "effective_dimension": _estimated(
            "d(λ)",
            dimension,
            "Tr H(H + λ)⁻¹: directions that λ leaves alone" + ("" if is_psd else "; of H's positive part"),
            max(0.0, largest) / (max(0.0, largest) + damping),
            float(spectrum.size),
        ),
        "condition_number": Quantity(
            "κ",
            whole / least if least > 0 else math.inf,
            None,
            whole / (floor + damping) if floor is not None and floor + damping > 0 else None,
            "estimate",
            "(λ_max + λ)/(λ_min + λ)" + ("; its upper end is certain" if floor is not None else ""),
        ),
    }
    draw, of = ("sequence", ", of whole sequences") if spectrum.unit == "token" else ("example", "")
    if spectrum.heterogeneity is not None:
        ratio = spectrum.heterogeneity.ratio
        found["heterogeneity"] = _estimated("C", ratio, f"max Tr(h_i)/Tr H, that of {draw} {example}", 1.0)
    if spectrum.noise_constant is not None:
        constant = spectrum.noise_constant
        found["noise_constant"] = Quantity(
            "R",
            constant.value.value,
            constant.value.value,
            None,
            constant.value.kind,
            f"E h² ⪯ R (H + λ), by LOBPCG{of}; residual {constant.residual:.1g} of it",
        )
    if spectrum.correlation is not None:
        worth, effect = spectrum.correlation.worth, spectrum.correlation.design_effect
        found["sequence_worth"] = _estimated(
            "tokens/sequence",
            worth,
            f"independent tokens that a sequence of {number(spectrum.correlation.length)} is worth by its "
            f"noise, which is {number(effect.value)} times that of so many independent ones",
            0.0,
        )
    return found


def density_of(spectrum: Spectrum) -> dict[str, list[list[float]]]:
    """Gauss nodes and weights, a list for each start."""
    return {
        "nodes": [nodes.tolist() for nodes in spectrum.density.nodes],
        "weights": [weights.tolist() for weights in spectrum.density.weights],
    }


def lowest_ritz_value(spectrum: Spectrum) -> float:
    """The least of all Ritz values that were found, H's own and the density's: an upper bound of λ_min."""
    nodes = [float(nodes.min()) for nodes in spectrum.density.nodes]
    return min([spectrum.extremes.smallest.value, *nodes])


def _estimated(
    symbol: str, estimate: Estimate, meaning: str, least: float = -math.inf, most: float = math.inf
) -> Quantity:
    """With its interval, of which what is below `least` or above `most` is known to be impossible."""
    ends = (min(max(end, least), most) for end in estimate.interval(CONFIDENCE))
    low, high = (end if math.isfinite(end) else None for end in ends)
    return Quantity(symbol, min(max(estimate.value, least), most), low, high, estimate.kind, meaning)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
