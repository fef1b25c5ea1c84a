"""kronfluence (Grosse et al. 2023): Kronecker factors of linear layers and convolutions, and the diagonal."""

from __future__ import annotations

import gc
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from problems import Problem
from problems.losses import Loss
from problems.operators.layers import Layer, find_layers
from problems.work import ProductCost
from solvers.kronecker import GIB, LAYER_DAMPINGS, LayerDamping, length_of_identity
from solvers.peers.advice import Advice
from solvers.peers.layers import LayeredNetwork, layered_network, layers_skip_reason, sampled_losses
from solvers.peers.library import Library
from solvers.peers.network import MOST_AT_ONCE, listening
from solvers.solver import Example, Iterate, Solver

LIBRARY = Library("kronfluence", "kronfluence", ">=1.0.1,<1.1")
Strategy = Literal["ekfac", "kfac", "diagonal"]
# It freezes all parameters, so that a backward pass is one of activations alone.
PASS_COST = ProductCost(1, 1)
# Of the gradients of a layer that it holds at once, one for each example.
MOST_BYTES = GIB


@dataclass(frozen=True)
class KronfluenceEKFAC(Solver):
    """Strategy "ekfac" (George et al. 2018), of one target drawn from the model for each example and pass.

    `use_empirical_fisher` takes the given targets. λ is its `damping_factor`, by default 1e-8 there;
    `layer_damping` "heuristic" is its None, 0.1 times each layer's mean eigenvalue. It is told to compute in
    the problem's dtype; float32 is its default.
    """

    use_empirical_fisher: bool = False
    layer_damping: LayerDamping = "given"

    variant: ClassVar[str] = "ekfac"
    remedy: ClassVar[str] = "set layer_damping=given, or raise damping"

    def __post_init__(self) -> None:
        _check(self.layer_damping)

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Factors:
        return _fit(problem, "ekfac", self.use_empirical_fisher, self.layer_damping, generator)

    def iterates(
        self, problem: Problem, state: Factors, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield state.solve(problem, b)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """As it is: λ is given, and there is no accuracy to choose."""
        return cls()

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        return [Example(each, _claim(problem)) for each in (cls(), cls(use_empirical_fisher=True))]


@dataclass(frozen=True)
class KronfluenceKFAC(Solver):
    """Strategy "kfac" (Martens & Grosse 2015): the product of both factors' eigenvalues.

    Settings are as for kronfluence_ekfac. Of a layer with T positions it divides both factors by all
    positions, so that its eigenvalues are 1/T of K-FAC's.
    """

    use_empirical_fisher: bool = False
    layer_damping: LayerDamping = "given"

    variant: ClassVar[str] = "kfac"
    remedy: ClassVar[str] = "set layer_damping=given, or raise damping"

    def __post_init__(self) -> None:
        _check(self.layer_damping)

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Factors:
        return _fit(problem, "kfac", self.use_empirical_fisher, self.layer_damping, generator)

    def iterates(
        self, problem: Problem, state: Factors, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield state.solve(problem, b)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """As it is: λ is given, and there is no accuracy to choose."""
        return cls()

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        return [Example(each, _claim(problem)) for each in (cls(), cls(use_empirical_fisher=True))]


@dataclass(frozen=True)
class KronfluenceDiagonal(Solver):
    """Strategy "diagonal": mean squares of gradients. Settings are as for kronfluence_ekfac."""

    use_empirical_fisher: bool = False
    layer_damping: LayerDamping = "given"

    variant: ClassVar[str] = "diagonal"
    remedy: ClassVar[str] = "set layer_damping=given, or raise damping"

    def __post_init__(self) -> None:
        _check(self.layer_damping)

    def skip(self, problem: Problem) -> str | None:
        return _skip(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Factors:
        return _fit(problem, "diagonal", self.use_empirical_fisher, self.layer_damping, generator)

    def iterates(
        self, problem: Problem, state: Factors, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield state.solve(problem, b)

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """As it is: λ is given, and there is no accuracy to choose."""
        return cls()

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        return [Example(each, _claim(problem)) for each in (cls(), cls(use_empirical_fisher=True))]


@dataclass(frozen=True)
class Factors:
    """What `strategy` keeps of each layer, in kronfluence's own names, ready to be applied."""

    strategy: Strategy
    layers: Sequence[tuple[Layer, dict[str, Any]]]
    said: Sequence[str]

    def solve(self, problem: Problem, b: Tensor) -> Iterate:
        """P⁻¹ b, all columns (p, k) together."""
        from kronfluence.factor.config import FactorConfig

        config = FactorConfig.CONFIGS[self.strategy]
        rows = torch.empty_like(b.T)
        for layer, storage in self.layers:
            layer.put(config.precondition_gradient(layer.take(b.T), storage), rows)
            rotations = 1 if self.strategy == "diagonal" else 2 * (layer.outputs + layer.columns)
            problem.operator.work.count_algebra(b.shape[1] * layer.size * rotations)
        return Iterate(rows.T, diagnostics={"said": self.said})


def _fit(
    problem: Problem, strategy: Strategy, empirical: bool, damping: LayerDamping, generator: torch.Generator
) -> Factors:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.factor.config import FactorConfig
    from kronfluence.utils.state import State

    assert problem.task is not None
    device, dtype = problem.operator.device, problem.operator.dtype
    given = layered_network(problem)
    network = given.network
    task = _task(problem.task.loss, list(given.layers), generator)
    # Its loader of data draws a seed.
    with (
        listening(LIBRARY) as said,
        torch.random.fork_rng(),
        tempfile.TemporaryDirectory() as folder,
        _little_to_collect(),
    ):
        prepared = prepare_model(given.model, task)
        # It keeps the first device that it was given for all that follows.
        State._reset_state()
        analyzer = Analyzer(
            "problem", prepared, task, cpu=device.type == "cpu", disable_tqdm=True, output_dir=folder
        )
        _count_algebra(given, strategy)
        with network.counting(PASS_COST):
            analyzer.fit_all_factors(
                "all",
                TensorDataset(network.inputs, network.targets),
                per_device_batch_size=_batch_size(given),
                factor_args=FactorArguments(
                    strategy=strategy,
                    use_empirical_fisher=empirical,
                    activation_covariance_dtype=dtype,
                    gradient_covariance_dtype=dtype,
                    per_sample_gradient_dtype=dtype,
                    lambda_dtype=dtype,
                ),
            )
        factors = analyzer.load_all_factors("all")
        score = ScoreArguments(
            damping_factor=problem.damping if damping == "given" else None, precondition_dtype=dtype
        )
        layers = []
        for name, layer in given.layers.items():
            storage = defaultdict(lambda: None, {kind: found.get(name) for kind, found in factors.items()})
            FactorConfig.CONFIGS[strategy].prepare(storage, score, device)
            layers.append((layer, storage))
    return Factors(strategy, layers, said)


@contextmanager
def _little_to_collect() -> Iterator[None]:
    """Keep what this process holds already out of its six garbage collections, most of the time otherwise."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _task(loss: Loss, names: list[str], generator: torch.Generator) -> Any:
    """What kronfluence asks of a problem: the *sum* of a batch's losses."""
    from kronfluence.task import Task

    class SummedLoss(Task):
        def compute_train_loss(
            self, batch: tuple[Tensor, Tensor], model: nn.Module, sample: bool = False
        ) -> Tensor:
            inputs, targets = batch
            outputs = model(inputs)
            if sample:
                return sampled_losses(loss, outputs, generator).sum()
            return loss.per_unit(outputs, targets).sum()

        def compute_measurement(self, batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

    return SummedLoss()


def _batch_size(given: LayeredNetwork) -> int:
    inputs = given.network.inputs
    largest = inputs.element_size() * max(layer.size for layer in given.layers.values())
    return max(1, min(MOST_AT_ONCE, len(inputs), MOST_BYTES // largest))


def _count_algebra(given: LayeredNetwork, strategy: Strategy) -> None:
    """What it multiplies besides passes: covariances, eigenvectors, gradients of examples, their rotation."""
    examples, multiplications = len(given.network.inputs), 0
    for name, positions in given.positions().items():
        outputs, columns = given.layers[name].outputs, given.layers[name].columns
        if strategy != "diagonal":
            multiplications += examples * positions * (outputs**2 + columns**2)
            multiplications += 10 * (outputs**3 + columns**3)
        if strategy != "kfac":
            multiplications += examples * positions * outputs * columns
        if strategy == "ekfac":
            multiplications += examples * outputs * columns * (outputs + columns)
    given.network.work.count_algebra(multiplications)


def _skip(problem: Problem) -> str | None:
    reason = layers_skip_reason(LIBRARY, problem, (nn.Linear, nn.Conv2d))
    if reason is not None:
        return reason
    assert problem.task is not None
    for layer in find_layers(problem.task.function).layers:
        if isinstance(layer.module, nn.Conv2d) and layer.module.padding_mode != "zeros":
            return (
                f"kronfluence pads all inputs with zeros, and padding_mode of {layer.name} is "
                f"{layer.module.padding_mode!r}: leave it out of the parameters"
            )
    return None


def _claim(problem: Problem) -> float | None:
    # (H + λ)⁻¹ and (Ĥ + λ)⁻¹ both lie between 0 and 1/λ.
    return length_of_identity(problem) if problem.operator.is_psd else None


def _check(layer_damping: str) -> None:
    if layer_damping not in LAYER_DAMPINGS:
        allowed = ", ".join(LAYER_DAMPINGS)
        raise ValueError(f"layer_damping is {layer_damping!r}; it must be one of {allowed}")
