"""Passes over all examples of a network: of each of its layers the rows of H's root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import vjp

from problems.operators.curvature import Batch, OutputRoot
from problems.operators.layer_calls import Calls, forward
from problems.operators.layers import FoundLayers, Layer
from problems.operators.micro_batches import LARGEST_PASS
from problems.operators.network import NetworkOperator
from problems.operators.squared_rows import row_chunks
from problems.precision import multiplying
from problems.work import BACKWARD_COST

# Relative disagreement of two ways to a gradient, beyond which a layer does something else as well.
LARGEST_DISAGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-2}
LARGEST_DISAGREEMENT_IN_BF16 = 0.2
# Of what a pass holds at once, layers' inputs and gradients are about one in so many.
SHARE = 4


@dataclass(frozen=True)
class Rows:
    """Of one batch, by layer: a (m, T, columns), and g (r, m, T, outputs) of some rows of the root at a time.

    The layer's part of a row of R is Σ_t g aᵀ.
    """

    inputs: list[Tensor]
    gradients: Iterator[list[Tensor]]


@dataclass
class LayerPasses:
    """Passes over the examples of `operator`, whose curvature has a root, for its layers.

    With `joint`, all tokens of a sequence are pulled back together, one row for each vector l: unbiased where
    the tokens' l are independent and of mean 0, as gradients at targets drawn from the model are. Without,
    each token has rows of its own, as the root of H has.
    """

    operator: NetworkOperator
    found: FoundLayers
    joint: bool = False
    # Whether a layer's first dimension is that of the examples, so that several can go together.
    together: bool = field(init=False)
    # Positions of an example, by layer.
    positions: list[int] = field(init=False)

    def __post_init__(self) -> None:
        root = self.operator.curvature.output_root(self.operator.loss)
        if root is None:
            raise ValueError(f"{self.operator.curvature} has no root; the Gauss–Newton matrix has")
        self._root: OutputRoot = root
        self._verify()

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.found.layers

    @property
    def rank(self) -> int:
        """r, the rows of each example, or sequence."""
        length = self.operator.shared.length if self.joint else 1
        return self.operator.root_rank // length

    def run(self, visit: Callable[[Rows], None], size: int) -> None:
        """Call `visit` with the rows of all examples, in batches of at most `size`; (1 + 2r)/3."""
        for positions in self.operator.passes(self._size(size)):
            self._visit(visit, positions)

    def _visit(self, visit: Callable[[Rows], None], positions: Tensor) -> None:
        operator, count = self.operator, len(positions)
        with multiplying(operator.function.precision):
            batch = operator.batch(positions)
            calls = forward(operator.function, self.layers, batch.inputs, count)
            if count == 1 or all(len(each) == count for values in calls.given for each in values):
                with torch.no_grad():
                    dtype = operator.dtype
                    inputs = [calls.inputs(index, dtype) for index in range(len(self.layers))]
                    visit(Rows(inputs, self._gradients(calls, batch)))
                return
        # A layer that only some of them reach: whose rows are whose shows one by one.
        for alone in positions.split(1):
            self._visit(visit, alone)

    def count(self) -> None:
        """Count one pass as work."""
        self.operator.work.count_product(self.rank, self.operator.num_draws, BACKWARD_COST)

    def diagonal(self, names: list[str]) -> Tensor:
        """The diagonal of mean RᵀR for the parameters `names`, in their order."""
        return self.operator.restricted(names).diagonal(self.joint)

    def _gradients(self, calls: Calls, batch: Batch) -> Iterator[list[Tensor]]:
        vectors = self._root(calls.outputs.detach(), batch)
        for part in row_chunks(vectors, batch, self._chunk(calls.examples), self.joint):
            by_layer = calls.gradients(part)
            dtype, count = self.operator.dtype, len(part)
            yield [calls.rows(index, each, count, dtype) for index, each in enumerate(by_layer)]

    def _size(self, size: int) -> int:
        """How many examples together, of at most `size`."""
        if not self.together:
            return 1
        numbers = sum(
            count * (layer.columns + layer.outputs) + layer.size
            for count, layer in zip(self.positions, self.layers, strict=True)
        )
        rank = self.operator.root_rank // self.operator.shared.length
        return max(1, min(size, LARGEST_PASS, self._room // (numbers + rank * self._outputs)))

    def _chunk(self, examples: int) -> int:
        """How many rows of so many examples together."""
        gradients = sum(
            count * layer.outputs for count, layer in zip(self.positions, self.layers, strict=True)
        )
        # The largest layer's rows as matrices, which EK-FAC forms.
        largest = max((layer.size for layer in self.layers), default=0)
        return max(1, self._room // (examples * (gradients + largest + self._outputs)))

    @property
    def _outputs(self) -> int:
        """Numbers of an example's outputs, or of all of a sequence's."""
        return self.operator.shared.outputs * self.operator.shared.length

    @property
    def _room(self) -> int:
        """Numbers that fit."""
        return self.operator.micro_batches.keep_bytes // (SHARE * self.operator.dtype.itemsize)

    def _verify(self) -> None:
        """Leave out layers that are not called, and those whose gradient is not Σ g aᵀ.

        By the gradients of two examples, each alone; also whether the examples keep apart in all layers.
        """
        operator, function = self.operator, self.operator.function
        count = min(2, operator.num_draws)
        inputs = operator.batch(torch.arange(count)).inputs
        operator.work.count_product(2 * count, count, BACKWARD_COST)
        with multiplying(function.precision):
            calls = forward(function, self.layers, inputs, count)
            reasons = {
                layer.name: "is of a layer that is not called"
                for layer, given in zip(self.layers, calls.given, strict=True)
                if not given
            }
            vectors = _one_example_each(calls.outputs.detach())
            gradients = calls.gradients(vectors)
            _, pullback = vjp(lambda p: function.outputs(p, inputs), function.parameters)  # type: ignore[misc]
            exact = torch.cat(
                [
                    function.flatten({name: value[None] for name, value in pullback(each)[0].items()}).T
                    for each in vectors
                ]
            )
        for index, layer in enumerate(self.layers):
            if layer.name not in reasons and not self._agrees(calls, index, gradients[index], exact):
                reasons[layer.name] = "is used elsewhere too, or otherwise than its layer says"
        kept = [index for index, layer in enumerate(self.layers) if layer.name not in reasons]
        self.positions = [
            sum(value.numel() for value in calls.given[index]) // (count * self.layers[index].outputs)
            for index in kept
        ]
        self.together = count > 1 and all(
            _keeps_apart(values, gradient)
            for index in kept
            for values, gradient in zip(calls.given[index], gradients[index], strict=True)
        )
        self.found = self.found.without(reasons)

    def _agrees(self, calls: Calls, index: int, gradients: list[Tensor], exact: Tensor) -> bool:
        layer, function = self.layers[index], self.operator.function
        wanted = layer.take(exact)
        found = torch.zeros_like(wanted)
        for taken, given, gradient in zip(calls.taken[index], calls.given[index], gradients, strict=True):
            # As of one example, whatever the order of its positions.
            a = layer.input_rows(taken.detach(), given, 1).to(found.dtype)[0]
            g = layer.output_rows(gradient, 1).to(found.dtype)[:, 0]
            found += g.mT @ a
        allowed = LARGEST_DISAGREEMENT.get(function.dtype, 1e-2)
        if function.precision != "full":
            allowed = LARGEST_DISAGREEMENT_IN_BF16
        return bool((found - wanted).norm() <= allowed * wanted.norm())


def _one_example_each(outputs: Tensor) -> Tensor:
    """For every example a vector at its outputs alone, (m, shape of the outputs), of whatever numbers."""
    numbers = torch.arange(1, outputs.numel() + 1, dtype=torch.float64).sin().reshape(outputs.shape)
    apart = torch.eye(len(outputs), dtype=torch.float64)
    return (apart.reshape(len(outputs), len(outputs), *(1,) * (outputs.ndim - 1)) * numbers).to(outputs)


def _keeps_apart(values: Tensor, gradients: Tensor) -> bool:
    """Whether the gradients (2, shape of the values) of two examples are each at that example's place."""
    if len(values) != 2:
        return False
    return not bool(gradients[0, 1].any()) and not bool(gradients[1, 0].any())
