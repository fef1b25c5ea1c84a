import json
import math

import pytest

from reports.profile_rows import choosers, profile_rows

# One product with k = 2 columns.
PRODUCT = (1 + 4 * 2) / 3


@pytest.fixture
def rows(judged, compared):
    """Rows of a profile by (problem, solver)."""

    def run(cells):
        found = profile_rows(judged(cells), compared(cells))
        assert not found.duplicated(["problem", "solver"]).any()
        return found.set_index(["problem", "solver"])

    return run


def told(**values):
    return {"diagnostics": json.dumps(values)}


def test_every_solver_has_a_row_on_every_problem(rows, cell):
    found = rows([cell("cg", "a"), cell("exact", "b"), cell("skips", "b", status="skipped", error=None)])
    assert list(found.index) == [(p, s) for p in "ab" for s in ("cg", "exact", "skips")]
    assert found["ran"].tolist() == [True, False, False, False, True, False]
    assert found["work"].isna().tolist() == [False, True, True, True, False, True]


def test_work_is_the_median_over_seeds_and_needs_all_of_them(rows, cell):
    cells = [cell(seed=seed, solve_work=work) for seed, work in enumerate([5.0, 90.0, 6.0])]
    cells += [cell("misses", seed=seed, error=error) for seed, error in enumerate([0.001, 0.5])]
    found = rows(cells)
    assert found.loc[("quadratic", "cg"), "work"] == 10 + 6
    assert math.isnan(found.loc[("quadratic", "misses"), "work"])
    assert math.isnan(found.loc[("quadratic", "misses"), "counted"])


def test_less_than_a_product_counts_as_one(rows, cell):
    found = rows(
        [cell("free", setup_work=0.0, solve_work=0.0), cell("cheap", setup_work=0.0, solve_work=2.9)]
    )
    assert found["work"].tolist() == [0, 2.9]
    assert found["counted"].tolist() == [PRODUCT, PRODUCT]


def test_unknown_number_of_columns_is_one(rows, cell):
    assert rows([cell(num_columns=None)])["least"].item() == pytest.approx(5 / 3)


def test_measurement_is_left_out_seed_by_seed(rows, cell):
    """Work 20, 30, 40 of which 15, 5, 1: without 5, 25, 39, whose median is 25; of the parts it is 5."""
    cells = [
        cell("auto", seed=seed, solve_work=work - 10, **told(measurement_work=part, chosen="cg", why="cheap"))
        for seed, (work, part) in enumerate([(20.0, 15), (30.0, 5.0), (40.0, 1)])
    ]
    found = rows(cells).iloc[0]
    assert (found["work"], found["work_without"], found["measurement_work"]) == (30, 25, 5)
    assert (found["chosen"], found["why"]) == ("cg", "cheap")


def test_a_solver_that_chooses_is_charged_its_whole_run(rows, cell, curve, judged, compared):
    """Set-up 10 and 20 of work, there after 5: hindsight stops at 15, and who chooses by itself at 30."""
    cells = [cell("cg", solve_work=20.0), cell("auto", solve_work=20.0, **told(measurement_work=4.0))]
    curves = [curve([0.005, 0.001], work=[5.0, 20.0], solver=name) for name in ("cg", "auto")]
    found = profile_rows(judged(cells, curves), compared(cells, curves)).set_index("solver")
    assert found["work"].to_dict() == {"cg": 15, "auto": 30}
    assert found.loc["auto", "work_without"] == 26


def test_more_measurement_than_work_leaves_nothing(rows, cell):
    found = rows([cell("auto", **told(measurement_work=99.0))]).iloc[0]
    assert (found["work_without"], found["counted_without"]) == (0, PRODUCT)


def test_where_the_target_is_missed_no_work_is_left(rows, cell):
    assert math.isnan(rows([cell("auto", error=0.5, **told(measurement_work=1.0))])["work_without"].item())


def test_seeds_may_choose_differently(rows, cell):
    choices = ["cg", "exact", "cg"]
    cells = [
        cell("auto", seed=seed, **told(measurement_work=1, chosen=choice))
        for seed, choice in enumerate(choices)
    ]
    assert rows(cells)["chosen"].item() == "cg; exact"


@pytest.mark.parametrize(
    "diagnostics",
    [
        '{"measurement_work": "much"}',
        '{"measurement_work": true}',
        '{"measurement_work": NaN}',
        "[1]",
        "",
        "{",
    ],
)
def test_what_is_no_number_is_no_measurement(rows, cell, diagnostics):
    found = rows([cell("auto", diagnostics=diagnostics)]).reset_index()
    assert choosers(found) == []
    assert found["work_without"].item() == 16


def test_choosers_tell_what_they_spent(rows, cell):
    cells = [cell("cg"), cell("auto", **told(measurement_work=0)), cell("auto", "other")]
    assert choosers(rows(cells).reset_index()) == ["auto"]
