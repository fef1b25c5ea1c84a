"""Products with columns: the same numbers whatever the order in memory, each column in one piece."""

from __future__ import annotations

import pytest
import torch

from problems.columns import times


@pytest.mark.parametrize("width", [0, 1, 3])
def test_products_by_hand(width: int) -> None:
    matrix = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
    columns = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0], [1.0, 0.0, 0.5]])[:, :width]
    expected = torch.tensor([[4.0, 2.0, 1.5], [4.0, -1.0, 3.0]])[:, :width]
    for given in (columns, columns.T.contiguous().T):
        product = times(matrix, given)
        torch.testing.assert_close(product, expected, rtol=0, atol=0)
        assert product.T.is_contiguous()
