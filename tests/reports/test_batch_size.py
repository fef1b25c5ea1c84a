import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from reports.batch_size import build_batch_size
from reports.batch_size_figure import batch_size_figure
from reports.batch_size_rows import correlation_text, over_seeds, over_steps, over_trials
from reports.batch_size_verdicts import conclusions, findings
from tests.reports.test_report import Page

COMMON = {
    "problem": "tiny", "seed": 0, "dimension": 8, "num_examples": 100, "damping": 0.1, "failure": "",
    "unit": "example", "units_per_draw": 1.0, "largest": 1.9, "trace": 6.0, "noise_constant": 12.0,
    "step_size": 0.5, "num_steps": 100, "time": 5.0, "sufficient_batch": 5.0, "papers_batch": 3.0,
    "converged_from": 0.95, "num_influences": 20, "gradient_bytes": 2**20, "start_correlation": 0.4,
    "start_error": 2.0, "reference_error": 0.0, "second_moment": 2.0, "status": "", "reason": "", "why": "",
    "diverged": 0.0, "diverged_at": math.nan, "chosen_step_size": math.nan, "full_data": math.nan,
}  # fmt: skip


def trial(batch: int, correlation: float, number: int = 0, half: float = 0.6, **values: Any) -> list[dict]:
    """Steps 1 and 100 of a run that ends at `correlation`; both at a relative error of 0.3."""
    return [
        COMMON
        | {
            "method": "fixed", "batch_size": batch, "trial": number, "step": step, "half_step": half,
            "epochs": step * batch / 100, "work": step * batch / 50, "correlation": at, "error": 0.3,
            "least_correlation": at - 0.1, "predicted_floor": 0.5 if half < 1 else math.inf,
        }
        | values
        for step, at in ((1, correlation / 2), (100, correlation))
    ]  # fmt: skip


def gone(batch: int, number: int = 0, half: float = 3.0, **values: Any) -> list[dict]:
    """A run that was beyond from step 7 on and was cut off at the next recorded one."""
    return trial(batch, -0.2, number, half, diverged=1.0, diverged_at=7.0, **values)


def chosen(method: str, correlation: float, **values: Any) -> dict:
    return COMMON | {
        "method": method, "batch_size": 3, "trial": 0, "step": 45, "half_step": math.nan, "epochs": 2.5,
        "work": 7.5, "correlation": correlation, "least_correlation": correlation, "error": 0.04,
        "predicted_floor": math.nan, "chosen_step_size": 0.25, "full_data": 0.0,
    } | values  # fmt: skip


def frame(*parts: list[dict] | dict) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in (part if isinstance(part, list) else [part])])


def test_a_batch_is_judged_by_its_median_trial():
    rows = frame(trial(8, 0.90), trial(8, 0.96, 1), trial(8, 0.98, 2))
    (row,) = over_trials(rows).to_dict("records")
    assert (row["num_trials"], row["num_diverged"], row["verdict"]) == (3, 0, "converges")
    assert (row["correlation"], row["low"], row["high"]) == (0.96, 0.90, 0.98)
    # Standard deviation of 0.90, 0.96, 0.98 is √((0.0022 + 0.0002 + 0.0011)/2).
    assert row["correlation_error"] == pytest.approx(np.std([0.90, 0.96, 0.98], ddof=1) / math.sqrt(3))
    assert row["error"] == pytest.approx(0.3)
    assert (row["epochs"], row["work"]) == (8, 16)


def test_one_step_that_noise_moves_does_not_decide():
    steps = [(1, 0.2, 0.9), (50, 0.3, 0.8), (60, 0.97, 0.1), (80, 0.98, 0.2), (100, 0.6, 0.4)]
    rows = frame(
        [trial(8, at, error=error)[1] | {"step": step} for step, at, error in steps],
    )
    (row,) = over_trials(rows).to_dict("records")
    # Of steps 60, 80 and 100, the last half.
    assert (row["correlation"], row["error"], row["verdict"]) == (0.97, 0.2, "converges")


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([trial(8, 0.94), trial(8, 0.94, 1)], "stalls"),
        ([trial(8, 0.99), gone(8, 1)], "diverges"),
        # A third diverged: the median of −1, 0.99 and 0.99 converges.
        ([trial(8, 0.99), trial(8, 0.99, 1), gone(8, 2)], "converges"),
        # And that of −1, 0.5 and 0.99 does not.
        ([trial(8, 0.99), trial(8, 0.5, 1), gone(8, 2)], "stalls"),
        ([trial(8, math.nan)], "stalls"),
    ],
)
def test_divergence_counts_against_a_batch(runs, verdict):
    assert over_trials(frame(*runs))["verdict"][0] == verdict


