import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.pbrf import build_pbrf
from reports.pbrf_figure import damping_figure, scatter_figure
from reports.pbrf_rows import correlation, over_examples, panels, shown_multiple
from reports.pbrf_verdicts import conclusions, findings
from tests.reports.test_role import picture


def row(example: int = 0, multiple: float = 1.0, pearson: float = 0.97, **values: Any) -> dict[str, Any]:
    """λ is `multiple` · 0.2."""
    lost = math.isnan(pearson)
    return {
        "problem": "tiny", "seed": 0, "dimension": 8, "num_examples": 20, "damping": 0.2, "failure": "",
        "multiple": multiple, "solved_damping": 0.2 * multiple, "example": example, "label": "cat",
        "picture": "", "epsilon": 0.01, "num_queries": 4, "pearson": pearson, "pearson_low": pearson - 0.1,
        "pearson_high": pearson + 0.01, "spearman": pearson - 0.02, "pearson_limit": pearson + 0.01,
        "slope": 1.1, "difference": 0.2, "difference_limit": 0.1, "nonlinearity": 0.04, "limit_error": 0.002,
        "strength": 3.0, "converged": int(not lost), "num_converged": 0 if lost else 3, "num_responses": 3,
        "why": "61 steps ended" if lost else "", "relative_gradient": 0.5 if lost else 0.008,
        "displacement_error": 0.01, "floor": 0.1, "response_work": 20.0, "response_seconds": 6.0,
        "solver": "lissa", "status": "finished", "estimated_error": 0.04, "residual": 0.03, "error": 0.02,
        "total_work": 90.0, "total_seconds": 12.0, "scores": "[1.0, 2.0, -1.0, 0.5]",
        "responses": json.dumps([None] * 4 if lost else [1.1, 1.9, -1.0, 0.4]),
    } | values  # fmt: skip


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


NAN = math.nan
THREE = frame(row(0, pearson=0.99), row(1, pearson=0.97), row(2, pearson=0.90))


def verdicts(rows: pd.DataFrame) -> list[str]:
    return [each.verdict for each in conclusions(rows)]


def test_medians_over_examples_that_converged():
    rows = frame(*THREE.to_dict("records"), row(3, pearson=NAN, nonlinearity=NAN))
    (table,) = over_examples(rows).to_dict("records")
    assert table["pearson"] == 0.97
    assert (table["pearson_least"], table["pearson_most"]) == (0.90, 0.99)
    assert (table["examples"], table["judged"], table["agree"]) == (4, 3, 2)
    assert (table["num_converged"], table["num_responses"]) == (9, 12)
    assert table["worst_gradient"] == 0.008  # of those that converged
    assert (table["seconds"], table["work"]) == (24, 80)
    assert table["why"] == "61 steps ended"


def test_largest_damping_first():
    rows = frame(row(multiple=0.1), row(multiple=1.0), row(multiple=0.3))
    assert over_examples(rows)["multiple"].tolist() == [1.0, 0.3, 0.1]
    assert shown_multiple(rows, "tiny") == 1.0
    assert shown_multiple(frame(row(multiple=0.1), row(multiple=3.0)), "tiny") == 3.0


def test_what_the_paper_claims():
    both = frame(
        *THREE.to_dict("records"), *(row(i, 0.1, value) for i, value in enumerate((0.9, 0.96, 0.94)))
    )
    assert verdicts(both) == ["holds", "fails", "holds"]
    numbers = [each.numbers for each in conclusions(both)]
    assert numbers[0] == "tiny: 0.970 at λ = 0.2, 2 of 3 examples at 0.95 or more."
    assert numbers[1] == "tiny: 0.940 at λ = 0.02, 1 of 3 examples at 0.95 or more."
    assert numbers[2] == "tiny: 4 % off its limit, known to 0.2 %, at λ = 0.2."
    worse = both.assign(pearson=both["pearson"] - 0.03, nonlinearity=0.06)
    assert verdicts(worse) == ["fails", "fails", "fails"]
    other = frame(*THREE.to_dict("records"), row(problem="other", pearson=0.5, nonlinearity=0.5))
    assert verdicts(other) == ["partly", "undecided", "partly"]


def test_what_nothing_converged_of_decides_nothing():
    rows = frame(row(pearson=NAN, nonlinearity=NAN), row(multiple=0.1, pearson=NAN, nonlinearity=NAN))
    assert verdicts(rows) == ["undecided"] * 3
    assert "no response had converged at λ = 0.2" in conclusions(rows)[0].numbers
    text = findings(rows)["tiny"]
    assert "At λ = 0.2, the problem’s own, no response at ε = 0.01 converged, so nothing is judged." in text
    assert "0 of 6 responses converged; of the others the first says: 61 steps ended." in text
    assert "off its limit" not in text
    assert "nan" not in text.lower()


