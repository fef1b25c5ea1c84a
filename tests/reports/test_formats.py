import math

import pytest

from reports.formats import (
    count,
    duration,
    hundredths,
    listed,
    number,
    setting,
    share,
    spread,
    target_text,
    times,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1"), (32.0, "32"), (1234, "1,234"), (13131.6, "13,132"), (1.234e6, "1.2e6"),
        (540365.4, "5.4e5"), (123.4, "123"), (99.96, "100"), (12.34, "12.3"), (9.999, "10.0"),
        (0.87, "0.870"), (0.01234, "0.0123"), (0.001234, "1.2e-3"), (1.234e-9, "1.2e-9"), (-2.5, "−2.50"),
        (-1234, "−1,234"), (-1234.4, "−1,234"), (-1.24e-9, "−1.2e-9"),
        (math.inf, "∞"), (-math.inf, "−∞"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (4.56e-5, "45.6 µs"), (0.0123, "12.3 ms"), (0.9996, "1 s"), (1.234, "1.23 s"),
        (312.4, "312 s"), (1200, "20 min"), (36000, "10 h"), (math.nan, "–"), (math.inf, "∞"),
    ],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3.00"),
        (1.754, "1.75"),
        (0.996, "1.00"),
        (-0.25, "−0.25"),
        (1234.5, "1,234.50"),
        (math.nan, "–"),
        (math.inf, "∞"),
    ],
)
def test_hundredths(value, text):
    assert hundredths(value) == text


@pytest.mark.parametrize(
    ("target", "text"), [(0.01, "1 %"), (0.0125, "1.25 %"), (1e-6, "1e-6"), (2.5e-5, "2.5e-5")]
)
def test_target(target, text):
    assert target_text(target) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.873, "87 %"), (0.0231, "2.3 %"), (0.995, "100 %"), (3.0, "300 %"), (1.2e-9, "1.2e-9")],
)
def test_share(value, text):
    assert share(value) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (4.13, "4.1 ×"),
        (87.4, "87 ×"),
        (9.97, "10 ×"),
        (0.0213, "0.02 ×"),
        (2e-5, "2e-5 ×"),
        (0.0, "0.0 ×"),
        (math.inf, "∞ ×"),
    ],
)
def test_times(ratio, text):
    assert times(ratio) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.001, "0.001"), (1e-10, "1e-10"), (12.30, "12.3"), (100000.0, "100000")]
)
def test_setting_is_not_padded(value, text):
    assert setting(value) == text


def test_listed():
    parts = [listed(list("abc"[:length])) for length in range(4)]
    assert parts == ["", "a", "a and b", "a, b and c"]


def test_count_keeps_all_digits():
    assert count(1.3e9) == "1,300,000,000"


def test_spread_writes_a_shared_unit_once():
    assert spread(0.37, 0.365, 0.381, duration) == ("370 ms", "[365–381 ms]")


def test_spread_keeps_units_that_differ():
    assert spread(1.0, 0.9, 1.1, duration) == ("1 s", "[900 ms–1.10 s]")


def test_spread_is_silent_where_ends_read_the_same():
    assert spread(0.5, 0.50001, 0.50002) == ("0.500", "")
