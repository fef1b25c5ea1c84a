import base64
import io
import math
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from reports.role import build_role
from reports.role_figure import examples_figure, role_figure
from reports.role_rows import answers, few, over_queries, per_query
from reports.role_verdicts import conclusions, findings
from tests.reports.test_report import Page

# The classes of training examples 0, 1, …: even numbers are cats. Example i has the i-th largest gradient.
CLASSES = ["cat", "dog"] * 10


def picture(shade: int) -> str:
    file = io.BytesIO()
    matplotlib.image.imsave(file, np.full((2, 2, 3), shade, np.uint8), format="png")
    return base64.b64encode(file.getvalue()).decode("ascii")


def rows_of(
    query: int, with_: list[int], without: list[int], multiple: float = 1.0, **values: Any
) -> list[dict[str, Any]]:
    """The rows of a query, a cat, with its lists; λ is `multiple` · 0.2 and λ_max 2."""
    common = {
        "problem": "tiny", "seed": 0, "dimension": 8, "num_examples": 20, "damping": 0.2, "failure": "",
        "unit": "example", "multiple": multiple, "query": query, "top": len(with_), "num_ranked": 20,
        "solved_damping": 0.2 * multiple, "largest": 2.0, "status": "converged", "residual": 1e-4,
        "total_work": 12.0, "rank_correlation": math.nan, "between_with": math.nan,
        "between_without": math.nan, "example": math.nan, "score": math.nan, "norm_rank": math.nan,
        "text": "", "picture": "",
    }  # fmt: skip
    own = {
        "side": "query", "rank": 0, "gradient_norm": 3.0, "rank_correlation": 0.5, "between_with": 0.1,
        "between_without": 0.4, "label": "cat",
    }  # fmt: skip
    pictured = values.pop("pictured", False)
    unlabelled = values.pop("text", "")
    own |= {"picture": picture(200)} if pictured else {}
    own |= {"text": f"{unlabelled} asked", "label": ""} if unlabelled else {}
    found = [common | own | values]
    shared = {name: value for name, value in values.items() if name in common and name not in own}
    for side, examples in (("with", with_), ("without", without)):
        found += [
            common
            | shared
            | {
                "side": side,
                "rank": rank,
                "example": example,
                "score": 10.0 - rank,
                "gradient_norm": 1.0,
                "norm_rank": example + 1,
                "label": "" if unlabelled else CLASSES[example],
                "picture": picture(10 * example) if pictured and rank <= 2 else "",
                "text": f"{unlabelled} number {example}" if unlabelled else "",
            }
            for rank, example in enumerate(examples, 1)
        ]
    return found


def frame(*parts: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part])


TWO = frame(
    rows_of(0, [0, 2, 4, 7], [0, 1, 2, 3], rank_correlation=0.3, between_with=0.1, between_without=0.4),
    rows_of(1, [0, 2, 11, 13], [1, 2, 3, 0], rank_correlation=0.7, between_with=0.3, between_without=0.5),
)


def test_counts_of_each_query():
    first, second = per_query(TWO).to_dict("records")
    # 0 and 2 are in both lists; of the cats' even numbers 0, 2, 4 with and 0, 2 without; 0 to 3 are largest.
    names = ("same", "class_with", "class_without", "norm_with", "norm_without")
    assert [first[name] for name in names] == [2, 3, 2, 2, 4]
    assert [second[name] for name in names] == [2, 2, 2, 2, 4]


def test_means_over_queries_and_what_queries_share():
    (row,) = over_queries(TWO).to_dict("records")
    assert row["rank_correlation"] == pytest.approx(0.5)
    assert (row["rank_correlation_low"], row["rank_correlation_high"]) == (0.3, 0.7)
    assert (row["class_with"], row["class_without"]) == (2.5, 2.0)
    assert (row["lists_with"], row["lists_without"]) == (2.0, 4.0)
    assert row["between_with"] == pytest.approx(0.2)
    assert row["between_without"] == pytest.approx(0.45)
    assert (row["share"], row["chance"], row["queries"]) == (0.1, 16 / 20, 2)
    assert row["between_change"] == pytest.approx(-0.25)
    assert math.isnan(row["between_error"])  # of two queries
    assert math.isnan(row["kept"])


def test_pairs_are_of_one_seed():
    """Each seed's two lists have nothing in common, though a list equals one of the other seed."""
    rows = frame(
        rows_of(0, [0, 1], [0, 1]),
        rows_of(1, [2, 3], [0, 1]),
        rows_of(0, [2, 3], [0, 1], seed=1),
        rows_of(1, [0, 1], [0, 1], seed=1),
    )
    (row,) = over_queries(rows).to_dict("records")
    assert (row["lists_with"], row["lists_without"], row["same"]) == (0.0, 2.0, 1.0)


