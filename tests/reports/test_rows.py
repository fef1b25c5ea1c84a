import numpy as np
import pandas as pd
import pytest

from reports.rows import clean_cells, clean_curves, in_order, measure_of, target_error


def test_missing_columns_are_named(cell):
    cells = pd.DataFrame([cell()]).drop(columns=["status", "solve_work"])
    with pytest.raises(ValueError, match=r"cells lacks the columns \['status', 'solve_work'\]"):
        clean_cells(cells)


def test_missing_curve_columns_are_named(curve):
    with pytest.raises(ValueError, match=r"curves lacks the columns \['seconds'\]"):
        clean_curves(curve([1.0]).drop(columns="seconds"))


def test_unknown_status_is_refused(cell):
    with pytest.raises(ValueError, match="confused"):
        clean_cells(pd.DataFrame([cell(status="confused")]))


def test_repeated_cell_is_refused(cell):
    with pytest.raises(ValueError, match="more than one row for problem 'quadratic', solver 'cg', seed 3"):
        clean_cells(pd.DataFrame([cell(seed=3), cell(seed=3)]))


def test_absent_text_is_empty_and_absent_optional_columns_are_filled(cell):
    cells = pd.DataFrame([cell(traceback=None, reason=np.nan)]).drop(columns=["facts", "trace"])
    clean = clean_cells(cells).iloc[0]
    assert (clean["traceback"], clean["reason"], clean["facts"]) == ("", "", "")
    assert np.isnan(clean["trace"])


def test_input_is_left_alone(cell):
    cells = pd.DataFrame([cell(traceback=None)])
    before = cells.copy(deep=True)
    clean_cells(cells)
    pd.testing.assert_frame_equal(cells, before)


def test_no_curves_need_no_columns():
    assert len(clean_curves(pd.DataFrame())) == 0


@pytest.mark.parametrize(
    ("run", "target"),
    [({}, 0.01), ({"experiment": {}}, 0.01), ({"experiment": {"target_error": 1e-4}}, 1e-4)],
)
def test_target(run, target):
    assert target_error(run) == target


@pytest.mark.parametrize("target", [0, -1, float("nan"), float("inf")])
def test_target_must_be_positive(target):
    with pytest.raises(ValueError, match="target_error must be a positive number"):
        target_error({"experiment": {"target_error": target}})


@pytest.mark.parametrize(
    ("error", "reference", "residual", "measure"),
    [
        (1e-3, None, 1e-2, "error"),
        (None, 1e-14, 1e-2, "error"),
        (None, None, 1e-2, "residual"),
        (None, None, None, "error"),
    ],
)
def test_measure(cell, error, reference, residual, measure):
    cells = [cell(error=error, reference_residual=reference, residual=residual)]
    assert measure_of(clean_cells(pd.DataFrame(cells))) == measure


def test_order_of_first_appearance():
    assert in_order(["b", "a", "b", "c"]) == ["b", "a", "c"]
