import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.targets import first_within_for_good, pareto_front


def test_cost_to_target_includes_set_up(judged, cell, curve):
    row = judged([cell()], [curve([1.0, 0.1, 0.01, 0.001], work=[0, 2, 4, 6])]).iloc[0]
    assert row["work_to_target"] == 10 + 4
    assert row["seconds_to_target"] == pytest.approx(0.5 + 0.4)
    assert (row["total_work"], row["total_seconds"]) == (16, pytest.approx(0.8))


def test_noise_that_leaves_the_target_again_earns_nothing(judged, cell, curve):
    row = judged([cell()], [curve([1.0, 0.005, 0.02, 0.009, 0.008])]).iloc[0]
    assert row["work_to_target"] == 10 + 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_unknown_or_infinite_iterate_is_not_at_the_target(judged, cell, curve, value):
    row = judged([cell()], [curve([1.0, 0.005, value, 0.009])]).iloc[0]
    assert row["work_to_target"] == 10 + 3


def test_order_is_by_step_not_by_row(judged, cell, curve):
    shuffled = curve([1.0, 0.1, 0.009, 0.008]).iloc[[2, 0, 3, 1]]
    assert judged([cell()], [shuffled])["work_to_target"].item() == 10 + 2


def test_final_error_outside_is_not_reached_whatever_the_curve_says(judged, cell, curve):
    row = judged([cell(error=0.5)], [curve([1.0, 0.001])]).iloc[0]
    assert not row["reached"]
    assert math.isnan(row["work_to_target"])


@pytest.mark.parametrize("status", ["diverged", "breakdown", "failed", "skipped"])
def test_unusable_status_is_not_reached(judged, cell, curve, status):
    row = judged([cell(status=status)], [curve([1.0, 0.001])]).iloc[0]
    assert not row["reached"]
    assert math.isnan(row["seconds_to_target"])


@pytest.mark.parametrize("status", ["converged", "finished", "budget_spent"])
def test_usable_status_is_reached(judged, cell, curve, status):
    assert judged([cell(status=status)], [curve([1.0, 0.001])])["reached"].item()


def test_without_a_curve_the_whole_solve_is_charged(judged, cell):
    assert judged([cell()])["work_to_target"].item() == 16


def test_arrival_after_the_last_record_charges_the_whole_solve(judged, cell, curve):
    assert judged([cell()], [curve([1.0, 0.5])])["work_to_target"].item() == 16


def test_one_record_of_a_direct_solver(judged, cell, curve):
    row = judged([cell(setup_work=262.0, solve_work=0.0)], [curve([1e-15], work=[0])]).iloc[0]
    assert row["work_to_target"] == 262


def test_seeds_are_kept_apart(judged, cell, curve):
    cells = [cell(seed=0), cell(seed=1, setup_work=0.0)]
    curves = [curve([1.0, 0.001], seed=0), curve([1.0, 0.5, 0.001], seed=1)]
    assert judged(cells, curves)["work_to_target"].tolist() == [11, 2]


def test_residual_judges_where_there_is_no_reference(judged, cell, curve):
    lone = cell(error=None, reference_residual=None, residual=0.004)
    row = judged([lone], [curve([1.0, 0.5, 0.002]).assign(error=math.nan)]).iloc[0]
    assert (row["measure"], row["value"], row["work_to_target"]) == ("residual", 0.004, 12)


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0, 1))
def test_first_within_for_good_by_its_definition(values, target):
    good = [i for i in range(len(values)) if all(value <= target for value in values[i:])]
    assert first_within_for_good(np.array(values), target) == (min(good) if good else None)


_coordinate = st.one_of(st.integers(0, 4).map(float), st.just(math.nan))


@given(st.lists(st.tuples(_coordinate, _coordinate), max_size=10))
def test_pareto_front_by_brute_force(points):
    def beats(a, b):
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    known = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    expected = {i for i in known if not any(beats(points[j], points[i]) for j in known)}
    front = pareto_front(np.array([p[0] for p in points]), np.array([p[1] for p in points]))
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
