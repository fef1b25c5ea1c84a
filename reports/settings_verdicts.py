"""Where the paper's rule holds, where not, and the numbers that explain it, from the rows alone."""

import math

import pandas as pd

from reports.conclusions import Conclusion, Verdict, together
from reports.formats import number, share, target_text, times
from reports.rows import in_order
from reports.settings_rows import DIVERGED, PAPER, SHARP, over_seeds, units


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """First over all problems, then a paragraph for each."""
    table = over_seeds(rows)
    told = {"Over all problems": _overall(table)}
    for problem in in_order(table["problem"]):
        own = table[table["problem"] == problem]
        sentences = [_paper(own[own["rule"] == PAPER]), _sharp(own)]
        told[problem] = " ".join(sentence for sentence in sentences if sentence)
    return told


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """The paper's rule as a whole, and its batch apart from its number of steps."""
    paper = over_seeds(rows)
    paper = paper[paper["rule"] == PAPER]
    return [_rule(paper), _trace(paper)] if len(paper) else []


def _rule(paper: pd.DataFrame) -> Conclusion:
    """Holds where every problem meets the target, fails where none ends nearer than x = 0.

    Of what was sampled: all data follow from no rule for b, and what never began tells nothing. What diverged
    is no nearer.
    """
    sampled = paper[~paper["full_data"].astype(bool)]
    known = sampled[(sampled["usable"] & sampled["error"].notna()) | (sampled["status"] == DIVERGED)]
    met = int(known["met"].sum())
    nearer = known[known["usable"] & (known["error"] < 1)]
    verdict: Verdict = "undecided"
    if len(known):
        verdict = "holds" if met == len(known) else "fails" if not len(nearer) else "partly"
    target = target_text(paper["target"].iloc[0])
    ended = ""
    left = len(paper) - len(known)
    apart = f" Not counted: {left} that drew no mini-batches, or whose error is unknown." if left else ""
    if len(nearer):
        low, high = share(nearer["error"].min()), share(nearer["error"].max())
        ended = f", where it ends {low if low == high else f'{low} to {high}'} off"
    return Conclusion(
        "η = 1/(λ_max + λ), b = Tr(H)/(λ_max + λ) and ηλT ≈ 2.25 make LiSSA converge.",
        "table of settings",
        verdict,
        f"Within {target} of the solution on {met or 'none'} of {len(known)} problems, and nearer to it than "
        f"x = 0 on {len(nearer) or 'none'}{ended}.{apart}",
    )


def _trace(paper: pd.DataFrame) -> Conclusion:
    """By ηL_b/2 and by the runs: L_b is found from below, so that what is below 1 is not yet stable."""
    known = paper[paper["half_step_second_moment"].notna() & ~paper["full_data"].astype(bool)]
    known = known[known["usable"] | (known["status"] == DIVERGED)]
    halves, ended = known["half_step_second_moment"], known["usable"].astype(bool)
    numbers = "L_b is unknown here."
    if len(known):
        low, high = number(halves.min()), number(halves.max())
        numbers = (
            f"ηL_b/2, L_b found from below, is {low if low == high else f'{low} to {high}'}; that it is "
            "below 1, which suffices for stability in mean square, is refuted on "
            f"{int((halves >= 1).sum()) or 'none'} of {len(known)} problems. Runs diverged on "
            f"{int((~ended).sum()) or 'none'}."
        )
    return Conclusion(
        "A batch of Tr(H)/(λ_max + λ), the effective rank, keeps sampling stable at the full step.",
        "rule for the batch size",
        together(bool(each) for each in (halves < 1) & ended),
        numbers,
    )


def _overall(table: pd.DataFrame) -> str:
    target = target_text(table["target"].iloc[0])
    clauses = []
    for rule, name in ((PAPER, "the paper's rule"), (SHARP, "the sharp rule")):
        own = table[table["rule"] == rule]
        if len(own):
            clauses.append(f"{name} ends within {target} on {int(own['met'].sum())} of {len(own)} problems")
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}.{_what_fails(table[table['rule'] == PAPER])}"


