"""What does a preconditioner save? The claims, whether they hold, and why not, from the numbers alone."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from reports.formats import count, listed, number, share, target_text
from reports.preconditioning_rows import BLOCKS, CG, LISSA, NO_ANSWER, PLAIN, SHARE, table
from reports.rows import in_order

NAMES = {
    PLAIN: "plain",
    "jacobi": "Jacobi",
    "nystrom": "Nyström",
    "ekfac": "EK-FAC",
    BLOCKS: "exact blocks of layers",
}
METHODS = {CG: "CG", LISSA: "LiSSA"}
# What is claimed, in the order of the page, of problems from so large a κ on.
CLAIMED = ((CG, "nystrom"), (CG, "ekfac"), (LISSA, "ekfac"))
ILL_CONDITIONED = 1e4
# LiSSA's target is a root mean square: of single runs one may end at twice.
NEAR = 2.0
_BADGES = {"holds": "holds", "shared": "undecided", "fails": "fails"}

# The rows of P at a problem's targets, with the plain method's beside them.
_Pairs = list[tuple[pd.Series, pd.Series]]


@dataclass(frozen=True)
class AtTarget:
    """A claim at a target: `word` is "holds", "from k ≥ 12" or "fails", `badge` how it is coloured."""

    target: str
    word: str
    badge: str
    numbers: str


@dataclass(frozen=True)
class Verdict:
    """A claim on a problem: whether it holds at each target, and why where it does not, or at what price."""

    claim: str
    problem: str
    condition: str
    targets: tuple[AtTarget, ...]
    why: str


def claim(method: str, preconditioner: str) -> str:
    """The claim in words."""
    if method == CG:
        return f"{NAMES[preconditioner]}-PCG takes at most ⅓ of plain CG's products"
    return f"{NAMES[preconditioner]}-LiSSA takes at most ⅓ of plain LiSSA's steps"


def name_of(preconditioner: str) -> str:
    """ "nystrom(rank=64)" → "Nyström(rank=64)"."""
    name, bracket, settings = preconditioner.partition("(")
    return f"{NAMES.get(name, name)}{bracket}{settings}"


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph on each claim: how often it holds where κ is large, and what each problem has shown."""
    whole = table(rows)
    told = {}
    for each in CLAIMED:
        by_problem = {
            problem: pairs
            for problem in in_order(whole["problem"])
            for pairs in [_pairs(whole[whole["problem"] == problem], *each)]
            if pairs
        }
        if by_problem:
            sentences = [_sentence(problem, pairs) for problem, pairs in by_problem.items()]
            told[claim(*each)] = " ".join([*_tally(by_problem.values()), *sentences])
    return told


def _tally(by_problem: Iterable[_Pairs]) -> list[str]:
    """ "At κ ≥ 1e4 it holds in 2 of 6 cases, in 3 more if the set-up is shared." """
    words = [
        row["verdict"] for pairs in by_problem for row, _ in pairs if row["condition"] >= ILL_CONDITIONED
    ]
    if not words:
        return []
    shared = words.count("shared")
    more = f", in {shared} more where more right-hand sides share the set-up" if shared else ""
    return [f"At κ ≥ 1e4 it holds in {words.count('holds')} of {len(words)} cases{more}."]


def verdicts(whole: pd.DataFrame) -> list[Verdict]:
    """Each claim × problem, of a `table`."""
    return [
        Verdict(
            claim(*each),
            problem,
            number(pairs[0][0]["condition"]),
            tuple(_at_target(row, plain) for row, plain in pairs),
            _why(own, pairs),
        )
        for each in CLAIMED
        for problem in in_order(whole["problem"])
        for own in [whole[whole["problem"] == problem]]
        for pairs in [_pairs(own, *each)]
        if pairs
    ]


def _pairs(own: pd.DataFrame, method: str, preconditioner: str) -> _Pairs:
    """None where either is absent or was skipped."""
    same = own[own["method"] == method]
    plain = same[same["preconditioner"] == PLAIN].set_index("target")
    rows = same[(same["preconditioner"] == preconditioner) & (same["verdict"] != "")]
    return [(row, plain.loc[row["target"]]) for _, row in rows.iterrows() if row["target"] in plain.index]