def test_all_seeds_are_trials_and_batches_come_in_order():
    rows = frame(trial(8, 0.9), trial(8, 0.99, seed=1), trial(2, 0.5), trial(4, 0.6, problem="other"))
    found = over_trials(rows)
    assert list(zip(found["problem"], found["batch_size"], strict=True)) == [
        ("tiny", 2),
        ("tiny", 8),
        ("other", 4),
    ]
    assert list(found["num_trials"]) == [1, 2, 1]


@pytest.mark.parametrize(
    ("correlation", "half", "agrees"),
    [(0.99, 0.6, True), (0.5, 0.6, False), (0.99, 1.2, False), (0.5, 1.2, True)],
)
def test_theory_is_right_where_what_is_stable_converges(correlation, half, agrees):
    (row,) = over_trials(frame(trial(8, correlation, half=half))).to_dict("records")
    assert row["agrees"] is agrees


def test_curves_are_medians_of_runs_that_go_on():
    rows = frame(trial(8, 0.8), trial(8, 0.4, 1), gone(8, 2)[:1])
    first, last = over_steps(rows).to_dict("records")
    assert (first["step"], last["step"], last["epochs"]) == (1, 100, 8)
    assert first["correlation"] == pytest.approx(0.2)  # of −0.1, 0.2 and 0.4
    assert last["correlation"] == pytest.approx(0.6)
    assert (last["low"], last["high"]) == pytest.approx((0.5, 0.7))
    # One of three reaches the end.
    assert list(over_steps(frame(trial(8, 0.8), gone(8, 1)[:1], gone(8, 2)[:1]))["step"]) == [1]


def test_findings_tell_what_each_batch_did_and_what_theory_said():
    rows = frame(
        gone(2), gone(2, 1), trial(4, 0.7, half=1.1), trial(8, 0.9), trial(32, 0.9991, half=0.55),
        chosen("self-tuned", 0.9998, full_data=1.0), chosen("paper's rule", 0.6),
    )  # fmt: skip
    assert findings(rows)["tiny"] == (
        "At the full-batch step η = 0.500, after 100 steps, b = 2 diverged (2 of 2 trials), b = 4 and 8 "
        "stalled (median correlation 0.700 and 0.900) and b = 32 converged (median correlation 0.9991), "
        "where gradient similarity has 0.400. Theory asks for b ≥ 5, where the trace alone asks for 3, and "
        "by ηL_b/2 < 1 calls b = 8 and 32 stable. That and the outcome, whether it converges, agree for "
        "3 of 4 batches. Of the stable ones none diverged. Stable, but stalled on a floor of "
        "noise: b = 8, with a relative error of 0.300, where theory's bound allows 0.500. The self-tuned "
        "solver ended at 0.9998 after 45 steps on all data, 2.50 passes over the data with set-up. The "
        "paper's rule ended at 0.600 after 45 steps on b = 3, 2.50 passes over the data with set-up."
    )


def test_findings_where_theory_errs_or_nothing_was_stable_or_steps_are_few():
    told = findings(frame(gone(8, half=0.8)))["tiny"]
    assert "calls every batch here stable" in told
    assert "Of the stable ones b = 8 diverged in 1 of 1 trial." in told
    assert "agree for 0 of 1 batch." in told
    told = findings(frame(trial(2, 0.5, half=2.0, time=1.5, unit="token")))["tiny"]
    assert "calls no batch here stable" in told
    assert "Of the stable ones" not in told
    assert "after 100 steps of mini-batches counted in tokens, b = 2 stalled" in told
    assert "ηλT is only 1.50: whatever the batch, some of the start is left" in told
    assert findings(frame(chosen("self-tuned", math.nan)))["tiny"].startswith(
        "The self-tuned solver diverged in 1 of 1 seed after 45 steps"
    )


def test_a_stable_batch_of_which_few_trials_diverged_is_not_told_to_have_none():
    rows = frame(trial(8, 0.99), trial(8, 0.99, 1), gone(8, 2, half=0.6), trial(32, 0.99))
    assert "Of the stable ones b = 8 diverged in 1 of 3 trials." in findings(rows)["tiny"]
    assert "b = 8 converges at 0.990 (diverged in 1 of 3 trials)" in conclusions(rows)[0].numbers
    assert "b = 8 diverges in 1 of 2 trials." in conclusions(frame(trial(8, 0.99), gone(8, 1)))[0].numbers