def test_lists_are_compared_with_those_of_the_next_smaller_damping():
    rows = frame(
        rows_of(0, [5, 6, 7], [0, 1, 2], multiple=10.0),
        rows_of(0, [7, 8, 9], [0, 1, 2], multiple=0.1),
        rows_of(0, [5, 7, 8], [0, 1, 2]),
    )
    table = over_queries(rows)
    assert table["multiple"].tolist() == [0.1, 1.0, 10.0]
    assert table["kept"].tolist()[1:] == [2.0, 2.0]  # 7 and 8, then 5 and 7


def test_one_query_without_classes():
    (row,) = over_queries(frame(rows_of(0, [1], [1], text="A"))).to_dict("records")
    assert math.isnan(row["lists_with"])
    assert math.isnan(row["class_with"])


@pytest.mark.parametrize(
    ("value", "text"), [(6.125, "6.1"), (0.0714, "0.071"), (10.0, "10"), (123.0, "123"), (math.nan, "–")]
)
def test_few(value, text):
    assert few(value) == text


def test_finding_tells_every_number():
    assert findings(TWO) == {
        "tiny": "At λ = 0.2 (0.100 λ_max) the scores of 20 training examples with the inverse have a rank "
        "correlation of 0.50 with plain gradient similarity (0.30 to 0.70 over 2 queries); 2 of the 4 most "
        "influential are the same, where chance gives 0.8. Whether the inverse makes the answers more "
        "specific to the query is not decided: scores of different queries correlate at 0.200 (mean |ρ|) "
        "with it and at 0.450 without, a change of −0.250 of two queries, too few for a standard error. Two "
        "queries have 2 of their 4 in common with it and 4 without. Of the query's class are 2.5 of the 4 "
        "with the inverse and 2 without. 2 of those with it and 4 of those without are among the 4 examples "
        "of largest gradient norm."
    }


def test_finding_of_one_query_of_sequences_that_no_solve_reached():
    rows = frame(
        rows_of(0, [0, 1], [2, 3], text="T", unit="token", status="budget_spent", residual=0.25,
                between_with=math.nan, between_without=math.nan, rank_correlation=-0.25)
    )  # fmt: skip
    told = findings(rows)["tiny"]
    assert "20 training sequences with the inverse have a rank correlation of −0.25 with plain" in told
    assert "similarity; 0 of the 2 most influential are the same" in told
    assert "specific" not in told
    assert "class" not in told
    assert told.endswith("The solver did not reach its tolerance at λ = 0.2 (budget_spent, residual 0.250).")


def between(changes: list[float], without: float = 0.4, **values: Any) -> pd.DataFrame:
    """A query for each of the changes, by which its mean |ρ| with others is higher with the inverse."""
    return frame(
        *(
            rows_of(query, [0], [1], between_with=without + change, between_without=without, **values)
            for query, change in enumerate(changes)
        )
    )


def test_the_error_of_the_change_between_queries_leaves_each_query_out():
    """Against the jackknife of the mean over pairs, written out; seeds count as one."""
    draw = np.random.default_rng(3)
    pairs = np.triu(draw.uniform(-1, 1, (5, 5)), 1)
    pairs += pairs.T
    changes = (pairs.sum(0) / 4).tolist()

    def mean(kept: list[int]) -> float:
        return float(np.mean([pairs[i, j] for i in kept for j in kept if i < j]))

    left = np.array([mean([i for i in range(5) if i != query]) for query in range(5)])
    error = math.sqrt(4 / 5 * ((left - left.mean()) ** 2).sum())
    shifted = [change + 0.1 * (-1) ** query for query, change in enumerate(changes)]
    other = [2 * change - moved for change, moved in zip(changes, shifted, strict=True)]
    for rows in (between(changes), pd.concat([between(shifted), between(other, seed=1)])):
        (row,) = over_queries(rows).to_dict("records")
        assert row["between_change"] == pytest.approx(mean([*range(5)]))
        assert row["between_error"] == pytest.approx(error)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([0.2, 0.21, 0.22], "The inverse makes the answers less specific to the query: "),
        ([-0.2, -0.21, -0.22], "The inverse makes the answers more specific to the query: "),
        ([-0.2, -0.1, 0.2], "more specific to the query is not decided: "),
        ([0.0, 0.0, 0.0], "more specific to the query is not decided: "),
        ([-0.2, -0.21], "too few for a standard error"),
    ],
)
def test_finding_of_what_queries_have_in_common(changes, words):
    assert words in findings(between(changes))["tiny"]