def test_examples_without_a_response_may_decide_either_way():
    lost = [row(i, pearson=NAN, nonlinearity=NAN) for i in range(3, 7)]
    good = [row(i, pearson=0.99) for i in range(3)]
    found = conclusions(frame(*good, *lost[:2]))[0]  # three of five
    assert found.verdict == "holds"
    assert found.numbers.endswith("3 of 3 examples at 0.95 or more; 2 more had no correlation.")
    assert verdicts(frame(*good, *lost))[0] == "undecided"
    bad = [row(i, pearson=0.5) for i in range(3)]
    assert verdicts(frame(*bad, *lost[:2]))[0] == "fails"
    assert verdicts(frame(*bad, *lost))[0] == "undecided"


def test_what_is_the_same_for_all_queries_has_converged_all_the_same():
    rows = frame(row(pearson=NAN, converged=1, num_converged=3, why=""))
    text = findings(rows)["tiny"]
    assert "are the same for all queries, so they have no correlation." in text
    assert "3 of 3 responses converged." in text
    assert "no response" not in text
    (first, *_) = conclusions(rows)
    assert first.verdict == "undecided"
    assert first.numbers == "tiny: influences or responses are the same for all queries at λ = 0.2."


@pytest.mark.parametrize(
    ("off", "error", "verdict"),
    [
        (0.04, 0.009, "holds"), (0.04, 0.02, "undecided"), (0.06, 0.009, "fails"), (0.06, 0.02, "undecided"),
        (0.0, NAN, "undecided"),
    ],
)  # fmt: skip
def test_a_limit_that_is_not_known_decides_nothing(off: float, error: float, verdict: str):
    assert verdicts(frame(row(nonlinearity=off, limit_error=error)))[2] == verdict


def test_an_example_counts_once_whatever_the_seeds():
    """Its correlation is the median over seeds; the responses are the same ones."""
    rows = frame(
        row(0, pearson=0.99, total_work=80.0), row(1, pearson=0.90, total_work=80.0),
        row(0, pearson=0.95, seed=1, status="budget_spent"),
        row(1, pearson=0.92, seed=1, status="budget_spent"),
    )  # fmt: skip
    (table,) = over_examples(rows).to_dict("records")
    assert (table["examples"], table["judged"], table["agree"]) == (2, 2, 1)
    assert (table["pearson_least"], table["pearson_most"]) == pytest.approx((0.91, 0.97))
    assert (table["num_converged"], table["work"], table["seconds"]) == (6, 40, 12)
    assert (table["total_work"], table["status"]) == (85, "budget_spent")
    assert "of 2 training examples on 4 queries" in findings(rows)["tiny"]


def test_what_need_not_be_convex_is_said_and_what_did_not_converge_bounds_nothing():
    rows = frame(
        row(0, floor=-0.1, displacement_error=math.inf), row(1, displacement_error=0.02),
        row(2, displacement_error=0.04), row(3, pearson=NAN, floor=-0.1, displacement_error=0.9),
    )  # fmt: skip
    text = findings(rows)["tiny"]
    assert "Whether the objective is convex near θˢ is open for one training example at λ = 0.2." in text
    assert "is known to 4 % at λ = 0.2." in text
    endless = findings(frame(row(0, floor=-0.1, displacement_error=math.inf)))["tiny"]
    assert "is known to" not in endless


def test_another_damping_alone_leaves_the_paper_undecided():
    rows = frame(row(multiple=0.5))
    assert verdicts(rows) == ["undecided", "holds", "undecided"]
    assert conclusions(rows)[0].numbers == "Nothing was measured at the problems' own λ."
    assert conclusions(THREE)[1].numbers == "Nothing was measured at a smaller λ."


def test_findings_say_the_numbers():
    rows = frame(*THREE.to_dict("records"), row(0, 0.1, 0.8), row(1, 0.1, 0.7, status="budget_spent"))
    text = findings(rows)["tiny"]
    assert (
        "At λ = 0.2, the problem’s own, influences by lissa of 3 training examples on 4 queries correlate "
        "with their responses at ε = 0.01 at 0.970 in the median (0.900 to 0.990), ranks at 0.950, and with "
        "the limit ε → 0 at 0.980; they differ by 20 % of the response’s length, with slope 1.10."
    ) in text
    assert "From λ = 0.2 to 0.02 the agreement is worse by 0.220." in text
    assert "is 4 % off its limit, known to 0.2 %, at λ = 0.2 and 4 % off its limit" in text
    assert "15 of 15 responses converged. They took 30 s. At ε = 0.01 their gradients are at most" in text
    assert "at most 8.0e-3 times their first length, so that" in text
    assert "so that in the median θ(ε) − θˢ is known to 1 % at λ = 0.2 and 1 % at λ = 0.02." in text
    assert "convex" not in text


