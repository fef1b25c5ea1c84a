from typing import Any

import pandas as pd
import pytest

from reports.settings import build_settings
from reports.settings_figure import settings_figure
from reports.settings_rows import PUBLISHED, over_seeds
from reports.settings_verdicts import conclusions, findings
from tests.reports.test_report import Page

NAN = float("nan")


def paper(problem: str = "tiny", **values: Any) -> dict[str, Any]:
    """ηλT = 0.5 · 0.1 · 45 = 2.25."""
    return {
        "problem": problem, "seed": 0, "dimension": 8, "num_examples": 20, "damping": 0.1, "failure": "",
        "unit": "example", "units_per_draw": 1.0,
        "rule": "paper", "target": 0.05, "status": "finished", "reason": "the schedule ended", "error": 0.04,
        "total_work": 50.0, "setup_work": 10.0, "step_size": 0.5, "batch_size": 5, "full_data": False,
        "num_steps": 45, "chains": 1, "predicted_error": NAN, "estimated_error": NAN, "back_offs": 0,
        "why": "the rule", "measured_largest": 1.9, "measured_trace": 9.5, "measured_trace_error": 0.5,
        "measured_heterogeneity": 1.2, "measured_heterogeneity_error": 0.1, "measured_noise_constant": 9.0,
        "bias": 0.02, "noise": 0.03, "bias_from_rhs": 0.004, "bias_bound": 0.017, "solution_share": 0.2,
        "half_step_second_moment": 0.8,
    } | values  # fmt: skip


def sharp(problem: str = "tiny", **values: Any) -> dict[str, Any]:
    unknown = dict.fromkeys(
        ("bias", "noise", "bias_from_rhs", "bias_bound", "solution_share", "half_step_second_moment"), NAN
    )
    chosen = {
        "rule": "sharp", "error": 0.03, "total_work": 75.0, "step_size": 0.125, "batch_size": 16,
        "num_steps": 200, "chains": 2, "predicted_error": 0.045, "estimated_error": 0.035,
        "why": "cheaper than all data",
    }  # fmt: skip
    return paper(problem, **(unknown | chosen | values))


def told(*rows: dict[str, Any]) -> dict[str, str]:
    return findings(pd.DataFrame(rows))


def test_where_the_rule_holds():
    assert told(paper(), sharp()) == {
        "Over all problems": "The paper's rule ends within 5 % on 1 of 1 problems; "
        "the sharp rule ends within 5 % on 1 of 1 problems.",
        "tiny": "The paper's rule holds: 4 % error, of which 2 % bias and 3 % sampling noise. The sharp rule "
        "uses mini-batches of 16 and ends at 3 % error for 75 gradient equivalents, 1.5 × the paper's rule.",
    }


def test_where_it_misses_by_its_bias():
    text = told(paper(error=0.1, bias=0.09), sharp(full_data=True))["tiny"]
    assert text.startswith(
        "The paper's rule misses: 10 % error, of which 9 % bias and 3 % sampling noise: its bias is 0.4 % of "
        "‖b‖/λ, as promised (at most 1.7 %), but ‖u*‖ is only 20 % of ‖b‖/λ. "
    )
    assert "The sharp rule uses all data" in text
    # A bias beyond the bound is not "as promised".
    assert (
        "its bias is 2 % of ‖b‖/λ, more than promised (at most 1.7 %), and ‖u*‖ is only 20 %"
        in (told(paper(error=0.1, bias=0.09, bias_from_rhs=0.02))["tiny"])
    )


