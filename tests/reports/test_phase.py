import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.phase import build_phase
from reports.phase_figures import collapse_figure, phase_figure
from reports.phase_rows import CONTRACTS, GROWS, NO_MEAN, OPEN, STABLE, classified, edges, over_seeds
from reports.phase_verdicts import conclusions, findings
from tests.reports.test_report import Page


def row(fraction: float, batch: int = 4, seed: int = 0, **values: Any) -> dict[str, Any]:
    """λ_max + λ = 2, so that the mean's limit is η = 1; L_b = 4, so that 2/L_b = 1/2; η* = 3/4; b* = 8."""
    return {
        "problem": "tiny", "seed": seed, "dimension": 8, "num_examples": 20, "damping": 0.1, "failure": "",
        "unit": "example", "units_per_draw": 1.0,
        "batch_size": batch, "step_fraction": fraction, "step_size": fraction / 2, "num_steps": 60,
        "time": 3.0, "asked_time": 3.0, "status": "finished", "error": 0.3, "start_error": 2.0,
        "bias": 0.1, "noise": 0.25,
        "noise_over_small_step_floor": 0.5, "largest": 1.9, "second_moment": 4.0, "noise_constant": 9.0,
        "sufficient_batch": 8.0, "threshold": 0.75, "mean_limit": 1.0, "predicted_floor": 0.5,
        "predicted_error": 0.6,
    } | values  # fmt: skip


GRID = [
    row(0.5), row(0.5, seed=1),
    row(0.98), row(0.98, seed=1),
    row(1.4, error=1.5), row(1.4, seed=1, error=2.5),
    row(1.8, status="diverged", error=50.0), row(1.8, seed=1, status="diverged", error=math.inf),
    row(2.0, status="diverged", error=math.inf), row(2.0, seed=1, error=1.2),
]  # fmt: skip


def test_what_theory_says_of_a_step_size():
    fractions = [0.999, 1.0, 1.499, 1.5, 1.999, 2.0 * (1 - 1e-12), 2.0, 4.0]
    words = [STABLE, CONTRACTS, CONTRACTS, GROWS, GROWS, NO_MEAN, NO_MEAN, NO_MEAN]
    assert list(classified(pd.DataFrame([row(fraction) for fraction in fractions]))["predicted"]) == words
    unknown = pd.DataFrame([row(fraction, threshold=math.nan) for fraction in (0.9, 1.2, 2.0)])
    assert list(classified(unknown)["predicted"]) == [STABLE, OPEN, NO_MEAN]
    assert list(classified(unknown)["half_step"]) == pytest.approx([0.9, 1.2, 2.0])  # ηL_b/2 = η/2 · 4/2


@pytest.mark.parametrize(
    ("values", "diverged"),
    [
        ({"error": 1.9}, False),  # useless, but nearer than it began
        ({"error": 2.1}, True),
        ({"error": 0.9, "start_error": 0.5}, False),  # nearer than x = 0
        ({"error": 1.1, "start_error": 0.5}, True),
        ({"error": math.inf}, True),
        ({"error": 0.1, "status": "diverged"}, True),
        ({"error": math.inf, "status": "failed"}, True),
    ],
)
def test_what_has_diverged(values, diverged):
    assert list(classified(pd.DataFrame([row(0.5, **values)]))["diverged"]) == [diverged]


def test_errors_over_seeds_are_root_mean_squares_and_infinite_where_one_diverged():
    grid = over_seeds(classified(pd.DataFrame([row(0.5, error=0.3), row(0.5, seed=1, error=0.4)])))
    assert grid["error"][0] == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    grid = over_seeds(classified(pd.DataFrame(GRID)))
    assert list(grid["share_diverged"]) == [0, 0, 0.5, 1, 0.5]
    assert list(np.isinf(grid["error"])) == [False, False, True, True, True]


