"""The rows of a products page: which fields a measured product has, and how it stands beside the others."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

# The library that floors and targets are for; any other is a peer.
OURS = "ihvp-bench"

_TEXT = ["network", "row", "library"]
_NUMBERS = ["ratio", "floor", "target", "quartile_low", "quartile_high"]


def read_products(benchmark: dict[str, Any]) -> pd.DataFrame:
    """The measured products in the content of a pytest-benchmark file, one row each; absent numbers NaN.

    Columns: network, row (what was measured), library, ratio (to a gradient), floor, target, quartile_low and
    quartile_high (of the ratio, over the rounds). Raises ValueError that says what is wrong.
    """
    records = [record for each in benchmarks(benchmark) for record in _records(each)]
    if not records:
        raise ValueError(
            "none of its benchmarks measured products; "
            "run pytest bench/suite/bench_products.py --benchmark-json FILE"
        )
    for record in records:
        _check(record)
    products = pd.DataFrame(records, columns=_TEXT + _NUMBERS)
    for column in _NUMBERS:
        products[column] = pd.to_numeric(products[column]).astype(float)
    repeated = products[products.duplicated(_TEXT)]
    if len(repeated):
        raise ValueError(f"it has more than one product for {', '.join(repeated[_TEXT].iloc[0])}")
    return products


def benchmarks(benchmark: dict[str, Any]) -> list[dict[str, Any]]:
    """The benchmarks in the content of a pytest-benchmark file; ValueError where that is something else."""
    found = benchmark.get("benchmarks") if isinstance(benchmark, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError("it has no list of benchmarks, as pytest --benchmark-json writes it")
    return found


def pairs(products: pd.DataFrame) -> Iterator[tuple[pd.Series, pd.DataFrame]]:
    """Each product of ours with the peers' in the same row of the same network."""
    for _, ours in products[products["library"] == OURS].iterrows():
        same = (products["network"] == ours["network"]) & (products["row"] == ours["row"])
        yield ours, products[same & (products["library"] != OURS)]


def compare(ours: pd.Series, peer: pd.Series) -> str:
    """ "faster" or "slower", as ours is; "level" where the quartiles of the two overlap."""
    if ours["quartile_low"] <= peer["quartile_high"] and peer["quartile_low"] <= ours["quartile_high"]:
        return "level"
    return "faster" if ours["ratio"] < peer["ratio"] else "slower"


def _records(benchmark: dict[str, Any]) -> list[Any]:
    """What bench_products left in `extra_info`; other benchmarks of the same run left nothing there."""
    found = (benchmark.get("extra_info") or {}).get("products") or []
    if not isinstance(found, list):
        raise ValueError(f"the products of {benchmark.get('name')} are no list")
    return found


def _check(record: Any) -> None:
    missing = [name for name in _TEXT + _NUMBERS if not isinstance(record, dict) or name not in record]
    if missing:
        raise ValueError(f"a product lacks {', '.join(missing)}")
    label = ", ".join(str(record[name]) for name in _TEXT)
    for name in _NUMBERS:
        value = record[name]
        if value is None and name != "ratio":
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} of {label} is {value!r}; it must be a positive number")