@pytest.mark.parametrize(("last", "word"), [(0.975, "the same to a hundredth"), (0.99, "better by 0.0200")])
def test_how_the_agreement_changes(last: float, word: str):
    assert f"the agreement is {word}" in findings(frame(row(), row(multiple=0.1, pearson=last)))["tiny"]


def test_one_example_and_a_solver_that_missed():
    text = findings(frame(row(status="budget_spent", pearson_limit=NAN, limit_error=NAN)))["tiny"]
    assert (
        "of one training example on 4 queries correlate with their responses at ε = 0.01 at 0.970, " in text
    )
    assert "limit ε → 0" not in text
    assert "off its limit, known to" not in text
    assert "The solver did not reach its tolerance at λ = 0.2 (budget_spent, residual 0.0300)." in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.99996, "0.9999"), (0.9899, "0.989"), (-0.5, "−0.500"), (NAN, "–"), (1.0, "1.000")]
)
def test_no_correlation_is_rounded_up(value: float, text: str):
    assert correlation(value) == text


def test_panels_are_in_order_and_of_one_seed():
    rows = frame(row(5), row(2, picture=picture(9)), row(3, seed=1), row(4, multiple=0.1))
    first, second = panels(rows, "tiny", 1.0)
    assert (first.example, second.example) == (2, 5)
    np.testing.assert_array_equal(first.scores, [1.0, 2.0, -1.0, 0.5])
    np.testing.assert_array_equal(first.responses, [1.1, 1.9, -1.0, 0.4])
    assert first.picture


def test_a_panel_for_each_example():
    found = [0.97, 0.97, 0.97, -0.5, NAN]
    rows = frame(*(row(i, picture=picture(40 * i), pearson=value) for i, value in enumerate(found)))
    figure = scatter_figure(panels(rows, "tiny", 1.0), "lissa", 0.01)
    used = [ax for ax in figure.axes if ax.axison]
    titles = [ax.get_title(loc="left") for ax in used]
    assert titles == ["r = 0.970"] * 3 + ["r = −0.500", "no response"]
    drawn = used[0].lines[0]
    np.testing.assert_array_equal(drawn.get_xdata(), [1.1, 1.9, -1.0, 0.4])
    np.testing.assert_array_equal(drawn.get_ydata(), [1.0, 2.0, -1.0, 0.5])
    # The image lies where the points are not.
    assert used[0].child_axes[0].get_position().x0 < used[3].child_axes[0].get_position().x0


def test_the_damping_figure_shows_each_example_and_the_medians():
    rows = frame(*THREE.to_dict("records"), row(0, 0.1, -0.4), row(1, 0.1, NAN))
    left, right = damping_figure(rows).axes
    marks, medians = left.lines[:2]
    assert sorted(np.asarray(marks.get_ydata())[:4]) == [0.0, 0.90, 0.97, 0.99]
    np.testing.assert_allclose(medians.get_ydata(), [0.0, 0.97])
    assert left.get_ylim()[0] < 0.0
    assert right.get_yscale() == "log"
    damping_figure(frame(row(pearson=NAN, nonlinearity=NAN)))


def test_pages(tmp_path, monkeypatch):
    monkeypatch.setattr("reports.paper.DPI", 30)
    rows = frame(row(0, picture=picture(90)), row(1, 0.1, error=NAN), row(problem="other", pearson=NAN))
    rows = pd.concat(
        [rows, frame({"problem": "bad", "seed": 0, "failure": "RuntimeError: lissa gave no answer"})]
    )
    html = build_pbrf(rows, {"experiment": {"title": "PBRF"}}, tmp_path / "page").read_text("utf-8")
    files = {path.name for path in (tmp_path / "page").iterdir()}
    assert {"pbrf.png", "pbrf_2.png", "pbrf_damping.png", "pbrf.pdf", "rows.csv"} <= files
    assert "pbrf_3.png" not in files
    assert "lissa gave no answer" in html
    assert "0 of 3" in html
    empty = build_pbrf(rows.tail(1), {}, tmp_path / "empty").read_text("utf-8")
    assert "Nothing was measured." in empty
