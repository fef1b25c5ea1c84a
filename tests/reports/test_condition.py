import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.condition import build_condition
from reports.condition_figure import condition_figure
from reports.condition_rows import over_seeds
from reports.condition_verdicts import conclusions, findings, listed
from tests.reports.test_report import Page


def row(batch_size: int, noise: float, **values: Any) -> dict[str, Any]:
    """Tr(H) = 3 and C = 4, so that the right side is 9/b or 36/b; (R − λ_max)/Tr(H) = (5 − 2)/3 = 1."""
    return {
        "problem": "tiny", "seed": 0, "dimension": 8, "num_examples": 20, "damping": 0.1, "failure": "",
        "unit": "example", "units_per_draw": 1.0,
        "batch_size": batch_size, "pairs": 50, "noise": noise, "noise_error": noise / 10, "trace": 3.0,
        "trace_error": 0.0,
        "heterogeneity": 4.0, "heterogeneity_error": 0.0, "largest": 2.0, "noise_constant": 5.0,
        "sequence_worth": math.nan, "sequence_worth_error": math.nan,
    } | values  # fmt: skip


def verdict(rows: list[dict[str, Any]]) -> str:
    return findings(pd.DataFrame(rows))["tiny"]


def test_sides_are_means_over_seeds_with_their_errors():
    rows = [row(2, 4.0, noise_error=0.3), row(2, 5.0, noise_error=0.4, seed=1)]
    (side,) = over_seeds(pd.DataFrame(rows)).to_dict("records")
    assert side["noise"] == 4.5
    assert side["noise_error"] == pytest.approx(0.25)  # √(0.3² + 0.4²)/2
    assert (side["equal"], side["unequal"], side["ratio"]) == (4.5, 18.0, 1.0)
    assert side["ratio_error"] == pytest.approx(0.25 / 4.5)
    assert (side["verdict"], side["unequal_verdict"], side["needed"]) == ("undecided", "holds", 1.0)


def test_the_noise_of_all_draws_is_one_number_whatever_the_seeds():
    rows = [row(2, 4.0, noise_error=0.3, pairs=0, seed=seed) for seed in range(9)]
    (side,) = over_seeds(pd.DataFrame(rows)).to_dict("records")
    assert (side["noise"], side["noise_error"]) == (4.0, 0.3)


def test_what_the_matrices_ask_for_errs_low_by_the_residual_of_the_largest_eigenvalue():
    (side,) = over_seeds(pd.DataFrame([row(1, 1.0, largest_residual=0.6)])).to_dict("records")
    assert side["needed"] == pytest.approx((5 - 2.6) / 3)


def test_errors_of_trace_and_heterogeneity_go_into_the_right_side():
    values = {"trace_error": 0.3, "heterogeneity_error": 0.4}
    (side,) = over_seeds(pd.DataFrame([row(1, 1.0, **values)])).to_dict("records")
    assert side["equal_error"] == pytest.approx(9 * 0.2)  # twice the trace's relative error of 0.1
    assert side["unequal_error"] == pytest.approx(36 * math.hypot(0.2, 0.1))


@pytest.mark.parametrize(
    ("noise", "word"),
    [(9.0, "undecided"), (7.4, "holds"), (7.6, "undecided"), (11.0, "undecided"), (11.4, "fails")],
)
def test_a_difference_within_two_standard_errors_is_none(noise, word):
    # 9 − 7.4 = 1.6 > 2 · 0.74; 9 − 7.6 = 1.4 < 2 · 0.76; 11 − 9 = 2 < 2.2; 11.4 − 9 = 2.4 > 2.28.
    assert over_seeds(pd.DataFrame([row(1, noise)]))["verdict"][0] == word


