"""What every benchmark shares."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from bench import environment
from bench.experiment import DTYPES
from bench.suite import subjects


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest bench/suite --problem resnet18 --device cuda` runs every benchmark on that network."""
    group = parser.getgroup("ihvp-bench")
    group.addoption(
        "--problem",
        action="append",
        default=[],
        metavar="PROBLEM[:param=value,...]",
        help="Run on this problem or network (resnet18, opt-small, …; ihvp-bench list problems) in place of "
        "the suite's own; repeatable.",
    )
    group.addoption("--device", default=None, help="cpu, cuda or cuda:N, of --problem.")
    group.addoption("--dtype", choices=list(DTYPES), default=None, help="Of --problem; float32 by default.")


def pytest_configure(config: pytest.Config) -> None:
    """What is asked for and cannot be is said at once, and once."""
    subjects.asked(config)
    # A benchmark whose problem cannot be had failed before it measured, which is no second error.
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used at all")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Keep beside the timings what run.json keeps beside an experiment's."""
    machine_info["ihvp_bench"] = environment.describe()


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Say how to measure them again."""
    output_json["command"] = shlex.join(["pytest", *config.invocation_params.args])
