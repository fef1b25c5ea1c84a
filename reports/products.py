"""build_products(): a page on what curvature products cost beside a gradient, whole or not at all."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from reports.folders import whole_folder
from reports.formats import ABSENT, Formatter, count, duration, hundredths, share, signed, spread
from reports.html import environment, image, template, when
from reports.product_figure import draw_products
from reports.product_rows import OURS, benchmarks, compare, pairs, read_products
from reports.product_verdicts import factor, verdicts
from reports.rows import in_order

# What the page consists of; a directory with anything else in it is not ours to replace.
_PARTS = {"index.html", "products.csv", "products.png", "products.pdf"}

_FACTS: list[tuple[str, str, str, Formatter]] = [
    ("parameters", "p", "parameters", count),
    ("gradient_seconds", "gradient", "median over the rounds", duration),
    ("warm_up_seconds", "warm-up", "first products of each kind, which record them", duration),
    ("difference_error", "central differences off by", "of a random normal vector, δ = 0.01", share),
    ("unit_difference_error", "of unit length by", "of that vector over its length, δ = 0.01", share),
]


TITLE = "What a curvature product costs beside a gradient"


def build_products(benchmark: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`.

    Parameters: `benchmark`, the content of the JSON that pytest-benchmark writes of bench_products.py;
    `directory` receives index.html (one file, opens offline), products.csv, and products.png and .pdf.

    Raises ValueError that says what is wrong with `benchmark`, and FileExistsError where `directory` holds
    something other than such a page.
    """
    products = read_products(benchmark)
    with whole_folder(directory, _PARTS) as fresh:
        products.to_csv(fresh / "products.csv", index=False)
        draw_products(products, fresh / "products")
        html = _render(products, benchmark, fresh / "products.png")
        (fresh / "index.html").write_text(html, encoding="utf-8")
    return Path(directory).resolve() / "index.html"


def _render(products: pd.DataFrame, benchmark: dict[str, Any], figure: Path) -> str:
    run = _run(benchmark)
    machine, versions = run.get("machine") or {}, run.get("versions") or {}
    told = [
        when(run),
        machine.get("processor"),
        f"{machine['threads']} threads" if "threads" in machine else "",
        f"torch {versions['torch']}" if "torch" in versions else "",
    ]
    texts = verdicts(products)
    return template("products.html.j2").render(
        title=TITLE,
        meta=" · ".join(part for part in told if part),
        command=run.get("command") or "",
        figure=image(figure),
        networks=[
            {
                "name": network,
                "verdict": texts[network],
                "facts": _facts(network, benchmark),
                "peers": _peers(products, network),
                "rows": _rows(products[products["network"] == network], _peers(products, network)),
            }
            for network in in_order(products["network"])
        ],
        environment=environment(run),
    )


def products_run(benchmark: dict[str, Any]) -> dict[str, Any]:
    """Where and when it was measured, in the form of a run.json; ValueError where it is no such benchmark."""
    networks = in_order(read_products(benchmark)["network"])
    asked = {
        "name": "products",
        "title": TITLE,
        "description": "The time of a curvature product over that of a gradient, on the same data.",
        "problems": [{"name": name} for name in networks],
    }
    # It is one moment that pytest-benchmark notes: the end.
    return {**_run(benchmark), "experiment": asked, "finished": benchmark.get("datetime")}


def _run(benchmark: dict[str, Any]) -> dict[str, Any]:
    described = (benchmark.get("machine_info") or {}).get("ihvp_bench") or {}
    return {**described, "command": benchmark.get("command"), "started": benchmark.get("datetime")}


def _facts(network: str, benchmark: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(symbol, value, meaning) of what its benchmark tells of a network beside the products."""
    for each in benchmarks(benchmark):
        told = each.get("extra_info") or {}
        if any(record["network"] == network for record in told.get("products") or []):
            facts = [
                (symbol, form(float(told[name])), meaning)
                for name, symbol, meaning, form in _FACTS
                if name in told
            ]
            rounds = (each.get("stats") or {}).get("rounds")
            return facts + ([("rounds", count(rounds), "of all products interleaved")] if rounds else [])
    return []


def _peers(products: pd.DataFrame, network: str) -> list[str]:
    rows = products[(products["network"] == network) & (products["library"] != OURS)]
    return in_order(rows["library"])


def _rows(products: pd.DataFrame, libraries: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": ours["row"],
            "floor": hundredths(ours["floor"]),
            "target": hundredths(ours["target"]),
            "ratio": _ratio(ours),
            "verdict": _verdict(ours),
            "over_floor": _over_floor(ours),
            "peers": [_peer(ours, peers[peers["library"] == library]) for library in libraries],
        }
        for ours, peers in pairs(products)
    ]


def _over_floor(ours: pd.Series) -> str:
    """Signed: a backward pass may take more than the two forward passes it counts for."""
    if math.isnan(ours["floor"]):
        return ABSENT
    return signed(f"{100 * (ours['ratio'] / ours['floor'] - 1):+.0f} %")


def _verdict(ours: pd.Series) -> str:
    if math.isnan(ours["target"]):
        return ""
    return "met" if ours["ratio"] <= ours["target"] else "missed"


def _peer(ours: pd.Series, found: pd.DataFrame) -> dict[str, Any]:
    """A peer's ratio in a row of ours, and how ours stands beside it; empty where it was not measured."""
    if not len(found):
        return {"ratio": (ABSENT, ""), "verdict": "", "factor": ""}
    peer = found.iloc[0]
    return {"ratio": _ratio(peer), "verdict": compare(ours, peer), "factor": factor(ours, peer)}


def _ratio(product: pd.Series) -> tuple[str, str]:
    """The median, and its quartiles in brackets where there were several rounds."""
    if math.isnan(product["quartile_low"]):
        return hundredths(product["ratio"]), ""
    return spread(product["ratio"], product["quartile_low"], product["quartile_high"], hundredths)
