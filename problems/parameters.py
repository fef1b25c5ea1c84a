"""Which parameters of a network are H's: all that can be trained, a filter's, or a preset's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from torch import nn

# A preset's name, a regular expression searched in the parameter's name, or a function of that name.
ParameterFilter = str | Callable[[str], bool] | None


def select(model: nn.Module, parameter_filter: ParameterFilter) -> list[str]:
    """Names of the selected parameters in `named_parameters()` order; frozen ones are never selected.

    Raises ValueError for a filter that selects nothing or is no regular expression.
    """
    available = [name for name, value in model.named_parameters() if value.requires_grad]
    if parameter_filter is None:
        selected = available
    elif callable(parameter_filter):
        selected = [name for name in available if parameter_filter(name)]
    elif parameter_filter in PRESETS:
        left_out = set(PRESETS[parameter_filter](model))
        selected = [name for name in available if name not in left_out]
    else:
        selected = [name for name in available if _pattern(parameter_filter).search(name)]
    if not selected:
        raise ValueError(
            f"the parameter filter {parameter_filter!r} selects nothing; the model's trainable parameters "
            f"are {', '.join(available) or 'none (requires_grad is False everywhere)'}, the presets are "
            f"{', '.join(PRESETS)}"
        )
    return selected


def _pattern(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise ValueError(
            f"the parameter filter {expression!r} is no regular expression ({error}), and no preset "
            f"({', '.join(PRESETS)})"
        ) from None


def _batchnorm_and_bias(model: nn.Module) -> Iterator[str]:
    """What Klochkov & Liu (2024) leave out of ResNets."""
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(prefix, recurse=False):
            # Also in_proj_bias of attention, bias_ih_l0 of recurrent layers.
            is_bias = "bias" in name.split(".")[-1].split("_")
            if isinstance(module, nn.modules.batchnorm._BatchNorm) or is_bias:
                yield name


def _embeddings_and_norms(model: nn.Module) -> Iterator[str]:
    """What Klochkov & Liu (2024) leave out of language models: embeddings, output head, normalisation."""
    left_out = [
        module for module in model.modules() if isinstance(module, nn.Embedding) or _normalises(module)
    ]
    head = _output_head(model)
    tensors = {id(value) for module in left_out + head for value in module.parameters(recurse=False)}
    # By identity, so that a head's weight that is tied to an embedding's goes with it.
    return (name for name, value in model.named_parameters() if id(value) in tensors)


def _normalises(module: nn.Module) -> bool:
    """Whether it is a normalisation layer, torch's own or one of the many that models bring themselves."""
    return "Norm" in type(module).__name__ and not list(module.children())


def _output_head(model: nn.Module) -> list[nn.Module]:
    """The last linear layer with one output for each row of the vocabulary's embedding."""
    rows = {each.num_embeddings for each in model.modules() if isinstance(each, nn.Embedding)}
    linear = [each for each in model.modules() if isinstance(each, nn.Linear)]
    # Usually the last one of all; where the vocabulary is small, positions may have a larger embedding.
    heads = [each for each in linear[-1:] if each.out_features in rows]
    heads = heads or [each for each in linear if each.out_features == max(rows, default=0)]
    return list(heads[-1:])


PRESETS: dict[str, Callable[[nn.Module], Iterator[str]]] = {
    "no_batchnorm_no_bias": _batchnorm_and_bias,
    "no_embeddings_no_norms": _embeddings_and_norms,
}
