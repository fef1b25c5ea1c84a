"""Two runs of a study with one seed give the same rows, but for seconds and bytes."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from bench import study
from bench.experiment import DTYPES
from bench.experiments import peers
from problems.specification import parse

NETWORK = "image_classifier:width=2,training_size=60,epochs=2,num_queries=2,damping=0.3"
TEXT = r"language_model:training_size=9,damping=0.5,parameters=layers\.1\.fc1"
STUDIES = {
    "batch_size:batch_sizes=[2],num_steps=3,trials=2,many_trials_up_to=2,num_influences=5": NETWORK,
    "condition:batch_sizes=[1,4],pairs=5,budget=30,products=4": NETWORK,
    'peers:libraries=["scipy"],targets=[0.01],ours=["lissa:target={target}","cg:preconditioner=nystrom"]': (
        "softmax_regression:training_size=40,pooling=4,damping=0.05"
    ),
    "phase:batch_sizes=[4],steps_per_octave=1,finest=1,time=0.5,max_steps=5": NETWORK,
    "preconditioning:targets=[0.05],max_steps=20": "quadratic:dimension=6,num_examples=12,damping=0.01",
    "role:multiples=[1],top=3,shown=2": NETWORK,
    "settings:budget=30": NETWORK,
    "similarity": TEXT,
}


def rows_of(text: str, problem: str) -> pd.DataFrame:
    """All rows of seed 0, everything built and prepared anew."""
    plan = study.plan(parse(text), [parse(problem)], seeds=1)
    (family,) = plan.families.values()
    built = family.build(device=torch.device("cpu"), dtype=DTYPES[plan.request.dtype], seed=0)
    prepared = plan.study.prepare(built, lambda what, share: None)
    rows = [
        dict(cell.piece) | row
        for cell in plan.cells
        for row in plan.study.measure(built, prepared, cell.piece, cell.seed, lambda what, share: None)
    ]
    return pd.DataFrame(rows)


# Of these two it takes seconds; they have tests of their own that are shorter.
SLOW = ("batch_size", "similarity")


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, marks=pytest.mark.slow if text.startswith(SLOW) else ()) for text in STUDIES],
)
def test_a_seed_fixes_all_but_seconds_and_bytes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if text == "similarity":
        pytest.importorskip("transformers")
    # Scripts of other libraries, whose imports take long.
    monkeypatch.setattr(peers, "reproductions", lambda: ())
    first = rows_of(text, STUDIES[text])
    # Whatever torch's own seed is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again = rows_of(text, STUDIES[text])
    fixed = [column for column in first.columns if "seconds" not in column and "bytes" not in column]
    assert len(fixed) > len(first.columns) / 2
    pd.testing.assert_frame_equal(first[fixed], again[fixed], check_exact=True)
