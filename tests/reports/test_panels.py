import numpy as np
import pytest

from reports.panels import CEILING, MAX_KNOTS, over_seeds, scale_for, styles


def test_every_solver_has_a_look_of_its_own():
    looks = styles([str(index) for index in range(360)])
    assert len(set(looks.values())) == 360


def test_zero_has_a_place_below_every_positive_value():
    values = np.array([0.0, 1e-3, 5.0, np.nan])
    scale = scale_for(values)
    placed = scale.place(values[:3])
    assert scale.low < placed[0] < 1e-3
    assert placed[1:].tolist() == [1e-3, 5.0]


@pytest.mark.parametrize("values", [[1e-3, 5.0], [2.0], [1e-16, 1e16]])
def test_scale_without_zeros_contains_all_values(values):
    scale = scale_for(np.array(values))
    assert scale.zero is None
    assert scale.low < min(values) <= max(values) < scale.high


@pytest.mark.parametrize("values", [[], [np.nan], [0.0], [np.inf, np.nan]])
def test_scale_of_values_without_a_positive_number_is_an_interval(values):
    scale = scale_for(np.array(values))
    assert 0 < scale.low < scale.high < np.inf


def test_divergence_does_not_stretch_the_scale():
    scale = scale_for(np.array([1e-6, 1.0, 1e30, np.inf]), ceiling=CEILING)
    assert scale.high == CEILING
    assert scale.place(np.array([1e30, np.inf])).tolist() == [CEILING, CEILING]


def test_median_and_range_over_seeds_on_shared_costs():
    cost = np.array([1.0, 10.0, 100.0])
    seeds = [(cost, np.array([1.0, factor, factor**2])) for factor in (0.1, 0.2, 0.5)]
    grid, low, middle, high = over_seeds(seeds)
    np.testing.assert_allclose(grid, cost)
    np.testing.assert_allclose(low, [1, 0.1, 0.01])
    np.testing.assert_allclose(middle, [1, 0.2, 0.04])
    np.testing.assert_allclose(high, [1, 0.5, 0.25])


def test_seeds_are_joined_in_logarithms_and_keep_their_last_value():
    long = (np.array([1.0, 100.0, 10000.0]), np.array([1.0, 1e-2, 1e-4]))
    short = (np.array([1.0, 10.0]), np.array([1.0, 0.5]))
    grid, low, _, high = over_seeds([long, long, short])
    assert grid.tolist() == [1, 10, 100, 10000]
    np.testing.assert_allclose(low, [1, 0.1, 1e-2, 1e-4])
    np.testing.assert_allclose(high, [1, 0.5, 0.5, 0.5])


def test_grid_begins_with_the_last_seed_and_ends_at_the_median_end():
    seeds = [(np.array([start, end]), np.array([1.0, 0.1])) for start, end in ((1, 10), (2, 20), (3, 30))]
    grid, *_ = over_seeds(seeds)
    assert (grid[0], grid[-1]) == (3, 20)


def test_long_curves_are_thinned_but_keep_their_ends():
    cost = np.arange(1.0, 20001.0)
    grid, _, middle, _ = over_seeds([(cost, 1 / cost)])
    assert len(grid) <= 2 * MAX_KNOTS
    assert (grid[0], grid[-1]) == (1, 20000)
    np.testing.assert_allclose(middle, 1 / grid)
