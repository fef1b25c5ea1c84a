"""A product keeps to its memory, learns from running out, and gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from problems import GaussNewton, Hessian, NetworkOperator, from_model
from problems.examples import Examples
from problems.losses import CrossEntropy, as_loss
from problems.model_function import ModelFunction
from problems.operators import recording
from problems.operators.curvature import Batch, Parameters
from problems.operators.micro_batches import MicroBatches, Size, default_max_bytes, peak_bytes
from tests.problems.operators.small_networks import small

pytestmark = pytest.mark.usefixtures("nothing_retained")
COUNT = 64


def make_operator(max_bytes: int | None = None, hessian: bool = False) -> NetworkOperator:
    """Wide hidden layers: an example's intermediates are large beside the parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 2, 3), nn.Tanh(), nn.Flatten())
    model.append(nn.Linear(2 * 8 * 8, 3)).eval()
    function = ModelFunction(model)
    data = (torch.randn(COUNT, 1, 12, 12), torch.arange(COUNT) % 3)
    examples = Examples(data, function.device, function.dtype)
    curvature = Hessian() if hessian else GaussNewton()
    return NetworkOperator(curvature, function, CrossEntropy(), examples, max_bytes=max_bytes)


def test_peak_bytes_counts_what_lives_at_one_time() -> None:
    kilobyte = 256

    def run() -> Tensor:
        a = torch.ones(kilobyte)
        b = a + 1  # a, b
        del a
        c = b.reshape(16, 16)  # a view
        return (c * 2).mul_(3)  # b, c * 2

    assert peak_bytes(run) == 2 * 1024

    def more() -> Tensor:
        a = torch.ones(kilobyte)
        return torch.cat([a, a, a])

    assert peak_bytes(more) == 4 * 1024


def test_zeros_that_take_no_memory_are_not_counted() -> None:
    def run() -> None:
        zeros = torch._efficientzerotensor((1000, 1000))
        assert zeros._is_zerotensor()
        torch.zeros(256)  # 1024 bytes in float32

    assert peak_bytes(run) == 1024


@pytest.mark.parametrize("hessian", [False, True])
@pytest.mark.parametrize("columns", [1, 5])
def test_products_keep_to_max_bytes_and_change_nothing(
    hessian: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RECORD_AFTER", 4)
    whole = make_operator(hessian=hessian)
    vectors = torch.randn(whole.shape[0], columns)
    expected = whole.to(torch.float64) @ vectors.double()
    unbounded = peak_bytes(lambda: whole @ vectors)
    bound = unbounded // 3
    operator = make_operator(bound, hessian)
    vectors_own = 4 * vectors.numel() * (1 if columns == 1 else 2)
    for _ in range(4):
        found: list[Tensor] = []
        taken = peak_bytes(lambda found=found: found.append(operator @ vectors))  # type: ignore[misc]
        # The sum that is returned comes on top.
        assert taken <= bound + vectors_own
        torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-6)
    assert all(operator.shared.recorder._recordings.values())
    assert operator._kept.bytes <= bound // 2


def test_a_pass_that_runs_out_of_memory_is_halved_and_that_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator, expected = make_operator(), make_operator()
    product, tried = operator.shared.recorder.product, []

    def limited(parameters: Parameters, batch: Batch, vectors: Tensor) -> Tensor:
        tried.append(len(batch.targets))
        if len(batch.targets) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return product(parameters, batch, vectors)

    monkeypatch.setattr(operator.shared.recorder, "product", limited)
    vector = torch.randn(operator.shape[0])
    found = operator @ vector
    torch.testing.assert_close(found, expected @ vector, rtol=1e-4, atol=1e-6)
    assert [size for size in tried if size > 10] == [64, 32, 16]
    tried.clear()
    _ = operator @ vector
    _ = operator.minibatch(32, torch.Generator().manual_seed(0)) @ vector
    assert set(tried) == {8}


def test_running_out_at_the_smallest_size_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = make_operator()

    def never(*_: object) -> Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ...")

    vector = torch.randn(operator.shape[0])
    _ = operator @ vector
    monkeypatch.setattr(operator.shared.recorder, "product", never)
    with pytest.raises(MemoryError, match="choose fewer parameters, shorter inputs"):
        _ = operator @ vector


