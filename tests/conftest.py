"""What all tests share: a cache of their own, and the small problems that every solver is tried on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import problems
from problems import Problem
from problems.cache import ENVIRONMENT_VARIABLE
from problems.operators import network
from reports import paper

# The tensors of tests are small: threads that wait for each other would take more time than they save.
torch.set_num_threads(1)
# So too in the commands that tests run, beside which the other cores have tests of their own.
os.environ["OMP_NUM_THREADS"] = "1"


# Files that take longest, which begin so that at the end no core waits for another.
LONGEST = ("test_conformance.py", "test_documents.py", "test_hugging_face.py", "test_suite_subjects.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checkpoints of the tests never meet the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def rough_figures() -> Iterator[Callable[[Figure, Path], None]]:
    """Figures are drawn coarsely, and once, as PNG; the function that writes real PDFs."""
    write_pdf = paper.write_pdf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "DPI", 30)
        patch.setattr(paper, "write_pdf", lambda figure, path: path.write_bytes(b""))
        yield write_pdf


@pytest.fixture
def printed(rough_figures: Callable[[Figure, Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are written as PDF, too."""
    monkeypatch.setattr(paper, "write_pdf", rough_figures)


@pytest.fixture
def nothing_retained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products go the way of large networks: eager at first, then recorded."""
    monkeypatch.setattr(network, "is_small", lambda *_: False)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_psd_examples(
    num_examples: int, size: int, seed: int, *, rank: int = 1, heavy_tailed: bool = False
) -> torch.Tensor:
    """h_i of the given rank, shape (n, p, p), float64, with equal or heavy-tailed scales."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(num_examples, rank, size, generator=generator, dtype=torch.float64)
    if heavy_tailed:
        factors *= (1 - torch.rand(num_examples, 1, 1, generator=generator, dtype=torch.float64)) ** -0.5
    return factors.mT @ factors / size


def dense_problem(per_example: torch.Tensor, damping: float, columns: int = 2, seed: int = 0) -> Problem:
    """A problem of explicit matrices with isotropic right-hand sides."""
    generator = torch.Generator().manual_seed(seed)
    rhs = torch.randn(per_example.shape[1], columns, generator=generator, dtype=per_example.dtype)
    return Problem("dense", problems.DenseOperator(per_example), damping, rhs)
