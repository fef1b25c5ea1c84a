"""The probe that keeps models and data whose curvature changes between two looks out of every result."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from problems.examples import Examples, tensors
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.operators.micro_batches import is_out_of_memory
from problems.operators.network import NetworkOperator
from problems.precision import multiplying
from problems.validation import check_finite

# nn.modules' own base classes: every 1d, 2d, 3d and Sync variant inherits from them.
_DROPOUT = nn.modules.dropout._DropoutNd
_NORMALISATION = nn.modules.batchnorm._NormBase


def check_deterministic(function: ModelFunction, loss: Loss, *datasets: Examples) -> None:
    """Raise ValueError, saying what to change, unless H is one fixed mean over examples.

    Looks at the modules that are known to break it, then reads and runs four examples of each of
    `datasets`, from the first to the last, twice, together and one by one. Where they are tensors, all
    inputs and targets are checked.
    """
    _check_modules(function.model)
    # In full precision: kernels for one example and for several round differently, bfloat16 visibly so.
    exact = function.to(function.dtype)
    with multiplying(exact.precision):
        for examples in datasets:
            _check_examples(exact, loss, examples)


def _check_modules(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if module.training and isinstance(module, _DROPOUT) and module.p > 0:
            raise ValueError(f"{where} drops out at random in training mode: call model.eval() first")
        if isinstance(module, _NORMALISATION) and not isinstance(
            module, nn.modules.instancenorm._InstanceNorm
        ):
            if module.training:
                raise ValueError(
                    f"{where} normalises by the batch in training mode, so an example's curvature depends "
                    "on its neighbours: call model.eval() first"
                )
            if module.running_mean is None:
                raise ValueError(
                    f"{where} has no running statistics and normalises by the batch even in evaluation "
                    "mode: build it with track_running_stats=True"
                )


def _check_examples(function: ModelFunction, loss: Loss, examples: Examples) -> None:
    # From all over, since data may be sorted: by length, say, with padding that the first ones do not have.
    indices = torch.linspace(0, len(examples) - 1, min(4, len(examples)), dtype=torch.float64).long()
    if examples.columns is not None:
        for name, values in tensors(examples.columns[0]).items():
            check_finite(f"the data's {name}", values)
    inputs, targets = examples.batch(indices)
    again_inputs, again_targets = examples.batch(indices)
    pairs = [
        *zip(tensors(inputs).values(), tensors(again_inputs).values(), strict=True),
        (targets, again_targets),
    ]
    if not all(_same(first, second) for first, second in pairs):
        raise ValueError(
            "the data gives different values when the same examples are read twice: remove random "
            "augmentation from the data set's transforms"
        )
    outputs = function.outputs(function.parameters, inputs)
    loss.check(outputs, targets)
    if examples.columns is not None:
        _, all_targets = examples.columns
        loss.check(outputs[:1].expand(len(examples), *outputs.shape[1:]), all_targets)
    if not torch.isfinite(outputs).all():
        raise ValueError(
            "the model's outputs hold NaN or inf for examples of the data, first in layer "
            f"{function.first_layer_not_finite(inputs)}; check inputs and weights, or use float64"
        )
    counted = loss.counted(targets)
    if not _close(function.outputs(function.parameters, inputs)[counted], outputs[counted]):
        raise ValueError(
            "the model gives different outputs for the same inputs: call model.eval() and remove other "
            "randomness from its forward pass"
        )
    # One by one sequences may be padded less: what counts is compared.
    alone = []
    for index in indices:
        single_inputs, single_targets = examples.batch(index[None])
        single = function.outputs(function.parameters, single_inputs)
        alone.append(single[loss.counted(single_targets)])
    if not _close(torch.cat(alone), outputs[counted]):
        raise ValueError(
            "the model's output for an example changes with the other examples of its batch; H is a mean "
            "over examples and needs them independent (is there normalisation over the batch, or padding "
            "without an attention mask?)"
        )


def check_differentiable(operator: NetworkOperator) -> None:
    """Raise ValueError, saying what to change, where the network has no curvature product."""
    try:
        operator = operator.exact
        zeros = torch.zeros(1, operator.shape[0], dtype=operator.dtype, device=operator.device)
        batch = operator.batch(torch.zeros(1, dtype=torch.long))
        operator.shared.recorder.product(operator.function.parameters, batch, zeros)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        used = getattr(getattr(operator.function.model, "config", None), "_attn_implementation", None)
        raise ValueError(
            "the model has an operation whose derivative curvature products cannot take in forward mode: "
            f"{str(error).splitlines()[0].rstrip('.')}. If it is fused attention, load a Hugging Face model "
            f"with attn_implementation='eager'{f' (it is {used!r})' if used else ''}, or call torch's own "
            "scaled_dot_product_attention; if it is checkpointing or an operation of the model's own, turn "
            "it off or write it out"
        ) from error


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether all numbers are equal, NaN to NaN: those have an error of their own."""
    if first.shape != second.shape:
        return False
    return bool(((first == second) | (first.isnan() & second.isnan())).all())


def _close(values: Tensor, expected: Tensor) -> bool:
    if not expected.numel():
        return True
    # Batches of different sizes may take different kernels; randomness moves outputs far more than this.
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    return bool((values - expected).abs().amax() <= tolerance * (1 + expected.abs().amax()))
