"""Verdicts on rows whose errors are known in closed form."""

import json
import math

import pandas as pd
import pytest

from reports.rows import clean_cells
from reports.verdicts import judge_cell, summary, verdicts
from tests.reports.test_report import Page

# H = diag(1, 0.1), λ = 0.1: λ_max + λ = 1.1, λ_min + λ = 0.2, κ = 5.5. Of the examples E h² = diag(3, 0.2),
# and x* has both components equal to 1/√2: x*ᵀ(E h² − H²)x* = (3 − 1 + 0.2 − 0.01)/2 = 1.095, and the noise
# constant is max(3/1.1, 0.2/0.2) = 2.7272…
LARGEST, SMALLEST, DAMPING = 1.1, 0.2, 0.1
KAPPA = LARGEST / SMALLEST
NOISE_CONSTANT, NOISE = 3 / 1.1, 1.095
# b = (H + λ)x* = (1.1, 0.2)/√2.
START = math.hypot(1.1 / DAMPING - 1, 0.2 / DAMPING - 1) / math.sqrt(2)
RATIO = DAMPING / math.hypot(1.1, 0.2) * math.sqrt(2)


@pytest.fixture
def row(cell):
    def make(name, settings, **values):
        facts = {
            "solver_name": name, "solver_settings": json.dumps(settings), "status": "finished",
            "dtype": "float64", "damping": DAMPING, "lambda_max": 1.0, "lambda_min": 0.1, "num_columns": 2,
            "reference_residual": 1e-15, "noise_constant": NOISE_CONSTANT, "noise_at_solution": NOISE,
            "start_error_rhs": START, "solution_ratio": RATIO, "product_error": 0.0,
        }  # fmt: skip
        return cell(name, **(facts | values))

    return make


@pytest.fixture
def judged(row):
    def judge(name, settings, **values):
        clean = clean_cells(pd.DataFrame([row(name, settings, **values)]))
        return judge_cell(clean.iloc[0].to_dict())

    return judge


@pytest.mark.parametrize("step_size", [0.3, 1.0, 1.7])
def test_neumanns_error_is_that_of_its_slowest_direction(judged, step_size):
    """x* has equal components, so that the error after t steps is known, and the bound is within √2 of it."""
    factors = [1 - step_size * LARGEST, 1 - step_size * SMALLEST]
    for steps in (1, 7, 40):
        error = math.sqrt(sum(factor ** (2 * steps) for factor in factors) / 2)
        promised = max(map(abs, factors)) ** steps
        found = judged("neumann", {"step_size": step_size}, steps=steps, error=error)
        assert (found.verdict, found.kind, found.quantity) == ("holds", "bound", "error")
        assert found.promised == pytest.approx(promised, rel=1e-9, abs=1e-13)
        assert 1 - 1e-9 <= found.factor <= math.sqrt(2) + 1e-3
        worse = judged("neumann", {"step_size": step_size}, steps=steps, error=1.01 * promised + 1e-12)
        assert worse.verdict == "violated"
        assert worse.factor < 1


def test_from_two_over_the_largest_eigenvalue_on_divergence_is_what_is_promised(judged):
    beyond = {"step_size": 2 / LARGEST * 1.2}  # the top grows by 1.4 a step
    diverged = judged("neumann", beyond, status="diverged", error=math.nan, steps=60)
    assert (diverged.verdict, diverged.kind) == ("holds", "divergence")
    assert "1.4 a step" in diverged.reason
    assert judged("neumann", beyond, error=8.0, steps=6).verdict == "holds"
    assert judged("neumann", beyond, error=0.3, steps=3).verdict == "no promise"
    # 1.4^100 = 4e14.
    assert judged("neumann", beyond, status="converged", error=1e-6, steps=100).verdict == "violated"
    # From b/λ an error above 1 is where it began.
    lissa = beyond | {"batch_size": 4, "start": "rhs"}
    assert judged("lissa", lissa, error=0.9 * START, steps=3).verdict == "no promise"
    assert judged("lissa", lissa, error=1.1 * START, steps=3).verdict == "holds"


