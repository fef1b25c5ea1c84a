"""What every benchmark shares."""

from __future__ import annotations

import pytest

from bench import environment


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Keep beside the timings what run.json keeps beside an experiment's."""
    machine_info["ihvp_bench"] = environment.describe()
