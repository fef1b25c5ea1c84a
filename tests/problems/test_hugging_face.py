"""Hugging Face's language models, and torch's own attention layers, against autograd in float64.

The oracles use reverse mode alone, on logits of the model itself, and torch's or Hugging Face's own loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian, hvp, jacobian
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from problems import EmpiricalFisher, GaussNewton, Hessian, NetworkOperator, from_model
from problems.examples import Examples
from problems.losses import as_loss
from problems.model_function import ModelFunction
from problems.operators.curvature import Curvature
from problems.operators.micro_batches import Size
from problems.operators.recording import RECORD_AFTER
from tests.problems.tiny_language_models import VOCABULARY, tiny

pytest.importorskip("transformers")

IGNORED = -100
LOSS = "next_token_cross_entropy"
# Some 300 parameters of each: of attention before its softmax, of biases and of norms.
SELECTED = {
    "opt": r"layers\.0\.self_attn\.q_proj|layers\.1\.fc1\.bias|layers\.0\.final_layer_norm",
    "gpt2": r"h\.0\.attn\.c_proj|h\.1\.attn\.c_attn\.bias|h\.0\.ln_1",
    "llama": r"layers\.0\.self_attn\.k_proj|layers\.1\.self_attn\.v_proj|input_layernorm",
}
EMBEDDINGS = {"opt": "embed_tokens", "gpt2": "wte", "llama": "embed_tokens"}
CURVATURES: list[Curvature] = [GaussNewton(), Hessian(), EmpiricalFisher()]
LENGTHS = (6, 4, 3, 6, 6)

families = pytest.mark.parametrize("name", SELECTED)
curvatures = pytest.mark.parametrize("curvature", CURVATURES, ids=lambda each: type(each).__name__)
attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def batch(*, left: bool = False) -> dict[str, Tensor]:
    """Five sequences of unequal lengths; the first has a prompt that is not judged, the fourth a gap."""
    generator = torch.Generator().manual_seed(2)
    longest = max(LENGTHS)
    tokens = torch.full((len(LENGTHS), longest), 1)
    mask = torch.zeros(len(LENGTHS), longest, dtype=torch.long)
    labels = torch.full((len(LENGTHS), longest), IGNORED)
    for row, length in enumerate(LENGTHS):
        place = slice(longest - length, None) if left else slice(0, length)
        tokens[row, place] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask[row, place] = 1
        # The first is judged by nothing, also where padding comes before it.
        labels[row, place] = tokens[row, place].where(torch.arange(length) > 0, IGNORED)
    first = longest - LENGTHS[0] if left else 0
    labels[0, first : first + 3] = IGNORED
    labels[3, 2] = IGNORED
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


@dataclass(frozen=True)
class Oracle:
    """Curvature matrices of a model's mean loss over tokens, by reverse-mode autograd."""

    model: nn.Module
    selected: str
    data: dict[str, Tensor]
    shift: int = 1

    @property
    def values(self) -> dict[str, Tensor]:
        # Which names the pattern finds is tested elsewhere.
        names = ModelFunction(self.model, self.selected).names
        return {name: value.detach() for name, value in self.model.named_parameters() if name in set(names)}

    @property
    def flat(self) -> Tensor:
        return torch.cat([value.flatten() for value in self.values.values()])

    @property
    def labels(self) -> Tensor:
        return self.data["labels"][:, self.shift :].flatten()

    def logits(self, flat: Tensor) -> Tensor:
        """Of every token that could be judged, shape (tokens, vocabulary)."""
        shapes = {name: value.shape for name, value in self.values.items()}
        parts = flat.split([shape.numel() for shape in shapes.values()])
        values = {
            name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        inputs = {name: value for name, value in self.data.items() if name != "labels"}
        with sdpa_kernel(SDPBackend.MATH):
            outputs = functional_call(self.model, values, (), inputs)
        logits = outputs if isinstance(outputs, Tensor) else outputs.logits
        return logits[:, : logits.shape[1] - self.shift].flatten(0, 1)

    def mean_loss(self, flat: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(flat), self.labels, ignore_index=IGNORED)

    def matrix(self, curvature: Curvature) -> Tensor:
        counted = self.labels != IGNORED
        labels = self.labels[counted]
        if isinstance(curvature, Hessian):
            return hessian(self.mean_loss, self.flat, vectorize=True)
        if isinstance(curvature, EmpiricalFisher):
            gradients = jacobian(
                lambda flat: F.cross_entropy(self.logits(flat)[counted], labels, reduction="none"),
                self.flat,
                vectorize=True,
            )
            return gradients.T @ gradients / len(labels)
        jacobians = jacobian(lambda flat: self.logits(flat)[counted], self.flat, vectorize=True)
        outputs = self.logits(self.flat)[counted]
        total = torch.zeros(len(self.flat), len(self.flat), dtype=torch.float64)
        for j, z, y in zip(jacobians, outputs, labels, strict=True):
            total += j.T @ hessian(lambda z, y=y: F.cross_entropy(z, y), z, vectorize=True) @ j
        return total / len(labels)


@cache
def expected_matrix(name: str, curvature: Curvature) -> Tensor:
    return Oracle(tiny(name), SELECTED[name], batch()).matrix(curvature)


def operator(
    model: nn.Module, curvature: Curvature, data: Any, selected: str | None, loss: str = LOSS
) -> NetworkOperator:
    function = ModelFunction(model, selected)
    examples = Examples(data, function.device, function.dtype)
    return NetworkOperator(curvature, function, as_loss(loss), examples)


def random_vectors(size: int, columns: int) -> Tensor:
    return torch.randn(size, columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().amax()))


