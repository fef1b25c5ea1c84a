"""Randomly initialised Hugging Face language models, 16 wide with 2 layers."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

VOCABULARY = 50


class Float64Throughout(TorchFunctionMode):
    """Takes float64 wherever float32 is asked for.

    Hugging Face computes some softmaxes, norms and losses in float32 whatever the model's dtype, which
    would limit every comparison to float32's digits.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        double = {torch.float32: torch.float64}
        args = tuple(double.get(each, each) if isinstance(each, torch.dtype) else each for each in args)
        kwargs = {
            name: double.get(each, each) if isinstance(each, torch.dtype) else each
            for name, each in (kwargs or {}).items()
        }
        return func(*args, **kwargs)


def tiny(
    name: str,
    *,
    attention: str = "eager",
    tied: bool | None = None,
    places: int = 32,
    float64_throughout: bool = True,
) -> nn.Module:
    """OPT, GPT-2, Llama or BERT, float64, in evaluation mode; by default tied as is usual for the family.

    The test is skipped where transformers is not installed.
    """
    transformers = pytest.importorskip("transformers")
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": places, "attn_implementation": attention}
    common |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    common |= {"tie_word_embeddings": (name != "llama") if tied is None else tied}
    layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if name == "opt":
        config = transformers.OPTConfig(**common, **layers, ffn_dim=24, word_embed_proj_dim=16)
        model: nn.Module = transformers.OPTForCausalLM(config)
    elif name == "gpt2":
        common["n_positions"] = common.pop("max_position_embeddings")
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**common, n_embd=16, n_layer=2, n_head=2)
        )
    elif name == "llama":
        config = transformers.LlamaConfig(**common, **layers, intermediate_size=24, num_key_value_heads=1)
        model = transformers.LlamaForCausalLM(config)
    elif name == "bert":
        config = transformers.BertConfig(**common, **layers, intermediate_size=24)
        model = transformers.BertForMaskedLM(config)
    else:
        raise ValueError(f"there is no tiny {name!r}")
    # Weights of the usual size, 0.02, would leave attention uniform and H near that of a linear model.
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.normal_(std=0.3)
            else:
                value.add_(0.1 * torch.randn_like(value))
    if float64_throughout:
        forward = model.forward

        @functools.wraps(forward)
        def in_float64(*arguments: Any, **keywords: Any) -> Any:
            with Float64Throughout():
                return forward(*arguments, **keywords)

        model.forward = in_float64  # type: ignore[method-assign]
    return model.double().eval()
