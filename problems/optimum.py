"""Training a model again to the optimum of an objective, by Newton's method, as its gradient certifies."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from problems.examples import Examples, Inputs, tensors
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.parameters import ParameterFilter
from problems.retraining import Attempt, Retrained, Retraining, Start, fingerprint

if TYPE_CHECKING:
    from problems.problem import Problem

MOST_STEPS, MOST_PRODUCTS, MOST_HALVINGS = 200, 250, 30
# Of so many examples the gradients are taken to know what one of them pulls.
SAMPLED = 64
LEAST_PULL = 1e-8
# What rounding may add to the objective, relative to it.
ROUNDING = 1e-13
SUFFICIENT = 1e-4


@dataclass(frozen=True, eq=False)
class Optimum(Retraining):
    """To a minimum of (1/N) Σ_{i ∈ kept} ℓ_i(θ) + ½ Σ_j `penalty`_j (θ_j − `centre`_j)², in float64.

    N counts all examples: one that is left out has weight 0, and the others keep theirs. `centre` None stands
    for the model's own weights θˢ and `penalty` None for the problem's λ: the objective of Koh & Liang (2017)
    with the proximity to θˢ that damping stands for. A warm start is from θˢ, a cold one from `fresh`; θ are
    the parameters that `parameters` selects. `training` and `queries` are tuples of tensors.

    Converged is what has a gradient of norm at most `tolerance` times what an example pulls: the root mean
    square of ‖∇ℓ_i(θˢ)‖/N.
    """

    model: nn.Module
    loss: Loss
    training: Any
    queries: Any
    parameters: ParameterFilter = None
    penalty: Tensor | None = None
    centre: Tensor | None = None
    fresh: Tensor | None = None
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if self.loss.unit != "example":
            raise ValueError(
                "sequences have weights by their tokens, which leaving one out would change: train again "
                "only with losses of examples (cross_entropy, mse, bce)"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without what was derived, which has functions that do not pickle."""
        return {each.name: self.__dict__[each.name] for each in fields(self)}

    @property
    def count(self) -> int:
        return len(self.training[1])

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def check(self, start: Start) -> None:
        super().check(start)
        if start == "cold" and self.fresh is None:
            raise ValueError("how this model is initialised is not known: start='warm' is possible alone")

    def is_seeded(self, start: Start) -> bool:
        return False

    def key(self, attempt: Attempt) -> Mapping[str, Any]:
        return {
            "model": self._fingerprint,
            "structure": repr(self.model),
            "loss": repr(self.loss),
            "selected": self._function.names,
            "tolerance": self.tolerance,
            "damping": attempt.damping if self.penalty is None else None,
        }

    def train(self, attempt: Attempt) -> Retrained:
        self.check(attempt.start)
        own, training = self._own, self._examples[0]
        penalty = torch.full_like(own, attempt.damping) if self.penalty is None else self.penalty.to(own)
        centre = own if self.centre is None else self.centre.to(own)
        objective = Objective(self._function, self.loss, training, attempt.kept, penalty, centre)
        start = own if attempt.start == "warm" else self.fresh
        assert start is not None
        found = minimise(objective, start.to(own), self.tolerance * self._pull)
        return Retrained(self._query_losses(found.point), found.converged, found.gradient / self._pull)

    def _query_losses(self, point: Tensor) -> Tensor:
        """At θ = `point` (p,), shape (q,)."""
        queries = self._examples[1]
        with torch.no_grad():
            inputs, targets = queries.batch(torch.arange(len(queries)))
            return self.loss.per_example(outputs_at(self._function, point, inputs), targets)

    @cached_property
    def _function(self) -> ModelFunction:
        return ModelFunction(copy.deepcopy(self.model).double().eval(), self.parameters)

    @cached_property
    def _examples(self) -> list[Examples]:
        """Training examples and queries."""
        function = self._function
        return [Examples(each, function.device, function.dtype) for each in (self.training, self.queries)]

    @cached_property
    def _own(self) -> Tensor:
        """θˢ, (p,)."""
        function = self._function
        return function.flatten({name: value[None] for name, value in function.parameters.items()})[:, 0]

    @cached_property
    def _pull(self) -> float:
        own, nothing = self._own, torch.zeros_like(self._own)
        places = range(0, self.count, -(-self.count // SAMPLED))
        squares = []
        for place in places:
            alone = torch.tensor([place])
            objective = Objective(self._function, self.loss, self._examples[0], alone, nothing, nothing)
            squares.append(float(objective.linearised(own)[1].square().sum()))
        # Where none pulls, what is left is rounding.
        return max(math.sqrt(sum(squares) / len(squares)), LEAST_PULL / self.count)

    @cached_property
    def _fingerprint(self) -> str:
        every = self.model.state_dict().values()
        given = [each for each in (self.penalty, self.centre, self.fresh) if each is not None]
        seen = [
            value
            for inputs, targets in (self.training, self.queries)
            for value in (*tensors(inputs).values(), targets)
        ]
        return fingerprint(*every, *seen, *given) + "".join(
            "01"[each is not None] for each in (self.penalty, self.centre, self.fresh)
        )


def proximal(problem: Problem, tolerance: float = 1e-8) -> Optimum:
    """From θˢ to a minimum of the training loss + (λ/2)‖θ − θˢ‖², of any model whose data are tensors.

    ValueError where they are not, where a loss is of tokens, or where there is no model.
    """
    task = problem.task
    if task is None:
        raise ValueError(f"{problem.name} is a bare matrix without a model to train: choose a model")
    for data in (task.training, task.queries):
        if data.columns is None:
            raise ValueError(
                f"{problem.name} reads its data item by item; give tuples of tensors to train it again"
            )
    function = task.function
    # By name, since a filter may be a function, which is not sent to other processes.
    selected = "^(" + "|".join(name.replace(".", r"\.") for name in function.names) + ")$"
    return Optimum(
        function.model, task.loss, task.training.columns, task.queries.columns, selected,
        tolerance=tolerance,
    )  # fmt: skip


class Objective:
    """(1/N) Σ_{i ∈ kept} ℓ_i(θ) + ½ Σ_j w_j (θ_j − c_j)² for flat θ (p,), and its derivatives.

    Derivatives hold what the network computes for all examples at once.
    """

    def __init__(
        self,
        function: ModelFunction,
        loss: Loss,
        training: Examples,
        kept: Tensor,
        weights: Tensor,
        centre: Tensor,
    ) -> None:
        self._function, self._loss, self._count = function, loss, len(training)
        self._inputs, self._targets = training.batch(kept)
        self._weights, self._centre = weights, centre

    def value(self, point: Tensor) -> float:
        with torch.no_grad():
            return float(self._value(point))

    def linearised(self, point: Tensor) -> tuple[float, Tensor, Callable[[Tensor], Tensor]]:
        """The value, the gradient (p,), and the product of the Hessian with a vector (p,)."""
        at = point.detach().requires_grad_()
        value = self._value(at)
        (gradient,) = torch.autograd.grad(value, at, create_graph=True)

        def product(vector: Tensor) -> Tensor:
            return torch.autograd.grad(gradient, at, vector, retain_graph=True)[0]

        return float(value.detach()), gradient.detach(), product

    def _value(self, point: Tensor) -> Tensor:
        outputs = outputs_at(self._function, point, self._inputs)
        losses = self._loss.per_example(outputs, self._targets)
        distance = (self._weights * (point - self._centre).square()).sum()
        return losses.sum() / self._count + distance / 2


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where it ended: a point (p,), the norm of the gradient there, and the steps it took."""

    point: Tensor
    gradient: float
    converged: bool
    steps: int


def minimise(objective: Objective, start: Tensor, limit: float) -> Minimum:
    """Newton's method with CG and step halving, until ‖∇F‖ ≤ `limit` (Nocedal & Wright 2006, Alg. 7.1)."""
    minimum = Minimum(start, math.inf, False, 0)
    for minimum in newton_steps(objective, start, limit):
        if minimum.converged or minimum.steps >= MOST_STEPS:
            break
    return minimum


def newton_steps(objective: Objective, start: Tensor, limit: float) -> Iterator[Minimum]:
    """The start and what follows; it ends where the objective falls no further."""
    point, steps, first = start.detach(), 0, None
    while True:
        value, gradient, product = objective.linearised(point)
        norm = float(gradient.norm())
        first = norm if first is None else first
        yield Minimum(point, norm, norm <= limit, steps)
        if not math.isfinite(norm) or norm == 0:
            return
        # The closer it is, the more exactly Newton's equation is solved, which makes it superlinear.
        direction = _newton_direction(product, gradient, min(0.3, math.sqrt(norm / first)))
        found = _step(objective, point, value, norm, float(gradient @ direction), direction)
        if found is None:
            return
        point, steps = found, steps + 1


def _newton_direction(product: Callable[[Tensor], Tensor], gradient: Tensor, share: float) -> Tensor:
    """−(∇²F)⁻¹∇F by CG to a residual of `share`; up to where the curvature is negative."""
    direction, residual = torch.zeros_like(gradient), -gradient
    search, square = residual, float(gradient @ gradient)
    end = share**2 * square
    for _ in range(MOST_PRODUCTS):
        image = product(search)
        curvature = float(search @ image)
        if curvature <= 0:
            return direction if direction.any() else -gradient
        step = square / curvature
        direction = direction + step * search
        residual = residual - step * image
        before, square = square, float(residual @ residual)
        if square <= end:
            break
        search = residual + (square / before) * search
    return direction


def _step(
    objective: Objective, point: Tensor, value: float, norm: float, slope: float, direction: Tensor
) -> Tensor | None:
    """The point after a step along `direction`, halved until the objective falls; None if it never does."""
    # At the end the objective changes by less than its rounding; there the gradient must fall.
    blur = ROUNDING * abs(value)
    size = 1.0
    for _ in range(MOST_HALVINGS):
        candidate = point + size * direction
        reached = objective.value(candidate)
        if reached <= value + SUFFICIENT * size * slope:
            return candidate
        if abs(slope) * size <= blur or reached <= value + blur:
            _, gradient, _ = objective.linearised(candidate)
            if float(gradient.norm()) < norm:
                return candidate
        size /= 2
    return None


def outputs_at(function: ModelFunction, point: Tensor, inputs: Inputs) -> Tensor:
    """What the network gives for `inputs` at θ = `point` (p,)."""
    parameters = {name: part[0] for name, part in function.unflatten(point[:, None]).items()}
    return function.outputs(parameters, inputs)
