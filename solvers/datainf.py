"""DataInf: inverses of single examples' gradients, averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from problems import NetworkOperator, Problem
from problems.operators.layers import module_places
from solvers.solver import Breakdown, Example, Iterate, Solver, check_positive

GIB = 2**30
LayerDamping = Literal["given", "heuristic"]
LAYER_DAMPINGS: tuple[LayerDamping, ...] = get_args(LayerDamping)
# Kwon et al. 2023: a layer's damping over the mean square of a gradient's entries.
HEURISTIC_SHARE = 0.1
# Of a block of gradients: themselves, and what is made of them on the way.
COPIES = 3


@dataclass(frozen=True)
class DataInf(Solver):
    """x = mean over examples of (gᵢgᵢᵀ + λ)⁻¹b, module by module, gᵢ a loss's gradient (Kwon et al. 2023).

    By Sherman and Morrison's formula (b − mean gᵢ(gᵢᵀb)/(λ + ‖gᵢ‖²))/λ. It takes H for the empirical Fisher
    matrix, drops what lies between modules, and puts the mean of inverses in place of the inverse of the
    mean: exact for the empirical Fisher matrix of one module and one example. Under the given damping
    0 ⪯ P⁻¹ ⪯ 1/λ, so that ‖x − x*‖ ≤ ‖b‖/λ for H ⪰ 0; it tends to 0 where λ ≫ H and λ ≫ ‖gᵢ‖², where b/λ does
    too. A sequence's gᵢ is that of its mean loss. `layer_damping` "heuristic" is the paper's
    0.1 · mean ‖gᵢ‖²/d for a module of d parameters, in place of λ.

    Per call: one gradient of every example, 1 gradient equivalent, twice for "heuristic", and 2np
    multiplications for each column. Memory: a block of gradients within `memory_gib`, one at least.
    """

    layer_damping: LayerDamping = "given"
    memory_gib: float = 1.0

    remedy: ClassVar[str] = "set layer_damping=given, or raise damping"

    def __post_init__(self) -> None:
        if self.layer_damping not in LAYER_DAMPINGS:
            allowed = ", ".join(LAYER_DAMPINGS)
            raise ValueError(f"layer_damping is {self.layer_damping!r}; it must be one of {allowed}")
        check_positive(memory_gib=self.memory_gib)

    def skip(self, problem: Problem) -> str | None:
        if problem.task is None or not isinstance(problem.operator, NetworkOperator):
            return "it needs a network's gradients, which a bare matrix has not: use harmonic_mean"
        needed = COPIES * problem.size * problem.operator.dtype.itemsize
        if needed > self.memory_gib * GIB:
            return (
                f"one gradient and its copies take {needed / GIB:.2g} GiB (p = {problem.size}), "
                f"memory_gib={self.memory_gib:g}: raise it"
            )
        return None

    def prepare(self, problem: Problem, generator: torch.Generator) -> dict[str, float]:
        """The damping of every module."""
        assert isinstance(problem.operator, NetworkOperator)
        places = module_places(problem.operator.function)
        if self.layer_damping == "given":
            return dict.fromkeys(places, problem.damping)
        sums = dict.fromkeys(places, 0.0)
        for gradients in self._gradients(problem):
            for name, place in places.items():
                sums[name] += float(gradients[place].to(torch.float64).square().sum())
        assert problem.task is not None
        count = len(problem.task.training)
        found = {}
        for name, place in places.items():
            found[name] = HEURISTIC_SHARE * sums[name] / (count * (place.stop - place.start))
            if not found[name] > 0:
                raise Breakdown(f"all gradients of {name or 'the model'} are 0: set layer_damping=given")
        return found

    def iterates(
        self, problem: Problem, state: dict[str, float], b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        assert isinstance(problem.operator, NetworkOperator)
        places = module_places(problem.operator.function)
        removed = torch.zeros_like(b)
        count = 0
        for gradients in self._gradients(problem):
            count += gradients.shape[1]
            for name, place in places.items():
                own = gradients[place]
                weights = (own.T @ b[place]) / (state[name] + own.square().sum(dim=0))[:, None]
                removed[place] += own @ weights
        problem.operator.work.count_algebra(2 * count * b.numel())
        x = b - removed / count
        for name, place in places.items():
            x[place] /= state[name]
        told = {f"damping of {name or 'the model'}": damping for name, damping in state.items()}
        yield Iterate(x, diagnostics=told if self.layer_damping == "heuristic" else {})

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        if problem.task is None:
            return [Example(cls(), None)]
        # x − x* = (P⁻¹(H + λ) − I)x*, P⁻¹ by inverting every example's blocks.
        task, operator = problem.task, problem.operator
        assert isinstance(operator, NetworkOperator)
        gradients = task.gradients(task.training, torch.arange(len(task.training))).to(torch.float64).T
        matrix = operator.to(torch.float64).dense()
        identity = torch.eye(problem.size, dtype=torch.float64, device=operator.device)
        inverse = torch.zeros_like(matrix)
        for place in module_places(operator.function).values():
            own, damped = gradients[:, place], problem.damping * identity[place, place]
            for gradient in own:
                inverse[place, place] += torch.linalg.inv(torch.outer(gradient, gradient) + damped) / len(own)
        remainder = inverse @ (matrix + problem.damping * identity) - identity
        return [Example(cls(), float(torch.linalg.matrix_norm(remainder, 2)) + 1e-9)]

    def _gradients(self, problem: Problem) -> Iterator[Tensor]:
        """The gradients of all examples in blocks of columns (p, m)."""
        assert problem.task is not None
        room = int(self.memory_gib * GIB // (COPIES * problem.size * problem.operator.dtype.itemsize))
        for indices in torch.arange(len(problem.task.training)).split(max(1, room)):
            yield problem.task.gradients(problem.task.training, indices)
