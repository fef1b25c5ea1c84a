"""Which layers can be factored, and that their rows make H's own blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from problems import EmpiricalFisher, GaussNewton, Hessian, MonteCarloFisher, NetworkOperator
from problems.operators.curvature import Curvature
from problems.operators.layer_passes import LayerPasses, Rows
from problems.operators.layers import find_layers, module_places, parameter_places
from problems.work import BACKWARD_COST
from tests.problems.operators.small_networks import Small, small
from tests.problems.tiny_language_models import VOCABULARY, tiny

OUTPUTS = 3


class Body(nn.Module):
    """A module between a linear layer at the inputs and one at the outputs."""

    def __init__(self, features: int, hidden: int, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(features, hidden)
        self.between = between
        self.last = nn.Linear(hidden, OUTPUTS)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.between(self.first(inputs).tanh()).tanh())


def convolution(**settings: object) -> nn.Module:
    """On images of 2 × 5 × 4 pixels."""
    module = nn.Conv2d(2, 4, **settings)  # type: ignore[arg-type]
    return nn.Sequential(nn.Unflatten(1, (2, 5, 4)), module, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Repeated(nn.Module):
    """One linear layer called three times, by position and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.layer(input=self.layer(self.layer(hidden).tanh()).tanh())


class OverWritten(nn.Module):
    """What follows writes over a layer's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.layer(hidden).relu_()


class Positions(nn.Module):
    """Several positions of an example, the examples in the first, the second or a joint dimension."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.layer = nn.Linear(3, 3)

    def forward(self, hidden: Tensor) -> Tensor:
        count = len(hidden)
        parts = hidden.reshape(count, 2, 3)
        if self.order == "second":
            return self.layer(parts.transpose(0, 1)).transpose(0, 1).reshape(count, 6)
        if self.order == "joint":
            return self.layer(parts.reshape(2 * count, 3)).reshape(count, 6)
        return self.layer(parts).reshape(count, 6)


class Experts(nn.Module):
    """Of two layers each example reaches one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, hidden: Tensor) -> Tensor:
        chosen = (hidden.detach() * torch.arange(6)).sum(dim=1) > 0
        found = torch.zeros_like(hidden)
        for mask, layer in ((chosen, self.one), (~chosen, self.other)):
            if mask.any():
                places = mask.nonzero().flatten()
                found = found.index_add(0, places, layer(hidden[places]))
        return found


def network(model: nn.Module, features: int = 6, count: int = 7, loss: str = "cross_entropy") -> Small:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, features, generator=generator, dtype=torch.float64)
    return Small(model.double().eval(), loss, inputs, torch.randint(OUTPUTS, (count,), generator=generator))


def between(module: nn.Module) -> Small:
    torch.manual_seed(0)
    return network(Body(6, 6, module))


def convolutional(**settings: object) -> Small:
    torch.manual_seed(0)
    return network(nn.Sequential(convolution(**settings), nn.Linear(4, OUTPUTS)), features=40)


NETWORKS: dict[str, Callable[[], Small]] = {
    "mlp": lambda: small("mlp", "cross_entropy"),
    "squared loss": lambda: small("mlp", "mse"),
    "batch norm": lambda: small("convolutional", "cross_entropy"),
    "tokens": lambda: small("language_model", "next_token_cross_entropy"),
    "called thrice": lambda: between(Repeated()),
    "overwritten": lambda: between(OverWritten()),
    "positions first": lambda: between(Positions("first")),
    "positions second": lambda: between(Positions("second")),
    "positions joint": lambda: between(Positions("joint")),
    "stride": lambda: convolutional(kernel_size=2, stride=(2, 1)),
    "padding": lambda: convolutional(kernel_size=(3, 2), padding=(0, 1), bias=False),
    "dilation": lambda: convolutional(kernel_size=2, dilation=(2, 3), padding=1),
    "same": lambda: convolutional(kernel_size=(2, 3), padding="same", dilation=(1, 2)),
    "valid": lambda: convolutional(kernel_size=2, padding="valid"),
    "circular": lambda: convolutional(kernel_size=3, padding=(2, 1), padding_mode="circular"),
    "reflect": lambda: convolutional(kernel_size=3, padding=(2, 1), padding_mode="reflect"),
    "replicate": lambda: convolutional(kernel_size=3, padding="same", padding_mode="replicate"),
}
networks = pytest.mark.parametrize("name", NETWORKS)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def passes_of(operator: NetworkOperator, *, joint: bool = False) -> LayerPasses:
    return LayerPasses(operator, find_layers(operator.function), joint)


def matrices(passes: LayerPasses, size: int = 100) -> list[Tensor]:
    """Σ_t g aᵀ of all rows of all examples, by layer, (examples, rows, outputs, columns)."""
    found: list[list[Tensor]] = [[] for _ in passes.layers]

    def visit(rows: Rows) -> None:
        gradients = [torch.cat(parts) for parts in zip(*rows.gradients, strict=True)]
        for index, (a, g) in enumerate(zip(rows.inputs, gradients, strict=True)):
            found[index].append(torch.einsum("rmto,mti->mroi", g, a))

    passes.run(visit, size)
    return [torch.cat(each) for each in found]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


def check_blocks(operator: NetworkOperator, passes: LayerPasses, dense: Tensor) -> None:
    """Every layer's rows make its block of H."""
    for layer, each in zip(passes.layers, matrices(passes), strict=True):
        flat = each.flatten(0, 1)
        # From matrices to where their entries lie, by the layer's own account.
        rows = torch.zeros(len(flat), operator.shape[0], dtype=flat.dtype)
        layer.put(flat, rows)
        close(layer.take(rows), flat)
        where = (rows != 0).any(dim=0) | (layer_mask(operator, layer.parameter_names()))
        found = rows.T @ rows / operator.num_draws
        close(found[where][:, where], dense[where][:, where])


