import json

import pytest

from reports.panels import styles
from reports.profile import profile
from reports.profile_figure import EMPHASISED, colours, draw_profile, emphasised


@pytest.fixture
def found(judged, compared, cell):
    """s0 is the best of 30 solvers, s1 the next, …, and auto the worst."""
    cells = [cell(f"s{i}", p, setup_work=0.0, solve_work=10.0 + i) for p in "xyz" for i in range(30)]
    told = json.dumps({"measurement_work": 50})
    cells += [cell("auto", p, solve_work=100.0, diagnostics=told) for p in "xyz"]
    return profile(judged(cells), compared(cells))


def test_the_best_and_those_that_choose_are_in_colour(found):
    assert emphasised(found) == ["auto", *(f"s{i}" for i in range(EMPHASISED))]


def test_curves_in_colour_share_none():
    """s0 and s8 look alike but for dashes and marks: the second takes a free colour, others keep theirs."""
    names = [f"s{i}" for i in range(12)]
    looks = styles(names)
    assert looks["s0"].colour == looks["s8"].colour
    chosen = colours(["s0", "s8", "s1"], looks)
    assert len(set(chosen.values())) == 3
    assert chosen["s0"] == looks["s0"].colour
    assert chosen["s1"] == looks["s1"].colour


def test_it_is_drawn_as_png_and_pdf(found, tmp_path):
    assert draw_profile(tmp_path, found) == "profile"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["profile.pdf", "profile.png"]