def test_finding_without_the_own_damping_and_of_constant_scores():
    rows = frame(
        rows_of(0, [0, 1], [2, 3], multiple=0.1, rank_correlation=0.2),
        rows_of(0, [2, 3], [2, 3], multiple=10.0, rank_correlation=0.9996),
    )
    assert findings(rows)["tiny"] == (
        "At the problem's own λ nothing was measured. From λ = 0.0100 λ_max to λ = 1 λ_max the rank "
        "correlation goes from 0.20 to 0.999 and the examples in common from 0 to 2."
    )
    assert [each.verdict for each in conclusions(rows)] == ["undecided", "undecided", "holds"]
    assert conclusions(rows)[0].numbers == "Nothing was measured at the problems' own λ."
    constant = findings(frame(rows_of(0, [0], [1], rank_correlation=math.nan)))["tiny"]
    assert (
        "have no rank correlation with plain gradient similarity, since one of them is constant" in constant
    )


@pytest.mark.parametrize(
    ("same", "verdict"),
    [([0, 4], "holds"), ([5, 5], "holds"), ([5, 6], "partly"), ([9, 10], "partly"), ([10, 10], "fails")],
)
def test_whether_the_most_influential_differ(same, verdict):
    """Of ten, in each of two problems."""
    rows = frame(
        *(
            rows_of(0, [*range(count), *range(10, 20 - count)], list(range(10)), problem=f"p{place}")
            for place, count in enumerate(same)
        )
    )
    first = conclusions(rows)[0]
    assert (first.verdict, first.where) == (verdict, "§ 5")
    assert first.numbers == (
        f"p0: {same[0]} of the 10 the same at λ = 0.100 λ_max; p1: {same[1]} of the 10 the same at "
        "λ = 0.100 λ_max."
    )


LESS, MORE = [-0.3, -0.31, -0.32], [0.1, 0.11, 0.12]


@pytest.mark.parametrize(
    ("problems", "verdict"),
    [
        ([LESS, LESS], "holds"),
        ([LESS, MORE], "partly"),
        ([MORE], "fails"),
        ([LESS, [math.nan]], "holds"),
        ([[math.nan]], "undecided"),
        # However sure, no change that counts; a change within two standard errors; no standard error.
        ([[-1e-7] * 3], "undecided"),
        ([[-0.3, -0.1, 0.2]], "undecided"),
        ([[-0.3, -0.3]], "undecided"),
    ],
)
def test_whether_the_inverse_suppresses_what_all_share(problems, verdict):
    rows = pd.concat([between(changes, problem=f"p{place}") for place, changes in enumerate(problems)])
    second = conclusions(rows)[1]
    assert (second.verdict, second.where) == (verdict, "Figure 3")
    assert ("one query" in second.numbers) == ([math.nan] in problems)


def test_numbers_of_what_all_share_have_an_error():
    """Left out one by one −0.29, −0.31 and −0.33 are left: their deviation is 0.02, and the factor 2/√3."""
    assert conclusions(between([-0.30, -0.31, -0.32]))[1].numbers == (
        "tiny: scores of different queries correlate at 0.0900 (mean |ρ|) instead of 0.400, a change of "
        "−0.310 ± 0.023."
    )


@pytest.mark.parametrize(
    ("multiple", "correlation", "verdict"),
    [(10.0, 0.95, "holds"), (10.0, 0.94, "fails"), (9.0, 0.99, "undecided"), (10.0, math.nan, "undecided")],
)
def test_whether_the_inverse_plays_no_role_at_large_damping(multiple, correlation, verdict):
    """λ_max is ten times the problem's own λ; less decides nothing."""
    rows = frame(
        rows_of(0, [0], [1], rank_correlation=0.1),
        rows_of(0, [0], [1], multiple=multiple, rank_correlation=correlation),
    )
    last = conclusions(rows)[2]
    assert (last.verdict, last.where) == (verdict, "")  # the paper says no such thing
    assert last.numbers.endswith(", which is not large.") == (multiple < 10)


SEEN = frame(rows_of(0, [0, 3, 5], [3, 4, 0], pictured=True), rows_of(1, [5, 3, 4], [3, 1, 0], pictured=True))


def test_answers_know_the_place_in_the_other_list():
    first, second = answers(SEEN, "tiny")
    assert [(each.label, each.elsewhere) for each in first.given["with"]] == [("cat", 3), ("dog", 1)]
    assert [each.elsewhere for each in first.given["without"]] == [2, None]
    assert [each.elsewhere for each in second.given["with"]] == [None, 1]
    assert (first.query.label, first.query.picture) == ("cat", picture(200))
    assert answers(TWO, "tiny") == []
    assert answers(SEEN[SEEN["multiple"] != 1], "tiny") == []


