import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.preconditioning import build_preconditioning
from reports.preconditioning_figure import preconditioning_figure
from reports.preconditioning_rows import table
from reports.preconditioning_verdicts import findings, name_of, verdicts
from tests.reports.test_report import Page

NAN = math.nan


def row(preconditioner: str, step: float, target: float = 0.05, **values: Any) -> dict[str, Any]:
    """Four right-hand sides, so that a step is 4 products; a product costs 1.5 gradients."""
    setup_products, setup_work = values.get("setup_products", 0.0), values.get("setup_work", 0.0)
    return {
        "problem": "tiny", "seed": 0, "dimension": 100, "num_examples": 60, "damping": 1e-4, "failure": "",
        "method": "cg", "preconditioner": preconditioner, "num_columns": 4, "condition": 1e4, "largest": 1.0,
        "effective_dimension": 40.0, "target": target, "step": step, "products": setup_products + 4 * step,
        "work": setup_work + 6 * step, "error": target / 2, "setup_work": setup_work,
        "setup_products": setup_products, "rank": NAN, "preconditioned_condition": 100.0,
        "preconditioned_smallest": 0.1, "preconditioned_largest": 10.0, "predicted_condition": NAN,
        "planned_steps": NAN, "batch_size": NAN, "chains": NAN, "step_size": NAN, "noise_constant": NAN,
        "pilot_work": NAN, "status": "finished", "reason": "", "why": "",
    } | values  # fmt: skip


def lissa(preconditioner: str, step: float, **values: Any) -> dict[str, Any]:
    own = {"method": "lissa", "planned_steps": step, "batch_size": 8, "chains": 2, "step_size": 0.1,
           "noise_constant": 5.0, "pilot_work": 3.0}  # fmt: skip
    return row(preconditioner, step, **(own | values))


def only(rows: list[dict[str, Any]], preconditioner: str) -> pd.Series:
    found = table(pd.DataFrame(rows))
    (one,) = [each for _, each in found.iterrows() if each["preconditioner"] == preconditioner]
    return one


PLAIN = row("none", 90)


def test_the_set_up_counts_as_products() -> None:
    # 20 + 4·25 = 120 of 360: just a third.
    found = only([PLAIN, row("nystrom", 25, setup_products=20.0, setup_work=50.0)], "nystrom")
    assert (found["set_up"], found["all_products"], found["ratio"]) == (20, 120, pytest.approx(1 / 3))
    assert found["steps_ratio"] == pytest.approx(25 / 90)
    assert found["work_ratio"] == pytest.approx((50 + 150) / 540)
    assert found["verdict"] == "holds"
    # 20 ≤ (90/3 − 25)·k from k = 4 on.
    assert found["break_even"] == 4


def test_a_set_up_without_products_counts_by_its_work() -> None:
    # 30 gradients buy 20 products at 1.5 each.
    found = only([PLAIN, row("ekfac", 25, setup_work=30.0)], "ekfac")
    assert (found["set_up"], found["all_products"], found["verdict"]) == (20, 120, "holds")


def test_a_set_up_that_more_right_hand_sides_would_share() -> None:
    # 50 + 4·20 = 130 > 120, and 50 ≤ 10 k from k = 5 on.
    found = only([PLAIN, row("nystrom", 20, setup_products=50.0)], "nystrom")
    assert (found["verdict"], found["break_even"]) == ("shared", 5)


@pytest.mark.parametrize(("steps", "missed"), [(31, False), (30, False), (NAN, True)])
def test_what_takes_more_than_a_third_even_without_set_up_fails(steps: float, missed: bool) -> None:
    values = {"error": NAN, "setup_products": 1.0} if missed else {"setup_products": 1.0}
    found = only([PLAIN, row("nystrom", steps, **values)], "nystrom")
    assert found["verdict"] == "fails"
    assert found["break_even"] == math.inf
    assert found["met"] is not missed


def test_seeds_give_their_median_and_one_that_does_not_get_there_counts_as_endless() -> None:
    rows = [PLAIN, *(row("ekfac", step, seed=seed) for seed, step in enumerate((10, 20, 60)))]
    assert only(rows, "ekfac")["step"] == 20
    rows = [PLAIN, row("ekfac", 10), row("ekfac", NAN, seed=1), row("ekfac", NAN, seed=2)]
    assert only(rows, "ekfac")["step"] == math.inf