def test_edges_in_units_of_the_full_step():
    (edge,) = edges(classified(pd.DataFrame(GRID))).to_dict("records")
    assert edge["sufficient"] == pytest.approx(1.0)
    assert edge["exact"] == pytest.approx(1.5)
    assert edge["last_bounded"] == 0.98
    # Half of the seeds are not most of them: at 1.8 all did, at 2.0 half.
    assert math.isnan(edge["first_diverged"])
    (edge,) = edges(classified(pd.DataFrame(GRID[:8]))).to_dict("records")
    assert edge["first_diverged"] == pytest.approx(1.8)
    (edge,) = edges(classified(pd.DataFrame(GRID[:4]))).to_dict("records")
    assert math.isnan(edge["first_diverged"])


def test_findings_count_what_was_predicted_and_what_came():
    told = findings(pd.DataFrame(GRID))
    assert told["The prediction"] == (
        "Of 4 solves with η < 2/L_b, predicted stable, none diverged. "
        "Of 2 solves between 2/L_b and the exact edge η* of the second moment 1 (50 %) diverged. "
        "Of 2 solves between η* and 2/(λ_max + λ), where the second moment grows but the mean contracts, all "
        "diverged. Of 2 solves with η ≥ 2/(λ_max + λ), where the mean does not converge, 1 (50 %) diverged. "
        "Those that did not had η(λ_max + λ) ≤ 2 and at most 60 steps to grow in."
    )
    assert told["The time"] == "Every solve ran for ηλT = 3, T rounded up."


def test_findings_name_what_contradicts_theory():
    told = findings(pd.DataFrame([row(0.5), row(0.8, batch=2, status="diverged")]))["The prediction"]
    assert "predicted stable, 1 (50 %) diverged." in told
    assert "against the prediction had ηL_b/2 = 0.800 (tiny, b = 2)." in told


def test_findings_on_sizes_edges_and_batches():
    # √(1 − ηL_b/2) is √½ and √(1 − 0.36) = 0.8: noise of 0.5 and 1.5 is 0.354 and 1.2 of the floor.
    rows = [
        row(0.5, noise=0.1), row(0.36, noise_over_small_step_floor=1.5, noise=0.9, error=0.9),
        row(1.0, status="diverged"), row(1.0, batch=2, status="diverged"), row(1.0, batch=16),
    ]  # fmt: skip
    told = findings(pd.DataFrame(rows))
    assert "in 80 % of 2 grid cells, and above it in 1" in told["The size of the error"]
    assert told["The size of the error"].endswith("of the predicted bound, and above it in 1 cells.")
    assert told["The batch"] == (
        "At the full-batch step η = 1/(λ_max + λ): tiny diverged up to b = 4, 0.5 times b* = 8."
    )
    # Both batch sizes that diverged did so at η(λ_max + λ) = 1, which is 2/L_b, and η* is 1.5 times as far.
    assert "is 1 to 1 times 2/L_b" in told["The edge"]
    assert "it is 0.667 to 0.667 times η*" in told["The edge"]


def test_findings_say_which_runs_were_cut_short():
    told = findings(pd.DataFrame([row(0.5), row(0.1, time=1.2, num_steps=500)]))["The time"]
    assert told == (
        "Solves ran for ηλT = 3, but 1 of 2, those of the smallest steps, were cut short at T = 500, the "
        "shortest at ηλT = 1.20."
    )


def test_map_shows_cells_and_boundaries():
    other = [row(fraction, batch=16, second_moment=2.0) for fraction in (0.5, 0.98)]
    grid = over_seeds(classified(pd.DataFrame([*GRID, *other])))
    ax = phase_figure(grid).axes[0]
    lines = [tuple(np.asarray(line.get_ydata(), float)) for line in ax.lines]
    assert (1.0, 2.0) in lines  # 2/L_b
    assert (0.5, 1.0) in lines  # 1/L_b
    assert (1.5, 1.5) in lines  # η*
    assert (2.0, 2.0) in lines  # 2/(λ_max + λ)
    crosses = next(line for line in ax.lines if line.get_marker() == "x")
    assert (list(crosses.get_xdata()), list(crosses.get_ydata())) == ([4], [1.8])
    dots = next(line for line in ax.lines if line.get_marker() == ".")
    assert list(dots.get_ydata()) == [1.4, 2.0]
    values = ax.collections[0].get_array()
    assert values[0, 0] == pytest.approx(0.3)
    assert values.mask[3, 0]  # all diverged
    assert [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1][-1] == 8.0  # b*