def test_an_indefinite_matrix_lets_every_step_diverge(judged):
    indefinite = {"lambda_min": -0.3, "noise_constant": math.nan}
    found = judged("neumann", {"step_size": 0.5}, status="diverged", steps=500, **indefinite)
    assert (found.verdict, found.kind) == ("holds", "divergence")
    assert judged("cg", {"tolerance": 1e-6}, **indefinite).verdict == ""
    assert judged("scipy_cg", {"tolerance": 1e-6}, **indefinite).verdict == ""
    assert judged("identity", {}, **indefinite).verdict == ""


def test_cg_is_held_to_its_energy_error(judged):
    root = math.sqrt(KAPPA)
    bound = 2 * ((root - 1) / (root + 1)) ** 9
    for share, verdict in ((0.99, "holds"), (1.01, "violated")):
        found = judged("cg", {"tolerance": 1e-10}, steps=9, energy_error=share * bound, error=1.0)
        assert (found.verdict, found.quantity) == (verdict, "energy error")
        assert found.promised == pytest.approx(bound, rel=1e-9)
    # A column within the tolerance rests: its energy error is at most √κ times that.
    for share, verdict in ((0.99, "holds"), (1.01, "violated")):
        energy = share * root * 1e-3
        assert judged("cg", {"tolerance": 1e-3}, steps=90, energy_error=energy).verdict == verdict


def test_rounding_and_other_products_are_allowed_for(judged):
    asked = {"tolerance": 1e-12}
    # κ units of float32 are 6.6e-7.
    single = judged("cg", asked, steps=200, energy_error=5e-7, dtype="float32")
    assert (single.verdict, single.promised) == ("holds", pytest.approx(10 * 2**-23 * KAPPA, rel=1e-3))
    assert judged("cg", asked, steps=200, energy_error=5e-7).verdict == "violated"
    # ‖(H' − H)x*‖ = 1e-7 ‖x*‖ moves the solution by at most 1e-7/(λ_min + λ).
    other = judged("cg", asked, steps=200, energy_error=4.9e-7, product_error=1e-7)
    assert other.verdict == "holds"
    assert judged("cg", asked, steps=200, energy_error=5.2e-7, product_error=1e-7).verdict == "violated"


def test_scipys_columns_share_their_steps(judged):
    """Steps to 1e-6: ‖r‖/‖b‖ ≤ √κ · 2qᵗ, q = (√κ − 1)/(√κ + 1), for each of two columns."""
    root = math.sqrt(KAPPA)
    each = math.ceil(math.log(1e-6 / (2 * root)) / math.log((root - 1) / (root + 1)))
    asked = {"tolerance": 1e-6}
    found = judged("scipy_cg", asked, status="converged", steps=2 * each)
    assert (found.verdict, found.quantity, found.promised) == ("holds", "steps", 2 * each)
    assert judged("scipy_cg", asked, status="converged", steps=2 * each + 1).verdict == "violated"
    assert judged("scipy_cg", asked, status="budget_spent", steps=2 * each).verdict == "violated"
    assert judged("scipy_cg", asked, status="budget_spent", steps=2 * each - 1).verdict == "no promise"
    assert judged("scipy_cg", asked, status="converged", dtype="float32").verdict == "no promise"


def test_the_identity_is_within_its_share_of_the_right_hand_side(judged):
    found = judged("identity", {}, error=START)
    assert (found.verdict, found.kind) == ("holds", "bound")
    assert found.promised == pytest.approx(1 / LARGEST / RATIO)
    assert judged("identity", {}, error=1.01 / LARGEST / RATIO).verdict == "violated"


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_mini_batches_are_held_to_the_mean_square(judged, batch_size):
    """L_b = λ_max + λ − λ_max²/(b(λ_max + λ)) + R/b = 1.1 + (3 − 1)/(1.1 b), attained by the top."""
    second_moment = 1.1 + 2 / 1.1 / batch_size
    step = 0.5 / second_moment
    contraction = step * 1.5 * SMALLEST
    floor = step * math.sqrt(NOISE / batch_size / contraction)
    for start, distance in (("rhs", START), ("zero", 1.0)):
        settings = {"step_size": step, "batch_size": batch_size, "start": start, "num_steps": 999}
        promised = (1 - contraction) ** 10 * distance + floor
        found = judged("lissa", settings, steps=20, error=0.5 * promised)
        assert (found.verdict, found.kind) == ("holds", "bound")
        assert found.promised == pytest.approx(promised, rel=1e-9)
        assert found.factor == pytest.approx(2, rel=1e-9)
        assert judged("lissa", settings, steps=20, error=1.01 * promised).verdict == "violated"
        lost = judged("lissa", settings, steps=20, status="diverged", error=math.nan)
        assert (lost.verdict, lost.measured, lost.factor) == ("violated", math.inf, 0)
    edge = min(2 / second_moment, 2 / LARGEST)
    settings = {"step_size": 1.001 * edge, "batch_size": batch_size, "start": "rhs"}
    found = judged("lissa", settings, steps=20, error=0.7)
    assert (found.verdict, found.measured) == ("no promise", 0.7)
    assert "2/L_b" in found.reason
    within = settings | {"step_size": 0.999 * edge}
    assert judged("lissa", within, steps=20, error=0.7).verdict == "holds"


