"""The Gauss–Newton matrix of a network (Schraudolph 2002)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from problems.examples import Examples
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.operators.base import CurvatureOperator
from problems.operators.recording import Batch, BlockProduct, Linearised, Parameters, Recorder
from problems.work import Work

# What the forward passes of one operator leave behind is kept for its next product up to this size.
KEEP_BYTES = 2**30


class GaussNewton(CurvatureOperator):
    """H = mean Jᵢᵀ Sᵢ Jᵢ: Jᵢ the Jacobian of example i's outputs, Sᵢ = ∇²ℓ at those outputs, in closed form.

    Exact: no sampled labels and no finite differences. Positive semi-definite for every supported loss.
    Works through the data in passes of `pass_size` examples, which bounds memory and changes nothing else.
    """

    def __init__(
        self,
        function: ModelFunction,
        loss: Loss,
        examples: Examples,
        *,
        indices: Tensor | None = None,
        pass_size: int = 512,
        work: Work | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.indices = torch.arange(len(examples)) if indices is None else indices
        size, count = function.num_parameters, len(self.indices)
        super().__init__(size, count, function.dtype, function.device, work or Work(len(examples)))
        self.function = function
        self.loss = loss
        self.examples = examples
        self.pass_size = pass_size
        self._used = False
        self._versions: list[int] = []
        self._kept: dict[int, dict[int, Linearised]] = {}
        self.recorder = recorder or Recorder(block_product(function, loss))

    @property
    def is_psd(self) -> bool:
        return True

    def subset(self, indices: Tensor) -> GaussNewton:
        return self._derived(indices=self.indices[indices])

    def to(self, dtype: torch.dtype) -> GaussNewton:
        return self._derived(function=self.function.to(dtype), examples=self.examples.to(dtype))

    def forget(self) -> None:
        self._used = False
        self._kept.clear()
        self.recorder = Recorder(self.recorder.product)

    def _derived(
        self,
        *,
        function: ModelFunction | None = None,
        examples: Examples | None = None,
        indices: Tensor | None = None,
    ) -> GaussNewton:
        return GaussNewton(
            function or self.function,
            self.loss,
            examples or self.examples,
            indices=self.indices if indices is None else indices,
            pass_size=self.pass_size,
            work=self.work,
            recorder=self.recorder if function is None else None,
        )

    def _product(self, columns: Tensor) -> Tensor:
        # Each vector in one piece; right-hand sides that are gradients already come so.
        vectors = columns.T.contiguous()
        self._forget_if_changed()
        total = torch.zeros_like(vectors)
        for number, (inputs, _) in enumerate(self.examples.passes(self.indices, self.pass_size)):
            linearised = self._kept.pop(number, {})
            self.recorder.add_products(self.function.parameters, (inputs,), vectors, total, linearised)
            self._keep(number, linearised)
        self._used = True
        return total.div_(self.num_examples).T

    def _forget_if_changed(self) -> None:
        # torch counts what is written to a tensor in place, as an optimiser's step does.
        versions = [
            value._version
            for value in (*self.function.parameters.values(), *self.function.constants.values())
        ]
        if versions != self._versions:
            self._kept.clear()
            self._versions = versions

    def _keep(self, number: int, linearised: dict[int, Linearised]) -> None:
        """From the second product on, keep the forward pass of batch `number` while there is room."""
        held = sum(each.bytes for passes in (*self._kept.values(), linearised) for each in passes.values())
        if self._used and held <= KEEP_BYTES:
            self._kept[number] = linearised


def block_product(function: ModelFunction, loss: Loss) -> BlockProduct:
    """(parameters, (inputs,), V) ↦ Σ Jᵢᵀ Sᵢ Jᵢ V in one forward pass, V and the product of shape (c, p).

    Tangents go along with the values (forward mode) while the values' graph is recorded for the pullback:
    1 forward pass, and for each of the c vectors 2 for its tangents and 2 for its pullback.
    """

    def product(parameters: Parameters, batch: Batch, vectors: Tensor) -> Tensor:
        (inputs,) = batch

        def values_and_tangents(parameters: Parameters) -> tuple[Tensor, Tensor]:
            def pushforward(tangent: Parameters) -> tuple[Tensor, Tensor]:
                return jvp(lambda p: function.outputs(p, inputs), (parameters,), (tangent,))  # type: ignore[return-value]

            tangents = function.unflatten(vectors.T)
            if len(vectors) == 1:
                return pushforward({name: part[0] for name, part in tangents.items()})
            return vmap(pushforward, out_dims=(None, 0))(tangents)  # type: ignore[arg-type]

        outputs, pullback, output_tangents = vjp(values_and_tangents, parameters, has_aux=True)  # type: ignore[misc]
        curved = loss.hessian_product(outputs, output_tangents)
        if len(vectors) == 1:
            gradients = {name: part[None] for name, part in pullback(curved)[0].items()}
        else:
            gradients = vmap(pullback)(curved)[0]
        return function.flatten(gradients).T

    return product
