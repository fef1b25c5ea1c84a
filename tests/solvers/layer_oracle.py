"""Rows and factors of layers by plain autograd: one example, one row and one position at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian

# One unit's outputs ↦ its loss; its Hessian does not depend on the target.
UnitLoss = Callable[[Tensor], Tensor]

LOSSES: dict[str, UnitLoss] = {
    "cross_entropy": lambda z: F.cross_entropy(z, torch.tensor(0)),
    "token_cross_entropy": lambda z: F.cross_entropy(z, torch.tensor(0)),
    "next_token_cross_entropy": lambda z: F.cross_entropy(z, torch.tensor(0)),
    "mse": lambda z: F.mse_loss(z, torch.zeros_like(z)),
    "bce": lambda z: F.binary_cross_entropy_with_logits(z, torch.zeros_like(z)),
}


@dataclass
class LayerRows:
    """Of one layer, by example: a (T, columns) and for each row g (T, outputs)."""

    name: str
    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)

    def matrices(self) -> Tensor:
        """Σ_t g aᵀ of every row of every example, (rows, outputs, columns)."""
        pairs = zip(self.inputs, self.gradients, strict=True)
        return torch.stack([g.T @ a for a, rows in pairs for g in rows])

    def expand(self) -> tuple[Tensor, Tensor]:
        """A and G; positions without any gradient do not count."""
        positions, a_sum, g_sum = 0, 0.0, 0.0
        for a, rows in zip(self.inputs, self.gradients, strict=True):
            for t in range(len(a)):
                if any(bool(g[t].any()) for g in rows):
                    positions, a_sum = positions + 1, a_sum + torch.outer(a[t], a[t])
            g_sum = g_sum + sum(torch.outer(g[t], g[t]) for g in rows for t in range(len(a)))
        return a_sum / positions, g_sum / len(self.inputs)

    def reduce(self) -> tuple[Tensor, Tensor]:
        """A and G of the mean a and the sum of g over positions."""
        examples, a_sum, g_sum = 0, 0.0, 0.0
        for a, rows in zip(self.inputs, self.gradients, strict=True):
            moving = torch.stack([g.any(dim=1) for g in rows]).any(dim=0)
            if moving.any():
                mean = a[moving].mean(dim=0)
                examples, a_sum = examples + 1, a_sum + torch.outer(mean, mean)
            g_sum = g_sum + sum(torch.outer(g.sum(dim=0), g.sum(dim=0)) for g in rows)
        return a_sum / examples, g_sum / len(self.inputs)


def exact_vectors(outputs: Tensor, loss: str) -> list[Tensor]:
    """Vectors √w v of the eigenpairs of ∇²ℓ of every unit, zero at all others; (1, [T,] C) each."""
    found = []
    units = outputs[0] if "token" in loss else outputs
    for index, unit in enumerate(units):
        values, vectors = torch.linalg.eigh(hessian(LOSSES[loss], unit))
        for value, vector in zip(values.clamp_min(0), vectors.T, strict=True):
            alone = torch.zeros_like(units)
            alone[index] = value.sqrt() * vector
            found.append(alone.reshape(outputs.shape))
    return found


def layer_rows(
    model: nn.Module,
    names: list[str],
    examples: list[Tensor],
    vectors: Callable[[int, Tensor], list[Tensor]],
) -> dict[str, LayerRows]:
    """Of the modules `names`; `vectors(i, outputs)` are those pulled back for example i."""
    modules = dict(model.named_modules())
    found = {name: LayerRows(name) for name in names}
    for index, example in enumerate(examples):
        taken: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
        handles = [modules[name].register_forward_hook(partial(_keep, taken[name])) for name in names]
        outputs = model(example[None])
        for handle in handles:
            handle.remove()
        pulled = vectors(index, outputs.detach())
        for name in names:
            module = modules[name]
            found[name].inputs.append(torch.cat([inputs(module, a.detach(), z) for a, z in taken[name]]))
            found[name].gradients.append(
                [
                    torch.cat(
                        [
                            positions(module, gradient)
                            for gradient in torch.autograd.grad(
                                outputs, [z for _, z in taken[name]], vector, retain_graph=True
                            )
                        ]
                    )
                    for vector in pulled
                ]
            )
    return found


def _keep(calls: list[tuple[Tensor, Tensor]], _: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
    calls.append((given[0], output))


def inputs(module: nn.Module, a: Tensor, z: Tensor) -> Tensor:
    """What the module multiplies at every position, with 1 for a bias: (T, columns)."""
    rows = a.flatten(0, -2) if isinstance(module, nn.Linear) else patches(module, a, z)  # type: ignore[arg-type]
    return rows if module.bias is None else torch.cat([rows, torch.ones(len(rows), 1).to(rows)], dim=1)


def patches(module: nn.Conv2d, a: Tensor, z: Tensor) -> Tensor:
    """The inputs of every output pixel, each cut out by itself."""
    (dy, dx), (sy, sx), (ky, kx) = module.dilation, module.stride, module.kernel_size
    if module.padding == "same":
        sides = [(d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for d, k in ((dx, kx), (dy, ky))]
        padded = F.pad(a, [*sides[0], *sides[1]])
    else:
        py, px = module.padding
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        padded = F.pad(a, [px, px, py, py], mode=mode)
    cut = [
        padded[0, :, y * sy : y * sy + dy * (ky - 1) + 1 : dy, x * sx : x * sx + dx * (kx - 1) + 1 : dx]
        for y in range(z.shape[2])
        for x in range(z.shape[3])
    ]
    return torch.stack([patch.flatten() for patch in cut])


def positions(module: nn.Module, gradient: Tensor) -> Tensor:
    """A gradient at the module's outputs, (T, outputs)."""
    return gradient.flatten(0, -2) if isinstance(module, nn.Linear) else gradient[0].flatten(1).T


def places(model: nn.Module, name: str) -> Tensor:
    """Where the entries of a layer's matrix (outputs, columns) lie in the flat vector, row by row."""
    found, first = {}, 0
    for parameter, value in model.named_parameters():
        found[parameter] = torch.arange(first, first + value.numel()).reshape(len(value), -1)
        first += value.numel()
    parts = [found[f"{name}.{own}"] for own in ("weight", "bias") if f"{name}.{own}" in found]
    return torch.cat(parts, dim=1).flatten()


def dense_inverse(
    model: nn.Module, blocks: dict[str, Tensor], diagonal: Tensor, damping: float, power: float = -1.0
) -> Tensor:
    """P to the power, P the layers' matrices (size, size) and the diagonal (p,) elsewhere, plus λ."""
    matrix = torch.diag(diagonal)
    for name, block in blocks.items():
        where = places(model, name)
        matrix[where[:, None], where] = block
    values, vectors = torch.linalg.eigh(matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype))
    return (vectors * values**power) @ vectors.T


def kfac_block(a: Tensor, g: Tensor) -> Tensor:
    return torch.kron(g, a)


def ekfac_block(rows: Tensor, a: Tensor, g: Tensor, count: int) -> Tensor:
    """Rows (N, outputs, columns) of `count` examples, in the basis of the eigenvectors of g and a."""
    left, right = torch.linalg.eigh(g)[1], torch.linalg.eigh(a)[1]
    squares = torch.stack([(left.T @ row @ right).square() for row in rows]).sum(dim=0) / count
    basis = torch.kron(left, right)
    return (basis * squares.flatten()) @ basis.T
