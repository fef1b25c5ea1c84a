"""A study of a few additions, in the form of a plug-in file."""

COUNTING = '''
from dataclasses import dataclass
from typing import ClassVar

from bench.study import Scale, Study
from reports.study import Page, build_study


@dataclass(frozen=True)
class Counting(Study):
    """Counts."""

    title: ClassVar[str] = "Counting"
    description: ClassVar[str] = "What is one more?"
    scales: ClassVar = {
        "quick": Scale(
            ("quadratic:dimension=3,num_examples=4", "quadratic:dimension=2,num_examples=3"), seeds=2
        ),
        "paper": Scale(("quadratic:dimension=5",), dtype="float32", parameters={"numbers": (3,)}),
    }

    numbers: tuple[int, ...] = (1, 2)
    bad: int = -1

    def __post_init__(self):
        if not self.numbers:
            raise ValueError("numbers is empty; name at least one")

    def pieces(self):
        return [{"number": number} for number in self.numbers]

    def prepare(self, problem, on_progress):
        on_progress("adding", 0.5)
        return problem.size

    def measure(self, problem, prepared, piece, seed, on_progress):
        on_progress("counting", 0.5)
        if piece["number"] == self.bad:
            raise RuntimeError("cannot count")
        return [{"sum": prepared + piece["number"] + seed + more, "more": more} for more in (0, 10)]

    def report(self, rows, run, directory):
        page = Page("study.html.j2", {"sum": "the sum"}, lambda rows: {"Sum": f"{rows['sum'].sum():g}."}, {})
        return build_study(page, rows, run, directory)
'''