def test_lissas_ratio_is_of_steps_and_a_bound_where_plain_did_not_get_there() -> None:
    rows = [lissa("none", 1000, error=0.4, planned_steps=5000), lissa("ekfac", 100, batch_size=60)]
    found = only(rows, "ekfac")
    assert (found["ratio"], found["bounded"], found["verdict"]) == (0.1, True, "holds")
    (verdict,) = verdicts(table(pd.DataFrame(rows)))
    assert verdict.targets[0].numbers == (
        "100 of over 1,000 (< 0.10) steps; batch all 60 in place of 8; work 600 of over 6,000 (< 0.10)"
    )
    assert verdict.why == (
        "Plain LiSSA is at 40 % after 1,000 steps of the 5,000 it planned. The batch grows: under P the step "
        "is kept by C·d(λ) examples, C what examples differ by, d(λ) = 40."
    )


def test_where_plain_lissa_gives_no_answer_one_that_gets_there_holds() -> None:
    none = lissa(
        "none", 0, status="breakdown", reason="no plan", error=NAN, batch_size=NAN, planned_steps=NAN
    )
    (verdict,) = verdicts(table(pd.DataFrame([none, lissa("ekfac", 100)])))
    assert verdict.targets[0].word == "holds"
    assert verdict.targets[0].numbers == "100 steps of 8, work 600; plain: none"
    assert verdict.why == "Plain LiSSA gives no answer: no plan."


def test_fewer_steps_for_more_work_are_told() -> None:
    rows = [lissa("none", 1000, work=100.0), lissa("ekfac", 100, work=250.0)]
    (verdict,) = verdicts(table(pd.DataFrame(rows)))
    assert verdict.why == "So fewer steps are 2.50 times the work."
    for error, told in ((0.06, "So fewer steps are up to 2.50 times the work."), (0.2, "")):
        rows[0]["error"] = error
        (verdict,) = verdicts(table(pd.DataFrame(rows)))
        assert verdict.why == f"Plain LiSSA is at {100 * error:.2g} % after 1,000 steps. {told}".strip()


def test_why_a_preconditioner_fails() -> None:
    rows = [PLAIN, row("ekfac", 45)]
    (verdict,) = verdicts(table(pd.DataFrame(rows)))
    assert (verdict.targets[0].word, verdict.targets[0].badge) == ("fails", "fails")
    assert verdict.why == (
        "κ falls from 10,000 only to 100, by √κ to 0.10; steps fall only to 0.50: plain CG is faster than "
        "its κ says, where few eigenvalues are large; P⁻¹(H + λ) has eigenvalues from 0.100 to 10."
    )
    # 40 of 90 steps are more than a third: no P by layers does it. 20 are less: P itself is at fault.
    for steps, told in ((40, "no P by layers reaches a third here"), (20, "P's form within them")):
        blocks = row("block_diagonal", steps, preconditioned_condition=50.0)
        (verdict,) = verdicts(table(pd.DataFrame([*rows, blocks])))
        assert told in verdict.why
        assert f"leave κ = 50 and take {steps} of 90" in verdict.why


def test_why_a_sketch_does_not_pay_and_what_another_rank_would_take() -> None:
    rows = [
        PLAIN,
        row("nystrom", 20, setup_products=90.0, rank=80.0),
        row("nystrom(rank=9)", 30, setup_products=9.0, rank=9.0),
    ]
    (verdict,) = verdicts(table(pd.DataFrame(rows)))
    # 90 ≤ 10 k from k = 9 on; 90 and 9 + 4·30 of 360.
    assert (verdict.targets[0].word, verdict.targets[0].badge) == ("holds from k ≥ 9", "undecided")
    assert "at 5 % it alone is 0.25 of plain CG's products for 4 right-hand sides, the solves are 0.22" in (
        verdict.why
    )
    assert verdict.why.endswith("At that target rank 9 in the place of 80 takes 0.36 in all.")


