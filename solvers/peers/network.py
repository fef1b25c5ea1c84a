"""What another library is given of a problem: a network of its own, torch's loss, and the data."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from problems import Problem
from problems.losses import BinaryCrossEntropy, CrossEntropy, Loss, SquaredLoss
from problems.operators.ggn import GaussNewton
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator
from problems.task import Task
from problems.work import ProductCost, Work
from solvers.peers.library import Library

Matrix = Literal["ggn", "hessian"]
# Both take the mean over examples, and over an example's outputs where it has several targets.
LOSSES: dict[type[Loss], type[nn.Module]] = {
    CrossEntropy: nn.CrossEntropyLoss,
    SquaredLoss: nn.MSELoss,
    BinaryCrossEntropy: nn.BCEWithLogitsLoss,
}
LATER_VERSIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
# Examples that go through the network at once: as many as ours would be given in one pass, at the most.
MOST_AT_ONCE = 2048


@dataclass(frozen=True)
class PeerNetwork:
    """A copy of the problem's network, in which only the parameters that H is of require gradients.

    `parameters` and `names` are those, in the order of the problem's vectors; `loss` is the mean over a
    batch. The training data are `inputs` and `targets`, all of them.
    """

    model: nn.Module
    names: list[str]
    loss: nn.Module
    inputs: Tensor
    targets: Tensor
    work: Work

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that H is of."""
        named = dict(self.model.named_parameters())
        return [named[name] for name in self.names]

    def batches(self, *, equal: bool = True) -> list[tuple[Tensor, Tensor]]:
        """All data in batches of one size, for not every library weights a smaller last one by its size.

        For one that does, let them not be `equal`: a prime number of examples is then no single ones.
        """
        size = equal_batch(len(self.inputs)) if equal else MOST_AT_ONCE
        return list(zip(self.inputs.split(size), self.targets.split(size), strict=True))

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """A flat vector (p,) as tensors by the parameters' names."""
        sizes = [each.numel() for each in self.parameters]
        parts = zip(self.names, self.parameters, vector.split(sizes), strict=True)
        return {name: part.reshape(each.shape) for name, each, part in parts}

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """Tensors by the parameters' names as a flat vector (p,)."""
        return torch.cat([tensors[name].flatten() for name in self.names])

    def num_outputs(self) -> int:
        """Of one example."""
        with torch.no_grad():
            return self.model(self.inputs[:1]).numel()

    @contextmanager
    def counting(self, cost: ProductCost, columns: int = 1) -> Iterator[None]:
        """Count each forward pass of the network as a product of that cost with so many columns."""

        def count(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self.work.count_product(columns, len(arguments[0]), cost)

        handle = self.model.register_forward_pre_hook(count)
        try:
            yield
        finally:
            handle.remove()


def network_for(problem: Problem) -> PeerNetwork:
    """The network of a problem that `skip_reason` passes, with the examples that H is the mean over."""
    task, operator = _task(problem), problem.operator
    assert isinstance(operator, NetworkOperator)
    function = task.function
    model = copy.deepcopy(function.model).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in function.names)
    inputs, targets = operator.examples.batch(operator.indices)
    assert isinstance(inputs, Tensor)
    if not isinstance(task.loss, CrossEntropy):
        # Torch's losses of numbers take no whole ones, nor true and false.
        targets = targets.to(function.dtype)
    return PeerNetwork(model, function.names, LOSSES[type(task.loss)](), inputs, targets, task.work)


def skip_reason(
    library: Library,
    problem: Problem,
    *,
    matrices: Sequence[Matrix] = ("ggn", "hessian"),
    losses: Sequence[type[Loss]] = tuple(LOSSES),
    layers: Sequence[type[nn.Module]] | None = None,
) -> str | None:
    """Why a solver of `library` that knows these matrices, losses and layers cannot take `problem`, or None.

    Where outputs are linear in the parameters the Hessian is the Gauss–Newton matrix, and one that knows
    either will do.
    """
    operator = problem.operator
    if library.missing():
        return library.missing()
    if problem.task is None or not isinstance(operator, NetworkOperator):
        return f"{library.distribution} needs a network, and this is a bare matrix"
    task = problem.task
    if type(task.loss) not in losses:
        known = ", ".join(LOSSES[each].__name__ for each in losses)
        return f"the loss is {type(task.loss).__name__}; {library.distribution} is given {known}"
    if task.function.precision != "full":
        return (
            f"{library.distribution} computes in full precision, and precision is {task.function.precision}"
        )
    if not isinstance(task.training.batch(torch.arange(1))[0], Tensor):
        return f"{library.distribution} is given networks of one input tensor"
    kind = {GaussNewton: "ggn", Hessian: "hessian"}.get(type(operator.curvature))
    if kind is None:
        return f"H is {type(operator.curvature).__name__}, which {library.distribution} is not asked for"
    if kind not in matrices and not is_linear(task):
        return f"{library.distribution} solves with the {matrices[0]} here, and H is the {kind}"
    if layers is not None:
        return _other_layer(library, task, layers)
    return None


def is_linear(task: Task) -> bool:
    """Whether the outputs are an affine function of the parameters: f(θ + d) + f(θ − d) = 2f(θ)."""
    function = task.function
    inputs, _ = task.training.batch(torch.arange(min(2, len(task.training))))
    generator = torch.Generator().manual_seed(0)

    def outputs(shift: float) -> Tensor:
        shifted = {}
        generator.manual_seed(0)
        for name, value in function.parameters.items():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            shifted[name] = value + shift * noise.to(value.device)
        return function.outputs(shifted, inputs)

    with torch.no_grad():
        middle, bent = outputs(0.0), outputs(1.0) + outputs(-1.0)
        size = float(bent.abs().max() + middle.abs().max() + outputs(1.0).abs().max())
        return float((bent - 2 * middle).abs().max()) <= 1e3 * torch.finfo(middle.dtype).eps * size


def equal_batch(count: int) -> int:
    """The largest size of at most MOST_AT_ONCE that divides `count`."""
    fewest = math.ceil(count / MOST_AT_ONCE)
    return next(count // parts for parts in range(fewest, count + 1) if count % parts == 0)


@contextmanager
def listening(library: Library) -> Iterator[list[str]]:
    """What the library says by way of Python's warnings or its logger meanwhile, each once.

    But for what it says of later versions, which says nothing of the answer.
    """
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(library.module)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        logger.removeHandler(handler)
        said += [str(each.message) for each in caught if not issubclass(each.category, LATER_VERSIONS)]
        said[:] = dict.fromkeys(said)


def _task(problem: Problem) -> Task:
    assert problem.task is not None
    return problem.task


def _other_layer(library: Library, task: Task, layers: Sequence[type[nn.Module]]) -> str | None:
    chosen = set(task.function.names)
    for path, module in task.function.model.named_modules():
        own = {f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)}
        if own & chosen and not isinstance(module, tuple(layers)):
            known = " and ".join(each.__name__ for each in layers)
            return (
                f"{library.distribution} factors {known}; {path or 'the model'} is a "
                f"{type(module).__name__}: leave it out of the parameters"
            )
    return None