def layer_mask(operator: NetworkOperator, names: list[str]) -> Tensor:
    mask = torch.zeros(operator.shape[0], dtype=torch.bool)
    for name in names:
        mask[parameter_places(operator.function)[name]] = True
    return mask


@networks
def test_the_rows_of_every_layer_make_its_block_of_h(name: str) -> None:
    given = NETWORKS[name]()
    operator = given.operator(GaussNewton())
    passes = passes_of(operator)
    modules = [m for m in given.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(passes.layers) == len(modules)
    assert passes.rank == operator.root_rank
    check_blocks(operator, passes, given.gauss_newton())
    # Together where the examples come first, and one by one otherwise.
    assert passes.together == (name not in ("positions second", "positions joint"))


@networks
@pytest.mark.parametrize("curvature", [EmpiricalFisher(), MonteCarloFisher(num_samples=2)], ids=str)
def test_the_rows_of_fisher_matrices_do_too(name: str, curvature: Curvature) -> None:
    operator = NETWORKS[name]().operator(curvature)
    check_blocks(operator, passes_of(operator), operator.dense())


@networks
def test_batches_and_chunks_change_nothing(name: str) -> None:
    given = NETWORKS[name]()
    whole = matrices(passes_of(given.operator(GaussNewton())))
    operator = given.operator(GaussNewton())
    passes = passes_of(operator)
    operator.micro_batches.max_bytes = 1
    assert passes._size(100) == passes._chunk(1) == 1
    for found, expected in zip(matrices(passes, size=100), whole, strict=True):
        close(found, expected)


def test_layers_that_only_some_examples_reach() -> None:
    """Alone an example leaves one uncalled; in a batch each is called with fewer rows than examples."""
    given = between(Experts())
    operator = given.operator(GaussNewton())
    passes = passes_of(operator)
    reached = {layer.name for layer in passes.layers}
    check_blocks(operator, passes, given.gauss_newton())
    # Whatever the first two examples show of it.
    passes.together = True
    for found, expected in zip(matrices(passes), matrices(passes_of(operator)), strict=True):
        close(found, expected)
    assert len(reached) >= 3


@pytest.mark.parametrize("name", ["mlp", "batch norm", "tokens", "same"])
def test_the_diagonal_of_some_parameters(name: str) -> None:
    given = NETWORKS[name]()
    operator = given.operator(GaussNewton())
    passes = passes_of(operator)
    chosen = operator.function.names[1::2]
    expected = given.gauss_newton().diagonal()[layer_mask(operator, chosen)]
    close(passes.diagonal(chosen), expected)
    operator.micro_batches.max_bytes = 50_000
    close(passes.diagonal(chosen), expected)


def test_a_block_of_h_and_another_curvature_of_the_same_network() -> None:
    given = NETWORKS["mlp"]()
    operator = given.operator(GaussNewton())
    mask = layer_mask(operator, ["0.bias", "2.weight"])
    block = operator.restricted(["2.weight", "0.bias"])
    close(block.dense(), given.gauss_newton()[mask][:, mask])
    close(operator.with_curvature(Hessian()).dense(), given.hessian())
    fisher = operator.with_curvature(EmpiricalFisher()).subset(torch.tensor([1, 1, 4]))
    close(fisher.dense(), given.operator(EmpiricalFisher()).subset(torch.tensor([1, 1, 4])).dense())
    close(operator.dense(), given.gauss_newton())
    before = operator.work.passes
    _ = block @ torch.ones(block.shape[0], dtype=torch.float64)
    assert operator.work.passes - before == 5 * operator.num_examples


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(OUTPUTS, 6), nn.Linear(6, OUTPUTS, bias=False)
        self.mix = nn.Linear(6, 6)
        self.head.weight = self.embed.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.mix(inputs).tanh() + self.embed((inputs[:, 0] > 0).long()))


