"""`ihvp-bench train`: have a problem's network trained, or loaded, before it is needed."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from bench.experiment import DTYPES, check_device
from bench.problem_file import find_family
from problems.cache import cache_directory
from problems.specification import parse
from reports.formats import number


def run(text: str, device: str, console: Console) -> None:
    """Build the problem, so that its checkpoint is in the cache, and print what it tells of itself."""
    asked = parse(text)
    family = find_family(asked.name, asked.settings)
    check_device(device)
    problem = family.build(device=torch.device(device), dtype=DTYPES["float32"], seed=0)
    if problem.task is None:
        raise ValueError(
            f"{family} has no network to train: take image_classifier, resnet18 or opt-small, say"
        )
    table = Table(box=None, show_header=False)
    for name, value in {"p": float(problem.size), **problem.facts}.items():
        table.add_row(name, number(value) if isinstance(value, float | int) else value)
    console.print(table)
    console.print(f"What is trained lies in {cache_directory()}.", soft_wrap=True, highlight=False)
