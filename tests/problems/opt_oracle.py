"""OPT written out from its weights, one sequence at a time, and its curvature by autograd alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jacrev

from problems import Problem

HEADS = 2
# OPT's own offset between a token's place and its row in the table of places.
OFFSET = 2


@dataclass(frozen=True)
class OptOracle:
    """The network of `problem` as a function of H's parameters, in float64."""

    problem: Problem

    @property
    def flat(self) -> Tensor:
        assert self.problem.task is not None
        return torch.cat([value.flatten() for value in self.problem.task.function.parameters.values()])

    def sequences(self, *, queries: bool = False) -> list[Tensor]:
        """The tokens of each, without padding."""
        assert self.problem.task is not None
        data = (self.problem.task.queries if queries else self.problem.task.training).data
        return [
            row[: int(mask.sum())]
            for row, mask in zip(data["input_ids"], data["attention_mask"], strict=True)
        ]

    def logits(self, flat: Tensor, tokens: Tensor) -> Tensor:
        """(tokens, vocabulary)."""
        assert self.problem.task is not None
        function = self.problem.task.function
        weights = dict(function.constants)
        parts = flat.split([value.numel() for value in function.parameters.values()])
        for (name, value), part in zip(function.parameters.items(), parts, strict=True):
            weights[name] = part.reshape(value.shape)
        at = "model.decoder."
        embedding = weights[f"{at}embed_tokens.weight"]
        places = torch.arange(len(tokens)) + OFFSET
        x = embedding[tokens] + weights[f"{at}embed_positions.weight"][places]
        for layer in sorted({int(name.split(".")[3]) for name in weights if ".layers." in name}):
            x = _layer(x, {n.removeprefix(f"{at}layers.{layer}."): value for n, value in weights.items()})
        return _normalised(x, weights, f"{at}final_layer_norm") @ embedding.T

    def summed_loss(self, flat: Tensor, tokens: Tensor) -> Tensor:
        log_probabilities = self.logits(flat, tokens).log_softmax(dim=-1)
        return -log_probabilities[torch.arange(len(tokens) - 1), tokens[1:]].sum()

    @property
    def judged(self) -> int:
        """How many tokens have one before them."""
        return sum(len(tokens) - 1 for tokens in self.sequences())

    def mean_loss(self, flat: Tensor) -> Tensor:
        return sum((self.summed_loss(flat, each) for each in self.sequences()), torch.zeros(())) / self.judged

    def hessian(self) -> Tensor:
        """∇² of the mean loss per token."""
        return hessian(self.mean_loss)(self.flat)

    def gauss_newton(self) -> Tensor:
        """Σ Jᵀ (diag p − p pᵀ) J over the tokens, over their number."""
        total = torch.zeros(len(self.flat), len(self.flat), dtype=torch.float64)
        for tokens in self.sequences():
            jacobians = jacrev(lambda flat, tokens=tokens: self.logits(flat, tokens)[:-1])(self.flat)
            for jacobian, p in zip(
                jacobians, self.logits(self.flat, tokens)[:-1].softmax(dim=-1), strict=True
            ):
                total += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
        return total / self.judged

    def query_gradients(self) -> Tensor:
        """Of each query's mean loss, as columns."""
        return torch.stack(
            [
                grad(self.summed_loss)(self.flat, tokens) / (len(tokens) - 1)
                for tokens in self.sequences(queries=True)
            ],
            dim=1,
        )


def _layer(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    normalised = _normalised(x, weights, "self_attn_layer_norm")
    query, key, value = (_linear(normalised, weights, f"self_attn.{name}_proj") for name in "qkv")
    heads = []
    for q, k, v in zip(*(part.chunk(HEADS, dim=-1) for part in (query, key, value)), strict=True):
        scores = q @ k.T / math.sqrt(q.shape[-1])
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        heads.append(scores.masked_fill(later, -math.inf).softmax(dim=-1) @ v)
    x = x + _linear(torch.cat(heads, dim=-1), weights, "self_attn.out_proj")
    hidden = _linear(_normalised(x, weights, "final_layer_norm"), weights, "fc1").relu()
    return x + _linear(hidden, weights, "fc2")


def _linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normalised(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])
