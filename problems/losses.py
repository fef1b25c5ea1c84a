"""Losses whose Hessian at the network's outputs is known in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Loss(ABC):
    """ℓ(outputs, target) per example; a training loss is its mean over the examples."""

    @abstractmethod
    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (m,) for outputs (m, ...)."""

    @abstractmethod
    def hessian_product(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        """∇²ℓ at every example's outputs, applied to that example's tangent; shape of the outputs."""

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError where outputs and targets do not fit this loss."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy, outputs (m, classes), targets (m,) of class numbers; Hessian diag(p) − ppᵀ."""

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    def hessian_product(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        probabilities = outputs.softmax(dim=-1)
        weighted = probabilities * tangents
        return weighted - probabilities * weighted.sum(dim=-1, keepdim=True)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.ndim != 2:
            raise ValueError(
                f"cross_entropy needs outputs of shape (m, classes); the model gives {tuple(outputs.shape)}"
            )
        if targets.ndim != 1 or targets.is_floating_point():
            raise ValueError(
                f"cross_entropy needs targets (m,) of class numbers; got {targets.dtype} of shape "
                f"{tuple(targets.shape)}"
            )
        if targets.min() < 0 or targets.max() >= outputs.shape[1]:
            raise ValueError(
                f"cross_entropy got the class {int(targets.min() if targets.min() < 0 else targets.max())}; "
                f"the model has the classes 0 to {outputs.shape[1] - 1}"
            )


@dataclass(frozen=True)
class SquaredLoss(Loss):
    """Squared error, torch's mean over an example's outputs; Hessian 2/outputs times the identity."""

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(dim=1)

    def hessian_product(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        return tangents * (2 / outputs[0].numel())

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _same_shape("mse", outputs, targets)


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of independent logits, mean over an example's outputs; Hessian diag(σ(1 − σ))/outputs."""

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        return losses.flatten(1).mean(dim=1)

    def hessian_product(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        return tangents * outputs.sigmoid() * (-outputs).sigmoid() / outputs[0].numel()

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _same_shape("bce", outputs, targets)
        if targets.min() < 0 or targets.max() > 1:
            raise ValueError(
                f"bce needs targets between 0 and 1; got {targets.min():.3g} to {targets.max():.3g}"
            )


LOSSES: dict[str, Loss] = {"cross_entropy": CrossEntropy(), "mse": SquaredLoss(), "bce": BinaryCrossEntropy()}


def as_loss(loss: str | nn.Module) -> Loss:
    """The loss named `loss`, or the one a torch loss module computes; ValueError lists the supported ones."""
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if type(loss) is nn.CrossEntropyLoss and loss.weight is None and _plain(loss):
        name = "cross_entropy"
    elif type(loss) is nn.MSELoss:
        name = "mse"
    elif type(loss) is nn.BCEWithLogitsLoss and loss.weight is None and loss.pos_weight is None:
        name = "bce"
    else:
        raise ValueError(
            f"the loss {loss!r} is not supported; use one of {', '.join(map(repr, LOSSES))} or "
            "CrossEntropyLoss(), MSELoss(), BCEWithLogitsLoss() without weights, smoothing or ignored labels"
        )
    assert isinstance(loss, nn.Module)
    if loss.reduction != "mean":
        raise ValueError(
            f"the loss has reduction={loss.reduction!r}; H is a mean over examples: use reduction='mean'"
        )
    return LOSSES[name]


def _plain(loss: nn.CrossEntropyLoss) -> bool:
    return loss.label_smoothing == 0 and loss.ignore_index == -100


def _same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    if outputs.ndim < 2 or outputs.shape != targets.shape:
        raise ValueError(
            f"{name} needs outputs and targets of the same shape (m, outputs); the model gives "
            f"{tuple(outputs.shape)}, the targets are {tuple(targets.shape)}"
        )