def test_figure_shows_means_over_damping_and_their_limits():
    rows = frame(
        rows_of(0, [0, 1], [2, 3], multiple=0.1, rank_correlation=0.2),
        rows_of(1, [0, 2], [2, 3], multiple=0.1, rank_correlation=0.4),
        rows_of(0, [2, 3], [2, 3], rank_correlation=0.9),
        rows_of(1, [2, 3], [2, 3], rank_correlation=0.7),
    )
    correlation, same, between = role_figure(over_queries(rows)).axes
    x, y = (np.asarray(values, float) for values in correlation.lines[0].get_data())
    np.testing.assert_allclose(x, [0.01, 0.1])
    np.testing.assert_allclose(y, [0.3, 0.8])
    np.testing.assert_allclose(np.asarray(same.lines[0].get_ydata(), float), [0.5, 2.0])
    np.testing.assert_allclose(np.asarray(between.lines[0].get_ydata(), float), [0.1, 0.1])
    limits = [
        line for line in between.lines if len(set(line.get_ydata())) == 1 and line.get_linewidth() < 1.5
    ]
    assert [line.get_ydata()[0] for line in limits] == [0.4]
    assert same.get_title(loc="left") == "in common of the top 2"


def test_figure_of_pictures_frames_those_of_the_querys_class():
    figure = examples_figure({"tiny $": answers(SEEN, "tiny")})
    pictures = [ax for ax in figure.axes if ax.images]
    assert len(pictures) == 2 * (1 + 2 + 2)
    labels = [ax.get_xlabel() for ax in pictures[:5]]
    assert labels == ["cat", "cat\n9", "dog\n8", "dog\n9", "cat\n8"]
    widths = [ax.spines["left"].get_linewidth() for ax in pictures[:5]]
    assert widths == [0.6, 2.0, 0.6, 0.6, 2.0]
    shades = [float(np.asarray(ax.images[0].get_array())[0, 0, 0]) for ax in pictures[:3]]
    np.testing.assert_allclose(shades, [200 / 255, 0, 30 / 255], atol=1e-6)
    assert figure.axes[0].texts[0].get_text() == r"tiny \$"


def test_figure_of_pictures_of_many_problems_has_few_rows_of_each():
    many = {f"p{place}": answers(SEEN, "tiny") * 3 for place in range(3)}
    assert sum(bool(ax.images) for ax in examples_figure(many).axes) == 3 * 2 * 5
    one = {"p": answers(SEEN, "tiny") * 3}
    assert sum(bool(ax.images) for ax in examples_figure(one).axes) == 4 * 5


def build(rows: pd.DataFrame, folder: Any) -> str:
    return build_role(rows, {"experiment": {"title": "Role"}}, folder).read_text("utf-8")


def test_page_with_pictures(tmp_path):
    html = build(pd.concat([SEEN, TWO.assign(problem="blind")]), tmp_path / "page")
    page = Page(html)
    assert html.count(f"data:image/png;base64,{picture(200)}") == 2
    assert len([each for each in page.references if each.startswith("data:image/png")]) == 1 + 2 * 5
    assert html.count('class="alike"') == 2 + 0 + 0 + 0  # examples 0 and 4 of the first query
    text = " ".join(page.text.split())
    assert "0.2 the problem’s own 0.100 0.500 [0.300–0.700] 2 – 2.5 2 0.200 2 12 1.0e-4" in text
    assert (
        "1/n of n examples, and of sequences, which may be unequally long, their share of all tokens" in text
    )
    assert "∞ without the inverse ∞ 1 4 – 2 4 0.450 4 – –" in text
    assert "cat 9 also no. 3 dog 8 also no. 1 dog 9 also no. 2 cat 8 not there" in text
    assert (tmp_path / "page" / "role_examples.png").is_file()


def test_page_with_passages_that_are_shortened_and_escaped(tmp_path):
    long = "<b>word</b> " * 60
    rows = frame(rows_of(0, [0, 1], [1, 2], text=long, unit="token"))
    html = build(rows, tmp_path / "page")
    assert "<b>word" not in html
    passages = [part.split("”")[0] for part in html.split("“")[1:] if "word" in part.split("”")[0]]
    assert len(passages) == 1 + 2 * 2
    assert all(passage.endswith(" …") for passage in passages)
    assert not (tmp_path / "page" / "role_examples.png").exists()
    assert "of the query’s class" not in html


def test_page_of_nothing(tmp_path):
    rows = pd.DataFrame([{"problem": "a", "seed": 0, "failure": "RuntimeError: cg gave no answer"}])
    html = build(rows, tmp_path / "page")
    assert "Nothing was measured." in html
    assert "cg gave no answer" in html