def test_a_batch_that_ends_lower_than_the_start_has_not_converged():
    rows = frame(
        trial(8, 0.955, start_correlation=0.99),
        trial(32, 0.993, start_correlation=0.99),
        trial(64, 0.96, start_correlation=math.nan),
        chosen("paper's rule", 0.955, start_correlation=0.99),
    )
    assert list(over_trials(rows)["verdict"]) == ["stalls", "converges", "converges"]
    figure, rule, *_ = conclusions(rows)
    assert "b = 8 stalls at 0.955, lower than the start's 0.990," in figure.numbers
    assert rule.verdict == "fails"
    assert rule.numbers == "tiny: b = 3 ended at a correlation of 0.955, lower than the start's 0.990."


def test_noise_is_blamed_for_no_more_than_the_start_leaves():
    """Of a start of error 2 no more than 2/e is left at half of ηλT = 2, where the errors begin to count."""
    left = 2 / math.e
    for error, blamed in ((1.40 * left, False), (1.43 * left, True)):
        told = findings(frame(trial(8, 0.5, time=2.0, error=error)))["tiny"]
        assert ("stalled on a floor of noise: b = 8" in told) is blamed
        assert ("of which up to 0.736 may be left of the start" in told) is not blamed


def test_too_few_steps_decide_nothing_of_a_stall():
    short = {"time": 1.0, "error": 0.9}
    rows = frame(trial(2, 0.5, half=2.0, **short), trial(8, 0.9, **short))
    figure, _, enough, below = conclusions(rows)
    assert {figure.verdict, enough.verdict, below.verdict} == {"undecided"}
    for each in (figure, enough, below):
        assert "With ηλT < 3 a stall decides nothing" in each.numbers
    told = findings(rows)["tiny"]
    assert "noise" not in told
    assert "agree for" not in told
    # What converged or diverged is known all the same, as is all with ηλT = 3.
    rows = frame(gone(2, **short), trial(8, 0.9, **short), trial(32, 0.99, **short))
    assert [each.verdict for each in conclusions(rows)] == ["holds", "undecided", "holds", "holds"]
    assert "agree for 2 of 2 batches that did not merely stall" in findings(rows)["tiny"]
    assert conclusions(frame(trial(8, 0.9, time=3.0)))[2].verdict == "fails"


def test_conclusions_are_by_the_papers_batch_and_ours_by_the_one_that_theory_asks_for():
    rows = frame(
        gone(2), trial(4, 0.99), trial(8, 0.9), trial(32, 0.99), chosen("paper's rule", 0.96),
    )  # fmt: skip
    figure, rule, enough, below = conclusions(rows)
    assert [each.where != "" for each in (figure, rule, enough, below)] == [True, True, False, False]
    assert (figure.where, enough.source) == ("Figure 2", "ours")
    assert [each.verdict for each in (figure, rule, enough, below)] == ["partly", "holds", "partly", "partly"]
    # Tr(H)/(λ_max + λ) is 3, and b* is 5.
    assert figure.numbers == (
        "2 of 3 batches at or above Tr(H)/(λ_max + λ) converged. tiny (Tr(H)/(λ_max + λ) = 3): b = 4 "
        "converges at 0.990, b = 8 stalls at 0.900 and b = 32 converges at 0.990. 1 of 1 batch below "
        "Tr(H)/(λ_max + λ) did not converge. tiny (Tr(H)/(λ_max + λ) = 3): b = 2 diverges."
    )
    assert enough.numbers == (
        "1 of 2 batches at or above b* converged. tiny (b* = 5): b = 8 stalls at 0.900 and b = 32 converges"
        " at 0.990."
    )
    assert below.numbers == (
        "1 of 2 batches below b* did not converge. tiny (b* = 5): b = 2 diverges and b = 4 converges at "
        "0.990."
    )
    assert rule.numbers == "tiny: b = 3 ended at a correlation of 0.960."
    figure, rule, enough, below = conclusions(frame(gone(2)))
    assert [each.verdict for each in (figure, rule, enough, below)] == [
        "holds",
        "undecided",
        "undecided",
        "holds",
    ]
    assert figure.numbers.startswith("No batch was as large as Tr(H)/(λ_max + λ).")
    assert conclusions(frame(trial(4, 0.99)))[0].verdict == "holds"
    assert [each.verdict for each in conclusions(frame(chosen("paper's rule", math.nan)))][1] == "fails"


