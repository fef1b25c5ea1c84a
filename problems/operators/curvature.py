"""What the curvature matrices of a network have in common, and where they differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor

from problems.examples import Inputs, map_tensors, tensors
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.work import JACOBIAN_COST, ProductCost

Parameters = dict[str, Tensor]


class Batch(NamedTuple):
    """Examples that go through the network together.

    `weights`, (m,) or (m, T), are those of the units, 0 for a unit that does not count; `sampled` holds the
    targets drawn from the model, for the curvature that needs them.
    """

    inputs: Inputs
    targets: Tensor
    weights: Tensor
    sampled: tuple[Tensor, ...] = ()

    def tensors(self) -> list[Tensor]:
        """All its tensors, in order."""
        return [*tensors(self.inputs).values(), self.targets, self.weights, *self.sampled]

    def filled(self, values: Sequence[Tensor]) -> Batch:
        """A batch of the same structure with other tensors."""
        given = iter(values)
        inputs = map_tensors(lambda _: next(given), self.inputs)
        return Batch(inputs, next(given), next(given), tuple(given))


# (outputs, batch, tangents) ↦ weight · S applied to the tangent of every unit, shape of the tangents; the
# tangents, (..., m, C) or (..., m, T, C), may have a leading dimension of vectors.
OutputCurvature = Callable[[Tensor, Batch, Tensor], Tensor]
# (outputs, batch) ↦ √weight · l of every unit, shape (r, shape of the outputs).
OutputRoot = Callable[[Tensor, Batch], Tensor]
# (parameters, batch, V) ↦ weighted sum over the batch's units of h v, for the vectors V (c, p); shape (c, p).
BlockProduct = Callable[[Parameters, Batch, Tensor], Tensor]
# (parameters, batch) ↦ V ↦ the same.
Retain = Callable[[Parameters, Batch], Callable[[Tensor], Tensor]]


class Curvature(ABC):
    """A kind of curvature matrix: H = mean h over units, h linear in what `block_product` computes."""

    is_psd: ClassVar[bool] = True
    cost: ClassVar[ProductCost] = JACOBIAN_COST
    # How many targets for each unit are drawn from the model, and with what seed.
    num_samples: int = 0
    seed: int = 0

    @property
    def exact(self) -> Curvature:
        """The same matrix with exact products; itself, unless its own are not."""
        return self

    @abstractmethod
    def block_product(self, function: ModelFunction, loss: Loss) -> BlockProduct:
        """Products with the weighted sum of a batch's h."""

    def retain(self, function: ModelFunction, loss: Loss) -> Retain | None:
        """The same with a batch whose forward pass is kept; None where there is no such way."""
        return None

    def output_curvature(self, loss: Loss) -> OutputCurvature | None:
        """S, where h = Jᵀ S J with J the Jacobian of a unit's outputs; None where h has no such form."""
        return None

    def root_rank(self, outputs: int) -> int:
        """How many vectors l a unit of so many outputs has in `output_root`."""
        return outputs

    def output_root(self, loss: Loss) -> OutputRoot | None:
        """Vectors l with S = Σ l lᵀ; None where h has no such form."""
        return None
