import json
import math

import numpy as np
import pandas as pd
import pytest

from reports.profile import WITHOUT, lead, profile, share_within

# Work to the target of three solvers on four problems; NaN is not there. One product (k = 2) is 3.
WORK = {
    "a": [10.0, 40.0, 30.0, math.nan],
    "b": [20.0, 10.0, 36.0, math.nan],
    "c": [math.nan, 200.0, 3000.0, math.nan],
}
# By hand: the best are 10, 10, 30 and none.
RATIOS = {
    "a": [1, 4, 1, math.inf],
    "b": [2, 1, 1.2, math.inf],
    "c": [math.inf, 20, 100, math.inf],
}


@pytest.fixture
def profiled(judged, compared, cell):
    """The profile of solvers' works on problems p0, p1, …, NaN where they miss the target of 1 %."""

    def run(work, **diagnostics):
        cells = [
            cell(
                solver, f"p{index}", setup_work=0.0, solve_work=0.0 if math.isnan(value) else value,
                error=0.5 if math.isnan(value) else 0.001,
                diagnostics=json.dumps(
                    {"measurement_work": diagnostics[solver][index]} if solver in diagnostics else {}
                ),
            )
            for solver, works in work.items()
            for index, value in enumerate(works)
        ]  # fmt: skip
        return profile(judged(cells), compared(cells))

    return run


def test_ratios_are_to_the_best_on_each_problem(profiled):
    found = profiled(WORK).ratios
    assert list(found.columns) == ["p0", "p1", "p2", "p3"]
    assert {solver: row.tolist() for solver, row in found.iterrows()} == RATIOS


def test_summary_by_hand(profiled):
    found = profiled(WORK)
    summary = found.summary.set_index("curve")
    assert found.limit == 100
    assert list(summary.index) == ["b", "a", "c"]
    assert summary["num_solved"].to_dict() == {"a": 3, "b": 3, "c": 2}
    assert summary["share_solved"].to_dict() == {"a": 0.75, "b": 0.75, "c": 0.5}
    assert summary["num_close"].to_dict() == {"a": 2, "b": 2, "c": 0}
    assert summary["share_close"].to_dict() == {"a": 0.5, "b": 0.5, "c": 0}
    assert summary["median_ratio"].to_dict() == {"a": 1, "b": 1.2, "c": 60}
    assert summary["worst_ratio"].to_dict() == {"a": 4, "b": 2, "c": 100}
    # Under a curve lies 1 − log τ/log 100 for every problem solved at τ, over four problems.
    logs = {"a": math.log(4), "b": math.log(2 * 1.2), "c": math.log(20 * 100)}
    for solver, sum_of_logs in logs.items():
        solved = summary.loc[solver, "num_solved"]
        assert summary.loc[solver, "area"] == pytest.approx((solved - sum_of_logs / math.log(100)) / 4)


def test_curve_is_the_share_of_problems_within_a_factor():
    shares = share_within(np.array(RATIOS["b"]), np.array([1, 1.19, 1.2, 2, 1e9]))
    assert shares.tolist() == [0.25, 0.25, 0.5, 0.75, 0.75]


def test_almost_free_answers_count_as_one_product(profiled):
    """A best of 0 counts as 3, so that 6 is 2 × and 2 is as good."""
    found = profiled({"identity": [0.0] * 3, "cheap": [2.0] * 3, "cg": [6.0] * 3}).ratios
    assert found["p0"].to_dict() == {"identity": 1, "cheap": 1, "cg": 2}


def test_a_solver_that_measures_is_there_twice(profiled):
    """auto: 40, of which 28 on measuring, where the best is 10; 9, of which 0, where it is best itself."""
    found = profiled({"cg": [10.0, 10.0, 10.0], "auto": [40.0, 9.0, 20.0]}, auto=[28.0, 0.0, 12.0])
    assert found.choosers == ["auto"]
    assert found.ratios.loc["auto"].tolist() == [4, 1, 2]
    assert found.ratios.loc["cg"].tolist() == [1, pytest.approx(10 / 9), 1]
    assert found.ratios.loc[f"auto{WITHOUT}"].tolist() == [pytest.approx(1.2), 1, pytest.approx(0.8)]
    twice = found.summary[found.summary["solver"] == "auto"].set_index("curve")
    assert twice["without_measurement"].to_dict() == {"auto": False, f"auto{WITHOUT}": True}
    # A ratio below 1 counts as 1 in the area: 0.8 does not make up for 1.2.
    assert twice.loc[f"auto{WITHOUT}", "area"] == pytest.approx(1 - math.log(1.2) / math.log(10) / 3)


def test_skipped_counts_as_not_solved(judged, compared, cell):
    cells = [cell("cg", problem) for problem in "xyz"]
    cells += [cell("kfac", problem, status="skipped", error=None) for problem in "xy"] + [cell("kfac", "z")]
    summary = profile(judged(cells), compared(cells)).summary.set_index("curve")
    assert summary["num_ran"].to_dict() == {"cg": 3, "kfac": 1}
    assert summary["share_solved"].to_dict() == {"cg": 1, "kfac": pytest.approx(1 / 3)}


@pytest.mark.parametrize(("problems", "solvers"), [(2, 2), (3, 1), (0, 0)])
def test_too_few_make_no_profile(judged, compared, cell, problems, solvers):
    cells = [cell(f"s{s}", f"p{p}") for p in range(problems) for s in range(solvers)]
    frame = pd.DataFrame(cells, columns=list(cell()))
    assert profile(judged(frame), compared(frame)) is None


@pytest.mark.parametrize(("worst", "limit"), [(9.0, 10), (10.0, 20), (49.0, 50), (5000.0, 100)])
def test_axis_ends_beyond_the_worst_ratio(profiled, worst, limit):
    assert profiled({"a": [10.0] * 3, "b": [10.0, 10.0, 10 * worst]}).limit == limit


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (
            WORK,
            "b and a are within 1.5 × of the best solver’s work on 2 of 4 problems, the most of all. "
            "None reaches the target of 1 % on all; on the most, 3, b and a.",
        ),
        (
            {"a": [10.0] * 3, "b": [20.0] * 3},
            "a is within 1.5 × of the best solver’s work on 3 of 3 problems, more than any other. "
            "All reach the target of 1 % on all of them.",
        ),
        (
            {"a": [10.0] * 3, "b": [20.0, 20.0, math.nan]},
            "a is within 1.5 × of the best solver’s work on 3 of 3 problems, more than any other. "
            "1 of 2 reaches the target of 1 % on all of them: a.",
        ),
        (
            {"a": [math.nan] * 3, "b": [math.nan] * 3},
            "No solver reaches the target of 1 % on any of the 3 problems.",
        ),
    ],
)  # fmt: skip
def test_lead(profiled, work, text):
    assert lead(profiled(work), 0.01) == text
