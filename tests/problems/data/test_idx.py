"""IDX files, and what is said of those that are none."""

from __future__ import annotations

import pytest
import torch

from problems.data.idx import FILES, idx_layout, read_idx
from tests.problems.data.made import idx_files, same, small_images


def test_an_array_of_two_dimensions() -> None:
    """The format's description: 0 0, type 8, the number of sizes, the sizes, and the last index fastest."""
    content = bytes.fromhex("00000802 00000002 00000003 010203 0405ff".replace(" ", ""))
    assert torch.equal(read_idx(content), torch.tensor([[1, 2, 3], [4, 5, 255]], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file"),
        (b"PK\3\4" * 9, "is no IDX file"),
        (bytes.fromhex("00000d0100000001"), "of unsigned bytes"),
        (bytes.fromhex("0000080200000002"), "ends in its head"),
        (bytes.fromhex("000008010000000301"), "1 numbers, and says it has the shape"),
    ],
)
def test_what_is_none(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_idx(content)


def test_the_four_files() -> None:
    images = small_images()
    layout = idx_layout("small")
    found = {name: (content,) for name, content in idx_files(images).items()}
    assert same(layout.decode(found), images)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte is no IDX file"):
        layout.decode(found | {FILES["test_targets"]: (b"",)})
    with pytest.raises(ValueError, match=r"test classes are torch.int64 \(10,\), not int64 \(3,\)"):
        layout.decode(found | {FILES["test_targets"]: found[FILES["train_targets"]]})
