import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from reports.similarity import build_similarity
from reports.similarity_figure import cosine_figure, raw_figure
from reports.similarity_rows import (
    Value,
    change,
    cosine_bound,
    cosines,
    gap,
    jackknife,
    kind_mask,
    leading_share,
    mean_of,
    mean_share,
    nearest,
    neighbours,
    separation,
    similarities,
)
from reports.similarity_verdicts import conclusions, distinct, findings, suppressed
from tests.reports.test_report import Page

PAIRS = 4


def alike(unrelated: float, paired: float, noise: float = 0.0) -> np.ndarray:
    """Cosines (8, 8), positive definite: the two values, of which `noise` makes facts differ."""
    size = 2 * PAIRS
    found = np.full((size, size), unrelated)
    found[kind_mask("paired", PAIRS)] = paired
    varied = np.tile(noise * np.array([1.0, -1.0, 1.0, -1.0]), 2)
    found += varied[:, None] + varied
    np.fill_diagonal(found, 1.0)
    return found


def rows_of(gradient: np.ndarray, influence: np.ndarray, bound: float = 0.0, **values: Any) -> pd.DataFrame:
    """Vectors of lengths 1, 2, …; influences of half of that, divided by λ = 0.1."""
    size = len(gradient)
    lengths = np.arange(1.0, size + 1)
    scale = lengths[:, None] * lengths
    return pd.DataFrame(
        [
            {
                "problem": "tiny", "seed": 0, "dimension": 50, "num_examples": 90, "damping": 0.1,
                "failure": "", "first": i, "second": j, "text": f"words {i}",
                "gradient": (scale * gradient)[i, j], "influence": (scale * influence)[i, j] / 4 / 0.1,
                "influence_bound": bound * scale[i, j] / 4 / 0.1,
                "method": "auto: cg", "status": "converged", "reason": "well", "steps": 3, "residual": 0.01,
                "asymmetry": 0.002, "correction": 0.003, "cut": 0.0, "work": 120.0, "seconds": 2.0,
            }
            | values
            for i in range(size)
            for j in range(i, size)
        ]
    )  # fmt: skip


def only(rows: pd.DataFrame) -> Any:
    (found,) = similarities(rows)
    return found


def test_cosines_do_not_know_lengths_and_matrices_are_whole():
    found = only(rows_of(alike(0.5, 0.7), alike(0.1, 0.6)))
    np.testing.assert_allclose(cosines(found.gradient), alike(0.5, 0.7))
    np.testing.assert_allclose(cosines(found.influence), alike(0.1, 0.6))
    assert found.gradient[1, 2] == found.gradient[2, 1] == pytest.approx(0.5 * 6)
    assert list(found.sentences[:2]) == ["words 0", "words 1"]
    assert (found.num_pairs, found.solved) == (4, True)


def test_kinds_of_pairs_part_all_but_the_diagonal():
    """Sentences 0 and 1, their paraphrases 2 and 3."""
    assert np.argwhere(kind_mask("paired", 2)).tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]
    assert np.argwhere(kind_mask("sentences", 2)).tolist() == [[0, 1], [1, 0]]
    assert np.argwhere(kind_mask("crossed", 2)).tolist() == [[0, 3], [1, 2], [2, 1], [3, 0]]
    assert np.argwhere(kind_mask("paraphrases", 2)).tolist() == [[2, 3], [3, 2]]
    parts = [kind_mask(kind, 5) for kind in ("paired", "sentences", "crossed", "paraphrases")]
    assert (sum(part.astype(int) for part in parts) == 1 - np.eye(10)).all()
    assert (kind_mask("unrelated", 5) == parts[1] | parts[2] | parts[3]).all()


def test_statistics_of_equal_facts_are_closed_forms_without_error():
    matrix = alike(0.1, 0.6)
    assert jackknife(mean_of("unrelated"), matrix).value == pytest.approx(0.1)
    apart = jackknife(gap, matrix)
    assert (apart.value, apart.error) == (pytest.approx(0.5), pytest.approx(0.0, abs=1e-12))
    # Of 1 + 0.6 + 6 · 0.1 along the vector of ones, of 8 in all.
    assert mean_share(matrix) == pytest.approx(2.2 / 8)
    assert leading_share(matrix) == pytest.approx(2.2 / 8)
    assert mean_share(np.eye(8)) == leading_share(np.eye(8)) == pytest.approx(1 / 8)
    changed = change(mean_of("paired"), alike(0.5, 0.7), matrix)
    assert changed.value == pytest.approx(-0.1)


def test_the_jackknife_of_a_mean_over_facts_is_its_standard_error():
    values = np.array([0.1, 0.4, 0.35, 0.9])
    matrix = np.eye(8)
    for fact, value in enumerate(values):
        matrix[fact, fact + 4] = matrix[fact + 4, fact] = value
    found = jackknife(mean_of("paired"), matrix)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / 2)


