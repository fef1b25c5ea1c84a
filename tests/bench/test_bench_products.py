"""The benchmark of products: what it holds its rows against, and that a page can be made of its records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.suite import bench_products as suite
from reports.product_rows import read_products


def tiny() -> suite.Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return suite.network(model, torch.randn(5, 3), torch.randint(2, (5,)))


def test_floors_are_the_counts_of_operations() -> None:
    network = tiny()
    entries = suite._ours(network, torch.randn(suite.COLUMNS, 26).T)
    floors = {entry.row: entry.floor for entry in entries}
    assert floors == pytest.approx({
        suite.ONE: 5 / 3, suite.EAGER: 5 / 3, suite.MANY: 33 / 24, suite.SAME: 4 / 3, suite.HESSIAN: 3,
        suite.DIFFERENCES: 5 / 3,
    })  # fmt: skip
    assert [entry.columns for entry in entries] == [1, 1, 8, 1, 1, 1]


def test_of_central_differences_the_error_is_told() -> None:
    """tanh has a third derivative: the error grows with the square of the length, but for rounding."""
    network = tiny()
    vector = torch.randn(26)
    errors = suite._errors_of_differences(network, vector)
    longer = suite._errors_of_differences(network, 10 * vector)
    assert longer["difference_error"] == pytest.approx(100 * errors["difference_error"], rel=0.3)
    assert longer["unit_difference_error"] == pytest.approx(errors["unit_difference_error"], abs=1e-4)
    assert errors["unit_difference_error"] < 1e-3


def test_entries_of_another_matrix_are_found() -> None:
    network = tiny()
    entries = suite._ours(network, torch.randn(suite.COLUMNS, 26).T)
    suite._check_that_all_agree(entries)
    wrong = suite.Entry(suite.ONE, "other 1.0", lambda: 1.01 * entries[0].run())
    with pytest.raises(AssertionError):
        suite._check_that_all_agree([*entries, wrong])


def test_memory_too_small_to_be_seen_has_no_ratio() -> None:
    assert suite._more_memory(3.0, 2.0) == 1.5
    assert np.isnan(suite._more_memory(3.0, 0.0))


def test_a_record_is_what_a_page_reads() -> None:
    ratios = np.array([1.0, 2.0, 3.0, 4.0, 9.0])
    entries = [
        suite.Entry(suite.ONE, suite.LIBRARY, tiny, floor=1.25),
        suite.Entry(suite.ONE, "other 1.0", tiny),
    ]
    records = [suite._record("resnet18", entry, ratios) for entry in entries]
    records.append(suite._record("resnet18", suite.Entry(suite.MEMORY, suite.LIBRARY, tiny), ratios[1:2]))
    frame = read_products({"benchmarks": [{"extra_info": {"products": records}}]})
    assert frame["ratio"].tolist() == [3, 3, 2]
    assert frame["quartile_low"].tolist()[:2] == [2, 2]
    assert frame["quartile_high"].tolist()[:2] == [4, 4]
    assert frame["target"].tolist()[::2] == [1.75, 2]
    # Targets are for ours; a single measurement has no quartiles.
    assert frame.isna().sum().to_dict() == {
        "network": 0, "row": 0, "library": 0, "ratio": 0, "floor": 2, "target": 1, "quartile_low": 1,
        "quartile_high": 1,
    }  # fmt: skip
