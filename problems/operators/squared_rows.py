"""The rows of H's root, squared and summed without being held: H's diagonal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import vjp, vmap

from problems.model_function import ModelFunction
from problems.operators.curvature import Batch, OutputRoot
from problems.operators.micro_batches import is_out_of_memory


def squared_rows(function: ModelFunction, root: OutputRoot, batch: Batch, chunk: int, joint: bool) -> Tensor:
    """Σ of the squares of all rows of R of a batch's examples, `chunk` of them at a time; (p,), float64."""

    def one(*values: Tensor) -> Tensor:
        example = batch.filled([value[None] for value in values])
        outputs, pullback = vjp(lambda p: function.outputs(p, example.inputs), function.parameters)  # type: ignore[misc]
        vectors = root(outputs, example)
        squares = [
            function.flatten(vmap(pullback)(part)[0]).square().sum(dim=1)
            for part in row_chunks(vectors, example, chunk, joint)
        ]
        return torch.stack(squares).sum(dim=0)

    values = batch.tensors()

    def one_by_one() -> Tensor:
        each = (one(*(value[index] for value in values)) for index in range(len(batch.targets)))
        return torch.stack([squares.to(torch.float64) for squares in each]).sum(dim=0)

    if len(batch.targets) == 1:
        return one_by_one()
    try:
        return vmap(one)(*values).to(torch.float64).sum(dim=0)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # A network that looks at its data to choose its way.
        return one_by_one()


def row_chunks(vectors: Tensor, batch: Batch, chunk: int, joint: bool) -> Iterator[Tensor]:
    """What rows are pulled back from, of vectors l (r, m, ...): at most `chunk` at a time, (c, m, ...).

    Of sequences, (r, m, T, C), unless `joint` each with one token's vector alone, r·T in all.
    """
    if joint or batch.weights.ndim == 1:
        yield from vectors.split(chunk)
        return
    for vector in vectors:
        for tokens in torch.arange(batch.weights.shape[1], device=vectors.device).split(chunk):
            alone = torch.nn.functional.one_hot(tokens, batch.weights.shape[1]).to(vectors.dtype)
            yield vector * alone.reshape(len(tokens), 1, -1, *(1,) * (vector.ndim - 2))