def test_the_mean_square_bound_covers_an_exact_recursion(judged):
    """One dimension, h = 0 or 2 with equal chances: E e² and E e in closed recursion."""
    damping, batch_size = 0.5, 2
    solution, rhs = 1.0, 1.5
    variance = 1 / batch_size
    second_moment = 1.5 + variance / 1.5
    facts = {
        "damping": damping, "lambda_max": 1.0, "lambda_min": 1.0, "noise_constant": 2 / 1.5,
        "noise_at_solution": 1.0, "start_error_rhs": rhs / damping - 1, "solution_ratio": damping / rhs,
    }  # fmt: skip
    for share in (0.2, 1.0, 1.8):
        step = share / second_moment
        mean, square = rhs / damping - solution, (rhs / damping - solution) ** 2
        for steps in range(1, 60):
            # e ← (1 − η·1.5)e − η ξ (e + u*), E ξ² = variance.
            square = (1 - 1.5 * step) ** 2 * square + step**2 * variance * (square + 2 * mean + 1)
            mean *= 1 - 1.5 * step
            if steps % 4 != 1:
                continue
            settings = {"step_size": step, "batch_size": batch_size, "start": "rhs"}
            found = judged("lissa", settings, steps=steps, error=math.sqrt(square), **facts)
            assert found.verdict == "holds"


def test_all_data_from_the_right_hand_side_have_the_smaller_of_two_bounds(judged):
    """The rate bounds what is left of the start; the bias of b/λ bounds it relative to ‖b‖/λ."""
    step, steps = 0.5, 30
    error = math.hypot((1 - 0.55) ** steps * 10, (1 - 0.1) ** steps) / math.sqrt(2)
    settings = {"step_size": step, "batch_size": "full", "start": "rhs"}
    found = judged("lissa", settings, steps=steps, error=error)
    assert found.verdict == "holds"
    assert found.promised == pytest.approx(0.9**steps * START, rel=1e-9)
    # With λ_min = 0 the rate is 1 − ηλ, and the bias e^{−a}/(e a), a = ηλT = 1.5.
    flat = judged("lissa", settings, steps=steps, error=error, lambda_min=0.0)
    assert flat.promised == pytest.approx(math.exp(-1.5) / (math.e * 1.5) / RATIO, rel=1e-9)
    zero = judged("lissa", settings | {"start": "zero"}, steps=steps, error=error)
    assert zero.promised == pytest.approx(0.9**steps, rel=1e-9)


AUTO = {"step_size": "auto", "batch_size": "auto", "num_steps": "auto", "start": "rhs"}


def told(**values):
    return json.dumps({"step_size": 0.3, "batch_size": 16, "num_steps": 80, "chains": 2} | values)


def test_lissa_that_tuned_itself_is_held_to_its_own_word(judged):
    spoken = told(predicted_error=0.04, estimated_error=0.03)
    found = judged("lissa", AUTO, error=0.05, diagnostics=spoken)
    assert (found.verdict, found.kind, found.honest) == ("holds", "prediction", True)
    assert found.factor == pytest.approx(0.8)
    assert found.estimated == 0.03
    assert "η = 0.3, b = 16" in found.reason
    misled = judged("lissa", AUTO, error=0.07, diagnostics=spoken)
    assert (misled.verdict, misled.honest) == ("holds", False)
    broken = judged("lissa", AUTO, error=0.09, diagnostics=spoken)
    assert (broken.verdict, broken.honest) == ("violated", False)
    silent = judged("lissa", AUTO, error=0.05, diagnostics=told(predicted_error=0.04, estimated_error=None))
    assert (silent.verdict, silent.honest) == ("holds", None)
    unmeasured = judged("lissa", AUTO, error=math.nan, reference_residual=math.nan, diagnostics=spoken)
    assert unmeasured.verdict == ""


