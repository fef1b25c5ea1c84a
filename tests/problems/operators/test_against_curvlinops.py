"""The same matrices as another library computes them, where it is installed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from problems import EmpiricalFisher, GaussNewton, Hessian
from problems.operators.curvature import Curvature
from tests.problems.operators.small_networks import Small, small

curvlinops = pytest.importorskip("curvlinops", reason="needs curvlinops-for-pytorch")

LOSSES = {
    "cross_entropy": nn.CrossEntropyLoss(),
    "token_cross_entropy": nn.CrossEntropyLoss(),
    "mse": nn.MSELoss(),
    "bce": nn.BCEWithLogitsLoss(),
}
CASES = [
    ("mlp", "cross_entropy"),
    ("mlp", "mse"),
    ("mlp", "bce"),
    ("convolutional", "cross_entropy"),
    ("language_model", "token_cross_entropy"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "loss"), CASES)
@pytest.mark.parametrize(
    ("curvature", "theirs"),
    [
        (GaussNewton(), "GGNLinearOperator"),
        (Hessian(), "HessianLinearOperator"),
        (EmpiricalFisher(), "EFLinearOperator"),
    ],
    ids=["ggn", "hessian", "empirical_fisher"],
)
def test_products_agree(model: str, loss: str, curvature: Curvature, theirs: str) -> None:
    if theirs == "EFLinearOperator" and loss in ("mse", "bce"):
        pytest.skip("curvlinops scales the gradients of losses that are means over outputs differently")
    network = small(model, loss)
    function, targets = network.model, network.targets
    if model == "language_model":
        # Theirs takes the mean over rows, so all tokens count here and are rows.
        network = Small(network.model, loss, network.inputs, network.inputs)
        function, targets = nn.Sequential(network.model, nn.Flatten(0, 1)), network.inputs.flatten()
    operator = network.operator(curvature)
    parameters = list(network.model.parameters())
    peer = getattr(curvlinops, theirs)(
        function, LOSSES[loss], parameters, [(network.inputs, targets)], check_deterministic=False
    )
    vectors = torch.randn(operator.shape[0], 2, dtype=torch.float64)
    torch.testing.assert_close(operator @ vectors, peer @ vectors, rtol=1e-8, atol=1e-11)