def _sentence(problem: str, pairs: _Pairs) -> str:
    """ "toy (κ = 2e5): 0.2 and 0.5 of plain CG's products to 5 % and 1 %; holds to 5 %, fails to 1 %." """
    row, plain = pairs[0]
    ratios = listed([_times(each["ratio"], each["bounded"]) for each, _ in pairs])
    targets = listed([target_text(each["target"]) for each, _ in pairs])
    what = "products" if row["method"] == CG else "steps"
    measured = f"{ratios} of plain {METHODS[row['method']]}'s {what} to {targets}"
    if plain["status"] in NO_ANSWER:
        measured = (
            f"{count(row['step'])} steps to {targets} where plain {METHODS[row['method']]} has no answer"
        )
    clauses = []
    for word in in_order(each["verdict"] for each, _ in pairs):
        own = [each for each, _ in pairs if each["verdict"] == word]
        clause = f"{'holds' if word == 'shared' else word}"
        if len(own) < len(pairs):
            clause += f" to {listed([target_text(each['target']) for each in own])}"
        if word == "shared":
            clause += f" from {listed([count(each['break_even']) for each in own])} right-hand sides on"
        clauses.append(clause)
    below = "" if row["condition"] >= ILL_CONDITIONED else ", less than it is claimed for"
    return f"{problem} (κ = {number(row['condition'])}{below}): {measured}; {', '.join(clauses)}."


def _at_target(row: pd.Series, plain: pd.Series) -> AtTarget:
    return AtTarget(target_text(row["target"]), _word(row), _BADGES[row["verdict"]], _numbers(row, plain))


def _word(row: pd.Series) -> str:
    if row["verdict"] == "shared":
        return f"holds from k ≥ {count(row['break_even'])}"
    return str(row["verdict"])


def _numbers(row: pd.Series, plain: pd.Series) -> str:
    if row["status"] in NO_ANSWER:
        return f"{row['status']}: {row['reason']}"
    if not math.isfinite(row["step"]):
        return "not reached"
    if row["method"] == CG:
        return (
            f"{_of(row['all_products'], plain['products'])} products, {count(row['set_up'])} of them set-up; "
            f"{_of(row['step'], plain['step'])} steps; work {_of(row['work'], plain['work'])}"
        )
    if plain["status"] in NO_ANSWER:
        return f"{count(row['step'])} steps of {_batch(row)}, work {count(row['work'])}; plain: none"
    return (
        f"{_of(row['step'], plain['step'], row['bounded'])} steps; batch {_batch(row)} in place of "
        f"{_batch(plain)}; work {_of(row['work'], plain['work'], row['bounded'])}"
    )


def _of(value: float, whole: float, bounded: bool = False) -> str:
    """ "12 of 86 (0.14)"."""
    return f"{count(value)} of {'over ' if bounded else ''}{count(whole)} ({_times(value / whole, bounded)})"


def _times(ratio: float, bounded: bool = False) -> str:
    return ("< " if bounded else "") + (f"{ratio:.2f}" if ratio < 9.995 else number(ratio))


def _batch(row: pd.Series) -> str:
    return f"{'all ' if row['batch_size'] >= row['num_examples'] else ''}{count(row['batch_size'])}"


def _why(own: pd.DataFrame, pairs: _Pairs) -> str:
    if pairs[0][0]["method"] == LISSA:
        return " ".join(_why_lissa(*pair) for pair in pairs)
    for word, tell in (("fails", _why_fails), ("shared", _why_shared)):
        found = [pair for pair in pairs if pair[0]["verdict"] == word]
        if found:
            return tell(own, *found[0])
    return ""


def _why_shared(own: pd.DataFrame, row: pd.Series, plain: pd.Series) -> str:
    """A sketch of r columns is r products for whatever number of right-hand sides."""
    return (
        f"The set-up dominates: at {target_text(row['target'])} it alone is "
        f"{_times(row['set_up'] / plain['products'])} of plain CG's products for {count(row['num_columns'])} "
        f"right-hand sides, the solves are {_times(row['steps_ratio'])}. The more right-hand sides share it, "
        f"and the smaller the error asked for, the less it counts.{_other_sketches(own, row)}"
    )


