import pytest

from problems.specification import Specification, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cg", Specification("cg", {})),
        ("cg: tolerance = 1 ", Specification("cg", {"tolerance": 1})),
        ("disk:c/half.py:factor=2", Specification("disk:c/half.py", {"factor": 2})),
        ("half.py", Specification("half.py", {})),
        ("cg:tolerance=1e-10", Specification("cg", {"tolerance": 1e-10})),
        (
            "lissa:step_size=0.1,num_steps=100,batch_size=full",
            Specification("lissa", {"step_size": 0.1, "num_steps": 100, "batch_size": "full"}),
        ),
        (
            "phase:batch_sizes=[1,4, 16],time=2",
            Specification("phase", {"batch_sizes": [1, 4, 16], "time": 2}),
        ),
        (
            "cg:preconditioner=nystrom(rank=50,seed=[1,2]),tolerance=1",
            Specification("cg", {"preconditioner": "nystrom(rank=50,seed=[1,2])", "tolerance": 1}),
        ),
        ("nystrom(rank=50, seed=3)", Specification("nystrom", {"rank": 50, "seed": 3})),
        ("a/mine.py(rank=5)", Specification("a/mine.py", {"rank": 5})),
        (
            "path/to/mine.py:flag=true,none=null",
            Specification("path/to/mine.py", {"flag": True, "none": None}),
        ),
    ],
)
def test_reads(text: str, expected: Specification) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (":tolerance=1", "names nothing"),
        ("cg:tolerance", "'tolerance' in 'cg:tolerance' is not param=value"),
        ("cg:tolerance=", "not param=value"),
        ("nystrom(rank=5", "lacks the closing bracket"),
        ("cg:tolerance=1,tolerance=2", "tolerance is set twice"),
        ("cg:tolerance=1, tolerance=2", "tolerance is set twice"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
