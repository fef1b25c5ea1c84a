import copy
from typing import Any

import pandas as pd
import pytest

from reports import build_products, folders, products
from reports.product_figure import products_figure
from reports.product_rows import compare, read_products
from reports.product_verdicts import verdicts
from tests.reports.test_report import Page

PEER = "curvlinops 3.0.1"


def product(row: str, ratio: float, library: str = "ihvp-bench", **values: Any) -> dict[str, Any]:
    """A record whose quartiles lie 0.02 to either side."""
    return {
        "network": "tiny", "row": row, "library": library, "ratio": ratio, "floor": None, "target": None,
        "quartile_low": ratio - 0.02, "quartile_high": ratio + 0.02,
    } | values  # fmt: skip


# Met; missed by 1.624 / 1.45 − 1 = 12 %; met exactly; and beside the peer 1.5 × faster, 1.25 × slower, level.
ROWS = [
    product("one", 1.6, floor=1.25, target=1.75),
    product("eight", 1.624, floor=1.4, target=1.45),
    product("same", 1.4, floor=1.25, target=1.4),
    product("hessian", 4.5, floor=3.0),
    product("one", 2.4, PEER),
    product("eight", 1.2992, PEER),
    product("same", 1.41, PEER),
    product("memory", 2.5, target=2.0, quartile_low=None, quartile_high=None),
]
BENCHMARK = {
    "machine_info": {
        "ihvp_bench": {
            "machine": {"processor": "Abacus 9", "threads": 7, "cores": 8},
            "versions": {"torch": "2.11.0"},
            "git": {"revision": "0123abcd", "dirty": False},
        }
    },
    "command": "pytest bench/suite/bench_products.py --benchmark-json f.json",
    "datetime": "2026-03-04T10:20:30+00:00",
    "benchmarks": [
        {"name": "bench_overhead", "extra_info": {}, "stats": {"rounds": 3}},
        {
            "name": "bench_products[tiny]",
            "extra_info": {"products": ROWS, "parameters": 1234567, "gradient_seconds": 0.25},
            "stats": {"rounds": 17},
        },
    ],
}


def benchmark_of(rows: list[Any]) -> dict[str, Any]:
    changed = copy.deepcopy(BENCHMARK)
    changed["benchmarks"][1]["extra_info"]["products"] = rows
    return changed