def test_verdict_says_where_it_holds_and_what_traces_do_not_show():
    assert verdict([row(1, 3.6), row(4, 0.9, noise_constant=8.0)]) == (
        "With C = 1 the mini-batches' noise is 0.400 times what the condition allows: it holds at b = 1 "
        "and 4. With the measured C = 4 it is 0.100 times the right side. "
        "In no direction that was found do the matrices ask for C > 1."
    )
    told = verdict([row(1, 3.6, noise_constant=8.0), row(4, 4.5), row(16, 0.5625)])
    assert "0.400 to 2 times what the condition allows: it holds at b = 1, no more than two" in told
    assert "standard errors decide at b = 16 and it fails at b = 4." in told
    assert told.endswith("In one direction the matrices ask for C ≥ 2, which the traces do not show.")


def test_verdict_where_even_the_measured_heterogeneity_is_too_small_or_unknown():
    assert "0.500 to 1.50 times the right side and fails at b = 2." in verdict([row(1, 18.0), row(2, 27.0)])
    unknown = {"heterogeneity": math.nan, "heterogeneity_error": math.nan, "noise_constant": math.nan}
    assert verdict([row(1, 18.0, **unknown)]).endswith(
        "The curvature of single examples is unknown here, so C was not measured."
    )


def test_listed():
    assert [listed(list("abc"[:count])) for count in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_figure_shows_both_sides_over_the_batch_size():
    sides = over_seeds(pd.DataFrame([row(4, 1.0), row(1, 4.0), row(1, 8.0, problem="other")]))
    first, second = condition_figure(sides).axes
    lines = {
        tuple(np.round(np.asarray(line.get_ydata(), float), 9))
        for line in first.lines
        if len(line.get_xdata()) == 2
    }
    assert {(9.0, 2.25), (36.0, 9.0), (4.0, 1.0)} <= lines
    assert first.get_title(loc="left") == "tiny"
    assert second.get_title(loc="left") == "other"


def test_page_has_the_numbers(tmp_path):
    rows = pd.DataFrame([row(1, 3.6), row(4, 4.5)])
    html = build_condition(rows, {"experiment": {"title": "Condition"}}, tmp_path / "page").read_text("utf-8")
    text = " ".join(Page(html).text.split())
    assert "1 3.60 ± 0.36 9 0.400 ± 0.040 holds 36 0.100 holds" in text
    assert "4 4.50 ± 0.45 2.25 2.00 ± 0.20 fails 9 0.500 holds" in text
    assert "Tr(H)/λ_max 1.50 C ≥ 4 R/Tr(H) 1.67 C from R ≥ 1" in text


TOKENS = {"unit": "token", "units_per_draw": 5.0, "sequence_worth": 2.5, "sequence_worth_error": 0.25}


def test_of_tokens_c_is_that_of_a_sequence_times_its_tokens():
    """C = 5 · 4, (R − λ_max)/Tr(H) = 1 of a sequence and so 5 of tokens."""
    (side,) = over_seeds(pd.DataFrame([row(3, 1.0, heterogeneity_error=0.1, **TOKENS)])).to_dict("records")
    assert (side["constant"], side["equal"], side["unequal"], side["needed"]) == (20.0, 3.0, 60.0, 5.0)
    assert side["constant_error"] == pytest.approx(0.5)
    assert side["unequal_error"] == pytest.approx(60 * 0.1 / 4)


def test_tokens_are_called_so(tmp_path):
    rows = pd.DataFrame([row(1, 3.6, **TOKENS), row(4, 4.5, **TOKENS)])
    told = findings(rows)["tiny"]
    assert "it holds at b = 1 tokens and it fails at b = 4 tokens." in told
    assert "With the measured C = 20 it is" in told
    assert told.endswith("By its noise a sequence of 5 tokens is worth 2.50 ± 0.25 independent ones.")
    html = build_condition(rows, {"experiment": {"title": "Condition"}}, tmp_path / "page").read_text("utf-8")
    text = " ".join(Page(html).text.split())
    assert "C ≥ 20 R/Tr(H) 8.33 C from R ≥ 5 tokens/sequence 5 of them independent 2.50 ± 0.25" in text
    assert condition_figure(over_seeds(rows)).axes[0].get_xlabel() == "batch size b, tokens"


def test_the_legend_is_no_wider_than_a_figure_of_one_panel():
    figure = condition_figure(over_seeds(pd.DataFrame([row(1, 4.0), row(4, 1.0)])))
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1


def test_conclusion_on_the_traces_counts_problems():
    cases = [
        ([row(1, 3.6), row(4, 0.9)], "holds"),
        ([row(1, 3.6), row(4, 4.5)], "partly"),
        ([row(1, 18.0)], "fails"),
        ([row(1, 9.0)], "undecided"),
        ([row(1, 3.6), row(4, 0.9), row(1, 18.0, problem="other")], "partly"),
    ]
    for rows, verdict in cases:
        assert conclusions(pd.DataFrame(rows))[0].verdict == verdict
    told = conclusions(pd.DataFrame([row(1, 3.6), row(4, 4.5), row(16, 0.5625)]))[0]
    assert told.where == "Figure 4"
    assert told.numbers == (
        "By more than two standard errors it lies below on none and above on none of 1 problems, and at some "
        "b below and at others above on 1; the noise is 0.400 to 2 times Tr(H)²/b."
    )
    # Three batch sizes of one problem are one piece of evidence.
    rows = [*(row(size, 3.6 / size) for size in (1, 4, 16)), row(1, 18.0, problem="other")]
    assert conclusions(pd.DataFrame(rows))[0].numbers.startswith(
        "By more than two standard errors it lies below on 1 and above on 1 of 2 problems; the noise"
    )


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([row(1, 3.6, noise_constant=8.0)], "holds"),  # the matrices ask for (8 − 2)/3 = 2
        ([row(1, 3.6, noise_constant=5.0)], "undecided"),  # for 1: nothing to be seen
        ([row(1, 18.0, noise_constant=8.0)], "fails"),  # the traces have seen it
        ([row(1, 9.0, noise_constant=8.0)], "undecided"),
        (
            [row(1, 3.6, noise_constant=8.0), row(1, 18.0, noise_constant=8.0, problem="other")],
            "partly",
        ),
        ([row(1, 3.6, noise_constant=math.nan, heterogeneity=math.nan)], "undecided"),
    ],
)
def test_conclusion_on_what_traces_do_not_show(rows, verdict):
    assert conclusions(pd.DataFrame(rows))[1].verdict == verdict