def test_chosen_settings_are_medians_over_seeds():
    rows = frame(*(chosen("self-tuned", value, seed=seed) for seed, value in enumerate((0.9, 0.99, 0.97))))
    (row,) = over_seeds(rows).to_dict("records")
    assert (row["correlation"], row["low"], row["high"]) == (0.97, 0.9, 0.99)
    assert (row["num_trials"], row["num_diverged"], row["verdict"]) == (3, 0, "converges")


LOST = ({"diverged": 1.0}, {"status": "diverged"}, {"correlation": math.nan})


@pytest.mark.parametrize("lost", LOST)
def test_seeds_in_which_the_rule_diverged_count_against_it(lost):
    def seeds(*ends):
        return frame(
            *(
                chosen("paper's rule", 0.99, seed=seed, status="finished") | (lost if gone else {})
                for seed, gone in enumerate(ends)
            )
        )

    assert conclusions(seeds(True))[1].numbers == "tiny: b = 3 diverged in 1 of 1 seed."
    for ends, verdict in (
        ((False, False, True), "holds"),
        ((True, False), "fails"),
        ((True, True, False), "fails"),
    ):
        rule = conclusions(seeds(*ends))[1]
        gone = f"diverged in {sum(ends)} of {len(ends)} seeds and else ended at"
        assert (rule.verdict, rule.numbers) == (verdict, f"tiny: b = 3 {gone} a correlation of 0.990.")
        assert f"The paper's rule {gone} 0.990 after 45 steps" in findings(seeds(*ends))["tiny"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9123, "0.912"), (0.99984, "0.9998"), (0.999999, "1.000"), (-0.05, "−0.050"), (math.nan, "–")],
)
def test_correlations_keep_the_digits_that_differ(value, text):
    assert correlation_text(value) == text


def test_figure_has_a_line_for_each_batch_and_marks_what_was_chosen():
    rows = frame(gone(2), trial(8, 0.9), chosen("self-tuned", 0.98), chosen("paper's rule", 0.6))
    left, right = batch_size_figure(rows).axes
    for ax, x in ((left, [1.0, 100.0]), (right, [0.08, 8.0])):
        (line,) = (line for line in ax.lines if list(line.get_ydata()) == pytest.approx([0.45, 0.9]))
        assert list(line.get_xdata()) == pytest.approx(x)
        assert line.get_linestyle() == "-"
        (line,) = (line for line in ax.lines if list(line.get_ydata()) == pytest.approx([-0.1, -0.2]))
        assert line.get_linestyle() == "--"
    marks = {line.get_marker(): line for line in right.lines}
    assert (marks["*"].get_xdata()[0], marks["*"].get_ydata()[0]) == (2.5, 0.98)
    assert (marks["D"].get_xdata()[0], marks["D"].get_ydata()[0]) == (2.5, 0.6)
    # The cross where half of the trials diverged, in the line's colour.
    assert marks["X"].get_ydata()[0] == pytest.approx(-0.2)
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["2   (3)", "8   (0.600)"]
    assert to_rgba(marks["X"].get_color()) == to_rgba(right.get_legend().legend_handles[0].get_color())


def test_figure_without_batches_or_without_numbers():
    assert len(batch_size_figure(frame(chosen("self-tuned", 0.9))).axes) == 2
    assert len(batch_size_figure(frame(trial(8, math.nan))).axes) == 2


def test_page_has_the_numbers(tmp_path):
    rows = frame(
        gone(2), trial(8, 0.9), trial(8, 0.97, 1), trial(8, 0.99, 2),
        chosen("self-tuned", 0.9998, full_data=1.0, why="all data: fewer"), chosen("paper's rule", 0.6),
    )  # fmt: skip
    html = build_batch_size(rows, {"experiment": {"title": "Batches"}}, tmp_path / "page").read_text("utf-8")
    text = " ".join(Page(html).text.split())
    assert "2 0.400 3 unstable diverges – 1 of 1, from step 7 – ∞ 2 4" in text
    assert "8 1.60 0.600 stable converges 0.970 [0.900 to 0.990] 0 of 3 0.300 0.500 8 16" in text
    assert "self-tuned 0.250 all 45 0.9998 0 of 1 0.0400 2.50 7.50 all data: fewer" in text
    assert "paper's rule 0.250 3 45 0.600 0 of 1 0.0400 2.50 7.50 b = Tr(H)/(λ_max + λ), ηλT = 2.25" in text
    assert "tiny: p = 8, λ = 0.1, influences of 20 training examples by 100 examples of curvature." in text
    assert "their gradients 1 MiB" in text
    assert (tmp_path / "page" / "conclusions.json").exists()
    # R and L_b are estimates, so nothing that follows from them is certain.
    assert "is certain" not in html
    assert "no lower than the start’s" in text
