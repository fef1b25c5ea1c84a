"""The proximal Bregman objective of a network (Bae et al. 2022; Grosse et al. 2023, eqs 7–9)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor

from problems.losses import Loss
from problems.precision import multiplying
from problems.task import Task
from problems.validation import check_damping

# What sums of losses are off by, in units of rounding.
ROUNDINGS = 64


def divergence(loss: Loss, outputs: Tensor, reference: Tensor, targets: Tensor) -> Tensor:
    """D = ℓ(y, t) − ℓ(yˢ, t) − ∇ℓ(yˢ, t)ᵀ(y − yˢ) of every unit, 0 for those that do not count.

    Of cross-entropies it is KL(softmax(yˢ) ‖ softmax(y)), whatever t is; of squared loss the loss of y
    against yˢ.
    """
    counted = loss.counted(targets)
    linear = (loss.gradient(reference, targets) * (outputs - reference)).flatten(counted.ndim).sum(dim=-1)
    found = loss.per_unit(outputs, targets) - loss.per_unit(reference, targets) - linear
    return found.where(counted, 0)


class BregmanObjective:
    """Φ_ε(θˢ + δ) = mean_i D_i(h(θ, x_i), h(θˢ, x_i)) + ε L(z_m, θ) + (λ/2)‖δ‖².

    θˢ are the task's parameters, i runs over its training data, all units alike, m is one of these
    examples. Vectors are displacements δ, float64; the network is computed in `dtype`. The Hessian of the
    first term at δ = 0 is the Gauss–Newton matrix. Works for every loss of `problems.losses`; L(z_m) of a
    sequence is the mean over its tokens. `mean_loss` is that of the training data at θˢ, over all units.

    Raises ArithmeticError that names the training example whose outputs or gradient are not finite.
    """

    def __init__(self, task: Task, damping: float, dtype: torch.dtype = torch.float64) -> None:
        check_damping(damping)
        self.task = task
        self.damping = damping
        self.loss = task.loss
        self.function = task.function.to(dtype)
        self.training = task.training.to(dtype)
        self.queries = task.queries.to(dtype)
        # Outputs at θˢ of the passes whose first example and size are the key, as far as there is room.
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._units, self.mean_loss = self._measure()

    @property
    def size(self) -> int:
        """p, the length of a displacement."""
        return self.function.num_parameters

    @cached_property
    def quick(self) -> BregmanObjective | None:
        """The same in the network's own dtype, on a CPU several times as fast; None where that is this one's.

        Its gradients are off by that dtype's rounding of θ over δ.
        """
        own = self.task.function.dtype
        return None if own == self.function.dtype else BregmanObjective(self.task, self.damping, own)

    def evaluate(
        self, displacements: Tensor, examples: Tensor, epsilons: Tensor, among: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Φ, shape (j,), and ∇Φ, shape (p, j), at the displacements (p, j) for m = `examples` (j,), ε (j,).

        A gradient equivalent for each column. `among` (b,) gives the unbiased estimate from these training
        examples alone. What is not finite stays so.
        """
        everything = torch.arange(len(self.training)) if among is None else among
        share = len(self.training) / len(everything) / self._units
        values, gradients = [], []
        for column, (example, epsilon) in enumerate(zip(examples.tolist(), epsilons.tolist(), strict=True)):
            displacement = displacements[:, column]
            leaves = self._leaves(displacement)

            def bregman(size: int, leaves: dict[str, Tensor] = leaves) -> tuple[Tensor, Tensor]:
                value = torch.zeros((), dtype=torch.float64, device=self.function.device)
                gradient = torch.zeros(self.size, dtype=torch.float64, device=self.function.device)
                for part in everything.split(size):
                    inputs, targets = self.training.batch(part)
                    reference = self._reference(part, among is None)
                    outputs = self.function.outputs(leaves, inputs)
                    found = divergence(self.loss, outputs, reference, targets).sum() * share
                    value += found.detach()
                    gradient += self._gradient(found, leaves)
                return value, gradient

            with multiplying("full"):
                value, gradient = self.task.micro_batches.run(len(everything), bregman)
                loss, own = self._example(example, leaves)
            values.append(value + epsilon * loss + self.damping / 2 * displacement.square().sum())
            gradients.append(gradient + epsilon * own + self.damping * displacement)
            self.task.work.count_gradients(len(everything) + 1)
        return torch.stack(values), torch.stack(gradients).T

    def example_gradients(self, examples: Iterable[int]) -> tuple[Tensor, Tensor]:
        """L_m(θˢ), shape (j,), and ∇L_m(θˢ), shape (p, j), of the training examples."""
        leaves = self._leaves(None)
        losses, gradients = [], []
        for example in examples:
            loss, gradient = self._example(example, leaves)
            if not (torch.isfinite(gradient).all() and torch.isfinite(loss)):
                raise ArithmeticError(
                    f"the gradient of training example {example} holds NaN or inf: check its inputs, or "
                    "leave it out"
                )
            losses.append(loss)
            gradients.append(gradient)
            self.task.work.count_gradients(1)
        return torch.stack(losses), torch.stack(gradients).T

    def query_losses(self, displacement: Tensor | None = None) -> Tensor:
        """L_q(θˢ + δ) of all queries, shape (q,), by default at θˢ."""
        leaves = self._leaves(displacement)
        self.task.work.count_forward(len(self.queries))

        def losses(size: int) -> Tensor:
            found = []
            for inputs, targets in self.queries.passes(torch.arange(len(self.queries)), size):
                found.append(self.loss.per_example(self.function.outputs(leaves, inputs), targets))
            return torch.cat(found).double()

        with torch.no_grad():
            return self.task.micro_batches.run(len(self.queries), losses)

    def rounding(self, epsilons: Tensor, losses: Tensor) -> Tensor:
        """What values of Φ may be off by, (j,), for examples of the losses (j,) at θˢ."""
        return ROUNDINGS * torch.finfo(self.function.dtype).eps * (self.mean_loss + epsilons.abs() * losses)

    def _leaves(self, displacement: Tensor | None) -> dict[str, Tensor]:
        """The parameters θˢ + δ, of which gradients can be taken."""
        parameters = self.function.parameters
        if displacement is None:
            return {name: value.clone().requires_grad_() for name, value in parameters.items()}
        parts = self.function.unflatten(displacement[:, None])
        moved = {name: value.double() + parts[name][0] for name, value in parameters.items()}
        return {name: value.to(self.function.dtype).requires_grad_() for name, value in moved.items()}

    def _gradient(self, value: Tensor, leaves: dict[str, Tensor]) -> Tensor:
        parts = torch.autograd.grad(value, [leaves[name] for name in self.function.names])
        return torch.cat([part.flatten() for part in parts]).double()

    def _example(self, example: int, leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """L(z_m, θ) and its gradient (p,)."""
        inputs, targets = self.training.batch(torch.tensor([example]))
        loss = self.loss.per_example(self.function.outputs(leaves, inputs), targets)[0]
        return loss.detach().double(), self._gradient(loss, leaves)

    def _reference(self, indices: Tensor, keeps: bool = True) -> Tensor:
        """h(θˢ, x_i) of the examples in one pass."""
        key = (int(indices[0]), len(indices))
        if keeps and key in self._kept:
            return self._kept[key]
        with torch.no_grad():
            outputs = self.function.outputs(self.function.parameters, self.training.batch(indices)[0])
        self.task.work.count_forward(len(indices))
        held = sum(each.nbytes for each in self._kept.values())
        if keeps and held + outputs.nbytes <= self.task.micro_batches.keep_bytes:
            self._kept[key] = outputs
        return outputs

    def _measure(self) -> tuple[int, float]:
        """How many units count, and their mean loss at θˢ."""

        def measured(size: int) -> tuple[int, float]:
            units, total = 0, 0.0
            for part in torch.arange(len(self.training)).split(size):
                targets = self.training.batch(part)[1]
                counted = self.loss.counted(targets)
                losses = self.loss.per_unit(self._reference(part), targets).where(counted, 0)
                finite = (
                    torch.isfinite(losses).flatten(1).all(dim=1) if losses.ndim > 1 else losses.isfinite()
                )
                if not finite.all():
                    worst = int(part[int((~finite).nonzero()[0])])
                    raise ArithmeticError(
                        f"the loss of training example {worst} is not finite: check its inputs and the "
                        "weights"
                    )
                units += int(counted.sum())
                total += float(losses.sum())
            return units, total / units

        with torch.no_grad():
            return self.task.micro_batches.run(len(self.training), measured)
