"""Which parameters a filter selects: names written out by hand, in `named_parameters()` order."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.suite.networks import Transformer
from problems import from_model
from problems.parameters import PRESETS, ParameterFilter, select
from tests.problems.tiny_language_models import tiny

VOCABULARY = 50


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3),
        nn.Flatten(), nn.Linear(12, 4),
    ).eval()  # fmt: skip


CONVOLUTIONAL = [
    "0.weight",
    "0.bias",
    "1.weight",
    "1.bias",
    "3.weight",
    "4.weight",
    "4.bias",
    "6.weight",
    "6.bias",
]


class TiedLanguageModel(nn.Module):
    """The head's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.tokens(tokens)).tanh())


class SmallVocabulary(nn.Module):
    """Fewer tokens than places, as for characters; a hidden layer is as wide as there are places."""

    def __init__(self, vocabulary: int = 11, places: int = 16) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, 4), nn.Embedding(places, 4)
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 4)
        self.head = nn.Linear(4, vocabulary)


class OwnNorm(nn.Module):
    """A normalisation that a model brings itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class Classifier(nn.Module):
    """Without embeddings: its last layer is no head over a vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm, self.last = nn.Linear(4, 4), OwnNorm(), nn.Linear(4, 3)


@pytest.mark.parametrize(
    ("parameter_filter", "expected"),
    [
        (None, CONVOLUTIONAL),
        ("", CONVOLUTIONAL),
        ("weight", [name for name in CONVOLUTIONAL if name.endswith("weight")]),
        (r"^6\.", ["6.weight", "6.bias"]),
        (r"^(6|0)\.bias$", ["0.bias", "6.bias"]),
        ("6", ["6.weight", "6.bias"]),
        (r"^eight", None),
        (lambda name: name.startswith("4"), ["4.weight", "4.bias"]),
        (lambda name: name in {"6.bias", "0.weight"}, ["0.weight", "6.bias"]),
        ("no_batchnorm_no_bias", ["0.weight", "3.weight", "6.weight"]),
        ("no_embeddings_no_norms", ["0.weight", "0.bias", "3.weight", "6.weight", "6.bias"]),
    ],
)  # fmt: skip
def test_filters_on_a_convolutional_network(
    parameter_filter: ParameterFilter, expected: list[str] | None
) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="selects nothing"):
            select(convolutional(), parameter_filter)
    else:
        assert select(convolutional(), parameter_filter) == expected


def test_biases_of_attention_and_recurrent_layers_are_biases() -> None:
    model = nn.ModuleDict(
        {"attention": nn.MultiheadAttention(4, 2), "recurrent": nn.LSTM(4, 3), "norm": nn.BatchNorm1d(3)}
    )
    assert select(model, "no_batchnorm_no_bias") == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
    ]


def layer_names(layer: int) -> list[str]:
    """Those of one layer of the plain transformer that belong to neither norm nor embedding."""
    modules = ["query", "key", "value", "out", "feed_forward.0", "feed_forward.2"]
    return [f"layers.{layer}.{module}.{kind}" for module in modules for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    ("parameter_filter", "expected"),
    [
        ("no_embeddings_no_norms", [*layer_names(0), *layer_names(1)]),
        (r"layers\.1\.query", ["layers.1.query.weight", "layers.1.query.bias"]),
        (
            "norm",
            [
                *(
                    f"layers.{layer}.{which}_norm.{kind}"
                    for layer in range(2)
                    for which in ("attention", "feed_forward")
                    for kind in ("weight", "bias")
                ),
                "norm.weight",
                "norm.bias",
            ],
        ),
        ("tokens|positions|head", ["tokens.weight", "positions.weight", "head.weight"]),
    ],
    ids=["preset", "layer", "norms", "embeddings"],
)  # fmt: skip
def test_filters_on_a_plain_transformer(parameter_filter: str, expected: list[str]) -> None:
    model = Transformer(width=8, heads=2, layers=2)
    assert select(model, parameter_filter) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (TiedLanguageModel, ["mix.weight", "mix.bias"]),
        (SmallVocabulary, ["up.weight", "up.bias", "down.weight", "down.bias"]),
        (
            lambda: SmallVocabulary(vocabulary=16, places=11),
            ["up.weight", "up.bias", "down.weight", "down.bias"],
        ),
        (Classifier, ["first.weight", "first.bias", "last.weight", "last.bias"]),
    ],
    ids=["tied", "few_characters", "hidden_layer_as_wide_as_the_vocabulary", "no_vocabulary"],
)
def test_embeddings_norms_and_the_output_head_are_left_out(
    model: Callable[[], nn.Module], expected: list[str]
) -> None:
    assert select(model(), "no_embeddings_no_norms") == expected


