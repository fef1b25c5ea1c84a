"""Studies are found, planned and checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import study
from problems.specification import Specification, parse
from tests.bench.studies import COUNTING


@pytest.fixture
def counting(tmp_path: Path) -> str:
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    return str(path)


def test_studies_are_found_by_their_files_and_their_defaults_can_be_planned() -> None:
    known = study.available()
    assert set(known) >= {"condition", "settings", "phase"}
    for name in known:
        plan = study.plan(Specification(name, {}))
        assert plan.request.name == name
        assert plan.request.title
        assert plan.request.description
        assert plan.cells


def test_a_cell_for_every_problem_seed_and_piece_one_problem_after_the_other(counting: str) -> None:
    plan = study.plan(Specification(counting, {}))
    labels = list(plan.families)
    assert [(cell.problem, cell.seed, cell.piece["number"]) for cell in plan.cells] == [
        (label, seed, number) for label in labels for seed in (0, 1) for number in (1, 2)
    ]
    assert [cell.index for cell in plan.cells] == list(range(8))
    assert str(plan.cells[1]) == f"{labels[0]} · number=2 · seed 0"


def test_the_command_line_replaces_parameters_problems_and_seeds(counting: str) -> None:
    asked = parse(f"{counting}:numbers=[5,6,7],bad=6")
    plan = study.plan(asked, [parse("quadratic:dimension=2,num_examples=2")], seeds=1, dtype="float32")
    assert plan.request.parameters == {"numbers": (5, 6, 7), "bad": 6}
    assert [cell.piece["number"] for cell in plan.cells] == [5, 6, 7]
    assert list(plan.families) == ["quadratic(dimension=2, num_examples=2)"]
    assert plan.request.dtype == "float32"


def test_a_scale_brings_problems_and_settings_of_its_own(counting: str) -> None:
    plan = study.plan(Specification(counting, {}), scale="paper")
    assert plan.request.scale == "paper"
    assert plan.request.dtype == "float32"
    assert plan.request.parameters == {"numbers": (3,), "bad": -1}
    assert list(plan.families) == ["quadratic(dimension=5)"]
    assert len(plan.cells) == 1  # one seed, unlike the first scale
    changed = study.plan(parse(f"{counting}:numbers=[4]"), scale="paper", seeds=2, dtype="float64")
    assert changed.request.scale == ""  # no longer that scale as it is
    assert changed.request.parameters["numbers"] == (4,)
    assert (len(changed.cells), changed.request.dtype) == (2, "float64")
    assert study.plan(Specification(counting, {})).request.scale == "quick"
    with pytest.raises(ValueError, match=r"has no scale small; it has quick, paper"):
        study.plan(Specification(counting, {}), scale="small")
    with pytest.raises(ValueError, match=r"no scale 'papr'; did you mean 'paper'"):
        study.plan(Specification(counting, {}), scale="papr")
    with pytest.raises(ValueError, match="no scale ''"):
        study.plan(Specification(counting, {}), scale="")


def test_every_scale_of_every_study_can_be_planned() -> None:
    for name, cls in study.available().items():
        assert set(cls.scales) <= set(study.SCALES)
        for scale in cls.scales:
            assert study.plan(Specification(name, {}), scale=scale).cells


@pytest.mark.parametrize(
    ("text", "problem", "message"),
    [
        ("phaze", "quadratic", "no study 'phaze'; did you mean 'phase'"),
        ("phase:tyme=2", "quadratic", "did you mean 'time'"),
        ("phase:time=0", "quadratic", "time is 0"),
        ("phase:steps_per_octave=0", "quadratic", "steps_per_octave is 0"),
        ("phase:batch_sizes=[0]", "quadratic", "batch_sizes is 0; it must be at least 1"),
        ("phase:batch_sizes=[]", "quadratic", "batch_sizes is empty"),
        ("condition:batch_sizes=[]", "quadratic", "batch_sizes is empty"),
        ("condition:batch_sizes=[4,0]", "quadratic", "batch_sizes is 0"),
        ("condition:batch_sizes=many", "quadratic", "batch_sizes is 'many'"),
        ("condition:pairs=1", "quadratic", "pairs is 1; a standard error needs at least 2"),
        ("condition:budget=5", "quadratic", "budget is 5"),
        ("settings:budget=5", "quadratic", "budget is 5"),
        ("settings:target=1.5", "quadratic", "target is 1.5"),
        ("phase", "quadratik", "no problem 'quadratik'; did you mean 'quadratic'"),
    ],
)
def test_what_is_wrong_is_named(text: str, problem: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        study.plan(parse(text), [parse(problem)])


def test_a_problem_twice_and_a_device_that_is_none(counting: str) -> None:
    asked = Specification(counting, {})
    with pytest.raises(ValueError, match="listed twice"):
        study.plan(asked, [parse("quadratic"), parse("quadratic")])
    with pytest.raises(ValueError, match="device is 'abacus'"):
        study.plan(asked, device="abacus")