def test_a_rule_that_predicts_nothing_is_judged_by_the_settings_it_chose(judged):
    by_hand = {"step_size": 0.3, "batch_size": 16, "start": "rhs"}
    chosen = judged("lissa", AUTO, steps=80, error=0.1, diagnostics=told(chains=1))
    assert chosen == judged("lissa", by_hand, steps=80, error=0.1)
    assert chosen.kind == "bound"
    assert judged("lissa", AUTO, diagnostics="{}").verdict == ""
    assert judged("lissa", AUTO, diagnostics="not json").verdict == ""


@pytest.mark.parametrize(
    ("name", "settings", "values"),
    [
        ("exact", {}, {}),
        ("neumann", {"step_size": 0.5}, {"status": "skipped"}),
        ("neumann", {"step_size": 0.5}, {"status": "failed"}),
        ("neumann", {"step_size": 0.5}, {"dtype": "float8"}),
        ("neumann", {"step_size": 0.5}, {"lambda_min": math.nan}),
        ("neumann", {"step_size": 0.5}, {"error": math.nan, "reference_residual": math.nan}),
        ("neumann", {}, {}),
        # Tokens, or curvature without examples of its own.
        ("lissa", {"step_size": 0.1, "batch_size": 4}, {"noise_constant": math.nan}),
        ("lissa", {"step_size": 0.1, "batch_size": 4}, {"noise_at_solution": math.nan}),
        ("lissa", {"step_size": 0.1, "batch_size": 4}, {"start_error_rhs": math.nan}),
    ],
)
def test_theory_is_silent_without_its_facts(judged, name, settings, values):
    assert judged(name, settings, **values).verdict == ""


def test_rows_of_older_runs_have_no_verdict(cell):
    found = verdicts(clean_cells(pd.DataFrame([cell(), cell("lissa")])))
    assert found["verdict"].tolist() == ["", ""]
    assert summary(found) == ""


@pytest.fixture
def cells(row):
    neumann = {"step_size": 0.5}
    return [
        row("neumann", neumann, seed=0, steps=10, error=0.9**10 / 2),
        row("neumann", neumann, seed=1, steps=10, error=0.9**10 / 4),
        row("lissa", {"step_size": 1.5, "batch_size": 1, "start": "rhs"}, seed=0, error=12.5),
        row("lissa", AUTO, seed=1, error=0.07, diagnostics=told(predicted_error=0.06, estimated_error=0.02)),
        row("exact", {}, seed=0),
    ]


def test_the_summary_counts(cells):
    assert summary(verdicts(clean_cells(pd.DataFrame(cells)))).replace("\xa0", " ") == (
        "Theory’s bounds hold in 2 of 2 rows where it makes a promise; median slack 3.0 ×. "
        "LiSSA’s own prediction of its error is within a factor of 2 in 1 of 1 row. "
        "Its own estimate of its error is honest in 0 of 1 row. "
        "Theory promises nothing for the settings of 1 row."
    )


def test_the_page_and_the_tables_show_them(blank_figures, built, cells, tmp_path):
    page = Page(built(cells))
    text = page.text.replace("\xa0", " ")
    for expected in (
        "Did theory hold?", "bounds hold in 2 of 2 rows", "falls by 0.9 a step from 1", "holds 1 of 2",
        "no promise 1 of 2", "misjudges its error", "0.349", "3.0 ×",
    ):  # fmt: skip
        assert expected in text
    table = pd.read_csv(tmp_path / "report" / "tables" / "verdicts.csv")
    assert table["verdict"].fillna("").tolist() == ["holds", "holds", "no promise", "holds", ""]
    assert table["factor"].iloc[0] == pytest.approx(2, rel=1e-9)


def test_a_page_on_which_theory_is_silent_does_not_mention_it(blank_figures, built, cell):
    assert "Did theory hold?" not in Page(built([cell()])).text