def _other_sketches(own: pd.DataFrame, row: pd.Series) -> str:
    """What a sketch of another rank takes."""
    others = own[
        (own["method"] == CG)
        & (own["target"] == row["target"])
        & own["preconditioner"].str.startswith(f"{row['preconditioner']}(")
        & own["met"]
    ]
    told = [
        f"rank {count(other['rank'])} in the place of {count(row['rank'])} takes {_times(other['ratio'])}"
        for _, other in others.iterrows()
    ]
    return f" At that target {listed(told)} in all." if told else ""


def _why_fails(own: pd.DataFrame, row: pd.Series, plain: pd.Series) -> str:
    if not row["met"]:
        return f"The target was not reached ({row['reason'] or row['status']})."
    before, after = row["condition"], row["preconditioned_condition"]
    if after >= before:
        return f"κ does not fall: {number(before)} becomes {number(after)}."
    low, high = row["preconditioned_smallest"], row["preconditioned_largest"]
    parts = [
        f"κ falls from {number(before)} only to {number(after)}, by √κ to {_times(math.sqrt(after / before))}"
    ]
    if row["steps_ratio"] > 1.2 * math.sqrt(after / before):
        parts[0] += (
            f"; steps fall only to {_times(row['steps_ratio'])}: plain CG is faster than its κ says, where "
            "few eigenvalues are large"
        )
    if not math.isnan(row["rank"]):
        parts.append(
            f"what rank {count(row['rank'])} leaves out is {number(high - 1)} λ, with d(λ) = "
            f"{number(row['effective_dimension'])} of p = {count(row['dimension'])}"
        )
    else:
        parts.append(f"P⁻¹(H + λ) has eigenvalues from {number(low)} to {number(high)}")
        parts.extend(_blocks(own, row, plain))
    return "; ".join(parts) + "."


def _blocks(own: pd.DataFrame, row: pd.Series, plain: pd.Series) -> list[str]:
    """Whether the layers' coupling is at fault, or P's form within them."""
    same = own[(own["method"] == CG) & (own["preconditioner"] == BLOCKS) & (own["target"] == row["target"])]
    if not len(same) or not same.iloc[0]["met"]:
        return []
    blocks = same.iloc[0]
    ratio = blocks["steps_ratio"]
    told = (
        "the layers' exact blocks in the place of P would leave κ = "
        f"{number(blocks['preconditioned_condition'])} and take {_of(blocks['step'], plain['step'])} steps"
    )
    if ratio > SHARE:
        return [f"{told}: no P by layers reaches a third here, since it leaves out what couples them"]
    return [f"{told}: it is not the coupling of layers but P's form within them that stands in the way"]


def _why_lissa(row: pd.Series, plain: pd.Series) -> str:
    """How the plain run ended, and at what price steps are saved."""
    parts = []
    if plain["status"] in NO_ANSWER:
        parts.append(f"Plain LiSSA gives no answer: {plain['reason'].rstrip('.')}.")
    elif row["bounded"]:
        planned = plain["planned_steps"]
        of_planned = f" of the {count(planned)} it planned" if planned > plain["step"] else ""
        parts.append(
            f"Plain LiSSA is at {share(plain['error'])} after {count(plain['step'])} steps{of_planned}."
        )
    if not row["met"]:
        return " ".join([*parts, f"It ends at {share(row['error'])} ({row['reason'] or row['status']})."])
    if row["batch_size"] > plain["batch_size"]:
        parts.append(
            "The batch grows: under P the step is kept by C·d(λ) examples, C what examples differ by, d(λ) = "
            f"{number(row['effective_dimension'])}."
        )
    # A run that ended far from its target would have taken much more.
    if row["work_ratio"] > 1 and plain["error"] <= NEAR * row["target"]:
        most = "up to " if row["bounded"] else ""
        parts.append(f"So fewer steps are {most}{number(row['work_ratio'])} times the work.")
    return " ".join(parts)
