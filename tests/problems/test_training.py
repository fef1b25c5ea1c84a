import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from problems import training
from problems.cache import ENVIRONMENT_VARIABLE, CacheWarning
from problems.training import Lesson, Recipe, Record, trained

RECIPE = Recipe(epochs=3, batch_size=4, learning_rate=0.05, warmup=0.25, longest_gradient=0.5)


class Stopped(Exception):
    """What cuts training off."""


class Classes:
    """A lesson on 10 points whose loss needs its generator, and which can be stopped before any step."""

    def __init__(self, stop_before: int = -1, stop_evaluation: int = -1) -> None:
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(10, 3, generator=generator)
        self.targets = torch.randint(2, (10,), generator=generator)
        self.stop_before, self.stop_evaluation = stop_before, stop_evaluation
        self.steps = self.evaluations = 0

    def loss(self, model: nn.Module, indices: Tensor, generator: torch.Generator) -> Tensor:
        assert model.training
        if self.steps == self.stop_before:
            raise Stopped
        self.steps += 1
        noise = torch.randn(len(indices), 3, generator=generator)
        return nn.functional.cross_entropy(model(self.inputs[indices] + noise), self.targets[indices])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        if self.evaluations == self.stop_evaluation:
            raise Stopped
        self.evaluations += 1
        return {"test loss": float(nn.functional.cross_entropy(model(self.inputs), self.targets))}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def train(model: nn.Module, lesson: Classes, recipe: Recipe = RECIPE, seed: int = 0) -> Record:
    made = Lesson(10, lesson.loss, lesson.evaluate)
    generator = torch.Generator().manual_seed(seed)
    return trained(model, made, recipe, generator, kind="test", key={"a": 1}, seed=seed)


def without_seconds(record: Record) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in record.log]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop", [{"stop_before": step} for step in range(9)] + [{"stop_evaluation": 1}])
def test_training_that_was_cut_off_goes_on_to_the_same_weights(
    optimizer: str, stop: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=3, batch_size=4, optimizer=optimizer, learning_rate=0.05)  # type: ignore[arg-type]
    # Saved after each step, since what is cut off within one is not whole.
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", -1.0)
    whole = network()
    expected = train(whole, Classes(), recipe)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "another"))
    with pytest.raises(Stopped):
        train(network(), Classes(**stop), recipe)
    rest, resumed = Classes(), network()
    record = train(resumed, rest, recipe)
    assert without_seconds(record) == without_seconds(expected)
    assert rest.steps == 9 - max(0, stop.get("stop_before", 6))
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    assert [path.name for path in record.path.parent.iterdir()] == [record.path.name]


def test_a_checkpoint_is_the_network_with_its_log() -> None:
    first, second = network(), network()
    expected = train(first, Classes())
    lesson = Classes()
    found = train(second, lesson)
    assert lesson.steps == 0
    assert found.log == expected.log
    assert len(found.log) == 3
    assert found.measured == {"test loss": found.log[-1]["test loss"]}
    assert not second.training
    for name, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]), name


def test_adamw_with_a_constant_batch_is_torchs_own() -> None:
    """Against torch's optimiser and scheduler, stepped by hand on all data."""
    recipe = Recipe(epochs=7, batch_size=10, learning_rate=0.02, weight_decay=0.1)
    inputs, targets = Classes().inputs, Classes().targets

    def loss(model: nn.Module, indices: Tensor, generator: torch.Generator) -> Tensor:
        return nn.functional.cross_entropy(
            model(inputs[indices.sort().values]), targets[indices.sort().values]
        )

    model = network()
    trained(
        model,
        Lesson(10, loss, lambda _: {}),
        recipe,
        torch.Generator().manual_seed(0),
        kind="all",
        key={},
        seed=0,
    )
    other = network()
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.02, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    for _ in range(7):
        optimizer.zero_grad()
        nn.functional.cross_entropy(other(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_the_rate_rises_and_falls_to_zero() -> None:
    recipe = Recipe(learning_rate=2.0, warmup=0.2)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:21] == pytest.approx([2 * (step + 1) / 21 for step in range(21)])
    assert rates[60] == pytest.approx(1 + math.cos(math.pi / 2))
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 0.002


def test_a_training_that_diverges_says_so_and_keeps_nothing(empty_cache: Path) -> None:
    with pytest.raises(ArithmeticError, match="lower the learning rate, which is 1e"):
        train(network(), Classes(), Recipe(epochs=50, batch_size=4, optimizer="sgd", learning_rate=1e30))
    assert not list(empty_cache.rglob("*.safetensors"))


def test_a_damaged_partial_checkpoint_is_only_a_warning(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", -1.0)
    with pytest.raises(Stopped):
        train(network(), Classes(stop_before=4))
    (partial,) = empty_cache.rglob("*.safetensors")
    partial.write_bytes(partial.read_bytes()[:100])
    lesson = Classes()
    with pytest.warns(UserWarning, match="cannot be read"):
        train(network(), lesson)
    assert lesson.steps == 9


def test_a_cache_that_cannot_be_written_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "file"))
    message = r"the checkpoint cannot be kept in .*file/checkpoints \(Not a directory\); .* IHVP_BENCH_CACHE"
    with pytest.warns(CacheWarning, match=message), pytest.raises(Stopped):
        train(network(), Classes(stop_before=0))


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_recipes_without_a_step_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Recipe(**{name: 0})
