"""Networks small enough for explicit Jacobians, and their curvature matrices by autograd, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from problems import NetworkOperator
from problems.examples import Examples
from problems.losses import as_loss
from problems.model_function import ModelFunction
from problems.operators.curvature import Curvature

FEATURES, OUTPUTS, COUNT = 4, 3, 11
VOCABULARY, LENGTH, SEQUENCES = 5, 6, 7


class Convolutional(nn.Module):
    """Convolution, BatchNorm in evaluation mode, attention-free pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, OUTPUTS)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.convolution(inputs.reshape(-1, 1, 2, 2))).tanh()
        return self.head(hidden.flatten(1))


class LanguageModel(nn.Module):
    """Causal softmax attention over embedded tokens, through torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCABULARY, 3), nn.Linear(3, 3)
        self.head = nn.Linear(3, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        mixed = F.scaled_dot_product_attention(self.mix(hidden), hidden, hidden, is_causal=True)
        return self.head((hidden + mixed).tanh())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(FEATURES, OUTPUTS),
    "mlp": lambda: nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, OUTPUTS)),
    "convolutional": Convolutional,
    "language_model": LanguageModel,
}


@dataclass(frozen=True)
class Small:
    """A network with data and a loss; its matrices are means over units, by autograd alone."""

    model: nn.Module
    loss: str
    inputs: Tensor
    targets: Tensor

    def operator(
        self, curvature: Curvature, *, selected: str | None = None, max_bytes: int | None = None
    ) -> NetworkOperator:
        function = ModelFunction(self.model, selected)
        examples = Examples((self.inputs, self.targets), function.device, function.dtype)
        return NetworkOperator(curvature, function, as_loss(self.loss), examples, max_bytes=max_bytes)

    @property
    def flat(self) -> Tensor:
        return torch.cat([value.detach().flatten() for value in self.model.parameters()])

    def outputs(self, flat: Tensor) -> Tensor:
        """Outputs of all units that count, shape (units, outputs)."""
        parts = flat.split([value.numel() for value in self.model.parameters()])
        names = dict(self.model.named_parameters())
        values = {
            name: part.reshape(value.shape) for (name, value), part in zip(names.items(), parts, strict=True)
        }
        outputs = functional_call(self.model, values, (self.inputs,))
        return outputs if self.loss in ("cross_entropy", "mse", "bce") else outputs[self.counted]

    @property
    def counted(self) -> Tensor:
        return self.aligned != -100

    @property
    def aligned(self) -> Tensor:
        if self.loss != "next_token_cross_entropy":
            return self.targets
        last = torch.full_like(self.targets[:, :1], -100)
        return torch.cat([self.targets[:, 1:], last], dim=1)

    @property
    def labels(self) -> Tensor:
        """Targets of the units that count, in their order."""
        return self.aligned[self.counted] if "token" in self.loss else self.targets

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Torch's own loss of each unit."""
        if "cross_entropy" in self.loss:
            return F.cross_entropy(outputs, labels, reduction="none")
        function = F.mse_loss if self.loss == "mse" else F.binary_cross_entropy_with_logits
        return torch.stack([function(output, label) for output, label in zip(outputs, labels, strict=True)])

    def jacobians(self) -> Tensor:
        """Shape (units, outputs, p)."""
        return jacobian(self.outputs, self.flat)

    def gauss_newton(self) -> Tensor:
        jacobians, outputs = self.jacobians(), self.outputs(self.flat)
        terms = [
            j.T @ hessian(lambda z, y=y: self.losses(z[None], y[None])[0], z) @ j
            for j, z, y in zip(jacobians, outputs, self.labels, strict=True)
        ]
        return torch.stack(terms).mean(dim=0)

    def hessian(self) -> Tensor:
        return hessian(lambda flat: self.losses(self.outputs(flat), self.labels).mean(), self.flat)

    def fisher(self, labels: Tensor) -> Tensor:
        """Mean outer product of the units' gradients, each judged by its own of `labels`."""
        gradients = jacobian(lambda flat: self.losses(self.outputs(flat), labels), self.flat)
        return gradients.T @ gradients / len(gradients)


def small(model: str, loss: str) -> Small:
    """The network `model` and random data for `loss`; token losses have sequences of unequal lengths."""
    torch.manual_seed(0)
    network = MODELS[model]().double().eval()
    generator = torch.Generator().manual_seed(1)
    if model == "language_model":
        tokens = torch.randint(VOCABULARY, (SEQUENCES, LENGTH), generator=generator)
        targets = tokens.clone() if loss.startswith("next") else tokens.roll(-1, dims=1)
        targets[1, 3:] = -100
        targets[2, ::2] = -100
        targets[4, 1:] = -100
        return Small(network, loss, tokens, targets)
    inputs = torch.randn(COUNT, FEATURES, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return Small(network, loss, inputs, torch.randint(OUTPUTS, (COUNT,), generator=generator))
    targets = torch.rand(COUNT, OUTPUTS, generator=generator, dtype=torch.float64)
    return Small(network, loss, inputs, targets)
