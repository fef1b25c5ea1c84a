"""What the best settings of LiSSA would have been: every η × b × T of a grid, tried out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from problems import DenseOperator, Problem
from problems.operators.network import NetworkOperator

# Powers of 2, times 1/(λ_max + λ); and what all data bear at most.
STEP_FRACTIONS = (1.9, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Each T is this much larger than the one before.
GROWTH = 1.1
SEEDS = 3


@dataclass(frozen=True)
class Cheapest:
    """The setting that reaches the target for the fewest examples, on most seeds; `examples` = b·T.

    `lucky` is the same for any one seed, chosen with hindsight. Both are ∞ where nothing within the limit
    reaches it.
    """

    step_size: float
    batch_size: int | str
    num_steps: int
    examples: float
    lucky: float
    settings_tried: int


def cheapest_setting(problem: Problem, target: float, most_examples: float) -> Cheapest:
    """Run plain LiSSA from b/λ in every setting of at most `most_examples` examples, in float64."""
    factors = _factors(problem)
    assert problem.eigenvalues is not None
    whole = float(problem.eigenvalues[-1]) + problem.damping
    steps = torch.tensor(STEP_FRACTIONS, dtype=torch.float64) / whole
    found: list[tuple[float, float, int | str, int]] = []
    lucky, tried = math.inf, 0
    for batch in [batch for batch in BATCHES if batch <= len(factors)] + ["full"]:
        cost = len(factors) if batch == "full" else int(batch)
        times = _times(int(most_examples / cost))
        tried += len(steps) * len(times)
        errors = _errors(problem, factors, steps, batch, times)  # (T, seeds, steps)
        for index, time in enumerate(times):
            reached = errors[index] <= target
            if reached.any():
                lucky = min(lucky, float(cost * time))
            for chosen in (reached.double().mean(dim=0) > 0.5).nonzero().flatten().tolist():
                found.append((float(cost * time), float(steps[chosen]), batch, time))
    if not found:
        return Cheapest(math.nan, 0, 0, math.inf, lucky, tried)
    examples, step, batch_size, time = min(found, key=lambda each: each[0])
    return Cheapest(step, batch_size, time, examples, lucky, tried)


def _errors(problem: Problem, factors: Tensor, steps: Tensor, batch: int | str, times: list[int]) -> Tensor:
    """Worst column's relative error at each of `times`, for every seed and step size: (T, seeds, steps)."""
    b, reference = problem.columns().double(), problem.reference
    assert reference is not None
    size, columns = b.shape
    eta = steps[:, None, None]
    seeds = 1 if batch == "full" else SEEDS
    u = (b / problem.damping).expand(seeds, len(steps), size, columns)
    matrix = torch.einsum("nci,ncj->ij", factors, factors) / len(factors) if batch == "full" else None
    generator = torch.Generator().manual_seed(0)
    errors = []
    for t in range(1, times[-1] + 1 if times else 0):
        # (seeds, p, steps · k): all step sizes go through the same mini-batches.
        block = u.permute(0, 2, 1, 3).reshape(seeds, size, -1)
        if matrix is not None:
            product = matrix @ block
        else:
            drawn = torch.randint(len(factors), (seeds, int(batch)), generator=generator)
            rows = factors[drawn].reshape(seeds, -1, size)
            product = rows.mT @ (rows @ block) / int(batch)
        product = product.reshape(seeds, size, len(steps), columns).permute(0, 2, 1, 3)
        u = u - eta * (product + problem.damping * u - b)
        if t in times:
            error = ((u - reference).norm(dim=2) / reference.norm(dim=0)).amax(dim=2)
            errors.append(error.nan_to_num(math.inf))
    return torch.stack(errors) if errors else torch.empty(0, seeds, len(steps))


def _times(most: int) -> list[int]:
    count = int(math.log(max(1, most)) / math.log(GROWTH)) + 1 if most >= 1 else 0
    return sorted({int(GROWTH**power) for power in range(count)})


def _factors(problem: Problem) -> Tensor:
    """R_i with h_i = R_iᵀ R_i of every example, shape (n, c, p); checked against the operator's product."""
    operator = problem.operator
    if isinstance(operator, DenseOperator):
        values, vectors = torch.linalg.eigh(operator.per_example)
        rank = int((values > 1e-12 * values.max()).sum(dim=1).max())
        factors = (vectors[:, :, -rank:] * values[:, None, -rank:].clamp_min(0).sqrt()).mT.contiguous()
    else:
        assert isinstance(operator, NetworkOperator)
        function, batch = operator.function, operator.batch(torch.arange(operator.num_examples))

        def outputs(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return function.outputs(parameters, inputs[None])[0]

        jacobians = vmap(jacrev(outputs), in_dims=(None, 0))(function.parameters, batch.inputs)
        flat = torch.cat([jacobians[name].flatten(2) for name in function.parameters], dim=2)
        shares = function.outputs(function.parameters, batch.inputs).softmax(dim=1)[:, :, None]
        # diag(p) − ppᵀ = RᵀR with R = diag(√p)(I − 1pᵀ).
        factors = shares.sqrt() * (flat - (shares * flat).sum(dim=1, keepdim=True))
    b = problem.columns()
    product = torch.einsum("nci,nck->ik", factors, torch.einsum("nci,ik->nck", factors, b)) / len(factors)
    torch.testing.assert_close(product, operator @ b)
    return factors