def test_one_axis_for_all_problems():
    rows = [row(0.5), row(1.0, batch=16, error=0.2), row(1.0, batch=2, status="diverged")]
    left, right = collapse_figure(over_seeds(classified(pd.DataFrame(rows)))).axes
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert list(dots[0].get_xdata()) == pytest.approx([0.5, 1.0])
    assert list(dots[0].get_ydata()) == [0.5, 0.5]
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert (list(dots[0].get_xdata()), list(dots[0].get_ydata())) == ([2.0], [0.2])  # b/b* = 16/8
    edge = [line for line in right.lines if line.get_marker() == 6]
    assert list(edge[0].get_xdata()) == [0.25]


@pytest.mark.usefixtures("printed")
def test_page_has_the_numbers(tmp_path):
    html = build_phase(pd.DataFrame(GRID), {"experiment": {"title": "Phase"}}, tmp_path / "page").read_text(
        "utf-8"
    )
    text = " ".join(Page(html).text.split()).replace("\xa0", " ")
    assert "η < 2/L_b stable in mean square: sufficient 4 4 0 0 0.300" in text
    assert "2/L_b ≤ η < η* the second moment still contracts, exactly 2 1 1 50 % 1.50" in text
    assert "η* ≤ η < 2/(λ_max + λ) the second moment grows; single paths may not 2 0 2 100 % –" in text
    assert "4 4 1 1.50" in text  # b, L_b, 2/L_b and η* in units of 1/(λ_max + λ)
    assert {path.name for path in (tmp_path / "page").iterdir()} >= {"phase.png", "collapse.pdf", "rows.csv"}


def test_batches_of_tokens_are_called_so(tmp_path):
    rows = pd.DataFrame(GRID).assign(unit="token", units_per_draw=4.0)
    html = build_phase(rows, {"experiment": {"title": "Phase"}}, tmp_path / "page").read_text("utf-8")
    assert "b* 8 tokens" in " ".join(Page(html).text.split())


# b = 4 diverges from η(λ_max + λ) = 1.8 on, b = 16 from 3.5 on; 2/L_b is 1 there, and 2 here.
AS_THEORY_SAYS = [
    row(0.98), row(1.8, status="diverged"), row(3.5, status="diverged"),
    *(row(fraction, batch=16, second_moment=2.0) for fraction in (0.98, 1.8, 2.0)),
    row(3.5, batch=16, second_moment=2.0, status="diverged"),
]  # fmt: skip


def test_conclusion_where_what_diverges_is_what_theory_says():
    (found,) = conclusions(pd.DataFrame(AS_THEORY_SAYS))
    assert (found.verdict, found.source) == ("holds", "ours")
    # The cells at 1.8 and b = 4 (open to single paths) and at the mean's edge itself are not certain.
    assert found.numbers == (
        "Theory decides 5 of 7 cells of the grid and is right in 5: 3 of 3 below 2/L_b stayed, 2 of 2 "
        "beyond 2/(λ_max + λ) diverged. The step from which on most seeds diverge is 1.75 to 1.80 times "
        "2/L_b."
    )


