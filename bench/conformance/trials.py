"""The small problems on which a solver is tried: the families' own, and shapes that few problems have."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

import problems
from bench.conformance.families import build, members
from bench.conformance.outcome import Failure, NotApplicable
from problems import DenseOperator, Problem, ProblemFamily
from problems.discovery import PluginWarning
from problems.models.mlp import mlp


@dataclass(frozen=True, eq=False)
class Trial:
    """A small problem by name; `build` makes it in a dtype, `build_scaled` with H and λ times a number.

    All checks are made on a `thorough` one, elsewhere those that may depend on the problem's shape. Settings
    that run on `beside` are varied there and not here, which saves time.
    """

    name: str
    build: Callable[[torch.dtype], Problem]
    build_scaled: Callable[[float], Problem] | None = None
    thorough: bool = False
    beside: Trial | None = None
    _built: dict[torch.dtype, Problem] = field(default_factory=dict, repr=False)

    def problem(self, dtype: torch.dtype = torch.float64) -> Problem:
        """The problem, built once, with its reference; NotApplicable where it has none, or another dtype."""
        if dtype not in self._built:
            problem = self.build(dtype)
            if problem.operator.dtype != dtype:
                raise NotApplicable(f"{self.name} is built in {problem.operator.dtype}, not in {dtype}")
            if problem.reference is None:
                raise NotApplicable(f"{self.name} has p = {problem.size}, too large for exact ground truth")
            self._built[dtype] = problem
        return self._built[dtype]

    def scaled(self, factor: float) -> Problem | None:
        """The problem in float64 with H and λ times `factor`, b as it is; None where H cannot be scaled."""
        if self.build_scaled:
            return self.build_scaled(factor)
        problem = self.problem()
        if not isinstance(problem.operator, DenseOperator):
            return None
        operator = DenseOperator(factor * problem.operator.per_example)
        return replace(problem, operator=operator, damping=factor * problem.damping, closed_form=None)


def trial_of(name: str, family: ProblemFamily, *, thorough: bool = False) -> Trial:
    """The problem that `family` builds from seed 0 on the CPU."""
    return Trial(name, lambda dtype: build(family, dtype), thorough=thorough)


@functools.cache
def every_trial() -> tuple[Trial, ...]:
    """The examples of every family, and the special shapes; built when first used, and once."""
    trials: list[Trial] = []
    for name, cls in problems.available().items():
        try:
            trials += [trial_of(f"{name}-{index}", family) for index, family in enumerate(members(cls))]
        except Failure as failure:
            warnings.warn(f"no solver is tried on {name}: {failure}", PluginWarning, stacklevel=2)
    return (*trials, *special_trials())


def special_trials() -> tuple[Trial, ...]:
    """A full-rank matrix, four special shapes, and a network for the solvers that need layers."""
    dense = Trial("dense", lambda dtype: _dense(dtype, size=9, num_examples=24), thorough=True)
    return (
        dense,
        Trial("rank-deficient", lambda dtype: _dense(dtype, size=9, num_examples=4, rank=1)),
        Trial("one-parameter", lambda dtype: _dense(dtype, size=1, num_examples=6, num_columns=1)),
        Trial("one-example", lambda dtype: _dense(dtype, size=6, num_examples=1, num_columns=1)),
        Trial("more-columns-than-parameters", lambda dtype: _dense(dtype, 3, num_examples=10, num_columns=7)),
        Trial("network", _network, build_scaled=_scaled_network, thorough=True, beside=dense),
    )


def _dense(
    dtype: torch.dtype, size: int, num_examples: int, *, rank: int = 2, num_columns: int = 3
) -> Problem:
    """h_i of the given rank, every third of three times the size, and isotropic right-hand sides."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(num_examples, size, rank, generator=generator, dtype=torch.float64) / size**0.5
    factors[::3] *= 3**0.5
    rhs = torch.randn(size, num_columns, generator=generator, dtype=torch.float64)
    per_example = factors @ factors.mT
    return Problem("dense", DenseOperator(per_example.to(dtype)), 0.1, rhs.to(dtype))


def _network(dtype: torch.dtype, outputs_times: float = 1.0) -> Problem:
    """Regression with a perceptron 3-4-2, its outputs multiplied: H is multiplied by the square.

    Targets move along, so that the residuals stay and every gradient is multiplied by the number itself.
    """
    generator = torch.Generator().manual_seed(0)
    network = mlp([3, 4, 2], generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        inputs, targets = (
            torch.randn(count, width, generator=generator, dtype=torch.float64) for width in (3, 2)
        )
        return inputs, targets + (outputs_times - 1) * network(inputs).detach()

    data, queries = draw(12), draw(2)
    model = nn.Sequential(network, _Times(outputs_times)).eval().to(dtype)
    return problems.from_model(model, "mse", data, queries, damping=0.3, name="network")


def _scaled_network(factor: float) -> Problem:
    plain, scaled = _network(torch.float64), _network(torch.float64, factor**0.5)
    return replace(scaled, rhs=plain.rhs, damping=factor * plain.damping)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, outputs: Tensor) -> Tensor:
        return self.factor * outputs
