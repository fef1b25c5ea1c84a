"""Training an image classifier again on some of its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from problems.data.images import Images
from problems.losses import CrossEntropy
from problems.models.image_inputs import Encoding
from problems.optimum import Optimum, proximal
from problems.retraining import Attempt, Retrained, Retraining, Start, fingerprint

if TYPE_CHECKING:
    from problems.image_classifier import ImageClassifier
    from problems.problem import Problem


@dataclass(frozen=True, eq=False)
class ImageRetraining(Retraining):
    """Cold: by the recipe, from the fresh initialisation of the attempt's seed, all parameters.

    Warm: the selected parameters, from θˢ to a minimum of the mean loss + (λ/2)‖θ − θˢ‖², see
    `problems.optimum`; a recipe that goes on from θˢ would mostly tell what more training does.
    """

    family: ImageClassifier
    seed: int
    place: torch.device
    dtype: torch.dtype

    def __getstate__(self) -> dict[str, Any]:
        """Without the problem: another process builds its own."""
        return {each.name: self.__dict__[each.name] for each in fields(self)}

    @property
    def count(self) -> int:
        return self.family.num_trained

    @property
    def device(self) -> torch.device:
        return self.place

    def check(self, start: Start) -> None:
        super().check(start)
        if start == "cold" and self.family.weights is not None:
            raise ValueError(
                "weights are read from a file, and by what recipe they were trained is not known: take "
                "start='warm', or leave weights out"
            )

    def is_seeded(self, start: Start) -> bool:
        return start == "cold"

    def key(self, attempt: Attempt) -> Mapping[str, Any]:
        if attempt.start == "warm":
            return self._warm.key(attempt)
        family = self.family
        names = ("model", "width", "data", "training_size", "num_queries", "stem")
        return {
            **{name: getattr(family, name) for name in names},
            "recipe": asdict(family.recipe),
            "images": self._fingerprint,
        }

    def train(self, attempt: Attempt) -> Retrained:
        self.check(attempt.start)
        if attempt.start == "warm":
            return self._warm.train(attempt)
        data, encoding = self._data
        model = self.family.train_again(data, encoding, attempt.kept, seed=attempt.seed, device=self.place)
        weight = next(model.parameters())
        inputs, targets = self.family.queries(data, encoding, weight.dtype)
        with torch.no_grad():
            outputs = model(inputs.to(weight.device)).double()
            return Retrained(CrossEntropy().per_example(outputs, targets.to(weight.device)))

    @cached_property
    def _data(self) -> tuple[Images, Encoding]:
        return self.family.data_and_encoding()

    @cached_property
    def _fingerprint(self) -> str:
        data, _ = self._data
        count, queries = self.count, self.family.num_queries
        return fingerprint(
            data.train_inputs[:count], data.train_targets[:count],
            data.test_inputs[:queries], data.test_targets[:queries],
        )  # fmt: skip

    @cached_property
    def _warm(self) -> Optimum:
        return proximal(self._problem)

    @cached_property
    def _problem(self) -> Problem:
        return self.family.build(device=self.place, dtype=self.dtype, seed=self.seed)