def first_diverged(measured: dict[int, float], predicted: dict[int, float]) -> list[dict[str, Any]]:
    """Solves on a grid of factors of 2 by batch size: from `measured` on diverged, 2/L_b being `predicted`.

    Both are in units of 1/(λ_max + λ), which is 1/2.
    """
    return [
        row(fraction, batch=batch, second_moment=4 / predicted[batch],
            status="diverged" if fraction >= first else "finished")
        for batch, first in measured.items()
        for fraction in (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "predicted", "verdict"),
    [
        # 2/L_b falls by factors of 4, and nothing that was measured does.
        ({4: 2.0, 16: 2.0, 64: 2.0}, {4: 0.25, 16: 0.5, 64: 2.0}, "fails"),
        ({4: 0.5, 16: 1.0, 64: 2.0}, {4: 0.25, 16: 0.5, 64: 2.0}, "holds"),
        # Up to 2/(λ_max + λ) both larger ones stay: no batch goes further.
        ({4: 0.5, 16: 2.0, 64: 2.0}, {4: 0.25, 16: 0.5, 64: 2.0}, "holds"),
        # Below that, two that diverge alike do not fall.
        ({4: 1.0, 16: 1.0, 64: 2.0}, {4: 0.125, 16: 0.5, 64: 2.0}, "fails"),
        # By a factor of 2.5, more than the grid's; each is within the grid's of what was measured.
        ({4: 1.0, 64: 1.0}, {4: 0.6, 64: 1.5}, "holds"),
        # By less than the grid tells.
        ({4: 1.0, 64: 1.0}, {4: 0.9, 64: 1.6}, "undecided"),
        ({4: 1.0, 64: 2.0}, {4: 0.9, 64: 1.6}, "undecided"),
        # A smaller batch that diverges first at a larger step.
        ({4: 2.0, 64: 1.0}, {4: 0.25, 64: 1.5}, "fails"),
    ],
)
def test_what_diverges_first_must_fall_where_theory_falls(measured, predicted, verdict):
    (found,) = conclusions(pd.DataFrame(first_diverged(measured, predicted)))
    assert found.verdict == verdict


def test_conclusion_where_theory_is_wrong_or_nothing_tells():
    wrong = pd.DataFrame([*AS_THEORY_SAYS[1:], row(0.98, status="diverged")])
    (found,) = conclusions(wrong)
    assert found.verdict == "fails"
    assert "right in 4: 2 of 3 below 2/L_b stayed" in found.numbers
    # A smaller batch that diverges first at a larger step than a larger one.
    (found,) = conclusions(pd.DataFrame(first_diverged({4: 4.0, 64: 1.0}, {4: 0.5, 64: 2.0})))
    assert found.verdict == "fails"
    (found,) = conclusions(pd.DataFrame([row(0.5), row(0.9, batch=16)]))
    assert (found.verdict, found.numbers[-12:]) == (
        "undecided",
        "0 of 0 beyond 2/(λ_max + λ) diverged."[-12:],
    )


def test_figures_and_page_cope_with_what_is_unknown_of_a_network(tmp_path):
    unknown = dict.fromkeys(("threshold", "bias", "noise", "noise_over_small_step_floor"), math.nan)
    rows = pd.DataFrame(AS_THEORY_SAYS).assign(**unknown, unit="token", units_per_draw=4.0)
    html = build_phase(rows, {"experiment": {"title": "Phase"}}, tmp_path / "page").read_text("utf-8")
    assert "2/L_b ≤ η < 2/(λ_max + λ), η* unknown" in html.replace("&lt;", "<")
    grid = over_seeds(classified(rows))
    figure = phase_figure(grid)
    assert figure.axes[0].get_xlabel() == "batch size b, tokens"
    assert not any("exact" in text.get_text() for text in figure.legends[0].get_texts())
    assert "The size of the error" not in findings(rows)


def test_panels_keep_their_width_whatever_diverged():
    for rows in ([row(0.5), row(1.0)], [row(0.5), row(1.0, status="diverged")], [row(1.0), row(1.8)]):
        figure = collapse_figure(over_seeds(classified(pd.DataFrame(rows))))
        figure.draw_without_rendering()
        assert all(ax.get_position().width > 0.3 for ax in figure.axes)


def test_the_legend_is_no_wider_than_a_figure_of_one_panel():
    figure = phase_figure(over_seeds(classified(pd.DataFrame(AS_THEORY_SAYS))))
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