def test_separation_is_in_standard_deviations_of_other_paraphrases():
    matrix = np.eye(4)
    matrix[0, 2] = matrix[2, 0] = matrix[1, 3] = matrix[3, 1] = 0.9
    matrix[0, 3] = matrix[3, 0] = 0.1
    matrix[1, 2] = matrix[2, 1] = 0.3
    matrix[0, 1] = matrix[1, 0] = 0.8  # counts for nothing
    assert gap(matrix) == pytest.approx(0.7)
    assert separation(matrix) == pytest.approx(7.0)  # their deviation is 0.1
    assert math.isnan(separation(alike(0.5, 0.7)))


def test_neighbours_among_all_and_among_the_other_form():
    matrix = alike(0.1, 0.6)
    assert neighbours(matrix) == neighbours(matrix, crossed=True) == 8
    matrix[0, 1] = matrix[1, 0] = 0.7  # two sentences more alike than either is with its paraphrase
    matrix[5, 0] = matrix[0, 5] = 0.65  # the second paraphrase is nearer to the first sentence
    assert nearest(matrix)[:2].tolist() == [1, 0]
    assert nearest(matrix)[4] == 0
    assert neighbours(matrix) == 8 - 3
    assert nearest(matrix, crossed=True)[0] == 5
    assert neighbours(matrix, crossed=True) == 8 - 2


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cosines_are_off_by_no_more_than_their_bound(seed):
    """S* = S + Δ, Δ ⪰ 0 with entries of at most ρᵢⱼ, to first order in Δ."""
    draw = np.random.default_rng(seed)
    factor = draw.normal(size=(8, 12))
    residual = 1e-4 * draw.normal(size=(8, 5))
    matrix, off = factor @ factor.T, residual @ residual.T
    lengths = np.sqrt(np.diag(off))
    found = only(rows_of(np.eye(8), np.eye(8)))
    found = type(found)(found.problem, found.sentences, matrix, matrix, lengths[:, None] * lengths, found.row)
    error = np.abs(cosines(matrix + off) - cosines(matrix))
    assert (error <= 1.01 * cosine_bound(found) + 1e-15).all()


def test_a_sign_is_one_beyond_two_standard_errors():
    assert [Value(value, 1.0).sign for value in (2.1, 1.9, -1.9, -2.1)] == [1, 0, 0, -1]


@pytest.mark.parametrize(
    ("gradient", "influence", "bound", "expected"),
    [
        (alike(0.5, 0.7), alike(0.1, 0.6), 0.0, True),
        (alike(0.1, 0.6), alike(0.5, 0.7), 0.0, False),
        (alike(0.5, 0.7), alike(0.5, 0.7), 0.0, None),
        # A change of 0.02 beneath the noise of facts, and one of 0.4 beneath what the solver may be off.
        (alike(0.3, 0.6, 0.1), alike(0.28, 0.6, -0.1), 0.0, None),
        (alike(0.5, 0.7), alike(0.1, 0.6), 0.5, None),
        # H may be indefinite, and what the solver may be off is unknown.
        (alike(0.5, 0.7), alike(0.1, 0.6), math.nan, None),
        # Nothing is shared by gradient.
        (alike(-0.05, 0.6), alike(-0.1, 0.6), 0.0, None),
    ],
)
def test_what_all_share_is_suppressed(gradient, influence, bound, expected):
    assert suppressed(only(rows_of(gradient, influence, bound))) is expected


@pytest.mark.parametrize(
    ("influence", "bound", "cut", "expected"),
    [
        (alike(0.1, 0.6), 0.0, 0.0, True),
        (alike(0.6, 0.1), 0.0, 0.0, False),
        (alike(0.3, 0.3), 0.0, 0.0, None),
        (alike(0.1, 0.6), 0.4, 0.0, None),
        (alike(0.1, 0.6), math.nan, 0.0, None),
        (alike(0.1, 0.6), 0.0, 5.0, None),
    ],
)
def test_paraphrases_are_told_from_other_sentences(influence, bound, cut, expected):
    assert distinct(only(rows_of(alike(0.5, 0.7), influence, bound, cut=cut))) is expected


def test_findings_tell_what_the_numbers_say():
    told = findings(rows_of(alike(0.5, 0.7), alike(0.1, 0.64)))["tiny"]
    assert "a mean cosine of 0.500" in told
    assert "the inverse suppresses 80 % of what all share" in told
    # 1 + 0.7 + 6 · 0.5 and 1 + 0.64 + 6 · 0.1 of 8.
    assert "holds 59 % of their squares, and 28 % in the geometry of the inverse" in told
    assert "Paraphrases are more alike by influence than unrelated sentences" in told
    assert "The nearest of the 7 others is the paraphrase for 8 of 8 by influence and for 8 by" in told
    assert "XᵀG is asymmetric by 0.2 %; the correction by its residual moves influences by 0.3 %" in told
    assert "cut" not in told


@pytest.mark.parametrize(
    ("gradient", "influence", "words"),
    [
        (alike(0.5, 0.7), alike(-0.1, 0.6), "the inverse suppresses all that they share"),
        (alike(0.1, 0.6), alike(0.5, 0.7), "brings out what all share, and does not suppress it"),
        (alike(0.5, 0.7), alike(0.5, 0.7), "whether the inverse suppresses what all share is not decided"),
        (alike(-0.05, 0.6), alike(-0.1, 0.6), "share nothing that could be suppressed"),
        (alike(0.5, 0.7), alike(0.6, 0.1), "are less alike by influence than unrelated sentences"),
        (alike(0.5, 0.7), alike(0.3, 0.3), "are not surely more alike by influence"),
    ],
)
def test_findings_know_every_outcome(gradient, influence, words):
    assert words in findings(rows_of(gradient, influence))["tiny"]


