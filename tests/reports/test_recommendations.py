import math

import pytest

from reports.recommendations import as_frame, recommend


@pytest.fixture
def findings(compared):
    """kind → (solver, text) of the picks, and (kind, solver, text) of the warnings, for one problem."""

    def run(cells, curves=None, target=0.01):
        (entry,) = recommend(compared(cells, curves, target=target), target)
        picks = {pick.kind: (pick.solver, pick.text) for pick in entry.picks}
        return picks, [(warning.kind, warning.solver, warning.text) for warning in entry.warnings]

    return run


def test_cheapest_fastest_and_most_accurate_with_their_ratios(findings, cell):
    picks, warnings = findings(
        [
            cell("cg", setup_work=0.0, solve_work=32.0, setup_seconds=0.0, solve_seconds=2.0),
            cell("neumann", setup_work=0.0, solve_work=131.2, setup_seconds=0.0, solve_seconds=4.0),
            cell(
                "exact", setup_work=500.0, solve_work=0.0, setup_seconds=1.0, solve_seconds=0.0, error=2e-15
            ),
        ]
    )
    assert picks == {
        "cheapest": ("cg", "reaches 1 % error after 32 gradient equivalents, 4.1 × fewer than neumann."),
        "fastest": ("exact", "takes 1 s, 2.0 × faster than cg."),
        "most accurate": ("exact", "ends at an error of 2.0e-15, for 500 gradient equivalents in all."),
    }
    assert warnings == []


def test_median_over_seeds_decides(findings, cell):
    cells = [cell("a", seed=seed, solve_work=work) for seed, work in enumerate([1.0, 30.0, 31.0])]
    cells += [cell("b", seed=seed, solve_work=20.0) for seed in range(3)]
    picks, _ = findings(cells)
    assert picks["cheapest"] == (
        "b", "reaches 1 % error after 30 gradient equivalents, 1.3 × fewer than a.",
    )  # fmt: skip


def test_solver_that_misses_on_one_seed_is_not_recommended(findings, cell):
    cells = [cell("a", seed=0, solve_work=1.0), cell("a", seed=1, solve_work=1.0, error=0.014)]
    cells += [cell("b", seed=0), cell("b", seed=1)]
    picks, warnings = findings(cells)
    assert picks["cheapest"][0] == "b"
    assert picks["cheapest"][1].endswith("; no other solver gets there.")
    assert warnings == [("missed", "a", "misses on 1 of 2 seeds; the worst is 1.4 % off.")]


def test_level_solvers_are_called_level(findings, cell):
    picks, _ = findings([cell("a"), cell("b"), cell("c", solve_work=22.0)])
    assert picks["cheapest"][1] == (
        "reaches 1 % error after 16 gradient equivalents, level with b and 2.0 × fewer than c."
    )


def test_no_work_at_all(findings, cell):
    free = cell("identity", setup_work=0.0, solve_work=0.0)
    picks, _ = findings([cell("cg"), free])
    assert picks["cheapest"] == (
        "identity", "reaches 1 % error after no gradient at all, where cg takes 16 gradient equivalents.",
    )  # fmt: skip


def test_none_reaches_names_the_closest(findings, cell):
    picks, _ = findings(
        [cell("a", error=0.5), cell("b", error=0.023), cell("c", error=1e-9, status="diverged")]
    )
    assert picks == {"closest": ("b", "comes closest: 2.3 % off after 16 gradient equivalents.")}


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ({"status": "finished", "error": 0.87}, "missed", "is 87 % off, 87 × the target."),
        (
            {"status": "converged", "error": 0.05},
            "missed", "says it converged, yet is 5 % off, 5.0 × the target.",
        ),
        (
            {"status": "budget_spent", "error": 0.032},
            "missed", "spent its budget and is still 3.2 % off, 3.2 × the target.",
        ),
        ({"status": "finished", "error": 45.0}, "missed", "is off by 45 times the solution's size."),
        ({"status": "diverged", "reason": "Set scale."}, "diverged", "diverged: Set scale."),
        ({"status": "breakdown", "reason": "pᵀHp < 0"}, "breakdown", "broke down: pᵀHp < 0"),
        ({"status": "failed", "reason": "no memory", "error": None}, "failed", "failed: no memory"),
        ({"status": "skipped", "reason": "p > 20,000", "error": None}, "skipped", "was skipped: p > 20,000"),
        ({"status": "finished", "error": None}, "missed", "ended without a measured error."),
    ],
)  # fmt: skip
def test_warnings(findings, cell, values, kind, text):
    _, warnings = findings([cell("good"), cell("bad", **values)])
    assert warnings == [(kind, "bad", text)]


def test_divergence_on_some_seeds_is_counted_and_worst_comes_first(findings, cell):
    cells = [cell("good"), cell("good", seed=1), cell("weak", error=0.4), cell("weak", seed=1, error=0.4)]
    cells += [cell("lissa"), cell("lissa", seed=1, status="diverged", reason="set scale", error=math.inf)]
    _, warnings = findings(cells)
    assert [kind for kind, _, _ in warnings] == ["diverged", "missed"]
    assert warnings[0][2] == "diverged on 1 of 2 seeds: set scale"


def test_residual_where_there_is_no_reference(findings, cell):
    unknown = {"error": None, "reference_residual": None}
    picks, warnings = findings([cell("a", **unknown), cell("b", **unknown | {"residual": 0.3})])
    assert picks["cheapest"][1].startswith("reaches 1 % residual after 16")
    assert picks["most accurate"][1].startswith("ends at a residual of 2.0e-3")
    assert warnings == [("missed", "b", "says it converged, yet is at a residual of 0.300, 30 × the target.")]


def test_all_failed_picks_nobody(findings, cell):
    picks, warnings = findings([cell("a", status="failed", error=None, residual=None, reason="no memory")])
    assert picks == {}
    assert warnings == [("failed", "a", "failed: no memory")]


def test_frame_has_a_row_per_finding(compared, cell):
    frame = as_frame(recommend(compared([cell("a"), cell("b", error=0.5)]), 0.01))
    assert frame["kind"].tolist() == ["cheapest", "fastest", "most accurate", "missed"]
    assert set(frame["problem"]) == {"quadratic"}
