"""A linear system (H + λI) X = B to solve, and the families that build one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from problems.determinism import check_deterministic, check_differentiable
from problems.discovery import label, plugin_name
from problems.examples import Examples
from problems.exhibits import Exhibits
from problems.footprint import Footprint
from problems.ground_truth import Certified, GroundTruth
from problems.losses import Loss, as_loss
from problems.model_function import ModelFunction
from problems.named import NAMED, name_of
from problems.operators.base import CurvatureOperator
from problems.operators.curvature import Curvature
from problems.operators.finite_difference import FiniteDifference
from problems.operators.fisher import EmpiricalFisher, MonteCarloFisher
from problems.operators.ggn import GaussNewton
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator
from problems.parameters import ParameterFilter
from problems.precision import Precision
from problems.retraining import Retraining
from problems.scaling import relative_norms
from problems.task import Task
from problems.validation import check_damping, check_finite, unknown

Facts = Mapping[str, float | str]
# Gradients of queries are held if they take no more than that, or are no more than these.
HELD_BYTES = 2**30
HELD_QUERIES = 32

CURVATURES: dict[str, Curvature] = {
    "ggn": GaussNewton(),
    "hessian": Hessian(),
    "empirical_fisher": EmpiricalFisher(),
    "monte_carlo_fisher": MonteCarloFisher(),
    "finite_difference": FiniteDifference(),
}


class Columns:
    """k right-hand sides too large to hold at once; `columns[:, i:j]` builds those, shape (p, j − i)."""

    def __init__(self, shape: tuple[int, int], build: Callable[[int, int], Tensor]) -> None:
        self.shape = shape
        self._build = build

    def __getitem__(self, key: tuple[slice, slice]) -> Tensor:
        rows, columns = key
        if rows != slice(None):
            raise IndexError("Columns are built whole: index them as columns[:, i:j]")
        first, last, stride = columns.indices(self.shape[1])
        if stride != 1:
            raise IndexError(f"Columns are built in order; the step {stride} is not possible")
        return self._build(first, max(first, last))


@dataclass(frozen=True, eq=False)
class Problem:
    """(H + λI) X = B: find X of shape (p, k).

    `facts` is what a reader should know of it (a model's accuracy, say); `closed_form` gives H in float64
    where a formula does; `certified` is the reference where p is too large for a dense one
    (`solvers.certify`); `exhibits` show examples and queries to a person; `retraining` trains the model again
    on some of its examples. Raises ValueError for λ ≤ 0 and
    for a B of another shape, dtype or device than H, or one that is not finite.
    """

    name: str
    operator: CurvatureOperator
    damping: float
    rhs: Tensor | Columns
    task: Task | None = None
    facts: Facts = field(default_factory=dict)
    closed_form: Callable[[], Tensor] | None = field(default=None, repr=False)
    ground_truth: GroundTruth = field(default=None, repr=False)  # type: ignore[assignment]
    certified: Certified | None = field(default=None, repr=False)
    exhibits: Exhibits | None = field(default=None, repr=False)
    retraining: Retraining | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_damping(self.damping)
        _check_rhs(self.operator, self.rhs)
        if self.ground_truth is None or self.ground_truth.operator is not self.operator:
            object.__setattr__(self, "ground_truth", GroundTruth(self.operator, self.closed_form))

    @property
    def size(self) -> int:
        """p, the number of parameters."""
        return self.operator.shape[0]

    @property
    def num_columns(self) -> int:
        """k, the number of right-hand sides."""
        return self.rhs.shape[1]

    def columns(self, columns: slice | None = None) -> Tensor:
        """The right-hand sides of `columns`, by default all, shape (p, j)."""
        chosen = slice(None) if columns is None else columns
        if not isinstance(chosen, slice) or not len(range(*chosen.indices(self.num_columns))):
            raise ValueError(f"columns is {columns}; it must be a slice of the {self.num_columns} columns")
        b = self.rhs[:, chosen]
        if isinstance(self.rhs, Columns):
            _check_rhs(self.operator, b)
            if b.shape[1] != len(range(*chosen.indices(self.num_columns))):
                raise ValueError(f"rhs built {b.shape[1]} columns for {chosen} of its {self.num_columns}")
        return b

    def residual(self, x: Tensor, b: Tensor) -> Tensor:
        """‖b − (H + λI) x‖ / ‖b‖ of every column, shape (k,); ‖(H + λI) x‖ where b = 0."""
        return relative_norms(b - self.operator.exact @ x - self.damping * x, b)

    def with_damping(self, damping: float) -> Problem:
        """The same H and B with another λ; operator and eigendecomposition are shared."""
        return replace(self, damping=damping, certified=None)

    @property
    def is_dense(self) -> bool:
        """Whether p is small enough for an eigendecomposition of H, to which rounding is all the error."""
        return self.ground_truth.in_reach

    @cached_property
    def reference(self) -> Tensor | None:
        """X in float64, shape (p, k), certified by its residual; None where p is out of reach."""
        return self._reference.x if self._reference else None

    @cached_property
    def reference_residual(self) -> float | None:
        """The largest relative residual of the reference; of a dense one in float64."""
        return self._reference.residual if self._reference else None

    @cached_property
    def reference_error(self) -> float | None:
        """A bound of the reference's own relative error: 0, but for rounding, of a dense one."""
        return self._reference.error if self._reference else None

    @cached_property
    def eigenvalues(self) -> Tensor | None:
        """Eigenvalues of H, float64, ascending, shape (p,); None where p is out of reach."""
        return self.ground_truth.eigen[0] if self.is_dense else None

    @cached_property
    def condition_number(self) -> float | None:
        """κ = (λ_max + λ)/(λ_min + λ), of absolute values where H is indefinite."""
        if self.eigenvalues is None:
            return None
        shifted = (self.eigenvalues + self.damping).abs()
        return float(shifted.max() / shifted.min())

    def error(self, x: Tensor, columns: slice | None = None) -> Tensor | None:
        """Relative error ‖x − x*‖/‖x*‖ of every column, shape (k,).

        No less than what the reference itself may be off, since no smaller one can be told.
        """
        reference = self._reference_columns(columns)
        if reference is None:
            return None
        assert self.reference_error is not None
        return relative_norms(x - reference, reference).clamp_min(self.reference_error)

    def energy_error(self, x: Tensor, columns: slice | None = None) -> Tensor | None:
        """Relative error of every column in the norm ‖e‖² = eᵀ(H + λI)e, shape (k,); None if p is large."""
        reference = self._reference_columns(columns)
        if reference is None or not self.is_dense:
            return None
        return relative_norms(self._energy(x - reference), self._reference_energy[:, columns or slice(None)])

    @cached_property
    def _reference(self) -> Certified | None:
        if not self.is_dense:
            return self.certified
        x, residual = self.ground_truth.solve(self.columns(), self.damping)
        return Certified(x, 0.0, residual)

    @cached_property
    def _reference_energy(self) -> Tensor:
        assert self.reference is not None
        return self._energy(self.reference)

    def _energy(self, columns: Tensor) -> Tensor:
        """Coordinates whose 2-norm is the energy norm, shape (p, k)."""
        eigenvalues, eigenvectors = self.ground_truth.eigen
        return (eigenvalues + self.damping).clamp_min(0).sqrt()[:, None] * (eigenvectors.T @ columns)

    def _reference_columns(self, columns: slice | None) -> Tensor | None:
        return None if self.reference is None else self.reference[:, columns or slice(None)]


@dataclass(frozen=True)
class ProblemFamily(ABC):
    """Problems of one kind; the fields are its parameters, their defaults a problem solved in seconds."""

    @abstractmethod
    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        """The problem, the same for the same parameters and seed."""

    def footprint(self) -> Footprint | None:
        """How large the problem will be; None where that shows only when it is built."""
        return None

    @property
    def name(self) -> str:
        """The name by which `problems.load` knows this family."""
        return plugin_name(type(self))

    def __str__(self) -> str:
        """Its name, or the network's, with the parameters that differ from what that stands for."""
        named = name_of(self.name, vars(self))
        return label(named, self, NAMED[named][1]) if named else label(self.name, self)

    @classmethod
    def examples(cls) -> Sequence[ProblemFamily]:
        """Small members of the family, on which the conformance suite tries every solver."""
        return (cls(),)


def as_curvature(curvature: str | Curvature) -> Curvature:
    """The curvature named `curvature`; ValueError suggests the nearest."""
    if isinstance(curvature, Curvature):
        return curvature
    if curvature not in CURVATURES:
        raise ValueError(unknown("curvature", curvature, CURVATURES))
    return CURVATURES[curvature]


def from_model(
    model: nn.Module,
    loss: str | nn.Module | Loss,
    data: Any,
    queries: Any,
    *,
    damping: float,
    curvature: str | Curvature = "ggn",
    parameters: ParameterFilter = None,
    precision: Precision = "full",
    max_bytes: int | None = None,
    name: str = "model",
    facts: Facts | None = None,
    closed_form: Callable[[], Tensor] | None = None,
    exhibits: Exhibits | None = None,
    retraining: Retraining | None = None,
) -> Problem:
    """Wrap a trained network: H is the curvature of its mean loss over `data`, B the gradients of `queries`.

    `loss` is "cross_entropy", "mse" (torch's mean over examples and outputs), "bce", for language models
    "token_cross_entropy" or, with labels that are the inputs themselves, "next_token_cross_entropy"; or the
    torch module. `data` and `queries` are map-style datasets of (inputs, target), tuples of tensors, or
    dictionaries with "labels" as Hugging Face has them; inputs may be tuples or dictionaries.

    `curvature` is "ggn", "hessian", "empirical_fisher", "monte_carlo_fisher" or "finite_difference", the
    Gauss–Newton matrix with approximate products; or an instance with settings, such as
    `FiniteDifference(delta=1e-3)`. `parameters` selects by name, a regular expression or a function, or by
    the presets "no_batchnorm_no_bias" and "no_embeddings_no_norms". `max_bytes` bounds what a product takes
    beyond parameters and vectors.

    `precision` is that of the network: "full", the parameters' dtype; "tf32" or "bf16", in which vectors
    stay in float32. Relative error of Gauss–Newton products of random vectors against float64, measured on
    the networks of `bench/suite` at random weights, on a CPU, TensorFloat-32 emulated by rounding factors:
    ResNet-18 in float32 1e-7 to 3e-4 (a ReLU on the other side of its kink), tf32 2e-3 to 6e-3, bf16 5e-3
    to 2e-2; transformer 3e-7, 4e-4 and 4e-3.

    The model must be in evaluation mode and is shared, not copied. Raises ValueError for whatever would
    make H change between two products or cannot be differentiated, saying what to change.
    """
    curvature = as_curvature(curvature)
    check_damping(damping)
    criterion = as_loss(loss)
    function = ModelFunction(model, parameters, precision)
    training = Examples(data, function.device, function.dtype)
    query_examples = Examples(queries, function.device, function.dtype)
    check_deterministic(function, criterion, training, query_examples)
    operator = NetworkOperator(curvature, function, criterion, training, max_bytes=max_bytes)
    check_differentiable(operator)
    task = Task(function, criterion, training, query_examples, operator.work, operator.micro_batches)
    return Problem(
        name,
        operator,
        damping,
        _query_gradients(task),
        task,
        facts or {},
        closed_form,
        exhibits=exhibits,
        retraining=retraining,
    )


def _query_gradients(task: Task) -> Tensor | Columns:
    """All at once, unless they are many and large: then as they are asked for."""
    function, count = task.function, len(task.queries)
    large = count * function.num_parameters * function.dtype.itemsize > HELD_BYTES
    if large and count > HELD_QUERIES:
        task.check_queries()
        return Columns(
            (function.num_parameters, count),
            lambda first, last: task.gradients(task.queries, torch.arange(first, last)),
        )
    return task.query_gradients()


def _check_rhs(operator: CurvatureOperator, rhs: Tensor | Columns) -> None:
    size = operator.shape[0]
    if len(rhs.shape) != 2 or rhs.shape[0] != size or rhs.shape[1] < 1:
        raise ValueError(f"rhs has shape {tuple(rhs.shape)}; it must be ({size}, k) with k ≥ 1 columns")
    if isinstance(rhs, Tensor):
        if rhs.dtype != operator.dtype or rhs.device != operator.device:
            raise ValueError(
                f"rhs is {rhs.dtype} on {rhs.device}, H is {operator.dtype} on {operator.device}: convert one"
            )
        check_finite("rhs", rhs)
