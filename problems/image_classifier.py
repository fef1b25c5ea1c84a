"""Image classifiers trained in-process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from problems.data.digits import TRAINING_SIZE, Split, accuracy, check_sizes, digits
from problems.losses import CrossEntropy
from problems.models.mlp import mlp
from problems.problem import Problem, ProblemFamily, as_curvature, from_model
from problems.training import Lesson, Recipe, trained
from problems.validation import check_counts, check_damping

FEATURES, CLASSES = 64, 10


@dataclass(frozen=True)
class ImageClassifier(ProblemFamily):
    """An MLP 64-width-10 trained on digits; right-hand sides are gradients of test images.

    H is the network's `curvature`: "ggn", "hessian" (indefinite), "empirical_fisher" or
    "monte_carlo_fisher". Deterministic given the seed; the checkpoint is kept under the user's cache
    directory, keyed by its recipe.
    """

    width: int = 12
    training_size: int = TRAINING_SIZE
    epochs: int = 30
    num_queries: int = 4
    damping: float = 1e-2
    curvature: str = "ggn"

    def __post_init__(self) -> None:
        check_damping(self.damping)
        check_sizes(self.training_size, self.num_queries)
        check_counts(width=self.width, epochs=self.epochs)
        as_curvature(self.curvature)

    @classmethod
    def examples(cls) -> Sequence[ImageClassifier]:
        small = cls(width=2, training_size=60, epochs=5, num_queries=3, damping=0.1)
        return (small, replace(small, curvature="hessian", damping=3.0))

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        data = digits(self.training_size)
        model = self._trained(data, seed)
        found = accuracy(model(data.test_inputs), data.test_targets)
        return from_model(
            model.to(device, dtype),
            "cross_entropy",
            (data.train_inputs, data.train_targets),
            data.queries(self.num_queries),
            damping=self.damping,
            curvature=self.curvature,
            name="image_classifier",
            facts={
                "model": f"MLP {FEATURES}-{self.width}-{CLASSES}",
                "data": "digits",
                "test accuracy": found,
            },
        )

    def _trained(self, data: Split, seed: int) -> nn.Module:
        """The network in float64 on the CPU, whatever it is used on: one checkpoint serves all."""
        generator = torch.Generator().manual_seed(seed)
        model = mlp([FEATURES, self.width, CLASSES], generator)
        loss = CrossEntropy()

        def batch_loss(model: nn.Module, indices: Tensor, generator: torch.Generator) -> Tensor:
            outputs = model(data.train_inputs[indices])
            return loss.per_example(outputs, data.train_targets[indices]).mean()

        def evaluate(model: nn.Module) -> dict[str, float]:
            return {"test accuracy": accuracy(model(data.test_inputs), data.test_targets)}

        lesson = Lesson(len(data.train_targets), batch_loss, evaluate)
        key = {"widths": self.width, "training_size": self.training_size}
        trained(model, lesson, Recipe(epochs=self.epochs), generator, kind="mlp-digits", key=key, seed=seed)
        return model