def test_a_tied_weight_has_its_first_name_alone() -> None:
    model = TiedLanguageModel()
    assert select(model, None) == ["tokens.weight", "mix.weight", "mix.bias"]
    assert select(model, "tokens") == ["tokens.weight"]
    with pytest.raises(ValueError, match=r"'head' selects nothing.*tokens\.weight, mix\.weight, mix\.bias"):
        select(model, "head")


@pytest.mark.parametrize("parameter_filter", [None, ".", lambda _: True, *PRESETS])
def test_frozen_parameters_are_never_selected(parameter_filter: ParameterFilter) -> None:
    model = convolutional()
    model[0].requires_grad_(False)  # type: ignore[index]
    everything_else = {name for name in CONVOLUTIONAL if not name.startswith("0.")}
    selected = select(model, parameter_filter)
    assert "6.weight" in selected
    assert set(selected) <= everything_else


def test_frozen_parameters_stay_part_of_the_function() -> None:
    """H of the head alone, with frozen features f, is mean of (diag(p) − ppᵀ) ⊗ (f, 1)(f, 1)ᵀ."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double().eval()
    model[0].requires_grad_(False)
    inputs, targets = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 2
    problem = from_model(model, "cross_entropy", (inputs, targets), (inputs[:1], targets[:1]), damping=1)
    with torch.no_grad():
        features, p = model[:2](inputs), model(inputs).softmax(dim=1)
    extended = torch.cat([features, torch.ones(6, 1, dtype=torch.float64)], dim=1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    kronecker = torch.einsum("nab,nf,ng->afbg", curvature, extended, extended).reshape(8, 8) / 6
    # The operator has all weights and then all biases.
    order = [4 * a + f for a in range(2) for f in range(3)] + [3, 7]
    torch.testing.assert_close(problem.operator.dense(), kronecker[order][:, order], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("parameter_filter", "message"),
    [
        ("attention", "'attention' selects nothing; the model's trainable parameters are 0.weight, 0.bias, "),
        ("no_batchnorm", "the presets are no_batchnorm_no_bias, no_embeddings_no_norms"),
        (lambda _: False, "selects nothing; the model's trainable parameters are 0.weight, 0.bias, 1.weight"),
        ("[", "'[' is no regular expression"),
        ("(weight", "and no preset (no_batchnorm_no_bias, no_embeddings_no_norms)"),
        ("*weight", "nothing to repeat"),
    ],
)
def test_a_filter_that_is_wrong_is_refused_with_what_is_allowed(
    parameter_filter: ParameterFilter, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        select(convolutional(), parameter_filter)


@pytest.mark.parametrize("parameter_filter", [None, "weight", *PRESETS])
def test_a_model_that_is_frozen_altogether_is_refused(parameter_filter: ParameterFilter) -> None:
    with pytest.raises(ValueError, match="requires_grad is False everywhere"):
        select(convolutional().requires_grad_(False), parameter_filter)


def test_a_preset_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'no_batchnorm_no_bias' selects nothing.*weight, bias"):
        select(nn.BatchNorm1d(3), "no_batchnorm_no_bias")


LINEAR_LAYERS = {
    "opt": [
        f"model.decoder.layers.{layer}.{module}.{kind}"
        for layer in range(2)
        for module in (
            "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2",
        )
        for kind in ("weight", "bias")
    ],
    "gpt2": [
        f"transformer.h.{layer}.{module}.{kind}"
        for layer in range(2)
        for module in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        for kind in ("weight", "bias")
    ],
    "llama": [
        f"model.layers.{layer}.{module}.weight"
        for layer in range(2)
        for module in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        )
    ],
}  # fmt: skip
EMBEDDINGS = {
    "opt": ["model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"],
    "gpt2": ["transformer.wte.weight", "transformer.wpe.weight"],
    "llama": ["model.embed_tokens.weight"],
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("places", [32, 200], ids=["few_places", "more_places_than_tokens"])
@pytest.mark.parametrize("name", LINEAR_LAYERS)
def test_hugging_face_models_keep_their_linear_layers_alone(name: str, places: int, tied: bool) -> None:
    model = tiny(name, places=places, tied=tied)
    assert select(model, "no_embeddings_no_norms") == LINEAR_LAYERS[name]
    head = [] if tied else ["lm_head.weight"]
    assert select(model, "embed|wte|wpe|lm_head") == EMBEDDINGS[name] + head


def test_layers_of_a_hugging_face_model_by_regular_expression() -> None:
    expected = [name for name in LINEAR_LAYERS["opt"] if ".1.fc" in name]
    assert select(tiny("opt"), r"layers\.1\.fc\d") == expected
    assert select(tiny("llama"), "bias$|input_layernorm") == [
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.input_layernorm.weight",
    ]