class Elsewhere(nn.Module):
    """Uses a layer's weight without calling it, as well."""

    def __init__(self, also: bool) -> None:
        super().__init__()
        self.also = also
        self.used, self.other, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, OUTPUTS)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.linear(inputs, self.used.weight, self.used.bias).tanh()
        return self.head(self.other(self.used(hidden) if self.also else hidden).tanh())


class Doubled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def hooked() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.register_forward_hook(lambda _, __, output: output.sin())
    return nn.Sequential(layer, nn.Linear(6, OUTPUTS))


def parametrised(layer: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())
    return layer


LEFT_OUT: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "tied": (Tied, {"embed.weight": "is shared with another module"}),
    "groups": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 3, 1)), nn.Conv2d(2, 4, (3, 1), groups=2), nn.Flatten(), nn.Linear(4, OUTPUTS)
        ),
        {"1.weight": "in 2 groups", "1.bias": "in 2 groups"},
    ),
    "never called": (lambda: Elsewhere(False), {"used.weight": "not called", "used.bias": "not called"}),
    "used elsewhere": (lambda: Elsewhere(True), {"used.weight": "elsewhere", "used.bias": "elsewhere"}),
    "a forward pass of its own": (
        lambda: nn.Sequential(Doubled(6, 6), nn.Tanh(), nn.Linear(6, OUTPUTS)),
        {"0.weight": "of a Doubled with a forward", "0.bias": "of a Doubled with a forward"},
    ),
    "a hook": (hooked, {"0.weight": "otherwise than", "0.bias": "otherwise than"}),
    "norms": (
        lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, OUTPUTS)),
        {"0.weight": "no linear layer or convolution", "0.bias": "no linear layer or convolution"},
    ),
    "a parametrised weight": (
        lambda: nn.Sequential(parametrised(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, OUTPUTS)),
        # Its bias is one as of any layer.
        {"0.parametrizations.weight.original": "no linear layer"},
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_cannot_be_factored_is_named_and_the_rest_is_right(name: str) -> None:
    build, expected = LEFT_OUT[name]
    torch.manual_seed(0)
    given = network(build())
    operator = given.operator(GaussNewton())
    passes = passes_of(operator)
    assert set(passes.found.others) == set(expected)
    for parameter, reason in expected.items():
        assert reason in passes.found.others[parameter]
    assert passes.layers
    check_blocks(operator, passes, operator.dense())


@pytest.mark.parametrize("selected", ["weight", "bias", "0", r"0\.bias|2\.weight"])
def test_parameters_that_are_filtered_out(selected: str) -> None:
    given = NETWORKS["mlp"]()
    operator = given.operator(GaussNewton(), selected=selected)
    passes = passes_of(operator)
    assert not passes.found.others
    assert sum(layer.size for layer in passes.layers) == operator.shape[0]
    check_blocks(operator, passes, operator.dense())


def test_modules_hold_their_parameters_side_by_side() -> None:
    function = small("convolutional", "cross_entropy").operator(GaussNewton()).function
    places = module_places(function)
    assert places == {"convolution": slice(0, 10), "norm": slice(10, 14), "head": slice(14, 23)}


def test_a_hugging_face_model() -> None:
    model = tiny("opt")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, VOCABULARY, (3, 4), generator=generator)
    selected = r"layers\.0.*(q_proj|fc1)|layer_norm"
    given = Small(model, "next_token_cross_entropy", tokens, tokens)
    operator = given.operator(MonteCarloFisher(), selected=selected)
    passes = passes_of(operator)
    assert len(passes.layers) == 2
    assert all("no linear layer" in reason for reason in passes.found.others.values())
    check_blocks(operator, passes, operator.dense())


def test_joint_rows_of_a_sequence_are_the_sums_of_its_tokens() -> None:
    operator = NETWORKS["tokens"]().operator(MonteCarloFisher(num_samples=2))
    apart, joint = (matrices(passes_of(operator, joint=joint)) for joint in (False, True))
    assert passes_of(operator, joint=True).rank == 2
    for single, summed in zip(apart, joint, strict=True):
        count, _, *shape = single.shape
        close(summed, single.reshape(count, 2, -1, *shape).sum(dim=2))


def test_work_is_counted_by_rows() -> None:
    operator = NETWORKS["mlp"]().operator(GaussNewton())
    passes = passes_of(operator)
    before = operator.work.passes
    passes.count()
    once = operator.work.passes - before
    assert once == (BACKWARD_COST.shared + BACKWARD_COST.per_column * 3) * operator.num_examples


def test_the_hessian_has_no_rows() -> None:
    with pytest.raises(ValueError, match="has no root"):
        passes_of(NETWORKS["mlp"]().operator(Hessian()))


def test_the_model_is_left_as_it_was() -> None:
    given = NETWORKS["called thrice"]()
    matrices(passes_of(given.operator(GaussNewton())))
    assert not any(module._forward_hooks for module in given.model.modules())
    assert all(value.grad is None and value.requires_grad for value in given.model.parameters())
