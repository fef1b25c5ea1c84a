"""Solvers on narrow ResNets: EK-FAC against the exact solve and where it is exact, CG and LiSSA."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import problems
from problems import Problem, from_model
from problems.models.resnet import resnet
from solvers import load, solve
from solvers.ekfac import EKFAC
from tests.solvers.layer_oracle import ekfac_block, exact_vectors, layer_rows

COUNT, DAMPING = 10, 0.3
# With stride and without, of 3 × 3 and of 1 × 1 pixels.
LAYERS = ("conv1", "layer1.0.conv1", "layer2.0.conv1", "layer2.0.downsample.0")


@cache
def trained(*layers: str, **settings: object) -> Problem:
    """A ResNet-18 of width 2 that has learnt from 400 digits, with the parameters of `layers`."""
    chosen = {"curvature_size": COUNT, "num_queries": 20, "damping": DAMPING, **settings}
    names = "|".join(layers).replace(".", r"\.")
    return problems.load(
        "image_classifier", model="resnet18", width=2, training_size=400, epochs=5,
        parameters=rf"^({names})\.weight", **chosen,
    )  # fmt: skip


def errors(problem: Problem, name: str, **settings: object) -> Tensor:
    solution = solve(problem, load(name, **settings))
    assert solution.usable
    assert solution.error is not None
    return solution.error


def by_hand(problem: Problem) -> Tensor:
    """Ĥ of EK-FAC, (p, p), one image, one row and one position at a time."""
    assert problem.task is not None
    images, _ = problem.task.training.batch(torch.arange(COUNT))
    assert isinstance(images, Tensor)
    model = problem.task.function.model
    rows = layer_rows(model, list(LAYERS), list(images), lambda _, z: exact_vectors(z, "cross_entropy"))
    blocks = []
    for each in rows.values():
        # Of images all positions count, those behind a ReLU that is at zero too.
        positions = torch.cat(each.inputs)
        a, g = positions.T @ positions / len(positions), each.expand()[1]
        blocks.append(ekfac_block(each.matrices(), a, g, COUNT))
    assert [f"{name}.weight" for name in rows] == problem.task.function.names
    return torch.block_diag(*blocks)


def test_ekfac_is_the_one_built_by_hand_and_errs_by_what_it_leaves_out() -> None:
    problem = trained(*LAYERS)
    approximate, dense = by_hand(problem), problem.operator.dense()
    damping = DAMPING * torch.eye(problem.size, dtype=torch.float64)
    x, exact = (torch.linalg.solve(h + damping, problem.columns()) for h in (approximate, dense))
    found = errors(problem, "ekfac", labels="exact")
    torch.testing.assert_close(found, (x - exact).norm(dim=0) / exact.norm(dim=0), rtol=1e-7, atol=0)
    # x − x* = (Ĥ + λ)⁻¹(H − Ĥ)x*, and Ĥ ⪰ 0.
    assert float(found.max()) <= float(torch.linalg.matrix_norm(dense - approximate, 2)) / DAMPING


@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer2.0.conv1"])
@pytest.mark.parametrize("share", [0.03, 0.3])
def test_ekfac_is_far_nearer_than_diagonal_and_identity(layer: str, share: float) -> None:
    """Of a layer alone, with λ of that share of λ_max: what it leaves out between layers is not judged."""
    problem = trained(layer, curvature_size=200)
    assert problem.eigenvalues is not None
    problem = problem.with_damping(share * float(problem.eigenvalues[-1]))
    ekfac, diagonal, identity = (
        float(errors(problem, name).mean()) for name in ("ekfac", "diagonal", "identity")
    )
    assert ekfac < 0.75 * diagonal
    assert ekfac < 0.45 * identity


@pytest.mark.parametrize("layer", ["layer4.1.conv1", "layer4.1.conv2"])
def test_ekfac_is_exact_for_a_convolution_to_one_pixel_of_one_image(layer: str) -> None:
    """Every row is then g aᵀ of one and the same a, and H = G ⊗ aaᵀ; layer4 makes one pixel of 8 × 8."""
    problem = problems.load(
        "image_classifier", model="resnet18", width=1, training_size=60, epochs=1, curvature_size=1,
        parameters=rf"^{layer}\.", damping=1e-5,
    )  # fmt: skip
    assert problem.size == 576
    assert problem.condition_number is not None
    assert problem.condition_number > 100
    assert float(errors(problem, "ekfac", labels="exact").max()) <= 1e-8
    assert float(errors(problem, "diagonal").max()) > 0.01


def test_ekfac_is_exact_where_the_classifier_is_zero() -> None:
    """All images then have the same outputs: H is (diag p − ppᵀ) ⊗ mean h̃h̃ᵀ of the classifier alone."""
    generator = torch.Generator().manual_seed(0)
    model = resnet(18, generator, width=1, channels=1, classes=4, stem="cifar", dtype=torch.float64)
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.normal_(generator=generator)
    images = torch.randn(30, 1, 8, 8, generator=generator, dtype=torch.float64)
    data = (images, torch.arange(30) % 4)
    problem = from_model(model, "cross_entropy", data, data, damping=1e-3)
    random = torch.randn(problem.size, 2, generator=generator, dtype=torch.float64)
    x = EKFAC(labels="exact").prepare(replace(problem, rhs=random), generator).solve(random)
    assert float(problem.residual(x, random).max()) <= 1e-9
    assert float((problem.operator @ random).norm()) > 0.1


def test_cg_and_lissa_reach_their_tolerance() -> None:
    problem = trained(*LAYERS, num_queries=2, damping=1.0)
    assert problem.condition_number is not None
    # ‖x − x*‖/‖x*‖ ≤ κ · ‖r‖/‖b‖.
    assert float(errors(problem, "cg", tolerance=1e-8).max()) <= problem.condition_number * 1e-8
    assert float(errors(problem, "lissa").max()) <= 0.05