def _what_fails(paper: pd.DataFrame) -> str:
    """Bias or sampling: which misses the target, where the error is known in parts."""
    known = paper[paper["bias"].notna() & ~paper["met"]]
    if not len(known):
        return ""
    biased = int((known["bias"] > known["target"]).sum())
    unstable = int((known["half_step_second_moment"] >= 1).sum())
    return (
        f" Of the {len(known)} that it misses, its bias alone would miss {biased or 'none'}: at most "
        f"{share(known['bias'].max())} of ‖u*‖ is left of the start. Sampling is not stable in mean square, "
        f"ηL_b/2 ≥ 1, on {unstable or 'none'} of them."
    )


def _paper(own: pd.DataFrame) -> str:
    if not len(own):
        return ""
    row = own.iloc[0]
    if not row["usable"]:
        cause = _instability(row) if row["status"] == DIVERGED else row["reason"]
        return f"The paper's rule gives no answer ({row['status'].replace('_', ' ')}): {cause}."
    if math.isnan(row["error"]):
        return "The paper's rule gives an answer, whose error is unknown: there is no reference."
    parts = _parts(row)
    if row["met"]:
        return f"The paper's rule holds: {share(row['error'])} error{parts}."
    causes = []
    if row["bias"] > row["target"]:
        kept = row["bias_from_rhs"] <= row["bias_bound"]
        promise = "as promised (at most" if kept else "more than promised (at most"
        causes.append(
            f"its bias is {share(row['bias_from_rhs'])} of ‖b‖/λ, {promise} {share(row['bias_bound'])}), "
            f"{'but' if kept else 'and'} ‖u*‖ is only {share(row['solution_share'])} of ‖b‖/λ"
        )
    if row["noise"] > row["target"]:
        causes.append(_instability(row))
    why = f": {'; and '.join(causes)}" if causes else ""
    return f"The paper's rule misses: {share(row['error'])} error{parts}{why}."


def _parts(row: pd.Series) -> str:
    """The two parts of the error, as far as they are known; they add as squares on average."""
    if math.isnan(row["bias"]) or math.isnan(row["noise"]):
        return ""
    return f", of which {share(row['bias'])} bias and {share(row['noise'])} sampling noise"


def _instability(row: pd.Series) -> str:
    half = row["half_step_second_moment"]
    batch = f"mini-batches of {units(row)}"
    draw = "sequence" if row["unit"] == "token" else "example"
    unequal = ""
    if row["measured_heterogeneity"] >= 2:
        unequal = (
            f", since the trace does not see that the largest {draw} has "
            f"{number(row['measured_heterogeneity'])} times the mean's trace"
        )
    if math.isnan(half):
        return f"{batch} are too noisy for the step{unequal}"
    if half >= 1:
        return (
            f"{batch} are too small for the step, ηL_b/2 = {number(half)} where stability asks for less "
            f"than 1{unequal}"
        )
    return f"{batch} seem stable, ηL_b/2 ≥ {number(half)}, but their noise stays"


def _sharp(own: pd.DataFrame) -> str:
    sharp, paper = own[own["rule"] == SHARP], own[own["rule"] == PAPER]
    if not len(sharp):
        return ""
    row = sharp.iloc[0]
    if not row["usable"]:
        return f"The sharp rule gives no answer ({row['status'].replace('_', ' ')}): {row['reason']}."
    data = "all data" if row["full_data"] else f"mini-batches of {units(row)}"
    error = "an unknown error" if math.isnan(row["error"]) else f"{share(row['error'])} error"
    cost = f"{number(row['total_work'])} gradient equivalents"
    beside = ""
    if len(paper) and paper.iloc[0]["total_work"] > 0:
        beside = f", {times(row['total_work'] / paper.iloc[0]['total_work'])} the paper's rule"
    return f"The sharp rule uses {data} and ends at {error} for {cost}{beside}."