def test_conclusion_on_heterogeneity_has_the_numbers():
    rows = [row(1, 3.6, noise_constant=8.0), row(1, 3.6, problem="other", heterogeneity=7.0)]
    assert conclusions(pd.DataFrame(rows))[1].numbers == (
        "C measured, R/Tr(H), and the C that the matrices ask for, all lower bounds: tiny 4, 2.67 and 2; "
        "other 7, 1.67 and 1. More than 1 is asked for on 1 of 2 problems where the traces allow C = 1 at "
        "every b, and on none where they do not."
    )
    assert conclusions(pd.DataFrame(rows))[1].source == "ours"
    unknown = conclusions(pd.DataFrame([row(1, 3.6, noise_constant=math.nan, heterogeneity=math.nan)]))[1]
    assert unknown.numbers.startswith("The curvature of single examples is unknown")


def test_a_single_panel_is_not_as_wide_as_the_page(tmp_path):
    one = build_condition(pd.DataFrame([row(1, 3.6)]), {}, tmp_path / "one").read_text("utf-8")
    two = pd.DataFrame([row(1, 3.6), row(1, 3.6, problem="other")])
    assert '<img class="single"' in one
    assert '<img class="single"' not in build_condition(two, {}, tmp_path / "two").read_text("utf-8")


@pytest.mark.parametrize(
    ("pairs", "text"), [((50, 50), "50 pairs"), ((0, 0), "all draws"), ((0, 50), "50 pairs, or all draws")]
)
def test_page_says_what_the_noise_is_from(pairs, text, tmp_path):
    rows = pd.DataFrame([row(1, 3.6, pairs=pairs[0]), row(4, 0.9, pairs=pairs[1])])
    html = build_condition(rows, {}, tmp_path / "page").read_text("utf-8")
    assert f"noise from {text} Tr(H)" in " ".join(Page(html).text.split())
