"""Softmax regression on digits: convex, with H in closed form."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from problems.data.digits import TRAINING_SIZE, accuracy, check_sizes, digits
from problems.losses import CrossEntropy
from problems.optimum import Optimum
from problems.problem import Problem, ProblemFamily, from_model
from problems.validation import check_damping

CLASSES = 10


@dataclass(frozen=True)
class SoftmaxRegression(ProblemFamily):
    """A linear classifier fitted to its optimum; Gauss–Newton = Hessian = mean (diag p − ppᵀ) ⊗ x̃x̃ᵀ.

    H of the network's operator is checked against that formula each time the reference is computed.
    `pooling` averages the 8 × 8 pixels over blocks of that size: 1 keeps 64 features (p = 650), 2 leaves
    16, 4 leaves 4.
    """

    training_size: int = TRAINING_SIZE
    pooling: int = 1
    num_queries: int = 4
    regularization: float = 1e-3
    damping: float = 1e-3

    def __post_init__(self) -> None:
        check_damping(self.damping)
        check_sizes(self.training_size, self.num_queries)
        if self.pooling not in (1, 2, 4, 8):
            raise ValueError(f"pooling is {self.pooling}; allowed are 1, 2, 4 and 8")
        if not self.regularization > 0:
            raise ValueError(f"regularization is {self.regularization}; it must be > 0, or no optimum exists")

    @classmethod
    def examples(cls) -> Sequence[SoftmaxRegression]:
        return (cls(training_size=150, pooling=4, num_queries=3, damping=1e-2),)

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        """The fit is deterministic: `seed` changes nothing."""
        data = digits(self.training_size)
        train_inputs, test_inputs = self._pool(data.train_inputs), self._pool(data.test_inputs)
        query_inputs, query_targets = data.queries(self.num_queries)
        model = self._fit(train_inputs, data.train_targets)
        retraining = self._retraining(
            model, (train_inputs, data.train_targets), (self._pool(query_inputs), query_targets), device
        )
        model.to(device, dtype)
        return from_model(
            model,
            "cross_entropy",
            (train_inputs, data.train_targets),
            (self._pool(query_inputs), query_targets),
            damping=self.damping,
            name="softmax_regression",
            facts={"test accuracy": accuracy(model(test_inputs.to(device, dtype)).cpu(), data.test_targets)},
            closed_form=lambda: self._hessian(model, train_inputs),
            retraining=retraining,
        )

    def _retraining(
        self,
        model: nn.Linear,
        training: tuple[Tensor, Tensor],
        queries: tuple[Tensor, Tensor],
        device: torch.device,
    ) -> Optimum:
        """To the optimum of the objective that is fitted: the mean loss + (regularization/2)‖weight‖².

        A cold start is from 0, and reaches the same: the objective is convex.
        """
        weight, bias = (torch.zeros_like(value) for value in (model.weight.detach(), model.bias.detach()))
        penalty = torch.cat([(weight + self.regularization).flatten(), bias])
        nothing = torch.zeros_like(penalty)
        return Optimum(
            copy.deepcopy(model).to(device),
            CrossEntropy(),
            training,
            queries,
            penalty=penalty,
            centre=nothing,
            fresh=nothing,
        )

    def _pool(self, inputs: Tensor) -> Tensor:
        images = inputs.reshape(-1, 1, 8, 8)
        return nn.functional.avg_pool2d(images, self.pooling).flatten(1)

    def _hessian(self, model: nn.Linear, inputs: Tensor) -> Tensor:
        """H in float64 of the numbers that the network's dtype left of weights and inputs."""
        weight, bias = (value.detach().double() for value in (model.weight, model.bias))
        inputs = inputs.to(model.weight).double()
        return closed_form_hessian(inputs, (inputs @ weight.T + bias).softmax(dim=1))

    def _fit(self, inputs: Tensor, targets: Tensor) -> nn.Linear:
        strength = 1 / (len(targets) * self.regularization)
        fit = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
        fit.fit(inputs.numpy(), targets.numpy())
        model = nn.Linear(inputs.shape[1], CLASSES, dtype=torch.float64).eval()
        with torch.no_grad():
            model.weight.zero_()
            # A class without training examples keeps weight 0 and never wins.
            model.bias.fill_(float(fit.intercept_.min()) - 10)
            model.weight[fit.classes_] = torch.from_numpy(fit.coef_)
            model.bias[fit.classes_] = torch.from_numpy(fit.intercept_)
        return model


def closed_form_hessian(inputs: Tensor, probabilities: Tensor) -> Tensor:
    """mean (diag pᵢ − pᵢpᵢᵀ) ⊗ x̃ᵢx̃ᵢᵀ with x̃ = (x, 1), ordered (weight row-major, bias), shape (p, p)."""
    count, features = inputs.shape
    classes = probabilities.shape[1]
    extended = torch.cat([inputs, inputs.new_ones(count, 1)], dim=1)
    curvature = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]
    squares = extended[:, :, None] * extended[:, None, :]
    blocks = (curvature.reshape(count, -1).T @ squares.reshape(count, -1)) / count
    size = classes * (features + 1)
    blocks = blocks.reshape(classes, classes, features + 1, features + 1).permute(0, 2, 1, 3)
    rows = torch.arange(size).reshape(classes, features + 1)
    order = torch.cat([rows[:, :features].flatten(), rows[:, features]])
    return blocks.reshape(size, size)[order][:, order]