def test_a_breakdown_is_told_by_its_reason_and_decides_nothing():
    chosen = dict.fromkeys(("step_size", "batch_size", "num_steps", "half_step_second_moment"), NAN)
    lost = chosen | {"status": "breakdown", "reason": "H is indefinite", "error": NAN, "noise": NAN}
    assert told(paper(**lost))["tiny"] == "The paper's rule gives no answer (breakdown): H is indefinite."
    rule, trace = conclusions(pd.DataFrame([paper(**lost)]))
    assert (rule.verdict, trace.verdict) == ("undecided", "undecided")
    (rule, _) = conclusions(pd.DataFrame([paper("good"), paper(**lost)]))
    assert rule.verdict == "holds"
    assert "on 1 of 1 problems" in rule.numbers
    assert rule.numbers.endswith("Not counted: 1 that drew no mini-batches, or whose error is unknown.")


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (
            {"half_step_second_moment": 0.8},
            "mini-batches of 5 seem stable, ηL_b/2 ≥ 0.800, but their noise stays.",
        ),
        (
            {"half_step_second_moment": 1.5},
            "mini-batches of 5 are too small for the step, ηL_b/2 = 1.50 where stability asks for less "
            "than 1.",
        ),
        (
            {"half_step_second_moment": 1.5, "measured_heterogeneity": 7.0},
            "mini-batches of 5 are too small for the step, ηL_b/2 = 1.50 where stability asks for less "
            "than 1, since the trace does not see that the largest example has 7 times the mean's trace.",
        ),
        ({"half_step_second_moment": NAN}, "mini-batches of 5 are too noisy for the step."),
    ],
)
def test_where_it_misses_by_noise(values, cause):
    text = told(paper(error=0.5, noise=0.5, **values))["tiny"]
    assert text.startswith("The paper's rule misses: 50 % error, of which 2 % bias and 50 % sampling noise: ")
    assert text.endswith(cause)
    diverged = told(paper(error=NAN, noise=NAN, status="diverged", **values))["tiny"]
    assert diverged == f"The paper's rule gives no answer (diverged): {cause}"


def test_what_fails_over_all_problems():
    rows = [
        paper(error=0.1, bias=0.09),
        paper("noisy", error=0.5, noise=0.5),
        paper("unstable", status="diverged", error=NAN, noise=NAN, half_step_second_moment=2.0),
        paper("good"),
    ]
    assert told(*rows)["Over all problems"] == (
        "The paper's rule ends within 5 % on 1 of 4 problems. Of the 3 that it misses, its bias alone would "
        "miss 1: at most 9 % of ‖u*‖ is left of the start. Sampling is not stable in mean square, "
        "ηL_b/2 ≥ 1, on 1 of them."
    )


def test_the_sharp_rule_may_fail_and_errors_may_be_unknown():
    failed = sharp(status="breakdown", error=NAN, reason="it would take too long")
    assert told(paper(), failed)["tiny"].endswith(
        "The sharp rule gives no answer (breakdown): it would take too long."
    )
    unknown = {"error": NAN, "bias": NAN, "noise": NAN}
    text = told(paper(**unknown), sharp(error=NAN))["tiny"]
    assert "whose error is unknown: there is no reference." in text
    assert "ends at an unknown error for 75 gradient equivalents" in text


def test_over_seeds_medians_and_the_seed_that_failed():
    rows = [
        paper(error=0.01),
        paper(seed=1, error=0.04, status="diverged", reason="ran away"),
        paper(seed=2, error=0.02),
    ]
    (row,) = over_seeds(pd.DataFrame(rows)).to_dict("records")
    assert row["error"] == 0.02
    assert (row["usable"], row["met"], row["status"], row["reason"]) == (False, False, "diverged", "ran away")


def test_rows_without_a_decomposition():
    rows = pd.DataFrame([paper()]).drop(columns=["bias", "noise"])
    assert over_seeds(rows)["bias"].isna().all()


def test_published_settings_have_the_time_that_the_paper_keeps_to():
    assert [round(each.time, 12) for each in PUBLISHED] == [2.25, 2.0, 2.5, 2.5, 2.0]


def test_figure_marks_errors_parts_and_what_is_off_the_scale():
    rows = [paper(), sharp(), paper("lost", status="diverged", error=800.0, noise=900.0, bias=1e-9)]
    ax = settings_figure(over_seeds(pd.DataFrame(rows))).axes[0]
    low, high = ax.get_xlim()
    marks = {(line.get_marker(), round(float(line.get_xdata()[0]), 6)) for line in ax.lines}
    assert {("o", 0.04), ("|", 0.02), ("x", 0.03), ("s", 0.03)} <= marks
    assert {(5, round(high, 6)), (4, round(low, 6))} <= marks
    assert [label.get_text() for label in ax.get_yticklabels()] == ["tiny", "lost"]