@attentions
@curvatures
@families
def test_products_equal_autograd(name: str, curvature: Curvature, attention: str) -> None:
    """With eager attention, and with torch's fused one, which is computed unfused here."""
    expected = expected_matrix(name, curvature)
    found = operator(tiny(name, attention=attention), curvature, batch(), SELECTED[name])
    vectors = random_vectors(len(expected), 3)
    close(found @ vectors, expected @ vectors)
    close(found @ vectors[:, 0], expected @ vectors[:, 0])


@families
def test_the_hessian_is_that_of_hugging_faces_own_loss(name: str) -> None:
    model, data = tiny(name), batch()
    problem = from_model(model, LOSS, data, data, damping=0.1, curvature="hessian", parameters=SELECTED[name])
    oracle = Oracle(model, SELECTED[name], data)
    names = list(oracle.values)
    vector = random_vectors(problem.size, 1)[:, 0]
    parts = vector.split([value.numel() for value in oracle.values.values()])
    directions = tuple(
        part.reshape(value.shape) for part, value in zip(parts, oracle.values.values(), strict=True)
    )

    def own_loss(*values: Tensor) -> Tensor:
        return functional_call(model, dict(zip(names, values, strict=True)), (), data).loss

    _, product = hvp(own_loss, tuple(oracle.values.values()), directions)
    close(problem.operator @ vector, torch.cat([part.flatten() for part in product]))


@families
def test_float64_is_float64_throughout(name: str) -> None:
    """Though Hugging Face asks for float32 in softmaxes and norms; the oracle's model is kept from it too."""
    expected = expected_matrix(name, GaussNewton())
    vector = random_vectors(len(expected), 1)[:, 0]
    found = operator(tiny(name, float64_throughout=False), GaussNewton(), batch(), SELECTED[name]) @ vector
    error = float((found - expected @ vector).norm() / (expected @ vector).norm())
    assert error < 1e-12


@attentions
@families
def test_right_hand_sides_are_gradients_of_each_sequences_own_loss(name: str, attention: str) -> None:
    model, data = tiny(name, attention=attention), batch()
    problem = from_model(model, LOSS, data, data, damping=0.1, parameters=SELECTED[name])
    names = set(ModelFunction(model, SELECTED[name]).names)
    values = [value for key, value in model.named_parameters() if key in names]
    for row in range(len(LENGTHS)):
        loss = model(**{key: value[[row]] for key, value in data.items()}).loss
        expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, values)])
        close(problem.columns()[:, row], expected)
    loss = model(**data).loss
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, values)])
    assert problem.task is not None
    close(problem.task.training_gradient()[:, 0], expected)


