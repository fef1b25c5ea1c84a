import math

import pandas as pd


def test_median_and_range_over_seeds(compared, cell):
    row = compared([cell(seed=seed, error=error) for seed, error in enumerate([3e-3, 1e-3, 8e-3])]).iloc[0]
    assert (row["error"], row["error_min"], row["error_max"], row["seeds"]) == (3e-3, 1e-3, 8e-3, 3)


def test_rows_are_sorted_by_time_to_target_then_by_error(compared, cell):
    cells = [
        cell("missed by far", error=0.9), cell("slow", solve_seconds=5.0), cell("missed", error=0.1),
        cell("quick", solve_seconds=0.1),
    ]  # fmt: skip
    assert compared(cells)["solver"].tolist() == ["quick", "slow", "missed", "missed by far"]


def test_problems_keep_the_order_of_the_experiment(compared, cell):
    table = compared([cell(problem="z"), cell(problem="a"), cell("other", problem="z")])
    assert table["problem"].tolist() == ["z", "z", "a"]


def test_costs_to_target_need_every_seed(compared, cell):
    row = compared([cell(seed=0), cell(seed=1, error=0.2)]).iloc[0]
    assert math.isnan(row["work_to_target"])
    assert math.isnan(row["seconds_to_target_max"])
    assert (row["seeds_at_target"], row["reached"], row["usable"]) == (1, False, True)


def test_worst_status_stands_for_the_solver_and_all_are_told(compared, cell):
    cells = [cell(seed=0), cell(seed=1, status="diverged", reason="set scale"), cell(seed=2)]
    row = compared(cells).iloc[0]
    assert row["status"] == "diverged"
    assert list(row["status_counts"].items()) == [("diverged", 1), ("converged", 2)]
    assert row["reasons"]["diverged"] == "set scale"
    assert not row["usable"]


def test_no_cells_give_an_empty_table(compared, cell):
    table = compared(pd.DataFrame([cell()]).iloc[:0])
    assert len(table) == 0
    assert "work_to_target_min" in table
