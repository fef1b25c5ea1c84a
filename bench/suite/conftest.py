"""What every benchmark shares."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from bench import environment


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Keep beside the timings what run.json keeps beside an experiment's."""
    machine_info["ihvp_bench"] = environment.describe()


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Say how to measure them again."""
    output_json["command"] = shlex.join(["pytest", *config.invocation_params.args])