@pytest.mark.usefixtures("nothing_retained")
@pytest.mark.parametrize(
    ("name", "curvature"),
    [*((name, GaussNewton()) for name in SELECTED), ("opt", Hessian()), ("opt", EmpiricalFisher())],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_recorded_products_are_the_same_numbers(name: str, curvature: Curvature) -> None:
    """Bit for bit, also for other sequences of the same shape, of which none is padded."""
    found = operator(tiny(name), curvature, batch(), SELECTED[name])
    vector = random_vectors(found.shape[0], 1)[:, 0]
    padded, whole = torch.tensor([0, 1, 2]), torch.tensor([0, 3, 4])
    eager_padded, eager_whole = found.subset(padded) @ vector, found.subset(whole) @ vector
    for _ in range(RECORD_AFTER):
        assert torch.equal(found.subset(padded) @ vector, eager_padded)
    (recording,) = found.shared.recorder._recordings.values()
    assert recording is not None
    assert torch.equal(found.subset(whole) @ vector, eager_whole)
    kept = found.subset(padded)
    for _ in range(3):
        assert torch.equal(kept @ vector, eager_padded)
    assert kept._kept.passes


@pytest.mark.usefixtures("nothing_retained")
@families
def test_fused_attention_is_not_recorded_and_gives_the_same_numbers_throughout(name: str) -> None:
    found = operator(tiny(name, attention="sdpa"), GaussNewton(), batch(), SELECTED[name])
    vector = random_vectors(found.shape[0], 1)[:, 0]
    first = found @ vector
    close(first, expected_matrix(name, GaussNewton()) @ vector)
    for _ in range(RECORD_AFTER + 2):
        assert torch.equal(found @ vector, first)
    assert list(found.shared.recorder._recordings.values()) == [None]


@attentions
@families
def test_without_an_attention_mask_all_tokens_are_attended_to(name: str, attention: str) -> None:
    data = {key: value[torch.tensor([0, 3, 4])] for key, value in batch().items()}
    masked = operator(tiny(name), GaussNewton(), data, SELECTED[name])
    del data["attention_mask"]
    found = operator(tiny(name, attention=attention), GaussNewton(), data, SELECTED[name])
    vectors = random_vectors(found.shape[0], 2)
    close(found @ vectors, masked @ vectors)


@attentions
@pytest.mark.parametrize("name", ["opt", "llama"])
def test_padding_on_the_left_gives_the_same_matrix(name: str, attention: str) -> None:
    """OPT takes places from the mask, Llama's are relative: where a sequence stands does not matter."""
    found = operator(tiny(name, attention=attention), GaussNewton(), batch(left=True), SELECTED[name])
    expected = expected_matrix(name, GaussNewton())
    vectors = random_vectors(len(expected), 2)
    close(found @ vectors, expected @ vectors)


@attentions
@curvatures
@families
def test_tied_weights_count_in_both_of_their_places(name: str, curvature: Curvature, attention: str) -> None:
    """H = (1 1) H' (1 1)ᵀ, where H' is that of the same model with two weights of their own."""
    tied, untied = tiny(name, tied=True, attention=attention), tiny(name, tied=False)
    values = dict(tied.named_parameters())
    (embedding,) = ModelFunction(tied, EMBEDDINGS[name] + r"\.").names
    with torch.no_grad():
        for key, value in untied.named_parameters():
            value.copy_(values[embedding if key == "lm_head.weight" else key])
    data = {key: value[:3] for key, value in batch().items()}
    found = operator(tied, curvature, data, EMBEDDINGS[name] + r"\.")
    assert found.shape == (VOCABULARY * 16, VOCABULARY * 16)
    oracle = Oracle(untied, EMBEDDINGS[name] + r"\.|lm_head", data)
    vector = random_vectors(found.shape[0], 1)[:, 0]
    twice = torch.cat([vector, vector])
    if isinstance(curvature, Hessian):
        product = hvp(oracle.mean_loss, oracle.flat, twice)[1]
    else:
        product = oracle.matrix(curvature) @ twice
    close(found @ vector, product[: len(vector)] + product[len(vector) :])


def ragged() -> list[dict[str, list[int]]]:
    """The sequences of `batch`, unpadded, as lists of numbers."""
    data = batch()
    return [
        {key: data[key][row, :length].tolist() for key in ("input_ids", "labels")}
        for row, length in enumerate(LENGTHS)
    ]


def pad(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    tokens, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=1),
        "attention_mask": pad_sequence([torch.ones_like(each) for each in tokens], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


@pytest.mark.parametrize("pass_size", [1, 2, 5])
@families
def test_a_loader_that_pads_gives_the_same_matrix_as_padded_tensors(name: str, pass_size: int) -> None:
    """However many go through the model together, and so whatever they are padded to."""
    expected = expected_matrix(name, GaussNewton())
    loader = DataLoader(ragged(), batch_size=2, collate_fn=pad)  # type: ignore[arg-type]
    found = operator(tiny(name), GaussNewton(), loader, SELECTED[name])
    found.micro_batches.largest = Size(pass_size, 64)
    vectors = random_vectors(len(expected), 2)
    close(found @ vectors, expected @ vectors)


@families
def test_a_loader_that_pads_is_accepted_with_its_queries(name: str) -> None:
    loader = DataLoader(ragged(), batch_size=2, collate_fn=pad)  # type: ignore[arg-type]
    padded, read = (
        from_model(tiny(name), LOSS, data, data, damping=0.1, parameters=SELECTED[name])
        for data in (batch(), loader)
    )
    close(read.columns(), padded.columns())
    vector = random_vectors(read.size, 1)
    close(read.operator @ vector, padded.operator @ vector)


@curvatures
def test_a_mean_over_tokens_is_that_over_unpadded_sequences(curvature: Curvature) -> None:
    """Each sequence alone and unpadded, weighted by its tokens that are judged."""
    name, model, total, tokens = "opt", tiny("opt"), torch.zeros(()), 0
    found = operator(model, curvature, batch(), SELECTED[name])
    vector = random_vectors(found.shape[0], 1)[:, 0]
    for row in ragged():
        alone = Oracle(model, SELECTED[name], {key: torch.tensor([value]) for key, value in row.items()})
        count = int((alone.labels != IGNORED).sum())
        total = total + count * (alone.matrix(curvature) @ vector)
        tokens += count
    assert tokens == found.num_examples
    close(found @ vector, total / tokens)


def bidirectional(name: str) -> nn.Module:
    torch.manual_seed(0)
    return (tiny("bert") if name == "bert" else Averaging()).double().eval()


class Averaging(nn.Module):
    """Each token sees the mean over all, of those with a mask where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.embedding(input_ids)
        weights = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        shares = weights.to(hidden.dtype) / weights.sum(dim=1, keepdim=True)
        return self.head((hidden + (shares[:, :, None] * hidden).sum(dim=1, keepdim=True)).tanh())


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 4, 0, 0, 3, 4, 3, 2), (0, 3, 4, 0, 3, 4, 0, 1)])
@pytest.mark.parametrize("name", ["bert", "averaging"])
def test_padding_without_an_attention_mask_is_refused(name: str, order: tuple[int, ...]) -> None:
    """Wherever in the data the short sequences lie."""

    def pad_alone(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        return {key: value for key, value in pad(rows).items() if key != "attention_mask"}

    rows = [ragged()[row] for row in order]
    loader = DataLoader(rows, collate_fn=pad_alone)  # type: ignore[arg-type]
    query = {key: torch.tensor([value]) for key, value in rows[0].items()}
    with pytest.raises(ValueError, match="padding without an attention mask"):
        from_model(bidirectional(name), "token_cross_entropy", loader, query, damping=0.1)


@curvatures
@pytest.mark.parametrize("name", ["bert", "averaging"])
def test_with_an_attention_mask_a_model_that_is_not_causal_is_right(name: str, curvature: Curvature) -> None:
    model = bidirectional(name)
    selected = r"layer\.0\.attention\.self\.query|layer\.1\.output\.dense\.bias" if name == "bert" else "."
    loader = DataLoader(ragged(), collate_fn=pad)  # type: ignore[arg-type]
    problem = from_model(
        model, "token_cross_entropy", loader, loader, damping=0.1, curvature=curvature, parameters=selected
    )
    data = batch()
    expected = Oracle(model, selected, data, shift=0).matrix(curvature)
    vectors = random_vectors(problem.size, 2)
    close(problem.operator @ vectors, expected @ vectors)


class Fused(torch.autograd.Function):
    """An operation as fused kernels have it: with a backward pass of its own, and no forward mode."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        outputs = values.tanh()
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (outputs,) = ctx.saved_tensors
        return gradient * (1 - outputs.square())


class FusedForTransforms(Fused):
    """The same in the form that torch.func accepts."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:  # type: ignore[override]
        return values.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)


class WithoutForwardMode(nn.Linear):
    def __init__(self, function: type[Fused]) -> None:
        super().__init__(4, 3)
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function.apply(super().forward(inputs))  # type: ignore[no-any-return]


@pytest.mark.parametrize("curvature", ["ggn", "hessian", "empirical_fisher"])
@pytest.mark.parametrize("function", [Fused, FusedForTransforms])
def test_an_operation_without_forward_mode_is_refused(function: type[Fused], curvature: str) -> None:
    data = (torch.randn(6, 4), torch.arange(6) % 3)
    with pytest.raises(ValueError, match=r"forward mode.*attn_implementation='eager'"):
        from_model(
            WithoutForwardMode(function), "cross_entropy", data, data, damping=0.1, curvature=curvature
        )


def test_a_model_with_fused_attention_is_refused_by_the_attentions_name() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask
    from transformers.models.opt.modeling_opt import eager_attention_forward

    def fused(*arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor | None]:
        output, weights = eager_attention_forward(*arguments, **keywords)
        return Fused.apply(output), weights  # type: ignore[no-untyped-call]

    AttentionInterface.register("fused_in_test", fused)
    AttentionMaskInterface.register("fused_in_test", eager_mask)
    with pytest.raises(ValueError, match=r"='eager' \(it is 'fused_in_test'\)"):
        from_model(tiny("opt", attention="fused_in_test"), LOSS, batch(), batch(), damping=0.1)


class Encoder(nn.Module):
    """torch's own layers, whose fast path in evaluation mode has no derivatives."""

    def __init__(self, layers: int, nested: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=nested) if layers else layer
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor, padding: Tensor | None = None) -> Tensor:
        hidden = self.encoder(inputs, src_key_padding_mask=padding)
        if padding is not None:
            hidden = hidden.masked_fill(padding[:, :, None], 0)
        return self.head(hidden.mean(dim=1))


@pytest.fixture
def fast_path() -> Iterator[Callable[[], tuple[bool, ...]]]:
    """What is set for attention; a product must leave it as it was."""
    cuda = torch.backends.cuda

    def settings() -> tuple[bool, ...]:
        return (
            torch.backends.mha.get_fastpath_enabled(),
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
        )

    before = settings()
    yield settings
    assert settings() == before


@curvatures
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(("layers", "nested"), [(0, False), (2, False), (1, True)])
def test_torchs_own_encoder_layers_equal_autograd(
    layers: int, nested: bool, masked: bool, curvature: Curvature, fast_path: Callable[[], tuple[bool, ...]]
) -> None:
    torch.manual_seed(0)
    model = Encoder(layers, nested).double().eval()
    inputs, targets = torch.randn(5, 3, 4, dtype=torch.float64), torch.arange(5) % 3
    padding = torch.arange(3) >= torch.tensor([[3], [2], [1], [3], [2]])
    arguments = (inputs, padding) if masked else (inputs,)
    data = (arguments, targets)
    before = fast_path()
    problem = from_model(
        model, "cross_entropy", data, data, damping=0.1, curvature=curvature, parameters="head|self_attn"
    )
    values = dict(model.named_parameters())
    names = [name for name in values if "head" in name or "self_attn" in name]

    def logits(flat: Tensor) -> Tensor:
        parts = flat.split([values[name].numel() for name in names])
        chosen = {name: part.reshape(values[name].shape) for name, part in zip(names, parts, strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(model, chosen, arguments)

    flat = torch.cat([values[name].detach().flatten() for name in names])
    if isinstance(curvature, Hessian):
        expected = hessian(lambda flat: F.cross_entropy(logits(flat), targets), flat, vectorize=True)
    elif isinstance(curvature, EmpiricalFisher):
        gradients = jacobian(lambda flat: F.cross_entropy(logits(flat), targets, reduction="none"), flat)
        expected = gradients.T @ gradients / len(targets)
    else:
        jacobians, p = jacobian(logits, flat), logits(flat).softmax(dim=1).detach()
        outer = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        expected = (jacobians.mT @ outer @ jacobians).mean(dim=0)
    vector = random_vectors(len(flat), 1)[:, 0]
    first = problem.operator @ vector
    close(first, expected @ vector)
    vectors = random_vectors(len(flat), 3)
    close(problem.operator @ vectors, expected @ vectors)
    assert fast_path() == before


def test_gpt2_with_places_of_its_own_may_be_padded_on_the_left() -> None:
    data = batch(left=True)
    data["position_ids"] = (data["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
    found = operator(tiny("gpt2"), GaussNewton(), data, SELECTED["gpt2"])
    vectors = random_vectors(found.shape[0], 2)
    close(found @ vectors, expected_matrix("gpt2", GaussNewton()) @ vectors)


def test_the_oracles_agree_where_they_must() -> None:
    """For one layer that is linear in its parameters the Gauss–Newton matrix is the Hessian."""
    model = tiny("llama", tied=False)
    oracle = replace(Oracle(model, r"^lm_head", batch()), data={k: v[:2] for k, v in batch().items()})
    vector = random_vectors(len(oracle.flat), 1)[:, 0]
    product = operator(model, GaussNewton(), oracle.data, r"^lm_head") @ vector
    close(product, hvp(oracle.mean_loss, oracle.flat, vector)[1])
