import json
import math

import pytest

from reports.choices import choices, verdict
from reports.profile_rows import profile_rows


@pytest.fixture
def chosen(judged, compared, cell):
    """The choices of `auto`, given (work, measurement) per problem, NaN for a miss; of others the works."""

    def run(auto, **others):
        def made(solver, index, work, **values):
            solved = not math.isnan(work)
            return cell(
                solver, f"p{index}", setup_work=0.0, solve_work=work if solved else 1.0,
                error=0.001 if solved else 0.5, **values,
            )  # fmt: skip

        cells = []
        for index, (work, part) in enumerate(auto):
            told = {"measurement_work": part, "chosen": f"choice {index}", "why": "because"}
            cells.append(made("auto", index, work, diagnostics=json.dumps(told)))
        for solver, works in others.items():
            cells += [made(solver, index, work) for index, work in enumerate(works)]
        return choices(profile_rows(judged(cells), compared(cells)))

    return run


def test_choices_by_hand(chosen):
    """Against 10 of b: 24 of which 12 is 2.4 × and 1.2 ×. Against 0 of a, which counts as 3: 6 of which 5."""
    found = chosen([(24.0, 12.0), (6.0, 5.0)], a=[20.0, 0.0], b=[10.0, math.nan])
    assert found["problem"].tolist() == ["p0", "p1"]
    assert found["chosen"].tolist() == ["choice 0", "choice 1"]
    assert found["best_solver"].tolist() == ["b", "a"]
    assert found["best_work"].tolist() == [10, 0]
    assert found["work_without_measurement"].tolist() == [12, 1]
    assert found["measurement_work"].tolist() == [12, 5]
    assert found["ratio_without"].tolist() == [1.2, 1]
    assert found["ratio_with"].tolist() == [2.4, 2]


def test_the_best_is_one_of_the_others(chosen):
    found = chosen([(10.0, 0.0)], a=[20.0])
    assert (found["best_solver"].item(), found["ratio_with"].item()) == ("a", 0.5)


def test_a_miss_counts_as_infinite_where_another_gets_there(chosen):
    found = chosen([(math.nan, 5.0), (math.nan, 5.0)], a=[20.0, math.nan])
    assert found["ratio_with"].tolist()[0] == math.inf
    assert math.isnan(found["ratio_with"].tolist()[1])
    assert found["best_solver"].tolist() == ["a", ""]


def test_who_tells_nothing_has_no_choices(judged, compared, cell):
    cells = [cell("a"), cell("b")]
    assert len(choices(profile_rows(judged(cells), compared(cells)))) == 0


@pytest.mark.parametrize(
    ("auto", "others", "text"),
    [
        (  # 1.2, 1.4, 2.9 with; 1, 1.1, 1.2 without
            [(12.0, 2.0), (14.0, 3.0), (29.0, 17.0)],
            [10.0, 10.0, 10.0],
            "Against the best other solver in hindsight on 3 problems, auto takes 1.40 × in the median and "
            "2.90 × at worst (on p2), its measuring included; without its measurement 1.10 × in the median "
            "and 1.20 × at worst (on p2). The aims are at most 1.5 × in the median and 3 × at worst: with "
            "the measurement both are met; without it both are met.",
        ),
        (  # 1.6 and 3.1 with, 1.4 and 2 without; the median of two is their mean
            [(16.0, 2.0), (31.0, 11.0)],
            [10.0, 10.0],
            "Against the best other solver in hindsight on 2 problems, auto takes 2.35 × in the median and "
            "3.10 × at worst (on p1), its measuring included; without its measurement 1.70 × in the median "
            "and 2.00 × at worst (on p1). The aims are at most 1.5 × in the median and 3 × at worst: with "
            "the measurement both are missed; without it the median’s is missed and the worst’s met.",
        ),
        (
            [(10.0, 0.0), (10.0, 0.0), (math.nan, 0.0), (10.0, 1.0)],
            [10.0, 10.0, 10.0, math.nan],
            "Against the best other solver in hindsight on 3 problems, auto takes 1.00 × in the median and "
            "∞ × at worst (on p2), its measuring included; without its measurement 1.00 × in the median and "
            "∞ × at worst (on p2). The aims are at most 1.5 × in the median and 3 × at worst: with "
            "the measurement the median’s is met and the worst’s missed; without it the median’s is met and "
            "the worst’s missed. It does not reach the target on p2, where another does, which counts as ∞. "
            "It alone reaches the target on p3.",
        ),
        (
            [(10.0, 0.0)],
            [math.nan],
            "auto has nothing to be compared with: no other solver reaches the target on any problem.",
        ),
    ],
)  # fmt: skip
def test_verdict(chosen, auto, others, text):
    assert verdict(chosen(auto, a=others)) == text
