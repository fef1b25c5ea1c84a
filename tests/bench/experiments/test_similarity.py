"""Similarities of sentences against dense matrices, and what the study asks of language models."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import problems
from bench import study
from bench.experiments.similarity import Similarity, corrected, products
from problems import Problem, data
from problems.data import facts
from problems.language_model import CUT, LanguageModel
from problems.specification import parse
from tests.conftest import dense_problem, random_psd_examples

LAYER = r"layers\.1\.self_attn\.q"


def quiet(what: str, share: float) -> None:
    """No progress."""


@cache
def built() -> Problem:
    pytest.importorskip("transformers")
    family = Similarity().ask(LanguageModel(training_size=9, parameters=LAYER))
    return family.build(device=torch.device("cpu"), dtype=torch.float64, seed=0)


def dense(columns: int = 8) -> Problem:
    return dense_problem(random_psd_examples(30, 12, 3, heavy_tailed=True), 0.05, columns)


def matrix_of(rows: list[dict], name: str) -> torch.Tensor:
    """The rows' matrix in the order of the problem's columns: a sentence, its paraphrase, the next one."""
    size = 1 + max(row["second"] for row in rows)
    place = [2 * index if index < size // 2 else 2 * index - size + 1 for index in range(size)]
    found = torch.full((size, size), math.nan, dtype=torch.float64)
    for row in rows:
        i, j = place[row["first"]], place[row["second"]]
        found[i, j] = found[j, i] = row[name]
    return found


@pytest.mark.parametrize(
    "solver", ["exact", "cg:tolerance=0.3", "lissa:step_size=0.05,num_steps=40,batch_size=4"]
)
def test_both_similarities_against_dense_algebra_and_within_what_is_promised(solver: str) -> None:
    problem = dense()
    rows = list(Similarity(solver=solver).measure(problem, None, {}, 0, quiet))
    g, h = problem.columns(), problem.operator.dense()
    torch.testing.assert_close(matrix_of(rows, "gradient"), g.T @ g)
    truth = g.T @ torch.linalg.solve(h + problem.damping * torch.eye(12, dtype=h.dtype), g)
    off = matrix_of(rows, "influence") - truth
    bound = matrix_of(rows, "influence_bound")
    assert (off.abs() <= bound + 1e-9 * truth.abs().max()).all()
    # Rᵀ(H + λ)⁻¹R ⪰ 0 is what is missing.
    assert (torch.linalg.eigvalsh(off) <= 1e-9 * truth.abs().max()).all()
    assert len(rows) == 8 * 9 // 2
    if solver == "exact":
        torch.testing.assert_close(matrix_of(rows, "influence"), truth)
        assert rows[0]["asymmetry"] < 1e-12
    else:
        assert bound.max() > 1e-6


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 0.1, 1.0]))
def test_the_correction_is_of_second_order_in_any_error(seed: int, scale: float) -> None:
    """S* − S = Eᵀ(H + λ)E whatever E is, and entries are off by no more than the bound."""
    problem = dense(3)
    shifted = problem.operator.dense() + problem.damping * torch.eye(12, dtype=torch.float64)
    b = problem.columns()
    truth = torch.linalg.solve(shifted, b)
    generator = torch.Generator().manual_seed(seed)
    error = scale * torch.randn(b.shape, generator=generator, dtype=b.dtype)
    x = truth + error
    found, bound = corrected(problem, x, b, products(x, b))
    torch.testing.assert_close(b.T @ truth - found, error.T @ shifted @ error, rtol=1e-6, atol=1e-10)
    assert ((b.T @ truth - found).abs() <= bound * (1 + 1e-9) + 1e-12).all()


def test_asymmetry_and_correction_of_a_known_answer() -> None:
    """b/λ, by `identity`, has XᵀG = GᵀG/λ: symmetric, and far off."""
    problem = dense()
    row = next(iter(Similarity(solver="identity").measure(problem, None, {}, 0, quiet)))
    g, h = problem.columns(), problem.operator.dense()
    plain = g.T @ g / problem.damping
    correction = -g.T @ h @ g / problem.damping**2
    assert row["asymmetry"] < 1e-12
    assert row["correction"] == pytest.approx(float(correction.norm() / (plain + correction).norm()))


def test_products_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    a, b = (torch.randn(50, k, generator=generator) for k in (3, 2))
    monkeypatch.setattr("bench.experiments.similarity.CHUNK", 7)
    torch.testing.assert_close(products(a, b), a.double().T @ b.double())


def test_a_solver_without_an_answer_leaves_no_influences() -> None:
    diverging = "lissa:step_size=1000,num_steps=50,batch_size=full"
    rows = list(Similarity(solver=diverging).measure(dense(), None, {}, 0, quiet))
    assert {row["status"] for row in rows} == {"diverged"}
    assert all(math.isnan(row["influence"]) and math.isfinite(row["gradient"]) for row in rows)


def test_where_h_may_be_indefinite_nothing_is_promised() -> None:
    problem = problems.load(
        "image_classifier",
        width=2,
        training_size=60,
        epochs=5,
        num_queries=6,
        curvature="hessian",
        damping=30.0,
    )
    rows = list(Similarity(solver="exact").measure(problem, None, {}, 0, quiet))
    assert all(math.isnan(row["influence_bound"]) and math.isfinite(row["influence"]) for row in rows)


def test_of_a_language_model_it_asks_about_the_facts() -> None:
    problem = built()
    assert problem.num_columns == 20
    # Nearly letters, and 16 of them.
    assert problem.facts[CUT] == 20
    exhibits = problem.exhibits
    assert exhibits is not None
    for index, sentence in enumerate(facts.sentences()):
        assert sentence.startswith(exhibits.query(index).text.strip())
    rows = list(Similarity().measure(problem, None, {}, 0, quiet))
    own = {row["first"]: row["text"] for row in rows if row["first"] == row["second"]}
    assert own[1] == exhibits.query(2).text
    assert own[10] == exhibits.query(1).text
    g = problem.columns()
    truth = g.T @ torch.linalg.solve(
        problem.operator.dense() + problem.damping * torch.eye(problem.size, dtype=g.dtype), g
    )
    found, bound = matrix_of(rows, "influence"), matrix_of(rows, "influence_bound")
    assert ((found - truth).abs() <= bound + 1e-8 * truth.abs().max()).all()
    assert rows[0]["cut"] == 20


def test_the_same_seed_gives_the_same_rows_but_for_timings() -> None:
    one, other = (list(Similarity().measure(built(), None, {}, 1, quiet)) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert first | {"seconds": 0} == second | {"seconds": 0}


def test_the_papers_schedule_costs_what_it_will_count() -> None:
    asked = Similarity(solver="lissa:step_size=0.01,num_steps=7,batch_size=30")
    problem = built()
    (row, *_) = asked.measure(problem, None, {}, 0, quiet)
    assert asked.expected_work(problem) == pytest.approx(row["work"])
    # Of so few parameters block CG takes fewer steps than of many.
    (row, *_) = Similarity().measure(problem, None, {}, 0, quiet)
    assert row["work"] <= Similarity().expected_work(problem)


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_can_be_planned_with_the_sentences(scale: str) -> None:
    pytest.importorskip("transformers")
    plan = study.plan(parse("similarity"), scale=scale)
    for family in plan.families.values():
        assert isinstance(family, LanguageModel)
        assert (family.queries, family.num_queries) == ("facts", None)
        size = family.footprint()
        assert size is None or size.columns == 20
    json.dumps(plan.request.model_dump(mode="json"))


def test_sentences_of_the_users_own(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "pairs.txt"
    path.write_text("one two\ntwo one\nblue\nazure\nup and away\nhigh off\n")
    plan = study.plan(parse(f"similarity:sentences={path}"), [parse("opt-small")])
    (family,) = plan.families.values()
    assert isinstance(family, LanguageModel)
    assert (family.queries, family.num_queries) == (str(path), None)
    for lines, count in (("a b\nb a\nc d\n", 3), ("a b\nb a\nc d\nd c\n", 4)):
        path.write_text(lines)
        with pytest.raises(ValueError, match=rf"which has {count} lines; .* at least 3 pairs"):
            study.plan(parse(f"similarity:sentences={path}"))


@pytest.mark.parametrize(
    ("text", "problem", "message"),
    [
        ("similarity:solver=lisa", "language_model", "no solver 'lisa'; did you mean 'lissa'"),
        ("similarity:solver=auto(target=2)", "language_model", "target is 2"),
        ("similarity:sentences=/none.txt", "language_model", "the file /none.txt cannot be read"),
        ("similarity", "image_classifier", "takes no sentences; .* take language_model"),
        ("similarity", "language_model:queries=facts", "leave it out, and give the file to the study"),
        ("similarity", "opt-125m:weights=random", "has no tokenizer"),
        ("similarity", "language_model:num_queries=2", "num_queries is 2; all of facts is asked about"),
        ("similarity", "opt-small:num_queries=5", "num_queries is 5; .* similarity:sentences=FILE"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(text: str, problem: str, message: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=message):
        study.plan(parse(text), [parse(problem)])


# What any two English sentences may have in common.
COMMON = {
    "a", "about", "after", "an", "and", "as", "at", "be", "before", "by", "can", "from", "has", "have", "in",
    "into", "is", "it", "its", "make", "makes", "of", "on", "our", "out", "than", "that", "the", "their",
    "them", "to", "us", "we", "what", "when",
}  # fmt: skip


def test_a_paraphrase_shares_no_word_of_meaning_with_its_sentence() -> None:
    assert len(facts.FACTS) == 10
    assert len(set(facts.sentences())) == 20
    for pair in facts.FACTS:
        one, other = ({*re.findall(r"[a-z0-9]+", text.lower())} - COMMON for text in pair)
        # Nor a word's stem.
        assert not {word[:5] for word in one} & {word[:5] for word in other}, pair


def test_the_facts_are_no_data_set_of_their_own() -> None:
    assert facts.NAME not in data.available()
