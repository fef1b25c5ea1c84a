"""The rows of a similarity page: matrices of similarities, and what they say of pairs and of blocks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.rows import UNUSABLE, in_order

Matrix = NDArray[np.float64]

COLUMNS = {
    "first": "i: sentences from 0, then their paraphrases in the same order",
    "second": "j ≥ i, likewise",
    "text": "sentence i as the model saw it",
    "gradient": "gᵢᵀgⱼ",
    "influence": "gᵢᵀ(H + λ)⁻¹gⱼ by XᵀG + RᵀX, X the solver's answer and R its residual; NaN without one",
    "influence_bound": "what it may be off at most, ‖rᵢ‖‖rⱼ‖/λ; NaN where H may be indefinite",
    "method": "the solver, with what it chose",
    "status": "how the solver ended",
    "reason": "why",
    "steps": "its steps",
    "residual": "its largest relative residual",
    "asymmetry": "‖XᵀG − GᵀX‖/‖XᵀG‖, Frobenius: 0 of an exact solver, and of block CG at any step",
    "correction": "how much RᵀX changes the influences, relative, Frobenius",
    "cut": "sentences that were cut at the context",
    "work": "gradient equivalents of all that was measured",
    "seconds": "of the solver",
}
_ROUNDING = 1e-12
# Kinds of pairs of two sentences, and what they are called.
KINDS = {
    "paired": "a sentence and its paraphrase",
    "sentences": "two sentences",
    "crossed": "a sentence and another’s paraphrase",
    "paraphrases": "two paraphrases",
    "unrelated": "all that are unrelated",
}


@dataclass(frozen=True)
class Value:
    """A number with its standard error."""

    value: float
    error: float

    @property
    def sign(self) -> int:
        """1 or −1 where it is beyond two standard errors of zero, else 0."""
        return int(np.sign(self.value)) if abs(self.value) > 2 * self.error else 0


@dataclass(frozen=True)
class Similarities:
    """Those of one problem over 2m sentences, all matrices (2m, 2m); means over seeds.

    `row` holds what is the same in all rows; `damping` is λ.
    """

    problem: str
    sentences: Sequence[str]
    gradient: Matrix
    influence: Matrix
    bound: Matrix
    row: pd.Series

    @property
    def num_pairs(self) -> int:
        """m."""
        return len(self.sentences) // 2

    @property
    def solved(self) -> bool:
        """Whether there are influences, of vectors that are not 0."""
        return bool(np.isfinite(self.influence).all() and (np.diag(self.influence) > 0).all())


def similarities(rows: pd.DataFrame) -> list[Similarities]:
    """One for each problem, in their order; seeds whose solver gave no answer are left out if others did."""
    found = []
    for problem in in_order(rows["problem"]):
        own = rows[rows["problem"] == problem]
        answered = own[~own["status"].isin(UNUSABLE)]
        own = answered if len(answered) else own
        once = own[own["seed"] == own["seed"].iloc[0]]
        first = once[once["first"] == once["second"]].sort_values("first")
        gradient, influence, bound = (
            _matrix(own, name) for name in ("gradient", "influence", "influence_bound")
        )
        found.append(Similarities(problem, list(first["text"]), gradient, influence, bound, own.iloc[0]))
    return found


def _matrix(own: pd.DataFrame, name: str) -> Matrix:
    """The symmetric matrix of which the rows have what is on and above the diagonal; mean over seeds."""
    size = int(own["second"].max()) + 1
    found = np.full((size, size), np.nan)
    for (first, second), value in own.groupby(["first", "second"])[name].mean().items():
        found[int(first), int(second)] = found[int(second), int(first)] = value
    return found


def cosines(matrix: Matrix) -> Matrix:
    """Sᵢⱼ/√(SᵢᵢSⱼⱼ)."""
    lengths = np.sqrt(np.diag(matrix))
    return matrix / lengths[:, None] / lengths


def kind_mask(kind: str, num_pairs: int) -> NDArray[np.bool_]:
    """Which entries (2m, 2m) are of the kind; of none is i = j."""
    index = np.arange(2 * num_pairs)
    fact, second = index % num_pairs, index >= num_pairs
    same = fact[:, None] == fact
    sides = second[:, None].astype(int) + second
    if kind == "paired":
        return same & (sides == 1)
    wanted = {"sentences": [0], "crossed": [1], "paraphrases": [2], "unrelated": [0, 1, 2]}[kind]
    return ~same & np.isin(sides, wanted)


def mean_of(kind: str) -> Callable[[Matrix], float]:
    """The mean over the entries of that kind."""
    return lambda matrix: float(matrix[kind_mask(kind, len(matrix) // 2)].mean())


def gap(matrix: Matrix) -> float:
    """By how much a sentence is more like its paraphrase than like those of others.

    Not than all that is unrelated: two sentences may be alike, as two paraphrases, in length and form.
    """
    return mean_of("paired")(matrix) - mean_of("crossed")(matrix)


def separation(matrix: Matrix) -> float:
    """The gap in standard deviations over the paraphrases of others: no scale or common part changes it."""
    spread = float(matrix[kind_mask("crossed", len(matrix) // 2)].std())
    # Of what is the same but for rounding there is none.
    return gap(matrix) / spread if spread > _ROUNDING * np.abs(matrix).max() else math.nan


def mean_share(matrix: Matrix) -> float:
    """The share of Σ‖gᵢ‖² that lies along the mean of the gᵢ, in the geometry of the matrix of products."""
    return float(matrix.mean() * len(matrix) / np.trace(matrix))


def leading_share(matrix: Matrix) -> float:
    """The share of Σ‖gᵢ‖² that lies along their leading principal direction, likewise."""
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1] / np.trace(matrix))


def neighbours(matrix: Matrix, *, crossed: bool = False) -> int:
    """Of how many of the 2m sentences the nearest other one is its paraphrase, or the sentence of it."""
    return int((nearest(matrix, crossed=crossed) == partners(len(matrix))).sum())


def nearest(matrix: Matrix, *, crossed: bool = False) -> NDArray[np.int_]:
    """The most alike other one of each; where `crossed` a sentence's among paraphrases and the reverse."""
    pairs = len(matrix) // 2
    allowed = ~np.eye(len(matrix), dtype=bool)
    if crossed:
        allowed = kind_mask("paired", pairs) | kind_mask("crossed", pairs)
    return np.where(allowed, matrix, -np.inf).argmax(axis=1)