def test_other_errors_are_raised_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = make_operator()
    vector = torch.randn(operator.shape[0])
    _ = operator @ vector

    def broken(*_: object) -> Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(operator.shared.recorder, "product", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        _ = operator @ vector


def linear_peak(fixed: int, example: int, vector: int, pair: int) -> Callable[[int, int], int]:
    return lambda m, c: fixed + example * m + vector * c + pair * m * c


def test_the_size_is_the_largest_of_halves_that_fits() -> None:
    sizes = MicroBatches(linear_peak(100, 10, 5, 1), max_bytes=2 * 1000, parameters=10**6)
    # 100 + 10 m + 5 + m ≤ 1000 for m ≤ 81.
    assert sizes.size(64, lambda m: 1) == Size(64, 1)
    assert sizes.size(300, lambda m: 1) == Size(75, 1)
    # With 8 vectors 100 + 10 m + 40 + 8 m ≤ 1000 for m ≤ 47.
    assert sizes.size(64, lambda m: 8) == Size(32, 8)
    # Where one example does not fit with its block, the block is halved: 115 + 5 c + ... ≤ 1000.
    assert sizes.size(64, lambda m: 256) == Size(1, 128)
    # From the 512 that are enough on any device.
    assert sizes.size(1000, lambda m: 1) == Size(64, 1)


def test_running_out_while_measuring_is_too_much_for_that_size_alone() -> None:
    def peak(examples: int, vectors: int) -> int:
        if vectors > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 100 * examples

    sizes = MicroBatches(peak, max_bytes=2 * 1000, parameters=10**6)
    assert sizes.size(64, lambda m: 8) == Size(1, 1)
    assert sizes.size(64, lambda m: 1) == Size(8, 1)

    def never(examples: int, vectors: int) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match="one example with one vector does not fit"):
        MicroBatches(never, max_bytes=2 * 1000, parameters=10**6).size(64, lambda m: 1)


def test_one_example_that_does_not_fit_is_refused_before_any_product() -> None:
    operator = make_operator(max_bytes=1000)
    with pytest.raises(
        ValueError, match=r"max_bytes is 1,000; the product of one example .* takes [\d,]+ bytes"
    ):
        _ = operator @ torch.zeros(operator.shape[0])
    assert operator.shared.recorder._eager.total() == 0
    with pytest.raises(ValueError, match="max_bytes is 0"):
        make_operator(max_bytes=0)


def test_from_model_takes_the_bound_and_gradients_keep_to_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16 * 14 * 14, 3)).eval()
    data = (torch.randn(COUNT, 1, 16, 16), torch.arange(COUNT) % 3)
    free = from_model(model, "cross_entropy", data, data, damping=1)
    bound = 2**21
    bounded = from_model(model, "cross_entropy", data, data, damping=1, max_bytes=bound)
    assert free.task is not None
    assert bounded.task is not None
    torch.testing.assert_close(bounded.columns(), free.columns())
    assert peak_bytes(free.task.training_gradient) > bound
    assert peak_bytes(bounded.task.training_gradient) <= bound
    torch.testing.assert_close(bounded.task.training_gradient(), free.task.training_gradient())


def test_the_default_is_the_same_on_each_call() -> None:
    cpu = torch.device("cpu")
    assert default_max_bytes(cpu) == default_max_bytes(cpu) >= 2**28


def test_products_keep_to_max_bytes_where_parameters_weigh_more_than_few_examples() -> None:
    """Then the peak of small products is at the gradient, of large ones at the activations."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 3)
    ).eval()
    function = ModelFunction(model)
    examples = Examples((torch.randn(600, 32), torch.arange(600) % 3), function.device, function.dtype)
    bound = 4_000_000
    operator = NetworkOperator(GaussNewton(), function, CrossEntropy(), examples, max_bytes=bound)
    vector = torch.randn(operator.shape[0])
    _ = operator @ vector
    assert peak_bytes(lambda: operator @ vector) <= bound // 2 + 2 * vector.nbytes


def test_the_longest_example_is_the_one_with_the_largest_inputs() -> None:
    """Not the one with the most labels, nor the first."""
    network = small("language_model", "token_cross_entropy")
    items = [(network.inputs[i, : 2 + i % 5], network.inputs[i, : 2 + i % 5]) for i in range(7)]
    items[4] = (items[4][0], torch.full_like(items[4][1], -100))
    items[4][1][0] = 1

    def pad(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        inputs, targets = zip(*batch, strict=True)
        padded = torch.nn.utils.rnn.pad_sequence
        return padded(list(inputs), True), padded(list(targets), True, padding_value=-100)

    loader = torch.utils.data.DataLoader(items, collate_fn=pad)  # type: ignore[arg-type]
    function = ModelFunction(network.model)
    examples = Examples(loader, function.device, function.dtype)
    operator = NetworkOperator(GaussNewton(), function, as_loss(network.loss), examples)
    assert operator.shared.longest == 4