@pytest.fixture
def blank_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in place of the figure: drawing takes a second."""

    def draw(frame, stem):
        for ending in ("png", "pdf"):
            stem.with_suffix(f".{ending}").write_bytes(b"blank")

    monkeypatch.setattr(products, "draw_products", draw)


def page(benchmark: dict[str, Any], directory) -> str:
    html = build_products(benchmark, directory).read_text(encoding="utf-8")
    return Page(html).text.replace("\xa0", " ")


def verdict(rows: list[dict[str, Any]]) -> str:
    return verdicts(read_products(benchmark_of(rows)))["tiny"]


def test_verdict_says_what_is_met_and_missed_and_how_it_stands_beside_the_peer():
    assert verdict(ROWS) == (
        "2 of 4 targets met: one (1.60, target 1.75); same (1.40, target 1.40, upper quartile 1.42). "
        "Missed: eight (1.62, 12 % above 1.45); memory (2.50, 25 % above 2.00). "
        "Faster than curvlinops 3.0.1: one (1.50 ×). Level with curvlinops 3.0.1: same (1.01 ×). "
        "Slower than curvlinops 3.0.1: eight (1.25 ×)."
    )


def test_verdict_says_when_it_was_a_near_thing():
    near = [product("met", 1.74, target=1.75), product("missed", 1.77, target=1.75)]
    clear = [product("met", 1.72, target=1.75), product("missed", 1.78, target=1.75)]
    assert verdict(near).startswith(
        "1 of 2 targets met: met (1.74, target 1.75, upper quartile 1.76). "
        "Missed: missed (1.77, 1.1 % above 1.75, lower quartile 1.75)."
    )
    assert "quartile" not in verdict(clear)


def test_verdict_on_one_side_only():
    assert verdict([product("one", 1.6, target=1.75)]) == (
        "1 of 1 targets met: one (1.60, target 1.75). No other library was measured beside it."
    )
    assert verdict([product("one", 2.1, target=2.0)]).startswith(
        "0 of 1 targets met. Missed: one (2.10, 5 % above 2.00)."
    )
    assert verdict([product("one", 2.1)]).startswith("No target was set.")


@pytest.mark.parametrize(
    ("ratio", "quartiles", "word"),
    [
        (2.0, (1.65, 2.1), "level"),
        (2.0, (1.71, 2.1), "faster"),
        (2.0, (1.70, 2.1), "level"),
        (1.0, (0.9, 1.4), "slower"),
        (2.0, (None, None), "faster"),
    ],
)
def test_a_difference_within_the_quartiles_is_none(ratio, quartiles, word):
    low, high = quartiles
    ours = product("one", 1.6, quartile_low=1.5, quartile_high=1.7)
    peer = product("one", ratio, PEER, quartile_low=low, quartile_high=high)
    frame = read_products(benchmark_of([ours, peer]))
    assert compare(frame.iloc[0], frame.iloc[1]) == word


def test_page_has_the_numbers(blank_figure, tmp_path):
    text = page(BENCHMARK, tmp_path / "page")
    # Ratio [quartiles], target, floor, over the floor: 1.6 / 1.25 = 1.28; the peer's, and the factor.
    assert "one 1.60 [1.58–1.62] met 1.75 1.25 +28 % 2.40 [2.38–2.42] faster 1.50 ×" in text
    assert "eight 1.62 [1.60–1.64] missed 1.45 1.40 +16 % 1.30 [1.28–1.32] slower 1.25 ×" in text
    assert "same 1.40 [1.38–1.42] met 1.40 1.25 +12 % 1.41 [1.39–1.43] level 1.01 ×" in text
    assert "hessian 4.50 [4.48–4.52] – 3.00 +50 % – memory 2.50 missed 2.00 – – –" in text
    assert "p 1,234,567 gradient 250 ms rounds 17" in text


def test_a_ratio_may_lie_below_its_floor(blank_figure, tmp_path):
    assert "1.20 [1.18–1.22] – 1.25 −4 %" in page(
        benchmark_of([product("one", 1.2, floor=1.25)]), tmp_path / "page"
    )


def test_page_says_where_when_and_how(blank_figure, tmp_path):
    text = page(BENCHMARK, tmp_path / "page")
    assert "2026-03-04 10:20 UTC · Abacus 9 · 7 threads · torch 2.11.0" in text
    assert "pytest bench/suite/bench_products.py --benchmark-json f.json" in text
    assert "0123abcd" in text


def test_page_needs_neither_machine_nor_peer(blank_figure, tmp_path):
    text = page({"benchmarks": [{"extra_info": {"products": ROWS[:1]}}]}, tmp_path / "page")
    assert "one 1.60 [1.58–1.62] met 1.75 1.25 +28 %" in text
    assert "Environment" not in text
    assert PEER not in text


def test_names_are_escaped(blank_figure, tmp_path):
    nasty = "<script>alert('λ & $x$')</script>"
    rows = [product(nasty, 1.6, network=nasty), product(nasty, 1.7, nasty, network=nasty)]
    shown = Page(build_products(benchmark_of(rows), tmp_path / "page").read_text(encoding="utf-8"))
    assert "script" not in shown.tags
    assert shown.text.count(nasty) >= 4


@pytest.mark.usefixtures("printed")
def test_build_writes_page_table_and_figure(tmp_path):
    directory = tmp_path / "new" / "page"
    index = build_products(BENCHMARK, directory)
    assert index == directory / "index.html"
    assert {file.name for file in directory.iterdir()} == {
        "index.html", "products.csv", "products.png", "products.pdf"
    }  # fmt: skip
    assert (directory / "products.png").read_bytes().startswith(b"\x89PNG")
    assert (directory / "products.pdf").read_bytes().startswith(b"%PDF")
    shown = Page(index.read_text(encoding="utf-8"))
    assert len(shown.references) == 1
    assert shown.references[0].startswith("data:image/png;base64,")
    table = pd.read_csv(directory / "products.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(table, pd.DataFrame(ROWS), check_dtype=False, rtol=0, atol=0)


def test_figure_has_a_mark_at_every_ratio_floor_and_target():
    other = [product("one", 3.0, network="other")]
    figure = products_figure(read_products(benchmark_of(ROWS + other)))
    first, second = figure.axes
    dots = [line for line in first.lines if line.get_marker() not in ("None", None, "")]
    assert [line.get_xdata()[0] for line in dots] == [1.6, 2.4, 1.624, 1.2992, 1.4, 1.41, 4.5, 2.5]
    # Rows from top to bottom in the order given, ours above the peer's.
    heights = [float(line.get_ydata()[0]) for line in dots]
    assert heights == sorted(heights)
    assert [label.get_text() for label in first.get_yticklabels()] == [
        "one",
        "eight",
        "same",
        "hessian",
        "memory",
    ]
    uprights = [set(line.get_xdata()) for line in first.lines if len(set(line.get_ydata())) == 2]
    for upright in (1.25, 1.4, 3.0, 1.75, 1.45, 2.0, 1):
        assert {upright} in uprights
    assert 3.0 in [line.get_xdata()[0] for line in second.lines]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no list of benchmarks"),
        ({"experiment": {}}, "no list of benchmarks"),
        ({"benchmarks": []}, "none of its benchmarks measured products"),
        ({"benchmarks": [{"name": "a", "extra_info": {"ratios": {}}}]}, "none of its benchmarks"),
        (
            {"benchmarks": [{"name": "a", "extra_info": {"products": {"one": 1}}}]},
            "products of a are no list",
        ),
        (benchmark_of([ROWS[0], "one"]), "lacks network, row"),
        (benchmark_of([{key: ROWS[0][key] for key in ROWS[0] if key != "floor"}]), "lacks floor"),
        (benchmark_of([ROWS[0] | {"ratio": None}]), "ratio of tiny, one, ihvp-bench is None"),
        (benchmark_of([ROWS[0] | {"ratio": float("nan")}]), "ratio of .* is nan"),
        (benchmark_of([ROWS[0] | {"target": "2"}]), "target of .* is '2'"),
        (benchmark_of([ROWS[0] | {"floor": 0}]), "floor of .* is 0"),
        (benchmark_of([ROWS[0], ROWS[0]]), "more than one product for tiny, one, ihvp-bench"),
    ],
)
def test_what_is_no_benchmark_of_products_is_named_and_nothing_is_written(content, message, tmp_path):
    with pytest.raises(ValueError, match=message) as raised:
        build_products(content, tmp_path / "page")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "step"), [(products, "draw_products"), (products, "_render"), (folders, "_swap")]
)
def test_older_page_stays_if_building_raises(blank_figure, tmp_path, monkeypatch, module, step):
    directory = tmp_path / "page"
    before = build_products(BENCHMARK, directory).read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(OSError, match="disk full"):
        build_products(benchmark_of(ROWS[:1]), directory)
    assert (directory / "index.html").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["page"]


def test_folder_with_other_files_is_not_replaced(blank_figure, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        build_products(BENCHMARK, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
