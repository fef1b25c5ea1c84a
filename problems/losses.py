"""Losses whose gradient and Hessian at the network's outputs are known in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100


@dataclass(frozen=True)
class Loss(ABC):
    """ℓ(outputs, target) of every unit: an example (m,), or a token (m, T) of each of m sequences.

    A training loss is its mean over all units that count. Outputs have the shape of the units and then
    that of one unit's outputs; `weights` broadcast to it.
    """

    unit: ClassVar[Literal["example", "token"]] = "example"

    @abstractmethod
    def per_unit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses of the units, 0 for those that do not count."""

    @abstractmethod
    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """∇ℓ of every unit at its own outputs, shape of the outputs; anything where it does not count."""

    @abstractmethod
    def hessian_product(self, outputs: Tensor, tangents: Tensor, weights: Tensor) -> Tensor:
        """Weight times ∇²ℓ of every unit, applied to that unit's tangent; shape of the outputs."""

    @abstractmethod
    def hessian_root(self, outputs: Tensor) -> Tensor:
        """Vectors l of every unit with Σ l lᵀ = ∇²ℓ, as many as it has outputs: (r, shape of the outputs)."""

    @abstractmethod
    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Targets drawn from the model's own distribution, such that E ∇ℓ ∇ℓᵀ = `power` ∇²ℓ."""

    def power(self, outputs: Tensor) -> float:
        """c, where ℓ = −c log(likelihood)."""
        return 1.0

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError where outputs and targets do not fit this loss."""

    def counted(self, targets: Tensor) -> Tensor:
        """Which units have a target to be judged by, boolean."""
        return torch.ones(len(targets), dtype=torch.bool, device=targets.device)

    def judging(self, targets: Tensor) -> Tensor:
        """Which targets judge a unit, boolean, in the units' order."""
        return self.counted(targets)

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over each example's units, shape (m,)."""
        return self.per_unit(outputs, targets)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy, outputs (m, classes), targets (m,) of class numbers; Hessian diag(p) − ppᵀ."""

    def per_unit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return _softmax_gradient(outputs, targets)

    def hessian_product(self, outputs: Tensor, tangents: Tensor, weights: Tensor) -> Tensor:
        return _softmax_hessian_product(outputs, tangents, weights)

    def hessian_root(self, outputs: Tensor) -> Tensor:
        return _softmax_root(outputs)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return _sample_classes(outputs, generator)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.ndim != 2:
            other = "; for one distribution per token use 'token_cross_entropy' or 'next_token_cross_entropy'"
            raise ValueError(
                f"cross_entropy needs outputs of shape (m, classes); the model gives {tuple(outputs.shape)}"
                f"{other if outputs.ndim == 3 else ''}"
            )
        if targets.ndim != 1 or targets.is_floating_point():
            raise ValueError(
                f"cross_entropy needs targets (m,) of class numbers; got {targets.dtype} of shape "
                f"{tuple(targets.shape)}"
            )
        _check_classes("cross_entropy", targets, outputs.shape[-1])


@dataclass(frozen=True)
class TokenCrossEntropy(Loss):
    """A language model's softmax cross-entropy: outputs (m, T, vocabulary), targets (m, T) of token numbers.

    Position t is judged by the target at t + `shift`: 0 where targets are aligned with the outputs, 1 where
    they are the inputs themselves, as Hugging Face's labels are. Targets of −100 do not count. The mean
    is over tokens, so a long sequence weighs more than a short one.
    """

    shift: Literal[0, 1] = 0

    unit = "token"

    def per_unit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        labels = self._aligned(targets)
        losses = F.cross_entropy(
            outputs.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.reshape(labels.shape)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # Where nothing counts any label will do: those positions have weight 0.
        return _softmax_gradient(outputs, self._aligned(targets).clamp_min(0))

    def hessian_product(self, outputs: Tensor, tangents: Tensor, weights: Tensor) -> Tensor:
        return _softmax_hessian_product(outputs, tangents, weights)

    def hessian_root(self, outputs: Tensor) -> Tensor:
        return _softmax_root(outputs)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn = _sample_classes(outputs, generator)
        return drawn.roll(self.shift, dims=1)

    def counted(self, targets: Tensor) -> Tensor:
        return self._aligned(targets) != IGNORED

    def judging(self, targets: Tensor) -> Tensor:
        return self.counted(targets).roll(self.shift, dims=1)

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        count = self.counted(targets).sum(dim=1).clamp_min(1)
        return self.per_unit(outputs, targets).sum(dim=1) / count

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        name = "next_token_cross_entropy" if self.shift else "token_cross_entropy"
        if outputs.ndim != 3:
            raise ValueError(
                f"{name} needs outputs of shape (m, T, vocabulary); the model gives {tuple(outputs.shape)}"
            )
        if targets.shape != outputs.shape[:2] or targets.is_floating_point():
            raise ValueError(
                f"{name} needs targets (m, T) = {tuple(outputs.shape[:2])} of token numbers; got "
                f"{targets.dtype} of shape {tuple(targets.shape)}"
            )
        _check_classes(name, targets[targets != IGNORED], outputs.shape[-1])

    def _aligned(self, targets: Tensor) -> Tensor:
        return F.pad(targets[:, self.shift :], (0, self.shift), value=IGNORED)


@dataclass(frozen=True)
class SquaredLoss(Loss):
    """Squared error, torch's mean over an example's outputs; Hessian 2/outputs times the identity."""

    def per_unit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(dim=1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets) * (2 / outputs[0].numel())

    def hessian_product(self, outputs: Tensor, tangents: Tensor, weights: Tensor) -> Tensor:
        return tangents * (weights * (2 / outputs[0].numel()))

    def hessian_root(self, outputs: Tensor) -> Tensor:
        return _diagonal_root(torch.full_like(outputs, (2 / outputs[0].numel()) ** 0.5))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """From the normal distribution of variance outputs/2, whose negative logarithm this loss is."""
        noise = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
        return outputs + noise.to(outputs) * (outputs[0].numel() / 2) ** 0.5

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _same_shape("mse", outputs, targets)


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of independent logits, mean over an example's outputs; Hessian diag(σ(1 − σ))/outputs."""

    def per_unit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        return losses.flatten(1).mean(dim=1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.sigmoid() - targets.to(outputs.dtype)) / outputs[0].numel()

    def hessian_product(self, outputs: Tensor, tangents: Tensor, weights: Tensor) -> Tensor:
        return tangents * (outputs.sigmoid() * (-outputs).sigmoid() * (weights / outputs[0].numel()))

    def hessian_root(self, outputs: Tensor) -> Tensor:
        return _diagonal_root((outputs.sigmoid() * (-outputs).sigmoid() / outputs[0].numel()).sqrt())

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(outputs.shape, generator=generator, dtype=torch.float64)
        return (uniform.to(outputs.device) < outputs.double().sigmoid()).to(outputs.dtype)

    def power(self, outputs: Tensor) -> float:
        return 1 / outputs[0].numel()

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _same_shape("bce", outputs, targets)
        if targets.min() < 0 or targets.max() > 1:
            raise ValueError(
                f"bce needs targets between 0 and 1; got {targets.min():.3g} to {targets.max():.3g}"
            )