def partners(size: int) -> NDArray[np.int_]:
    """The paraphrase of each sentence, and the sentence of each paraphrase."""
    return np.roll(np.arange(size), size // 2)


def jackknife(statistic: Callable[..., float], *matrices: Matrix) -> Value:
    """The statistic of the matrices with its standard error over facts, each left out with its paraphrase."""
    pairs = len(matrices[0]) // 2
    without = []
    for fact in range(pairs):
        kept = np.delete(np.arange(2 * pairs), [fact, fact + pairs])
        without.append(statistic(*(matrix[np.ix_(kept, kept)] for matrix in matrices)))
    spread = np.asarray(without) - np.mean(without)
    return Value(statistic(*matrices), math.sqrt((pairs - 1) / pairs * float((spread**2).sum())))


def change(statistic: Callable[[Matrix], float], gradient: Matrix, influence: Matrix) -> Value:
    """By how much the statistic is larger by influence than by gradient."""
    return jackknife(lambda one, other: statistic(other) - statistic(one), gradient, influence)


def cosine_bound(found: Similarities) -> Matrix:
    """How far the cosines by influence may be off at most, to first order; NaN where that is unknown.

    S is off by at most ρᵢⱼ, so that Sᵢⱼ/√(SᵢᵢSⱼⱼ) is by ρᵢⱼ/√(SᵢᵢSⱼⱼ), and for its denominator by half of
    ρᵢᵢ/Sᵢᵢ + ρⱼⱼ/Sⱼⱼ times itself.
    """
    lengths = np.sqrt(np.diag(found.influence))
    relative = found.bound / lengths[:, None] / lengths
    own = np.diag(relative)
    return relative + np.abs(cosines(found.influence)) * (own[:, None] + own) / 2