def test_findings_say_what_was_cut():
    told = findings(rows_of(alike(0.5, 0.7), alike(0.1, 0.6), cut=8.0))["tiny"]
    assert "8 of the 8 sentences were cut" in told


def test_an_unknown_error_of_the_solver_is_told():
    rows = rows_of(alike(0.5, 0.7), alike(0.1, 0.6), math.nan)
    told = "How far that leaves them off is unknown, since H may be indefinite, so that nothing is decided."
    assert findings(rows)["tiny"].endswith(f"moves influences by 0.3 %. {told}")
    assert {each.verdict for each in conclusions(rows)} == {"undecided"}
    assert all(each.numbers.endswith(", the solver’s error unknown.") for each in conclusions(rows))
    known = rows_of(alike(0.5, 0.7), alike(0.1, 0.6), 0.01)
    assert "unknown" not in " ".join(
        [*findings(known).values(), *(each.numbers for each in conclusions(known))]
    )


def test_conclusions_over_problems():
    rows = pd.concat(
        [
            rows_of(alike(0.5, 0.7), alike(0.1, 0.6)),
            rows_of(alike(0.1, 0.6), alike(0.5, 0.7), problem="other"),
        ]
    )
    first, second = conclusions(rows)
    assert (first.where, first.verdict) == ("Figure 3", "partly")
    assert (second.where, second.verdict) == ("", "holds")  # the paper's finding is the first alone
    assert first.numbers.startswith("tiny: mean cosine of unrelated sentences 0.500")
    assert "other: mean cosine of unrelated sentences 0.100" in first.numbers
    assert "with its paraphrase 0.600" in second.numbers


def unsolved(**values: Any) -> pd.DataFrame:
    rows = rows_of(alike(0.5, 0.7), alike(0.1, 0.6), status="diverged", reason="lower step_size", **values)
    return rows.assign(influence=math.nan, influence_bound=math.nan, asymmetry=math.nan)


def test_without_an_answer_the_page_says_why(tmp_path):
    assert "ended as diverged (lower step_size)" in findings(unsolved())["tiny"]
    assert {each.verdict for each in conclusions(unsolved())} == {"undecided"}
    html = build_similarity(unsolved(), {"experiment": {"title": "Similarity"}}, tmp_path / "page")
    assert "There are no influences" in Page(html.read_text("utf-8")).text


def test_seeds_are_averaged_where_they_have_answers():
    rows = pd.concat(
        [
            rows_of(alike(0.5, 0.7), alike(0.1, 0.6)),
            rows_of(alike(0.5, 0.7), alike(0.3, 0.6), seed=1),
            unsolved(seed=2),
        ]
    )
    np.testing.assert_allclose(cosines(only(rows).influence), alike(0.2, 0.6))


def test_figures_have_one_row_of_maps_for_each_problem_that_was_solved():
    rows = pd.concat(
        [
            rows_of(alike(0.5, 0.7), alike(0.1, 0.6)),
            rows_of(alike(0.1, 0.6), alike(0.5, 0.7), problem="other"),
            unsolved(problem="third"),
        ]
    )
    figure = cosine_figure(rows)
    maps = [ax for ax in figure.axes if ax.images]
    assert len(maps) == 6
    np.testing.assert_allclose(
        np.asarray(maps[2].images[0].get_array()), alike(0.1, 0.6) - alike(0.5, 0.7), atol=1e-12
    )
    assert maps[0].images[0].get_clim() == maps[1].images[0].get_clim() == pytest.approx((-0.7, 0.7))
    raw = [ax for ax in raw_figure(rows).axes if ax.images]
    lengths = np.arange(1.0, 9)
    np.testing.assert_allclose(
        np.asarray(raw[1].images[0].get_array()), alike(0.1, 0.6) * lengths[:, None] * lengths / 4
    )


def test_page_has_the_numbers(tmp_path):
    known = {
        "facts": '{"model": "tiny (OPT)", "data": "songs"}',
        "problem_parameters": '{"training_size": 3, "parameters": "fc1"}',
    }
    rows = rows_of(alike(0.5, 0.7, 0.02), alike(0.1, 0.6, 0.01), **known)
    page = build_similarity(
        rows, {"experiment": {"title": "Similarity", "scale": "quick"}}, tmp_path / "page"
    )
    text = " ".join(Page(page.read_text("utf-8")).text.split())
    assert "solver auto: cg status converged steps 3" in text
    assert "1 words 0 1′ words 4" in text
    assert (
        "Scale “quick”; tiny: tiny (OPT), H of 90 tokens, 3 sequences of songs, p = 50 (fc1), λ = 0.1."
        in text
    )
    assert "a sentence and its paraphrase 0.700" in text