LOSSES: dict[str, Loss] = {
    "cross_entropy": CrossEntropy(),
    "token_cross_entropy": TokenCrossEntropy(),
    "next_token_cross_entropy": TokenCrossEntropy(shift=1),
    "mse": SquaredLoss(),
    "bce": BinaryCrossEntropy(),
}


def as_loss(loss: str | nn.Module | Loss) -> Loss:
    """The loss named `loss`, or the one a torch loss module computes; ValueError lists the supported ones."""
    if isinstance(loss, Loss):
        return loss
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
    return loss.label_smoothing == 0 and loss.ignore_index == IGNORED


def _softmax_gradient(outputs: Tensor, labels: Tensor) -> Tensor:
    # p − e_label; torch's one_hot looks at the labels, which cannot be recorded.
    probabilities = outputs.softmax(dim=-1)
    minus_one = torch.full_like(probabilities[..., :1], -1)
    return probabilities.scatter_add(-1, labels[..., None], minus_one)


def _softmax_hessian_product(outputs: Tensor, tangents: Tensor, weights: Tensor) -> Tensor:
    # Weights enter where the tangents do not, so that they cost nothing for each further column.
    probabilities = outputs.softmax(dim=-1)
    weighted = probabilities * weights * tangents
    return torch.addcmul(weighted, probabilities, weighted.sum(dim=-1, keepdim=True), value=-1)


def _softmax_root(outputs: Tensor) -> Tensor:
    # With L = diag(√p) − p√pᵀ is LLᵀ = diag(p) − ppᵀ; its columns are the vectors.
    probabilities = outputs.softmax(dim=-1)
    roots = probabilities.sqrt()
    columns = torch.diag_embed(roots) - probabilities[..., :, None] * roots[..., None, :]
    return columns.movedim(-1, 0)


def _diagonal_root(entries: Tensor) -> Tensor:
    """One vector for each output of a unit: its entry (m, ...) there, 0 elsewhere."""
    flat = torch.diag_embed(entries.flatten(1))
    return flat.reshape(len(entries), *entries.shape[1:], -1).movedim(-1, 0)


def _sample_classes(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """By inverting the distribution function at uniform numbers from the CPU, the same for all devices."""
    cumulative = outputs.double().softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.rand(outputs.shape[:-1], generator=generator, dtype=torch.float64)
    below = cumulative < uniform.to(outputs.device)[..., None]
    return below.sum(dim=-1).clamp_max(outputs.shape[-1] - 1)


def _check_classes(name: str, targets: Tensor, classes: int) -> None:
    if targets.numel() and (targets.min() < 0 or targets.max() >= classes):
        raise ValueError(
            f"{name} got the class {int(targets.min() if targets.min() < 0 else targets.max())}; "
            f"the model has the classes 0 to {classes - 1}"
        )


def _same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    if outputs.ndim < 2 or outputs.shape != targets.shape:
        raise ValueError(
            f"{name} needs outputs and targets of the same shape (m, outputs); the model gives "
            f"{tuple(outputs.shape)}, the targets are {tuple(targets.shape)}"
        )
