"""What is recorded and replayed is what was run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from problems import GaussNewton, NetworkOperator
from problems.examples import Examples
from problems.losses import CrossEntropy
from problems.model_function import ModelFunction
from problems.operators import recording
from problems.operators.micro_batches import MicroBatches, Size
from problems.operators.recording import RECORD_AFTER, merge_common_subexpressions, split
from tests.problems.operators.small_networks import Convolutional

pytestmark = pytest.mark.usefixtures("nothing_retained")
COUNT = 9


class InPlace(nn.Module):
    """Overwrites its hidden units and reads them again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        hidden.sin_()
        return self.second(hidden.add_(inputs).relu_())


class Attention(nn.Module):
    """Softmax attention over four scalar tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(1, 3), nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs[:, :, None])
        return self.head(((tokens @ tokens.mT).softmax(dim=-1) @ tokens).mean(dim=1))


class Branching(nn.Module):
    """Takes another way for each batch: nothing that can be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.linear(inputs)
        return outputs.tanh() if float(inputs.sum()) > 0 else outputs.sin()


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
    "convolutional": Convolutional,
    "in_place": InPlace,
    "attention": Attention,
    "branching": Branching,
}


def make_operator(name: str, dtype: torch.dtype = torch.float64) -> NetworkOperator:
    torch.manual_seed(0)
    function = ModelFunction(NETWORKS[name]().to(dtype).eval())
    data = (torch.randn(COUNT, 4), torch.arange(COUNT) % 3)
    examples = Examples(data, function.device, function.dtype)
    operator = NetworkOperator(GaussNewton(), function, CrossEntropy(), examples)
    operator.micro_batches.largest = Size(4, 64)
    return operator


def recorded(operator: NetworkOperator) -> list[object]:
    return list(operator.shared.recorder._recordings.values())


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_replay_gives_the_same_numbers(
    name: str, one_by_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, whether passes are kept or not: a run does not depend on what ran before it."""
    if one_by_one:
        monkeypatch.setattr(recording, "BLOCK_MULTIPLICATIONS", 1)
    operator = make_operator(name)
    vectors = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    first = operator @ vectors
    for _ in range(RECORD_AFTER + 3):
        assert torch.equal(operator @ vectors, first)
    fresh = operator.subset(torch.arange(COUNT))
    assert torch.equal(fresh @ vectors, first)
    assert recorded(operator)
    if name == "branching":
        assert all(each is None for each in recorded(operator))
    else:
        assert all(each is not None for each in recorded(operator))
        assert operator._kept.passes


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_blocks_and_single_vectors_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(make_operator(name).shape[0], 7, dtype=torch.float64)
    together = make_operator(name) @ vectors
    monkeypatch.setattr(recording, "LARGEST_BLOCK", 3)
    torch.testing.assert_close(make_operator(name) @ vectors, together, rtol=1e-12, atol=1e-14)
    monkeypatch.setattr(recording, "BLOCK_MULTIPLICATIONS", 1)
    torch.testing.assert_close(make_operator(name) @ vectors, together, rtol=1e-12, atol=1e-14)


def test_other_batches_of_the_same_shape_use_the_recording() -> None:
    operator = make_operator("mlp")
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    for _ in range(RECORD_AFTER + 2):
        _ = operator.subset(torch.tensor([0, 1])) @ vector
    (kept,) = recorded(operator)
    other = operator.subset(torch.tensor([5, 7]))
    assert torch.equal(other @ vector, make_operator("mlp").subset(torch.tensor([5, 7])) @ vector)
    assert recorded(operator) == [kept]


def test_data_of_kept_passes_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = make_operator("mlp")
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    for _ in range(RECORD_AFTER + 3):
        first = operator @ vector
    monkeypatch.delattr(Examples, "batch")
    assert torch.equal(operator @ vector, first)


def test_fewer_columns_than_before_leave_other_passes_kept() -> None:
    """As when columns of CG converge: the passes kept for one length of block serve that length again."""
    operator = make_operator("mlp")
    vectors = torch.randn(operator.shape[0], 4, dtype=torch.float64)
    for columns in (4, 2, 4):
        for _ in range(RECORD_AFTER + 3):
            _ = operator @ vectors[:, :columns]
    assert all(set(passes) == {2, 4} for passes in operator._kept.passes.values())


def test_kept_passes_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MicroBatches, "keep_bytes", 0)
    operator = make_operator("mlp")
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    first = operator @ vector
    for _ in range(RECORD_AFTER + 3):
        assert torch.equal(operator @ vector, first)
    assert operator._kept.bytes == 0


def test_forgetting_starts_anew_and_changes_no_number() -> None:
    operator = make_operator("mlp")
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    for _ in range(RECORD_AFTER + 3):
        before = operator @ vector
    assert recorded(operator)
    assert operator._kept.passes
    operator.forget()
    assert not recorded(operator)
    assert not operator._kept.passes
    assert torch.equal(operator @ vector, before)


def test_a_step_of_training_is_noticed() -> None:
    """Parameters are shared with the model: H follows them, and no kept forward pass is used for others."""
    operator = make_operator("mlp")
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    for _ in range(RECORD_AFTER + 3):
        before = operator @ vector
    with torch.no_grad():
        for value in operator.function.model.parameters():
            value.mul_(1.5)
    after = operator @ vector
    assert not torch.allclose(after, before)
    anew = NetworkOperator(GaussNewton(), operator.function, operator.loss, operator.examples)
    anew.micro_batches.largest = Size(4, 64)
    expected = anew @ vector
    assert torch.equal(after, expected)


def test_dtypes_have_recordings_of_their_own() -> None:
    operator = make_operator("convolutional", torch.float32)
    double = operator.to(torch.float64)
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    for _ in range(RECORD_AFTER + 3):
        exact = double @ vector
        single = operator @ vector.float()
    assert exact.dtype == torch.float64
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-6)


def test_a_split_computes_what_does_not_depend_on_the_vector_once() -> None:
    def function(weight: Tensor, inputs: Tensor, vector: Tensor) -> Tensor:
        return (inputs @ weight).tanh() * vector + vector.sin()

    weight, inputs, vector = torch.randn(3, 3), torch.randn(2, 3), torch.randn(2, 3)
    halves = split(make_fx(function)(weight, inputs, vector))
    (residual,) = halves.primal(weight, inputs)
    assert torch.equal(residual, (inputs @ weight).tanh())
    assert torch.equal(halves.linear(residual, vector), function(weight, inputs, vector))
    assert not {"aten.mm.default", "aten.tanh.default"} & targets(halves.linear.graph)


def test_common_subexpressions_are_merged_and_different_ones_are_not() -> None:
    def function(x: Tensor) -> Tensor:
        return x.exp() + x.exp() * (x + 1) + (x + 1.0).sum(0) + (x + 1).sum(1)

    traced = make_fx(function)(torch.randn(3, 3))
    x = torch.randn(3, 3)
    expected = function(x)
    before = len(traced.graph.nodes)
    merge_common_subexpressions(traced.graph)
    traced.recompile()
    assert len(traced.graph.nodes) < before
    assert [str(node.target) for node in traced.graph.nodes].count("aten.exp.default") == 1
    torch.testing.assert_close(traced(x), expected)


def targets(graph: fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes}
