"""The page of truths, from rows written here."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.truth import build_truth
from reports.truth_rows import Interval, as_good, best, cheapest, difference, name_of, of, role, table
from reports.truth_verdicts import conclusions, findings, interval_text

# Ten-thousandths that go up and down by 0.01 around 0.
WAVE = [100 if index % 2 else -100 for index in range(200)]
METRICS = {"lds": ("lds",), "pbrf": ("pearson", "spearman", "top"), "exact": ("pearson", "spearman", "top")}


def rows_of(
    solver: str,
    value: float,
    work: float,
    drawn: list[int] | None = None,
    truths: Any = METRICS,
    **values: Any,
) -> list[dict[str, Any]]:
    """Rows of a solver whose every measure is `value`, in the resamples `value` and `drawn`."""
    known = [] if drawn is None else [round(10_000 * value) + each for each in drawn]
    common = {
        "problem": "tiny", "seed": 0, "dimension": 8, "num_examples": 20, "damping": 0.2, "failure": "",
        "solver": solver, "value": value, "low": value - 0.01, "high": value + 0.01,
        "drawn": json.dumps(known) if known else "", "compared": 12, "asked": 12, "off": math.nan, "top": 3,
        "truth_seconds": 2.0, "ceiling": math.nan, "missing": "", "status": "finished", "reason": "",
        "error": 0.01, "residual": 0.01, "total_work": work, "total_seconds": 0.1, "num_columns": 4,
    }  # fmt: skip
    return [
        {**common, "truth": truth, "metric": metric, **values}
        for truth, metrics in METRICS.items()
        if truth in truths
        for metric in metrics
    ]


def frame(*groups: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group])


# The first two move together, so that their difference is certain; the third moves against them.
ROWS = frame(
    rows_of("cg:tolerance=1e-6", 0.90, 100, WAVE),
    rows_of("lissa:preconditioner=ekfac", 0.88, 300, WAVE),
    rows_of("ekfac", 0.885, 20, [-each for each in WAVE], error=0.6),
    rows_of("identity", 0.50, 0, WAVE, error=3.0),
)


def test_differences_are_paired() -> None:
    lds = of(table(ROWS), "tiny", "lds")
    certain = difference(lds, "cg:tolerance=1e-6", "lissa:preconditioner=ekfac")
    assert tuple(certain) == pytest.approx((0.02, 0.02, 0.02))
    assert certain.separated is True
    assert difference(lds, "identity", "ekfac").separated is False
    # 0.015 ± 0.02: their intervals and their difference hold 0.
    open_ = difference(lds, "cg:tolerance=1e-6", "ekfac")
    assert tuple(open_) == pytest.approx((0.015, -0.005, 0.035))
    assert open_.separated is None
    assert math.isnan(difference(lds, "ekfac", "nobody").value)


def test_as_good_as_the_best_is_what_is_not_certainly_below() -> None:
    lds = of(table(ROWS), "tiny", "lds")
    assert best(lds) == "cg:tolerance=1e-6"
    assert as_good(lds) == ["cg:tolerance=1e-6", "ekfac"]
    assert cheapest(lds, as_good(lds)) == "ekfac"


def test_seeds_are_averaged_in_each_resample() -> None:
    rows = frame(
        rows_of("lissa", 0.8, 10, WAVE), [row | {"seed": 1} for row in rows_of("lissa", 0.6, 30, WAVE)]
    )
    row = of(table(rows), "tiny", "pbrf").loc["lissa"]
    assert row["value"] == pytest.approx(0.7)
    assert row["total_work"] == 20
    assert (row["low"], row["high"]) == pytest.approx((0.69, 0.71))
    failed = frame(
        rows_of("lissa", 0.8, 10, WAVE),
        [row | {"seed": 1} for row in rows_of("lissa", math.nan, 30, status="diverged", reason="too long")],
    )
    row = of(table(failed), "tiny", "pbrf").loc["lissa"]
    assert math.isnan(row["value"])
    assert (row["status"], row["reason"]) == ("diverged", "too long")


def test_who_stands_for_what() -> None:
    rows = of(table(ROWS), "tiny", "lds")
    assert role(rows, "exact") == "cg:tolerance=1e-6"
    assert role(rows, "EK-FAC-LiSSA") == "lissa:preconditioner=ekfac"
    assert role(rows, "LiSSA") is None
    both = of(table(pd.concat([ROWS, frame(rows_of("exact", 0.9, 900, WAVE))])), "tiny", "lds")
    assert role(both, "exact") == "exact"
    skipped = frame(rows_of("exact", math.nan, 0, status="skipped"))
    assert role(of(table(pd.concat([ROWS, skipped])), "tiny", "lds"), "exact") == "cg:tolerance=1e-6"
    assert name_of("identity") == "gradient similarity"
    assert name_of("nystrom:rank=5") == "nystrom:rank=5"


def test_the_order_is_judged_pair_by_pair() -> None:
    told = {each.claim: each for each in conclusions(ROWS)}
    by_lds = [each for claim, each in told.items() if "in LDS" in claim]
    assert [each.verdict for each in by_lds] == ["holds", "undecided", "holds"]
    assert "0.90 and 0.88, difference +0.02 [+0.02, +0.02], above" in by_lds[0].numbers
    assert "not separated" in by_lds[1].numbers
    assert all(each.source == "ours" for each in told.values())


def test_a_solver_that_ended_early_is_named_beside_its_verdict() -> None:
    early = frame(
        rows_of("lissa:preconditioner=ekfac", 0.70, 300, WAVE, status="budget_spent"),
        rows_of("ekfac", 0.80, 20, WAVE),
    )
    assert "below (EK-FAC-LiSSA ended at the limit of work)" in conclusions(early)[0].numbers


def test_a_reversed_pair_fails_and_two_problems_that_differ_are_partly() -> None:
    reverse = frame(rows_of("lissa:preconditioner=ekfac", 0.70, 300, WAVE), rows_of("ekfac", 0.80, 20, WAVE))
    (lds, *_) = conclusions(reverse)
    assert (lds.verdict, "below" in lds.numbers) == ("fails", True)
    other = frame(
        rows_of("lissa:preconditioner=ekfac", 0.90, 300, WAVE), rows_of("ekfac", 0.80, 20, WAVE)
    ).assign(problem="other")
    assert conclusions(pd.concat([reverse, other]))[0].verdict == "partly"


def test_what_solves_the_system_is_judged_by_responses() -> None:
    last = conclusions(ROWS)[-1]
    assert last.verdict == "fails"
    unsure = ROWS.assign(high=0.96)
    assert conclusions(unsure)[-1].verdict == "undecided"
    assert "2 solvers, the lowest Pearson 0.88 [0.87, 0.89] (EK-FAC-LiSSA)" in last.numbers
    better = frame(rows_of("auto", 0.97, 5, WAVE), rows_of("identity", 0.2, 0, WAVE, error=3.0))
    assert conclusions(better)[-1].verdict == "holds"
    assert conclusions(frame(rows_of("auto", 0.97, 5, WAVE, error=0.5))) == []


def test_the_findings_name_the_best_and_what_is_not_separated() -> None:
    told = findings(ROWS)
    assert list(told) == ["tiny"]
    text = told["tiny"]
    for truth in ("Models of random subsets (LDS)", "Proximal Bregman responses", "The exact solution"):
        assert f"{truth}: cg:tolerance=1e-6 has the highest" in text
    assert "cg:tolerance=1e-6 has the highest LDS, 0.90 [0.89, 0.91]" in text
    assert "not separated from it is EK-FAC (0.89). The cheapest of these is EK-FAC, at 20 gradients" in text
    assert "12 subsets, 4 queries; one seed each" in text
    alone = findings(frame(rows_of("auto", 0.9, 5, WAVE), rows_of("identity", 0.2, 0, WAVE)))
    assert "all others are certainly below" in alone["tiny"]
    single = findings(frame(rows_of("auto", 0.9, 5, WAVE, ceiling=0.8, asked=15)))
    assert "correlate at 0.80" in single["tiny"]
    assert "certainly" not in single["tiny"]
    assert "of 15 asked for, since the others did not converge" in single["tiny"]


def test_what_is_missing_and_who_gave_no_answer() -> None:
    rows = frame(
        rows_of("auto", math.nan, 5, missing="p is too large", low=math.nan, high=math.nan),
        rows_of("kfac", math.nan, 0, status="failed", reason="no layers", error=math.nan),
        rows_of("lissa", math.nan, 99, status="budget_spent", error=0.25),
    )
    told = findings(rows)
    assert "Proximal Bregman responses: not judged, p is too large." in told["tiny"]
    assert "K-FAC failed (no layers)" in told["How solves ended"]
    assert "LiSSA (error 25 %) ended at the limit of work and is judged" in told["How solves ended"]
    assert all(each.verdict == "undecided" for each in conclusions(rows))
    nothing = findings(frame(rows_of("kfac", math.nan, 0, status="failed", reason="no layers")))
    assert "not judged, no solver gave an answer" in nothing["tiny"]
    constant = frame(rows_of("ekfac", math.nan, 1), rows_of("identity", math.nan, 0))
    text = "the scores or losses of a query do not vary"
    assert f"not judged, {text}." in findings(constant)["tiny"]
    assert text in conclusions(constant)[0].numbers
    broken = frame(rows_of("ekfac", math.nan, 1, status="breakdown"), rows_of("identity", 0.5, 0))
    assert "EK-FAC gave no answer" in conclusions(broken)[0].numbers
    assert "EK-FAC broke down" in findings(broken)["How solves ended"]


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    assert interval_text(Interval(-0.001, -0.02, 0.004), sign=True) == "0.00 [−0.02, 0.00]"


def test_resamples_that_are_not_defined_separate_nothing() -> None:
    rows = frame(rows_of("auto", 0.9, 5), rows_of("identity", 0.2, 0))
    lds = of(table(rows), "tiny", "lds")
    assert as_good(lds) == ["auto", "identity"]
    assert difference(lds, "auto", "identity").value == pytest.approx(0.7)
    both = frame(rows_of("ekfac", 0.9, 5), rows_of("identity", 0.2, 0))
    assert "difference +0.70, of no known interval" in conclusions(both)[0].numbers


@pytest.mark.parametrize("values", [{}, {"value": math.nan, "low": math.nan, "high": math.nan}])
def test_the_page(tmp_path: Any, values: dict[str, float]) -> None:
    rows = ROWS.assign(**values)
    page = build_truth(rows, {"experiment": {"title": "Truth"}}, tmp_path / "page").read_text("utf-8")
    assert page.count("<tr>") >= 4 * 1 + 2
    assert "gradient similarity" in page
    assert "lissa:preconditioner=ekfac" in page
    kept = json.loads((tmp_path / "page" / "conclusions.json").read_text("utf-8"))
    assert len(kept) == (7 if not values else 6)
    assert (tmp_path / "page" / "truth.png").stat().st_size < 200_000


def test_the_page_of_failures_alone(tmp_path: Any) -> None:
    rows = pd.DataFrame([{"problem": "tiny", "failure": "ValueError: no", "traceback": "", "solver": "cg"}])
    assert "Nothing was measured" in build_truth(rows, {}, tmp_path / "page").read_text("utf-8")
    assert np.isnan(of(table(ROWS), "tiny", "lds").loc["ekfac", "ceiling"])