def test_findings_name_each_claim_with_its_ratios() -> None:
    rows = [
        PLAIN, row("none", 180, 1e-4), row("ekfac", 9), row("ekfac", 90, 1e-4),
        *(each | {"problem": "mild", "condition": 50.0} for each in (PLAIN, row("ekfac", 45))),
    ]  # fmt: skip
    assert findings(pd.DataFrame(rows)) == {
        "EK-FAC-PCG takes at most ⅓ of plain CG's products": (
            "At κ ≥ 1e4 it holds in 1 of 2 cases. "
            "tiny (κ = 10,000): 0.10 and 0.50 of plain CG's products to 5 % and 0.01 %; holds to 5 %, fails "
            "to 0.01 %. mild (κ = 50, less than it is claimed for): 0.50 of plain CG's products to 5 %; "
            "fails."
        )
    }


def test_findings_name_how_many_right_hand_sides_must_share_a_set_up() -> None:
    rows = [
        PLAIN, row("none", 180, 1e-4),
        row("nystrom", 20, setup_products=50.0), row("nystrom", 50, 1e-4, setup_products=50.0),
        lissa("none", 0, status="breakdown", error=NAN), lissa("ekfac", 100),
    ]  # fmt: skip
    # 50 ≤ 10 k from k = 5 on; 50 + 4·50 > 240, and 50 ≤ 10 k likewise.
    assert findings(pd.DataFrame(rows)) == {
        "Nyström-PCG takes at most ⅓ of plain CG's products": (
            "At κ ≥ 1e4 it holds in 0 of 2 cases, in 2 more where more right-hand sides share the set-up. "
            "tiny (κ = 10,000): 0.36 and 0.35 of plain CG's products to 5 % and 0.01 %; holds from 5 and 5 "
            "right-hand sides on."
        ),
        "EK-FAC-LiSSA takes at most ⅓ of plain LiSSA's steps": (
            "At κ ≥ 1e4 it holds in 1 of 1 cases. tiny (κ = 10,000): 100 steps to 5 % where plain LiSSA has "
            "no answer; holds."
        ),
    }


def test_what_was_skipped_is_no_verdict() -> None:
    rows = [PLAIN, row("ekfac", NAN, status="skipped", reason="no layers", error=NAN)]
    assert verdicts(table(pd.DataFrame(rows))) == []
    assert findings(pd.DataFrame(rows)) == {}


def test_names() -> None:
    assert [name_of(name) for name in ("none", "nystrom(rank=64)", "mine")] == [
        "plain",
        "Nyström(rank=64)",
        "mine",
    ]


def with_paths(rows: list[dict[str, Any]]) -> pd.DataFrame:
    paths = [each | {"target": NAN, "step": step, "work": each["setup_work"] + 6 * step, "error": 1 / step}
             for each in rows for step in (1, 4, 20)]  # fmt: skip
    return pd.DataFrame(rows + paths)


def test_figure_has_a_column_for_each_problem_and_counts_the_set_up() -> None:
    rows = with_paths([PLAIN, row("ekfac", 20, setup_work=30.0), lissa("none", 1000, error=0.2)])
    figure = preconditioning_figure(pd.concat([rows, rows.assign(problem="other")]))
    assert len(figure.axes) == 4
    lines = [
        {tuple(np.asarray(line.get_xdata(), float)) for line in ax.lines if len(line.get_xdata()) == 3}
        for ax in figure.axes
    ]
    assert lines[0] == lines[1] == {(1, 4, 20)}
    assert lines[2] == lines[3] == {(6, 24, 120), (36, 54, 150)}
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [tuple(line.get_xdata()) for line in hollow] == [(1000,)]


def test_page_has_the_numbers(tmp_path) -> None:
    rows = with_paths(
        [
            PLAIN,
            row("nystrom", 20, setup_products=50.0, setup_work=80.0, rank=50.0, predicted_condition=7.0),
            row("ekfac", NAN, error=NAN, status="breakdown", reason="no good"),
            lissa("none", 1000, why="cheap"),
            lissa("ekfac", 100),
        ]
    )
    html = build_preconditioning(rows, {"experiment": {"title": "Saving"}}, tmp_path / "page").read_text(
        "utf-8"
    )
    text = " ".join(Page(html).text.split())
    assert (
        "130 of 360 (0.36) products, 50 of them set-up; 20 of 90 (0.22) steps; work 200 of 540 (0.37)" in text
    )
    assert "Nyström rank 50 100 [0.100 – 10] 7 50 80 20 130 0.36 200" in text
    assert "breakdown: no good" in text
    assert "plain finished 2.5 % met 1,000 1,000 8 2 0.100 5 0 3 6,000 cheap" in text