def test_page_has_the_numbers(tmp_path):
    rows = pd.DataFrame([paper(), sharp()])
    html = build_settings(rows, {"experiment": {"title": "Settings"}}, tmp_path / "page").read_text("utf-8")
    text = " ".join(Page(html).text.split()).replace("\xa0", " ")
    assert "paper finished 0.500 5 45 1 2.25 0.0400 met – – 50" in text
    assert "sharp finished 0.125 16 200 2 2.50 0.0300 met 0.0450 0.0350 75" in text
    assert "tiny 0.0400 0.0200 0.0300 0.4 % 1.7 % 20 % 5 0.800 holds" in text
    assert "Tr(H) 9.50 ± 0.50 C ≥ 1.20 ± 0.10 R 9 R/Tr(H) 0.947" in text
    assert "L_b is of at most 4,096 examples, or sequences" in text
    assert "Llama-1 7B 7B, OpenWebText 5 – – – published 0.0005 1,000 50 tokens 2.50" in text
    assert "tiny 0.1 1.90 9.50 ± 0.50 1.20 paper 0.500 45 5 2.25 sharp 0.125 200 16 2.50" in text


def test_batches_of_tokens_are_called_so(tmp_path):
    tokens = {"unit": "token", "units_per_draw": 32.0}
    unstable = {"error": 0.5, "noise": 0.5, "half_step_second_moment": 1.5, "measured_heterogeneity": 7.0}
    rows = pd.DataFrame([paper(**tokens, **unstable), sharp(**tokens)])
    told = findings(rows)["tiny"]
    assert "mini-batches of 5 tokens are too small for the step" in told
    assert "the largest sequence has 7 times the mean's trace" in told
    assert "The sharp rule uses mini-batches of 16 tokens" in told
    html = build_settings(rows, {"experiment": {"title": "Settings"}}, tmp_path / "page").read_text("utf-8")
    assert "of whole sequences h_i, each one draw" in html


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([paper(), paper("other")], "holds"),
        ([paper(), paper("other", error=0.3)], "partly"),
        ([paper(error=0.3)], "partly"),  # nearer than x = 0, but not within the target
        ([paper(error=1.2), paper("lost", status="diverged", error=NAN)], "fails"),
        ([paper(error=NAN)], "undecided"),
        ([paper(full_data=True)], "undecided"),  # no batch of the rule's was drawn
        ([paper(), paper("all", full_data=True, error=0.3)], "holds"),
    ],
)
def test_conclusion_on_the_papers_rule(rows, verdict):
    assert conclusions(pd.DataFrame([*rows, sharp()]))[0].verdict == verdict


def test_conclusion_on_the_papers_rule_has_the_numbers():
    rows = [paper(), paper("far", error=0.45), paper("lost", status="diverged", error=NAN)]
    assert conclusions(pd.DataFrame(rows))[0].numbers == (
        "Within 5 % of the solution on 1 of 3 problems, and nearer to it than x = 0 on 2, where it ends 4 % "
        "to 45 % off."
    )
    assert conclusions(pd.DataFrame([paper(error=2.0)]))[0].numbers == (
        "Within 5 % of the solution on none of 1 problems, and nearer to it than x = 0 on none."
    )


def test_conclusion_on_the_traces_batch():
    rows = [paper(), paper("other", half_step_second_moment=1.5), paper("all", full_data=True)]
    found = conclusions(pd.DataFrame(rows))[1]
    assert (found.verdict, found.where) == ("partly", "rule for the batch size")
    assert found.numbers == (
        "ηL_b/2, L_b found from below, is 0.800 to 1.50; that it is below 1, which suffices for stability in "
        "mean square, is refuted on 1 of 2 problems. Runs diverged on none."
    )
    # What is known from below alone is refuted by a run that diverged.
    (_, found) = conclusions(pd.DataFrame([paper(status="diverged", error=NAN)]))
    assert found.verdict == "fails"
    assert found.numbers.endswith("is refuted on none of 1 problems. Runs diverged on 1.")
    assert conclusions(pd.DataFrame([paper(half_step_second_moment=NAN)]))[1].verdict == "undecided"
    assert conclusions(pd.DataFrame([sharp()])) == []
