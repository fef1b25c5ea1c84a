"""Whatever would make H change between two products is refused, with what to change."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from problems import from_model

INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(12) % 3


class Noisy(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + 0.1 * torch.randn(len(inputs), 3)


class Centred(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        return outputs - outputs.mean(dim=0)


class Augmented(Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return INPUTS[index] + 0.1 * torch.randn(4), TARGETS[index]


def wrap(model: nn.Module, data: object = (INPUTS, TARGETS)) -> None:
    from_model(model, "cross_entropy", data, (INPUTS[:2], TARGETS[:2]), damping=0.1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train(),
            r"1 \(Dropout\) drops out.*call model.eval\(\)",
        ),
        (
            nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).train(),
            r"0 \(BatchNorm1d\).*call model.eval\(\)",
        ),
        (
            nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).eval(),
            "track_running_stats=True",
        ),
        (Noisy(4, 3).eval(), "different outputs for the same inputs"),
        (Centred(4, 3).eval(), "changes with the other examples"),
    ],
)
def test_models(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap(model)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).eval(),
        nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)).train(),
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).eval(),
    ],
)
def test_models_that_are_deterministic_pass(model: nn.Module) -> None:
    wrap(model)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=5, shuffle=True), "shuffle=False"),
        (
            lambda: DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=5, drop_last=True),
            "drop_last=False",
        ),
        (Augmented, "remove random augmentation"),
        (lambda: (INPUTS, TARGETS[:5]), "12 inputs and 5 targets"),
        (lambda: (INPUTS[:0], TARGETS[:0]), "no examples"),
        (lambda: [1, 2, 3].__iter__(), "list_iterator"),
        (lambda: (INPUTS,), r"tuple of \(Tensor\)"),
        (lambda: (INPUTS, TARGETS + 5), "class 7; the model has the classes 0 to 2"),
        (lambda: (INPUTS, torch.cat([TARGETS[:-1], torch.tensor([-100])])), "class -100"),
        (lambda: (torch.cat([INPUTS[:-1], torch.full((1, 4), float("nan"))]), TARGETS), "inputs: 4 of 48"),
        (lambda: [INPUTS, TARGETS], "list whose first item is a Tensor"),
    ],
)
def test_data(data: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        wrap(nn.Linear(4, 3).eval(), data())


def test_a_loader_in_order_is_read_through_its_data_set() -> None:
    wrap(nn.Linear(4, 3).eval(), DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=5))


@pytest.mark.parametrize(
    "loss",
    [
        "hinge",
        nn.L1Loss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.ones(3)),
        nn.CrossEntropyLoss(ignore_index=1),
    ],
)
def test_losses_that_are_not_supported_are_refused(loss: object) -> None:
    with pytest.raises(ValueError, match=r"not supported; use one of 'cross_entropy'.*'mse', 'bce'"):
        from_model(nn.Linear(4, 3), loss, (INPUTS, TARGETS), (INPUTS, TARGETS), damping=0.1)  # type: ignore[arg-type]


def test_a_summed_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction='sum'"):
        from_model(
            nn.Linear(4, 3), nn.CrossEntropyLoss(reduction="sum"), (INPUTS, TARGETS), (INPUTS, TARGETS),
            damping=0.1
        )  # fmt: skip


def test_a_filter_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'\[' is no regular expression"):
        from_model(
            nn.Linear(4, 3),
            "cross_entropy",
            (INPUTS, TARGETS),
            (INPUTS, TARGETS),
            damping=0.1,
            parameters="[",
        )


def test_a_filter_that_selects_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'attention' selects nothing.*weight, bias"):
        from_model(
            nn.Linear(4, 3), "cross_entropy", (INPUTS, TARGETS), (INPUTS, TARGETS), damping=0.1,
            parameters="attention"
        )  # fmt: skip
