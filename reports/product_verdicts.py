"""Do the targets hold, and is it faster than its peers? One paragraph per network, from the numbers alone."""

import pandas as pd

from reports.formats import hundredths, share
from reports.product_rows import OURS, compare, pairs
from reports.rows import in_order


def verdicts(products: pd.DataFrame) -> dict[str, str]:
    """A paragraph for each network, in their order."""
    return {
        network: f"{_targets(rows)} {_peers(rows)}"
        for network in in_order(products["network"])
        for rows in [products[products["network"] == network]]
    }


def factor(ours: pd.Series, peer: pd.Series) -> str:
    """The larger of two ratios over the smaller: "1.52 ×"."""
    larger, smaller = max(ours["ratio"], peer["ratio"]), min(ours["ratio"], peer["ratio"])
    return f"{hundredths(larger / smaller)} ×"


def _targets(rows: pd.DataFrame) -> str:
    aimed = rows[(rows["library"] == OURS) & rows["target"].notna()]
    if not len(aimed):
        return "No target was set."
    met, missed = [], []
    for _, each in aimed.iterrows():
        ratio, target = hundredths(each["ratio"]), hundredths(each["target"])
        if each["ratio"] <= each["target"]:
            close = _quartile(each, "high") if each["quartile_high"] > each["target"] else ""
            met.append(f"{each['row']} ({ratio}, target {target}{close})")
        else:
            close = _quartile(each, "low") if each["quartile_low"] <= each["target"] else ""
            above = share(each["ratio"] / each["target"] - 1)
            missed.append(f"{each['row']} ({ratio}, {above} above {target}{close})")
    text = f"{len(met)} of {len(aimed)} targets met{': ' if met else ''}{'; '.join(met)}."
    return f"{text} Missed: {'; '.join(missed)}." if missed else text


def _quartile(product: pd.Series, end: str) -> str:
    """Said where the target lies between the median and this quartile: it was a near thing."""
    name = {"low": "lower", "high": "upper"}[end]
    return f", {name} quartile {hundredths(product[f'quartile_{end}'])}"


def _peers(rows: pd.DataFrame) -> str:
    compared = [
        (peer["library"], compare(ours, peer), ours["row"], factor(ours, peer))
        for ours, peers in pairs(rows)
        for _, peer in peers.iterrows()
    ]
    sentences = []
    for library in in_order(library for library, *_ in compared):
        for verdict, opening in (
            ("faster", "Faster than"),
            ("level", "Level with"),
            ("slower", "Slower than"),
        ):
            found = [
                f"{row} ({times})"
                for name, word, row, times in compared
                if (name, word) == (library, verdict)
            ]
            if found:
                sentences.append(f"{opening} {library}: {'; '.join(found)}.")
    return " ".join(sentences) or "No other library was measured beside it."
