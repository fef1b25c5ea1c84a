"""The Gauss–Newton matrix of a network (Schraudolph 2002)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from problems.examples import Examples
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.operators.base import CurvatureOperator
from problems.work import Work


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
    ) -> None:
        self.indices = torch.arange(len(examples)) if indices is None else indices
        size, count = function.num_parameters, len(self.indices)
        super().__init__(size, count, function.dtype, function.device, work or Work(len(examples)))
        self.function = function
        self.loss = loss
        self.examples = examples
        self.pass_size = pass_size

    @property
    def is_psd(self) -> bool:
        return True

    def subset(self, indices: Tensor) -> GaussNewton:
        return self._derived(indices=self.indices[indices])

    def to(self, dtype: torch.dtype) -> GaussNewton:
        return self._derived(function=self.function.to(dtype), examples=self.examples.to(dtype))

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
        )

    def _product(self, columns: Tensor) -> Tensor:
        tangents = self.function.unflatten(columns)
        product = torch.zeros_like(columns)
        for inputs, _ in self.examples.passes(self.indices, self.pass_size):
            product += self._sum_over(inputs, tangents)
        return product / self.num_examples

    def _sum_over(self, inputs: Tensor, tangents: dict[str, Tensor]) -> Tensor:
        """Σ Jᵢᵀ Sᵢ Jᵢ V over one pass, columns (p, k)."""

        def network(parameters: dict[str, Tensor]) -> Tensor:
            return self.function.outputs(parameters, inputs)

        def pushforward(tangent: dict[str, Tensor]) -> Tensor:
            return jvp(network, (self.function.parameters,), (tangent,))[1]

        outputs, pullback = vjp(network, self.function.parameters)  # type: ignore[misc]  # no aux here
        output_tangents = vmap(pushforward)(tangents)
        curved = vmap(lambda tangent: self.loss.hessian_product(outputs, tangent))(output_tangents)
        return self.function.flatten(vmap(pullback)(curved)[0])
