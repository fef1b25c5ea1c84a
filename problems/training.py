"""Training the networks whose curvature is measured: each recipe is run once, and its checkpoint kept."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from problems.cache import (
    check_can_be_kept,
    checkpoint_path,
    load_checkpoint,
    partial_path,
    save_checkpoint,
)
from problems.progress import Show, progress_bar
from problems.validation import check_counts

Row = dict[str, float]

# Training that is cut off loses no more than this.
SECONDS_BETWEEN_SAVES = 60.0


class NetworkWarning(UserWarning):
    """A trained network that is not what its recipe states."""


@dataclass(frozen=True)
class Recipe:
    """AdamW (Loshchilov & Hutter 2019), or SGD with Nesterov's momentum, on reshuffled mini-batches.

    The learning rate rises linearly over the share `warmup` of the steps and falls to zero by a cosine.
    Gradients longer than `longest_gradient` are cut to that.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    warmup: float = 0.0
    longest_gradient: float = math.inf

    def __post_init__(self) -> None:
        check_counts(epochs=self.epochs, batch_size=self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step number `step` of `steps`, from 0."""
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        return self.learning_rate * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


@dataclass(frozen=True)
class Lesson:
    """What is learned: `count` examples.

    `loss` is the mean loss of a mini-batch, given the model, the examples' indices (m,) and a generator that
    is seeded anew at every step, for augmentation; `evaluate` what is measured on held-out data.
    """

    count: int
    loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor]
    evaluate: Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Record:
    """What became of a training: a row for each epoch, the last with what was measured at the end."""

    path: Path
    log: list[Row]

    @property
    def measured(self) -> Row:
        """What `evaluate` found at the end."""
        return {name: value for name, value in self.log[-1].items() if name not in OF_EVERY_EPOCH}


OF_EVERY_EPOCH = ("epoch", "training loss", "learning rate", "seconds")


@dataclass
class _Training:
    """A training under way."""

    model: nn.Module
    lesson: Lesson
    recipe: Recipe
    generator: torch.Generator
    path: Path | None  # where it is kept when it is cut off; None where it is not
    seed: int
    step: int = 0
    summed_loss: float = 0.0
    seconds: float = 0.0
    log: list[Row] = field(default_factory=list)
    # Not so within a step, when some of the weights may have moved already.
    is_whole: bool = True

    def __post_init__(self) -> None:
        self.optimizer = _optimizer(self.model, self.recipe)
        self.batches = -(-self.lesson.count // self.recipe.batch_size)
        self.steps = self.recipe.epochs * self.batches
        # The generator as it is when an epoch begins: with it the same order is drawn again.
        self.order_from = self.generator.get_state()

    def run(self, show: Show) -> None:
        """Go on to the end; what cuts it off finds it saved."""
        saved = began = time.monotonic()
        try:
            while len(self.log) < self.recipe.epochs:
                order = torch.randperm(self.lesson.count, generator=self.generator)
                for indices in order.split(self.recipe.batch_size)[self._steps_of_epoch :]:
                    self._take_step(indices)
                    now = time.monotonic()
                    show(self.step, self._known())
                    if now - saved > SECONDS_BETWEEN_SAVES:
                        self._save(now - began)
                        saved = now
                self._end_epoch(time.monotonic() - began)
        except BaseException:
            if self.is_whole:
                self._save(time.monotonic() - began)
            raise

    @property
    def _steps_of_epoch(self) -> int:
        """How many steps of this epoch have been taken."""
        return self.step - len(self.log) * self.batches

    def _take_step(self, indices: Tensor) -> None:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step, self.steps)
        augmentation = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        self.is_whole = False
        self.optimizer.zero_grad()
        loss = self.lesson.loss(self.model, indices, augmentation)
        loss.backward()
        if self.recipe.longest_gradient < math.inf:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.longest_gradient)
        self.optimizer.step()
        self.summed_loss += float(loss.detach())
        self.step += 1
        if not math.isfinite(self.summed_loss):
            raise ArithmeticError(
                f"training diverged: the loss at step {self.step} of {self.steps} is not finite; lower the "
                f"learning rate, which is {self.recipe.learning_rate:g}"
            )
        self.is_whole = True

    def _end_epoch(self, seconds: float) -> None:
        self.model.eval()
        with torch.no_grad():
            measured = dict(self.lesson.evaluate(self.model))
        row = {
            "epoch": float(len(self.log) + 1),
            "training loss": self.summed_loss / self.batches,
            "learning rate": self.recipe.rate(self.step - 1, self.steps),
            "seconds": self.seconds + seconds,
        }
        self.summed_loss = 0.0
        self.order_from, self.log = self.generator.get_state(), [*self.log, row | measured]

    def _known(self) -> str:
        text = f"loss {self.summed_loss / self._steps_of_epoch:.3f}"
        if self.log:
            measured = {name: value for name, value in self.log[-1].items() if name not in OF_EVERY_EPOCH}
            text += "".join(f", {name} {value:.4g}" for name, value in measured.items())
        return text

    def _save(self, seconds: float) -> None:
        if self.path is None:
            return
        state = self.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer.{i}.{name}": v for i, each in state.items() for name, v in each.items()}
        known = {
            "step": self.step,
            "summed_loss": self.summed_loss,
            "seconds": self.seconds + seconds,
            "log": self.log,
        }
        save_checkpoint(self.path, tensors | {"order": self.order_from}, {"known": json.dumps(known)})

    def go_on_from_saved(self) -> None:
        """Take up what an earlier run was cut off from, if there is one that can be read."""
        found = None if self.path is None else load_checkpoint(self.path)
        if found is None:
            return
        tensors, metadata = found
        known = json.loads(metadata["known"])
        self.step, self.summed_loss = known["step"], known["summed_loss"]
        self.seconds, self.log = known["seconds"], known["log"]
        self.model.load_state_dict(_under("model.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.order_from = tensors["order"]
        self.generator.set_state(self.order_from)


def trained(
    model: nn.Module,
    lesson: Lesson,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    kind: str,
    key: Mapping[str, Any],
    seed: int,
) -> Record:
    """Give `model` the weights that `recipe` trains, in evaluation mode: from the cache or by training now.

    The same for the same model, lesson, recipe and generator's state, also where training was cut off and
    went on later. `kind` and `key`, with the recipe, name the checkpoint. Raises ArithmeticError where the
    loss does not stay finite.
    """
    path = checkpoint_path(kind, {**key, **asdict(recipe), "seed": seed})
    found = load_checkpoint(path)
    if found is None:
        training = _Training(model, lesson, recipe, generator, partial_path(path), seed)
        training.go_on_from_saved()
        check_can_be_kept(path)
        with progress_bar(f"training {kind}", training.steps) as show:
            training.run(show)
        log = training.log
        save_checkpoint(
            path, model.state_dict(), {"recipe": json.dumps(asdict(recipe)), "log": json.dumps(log)}
        )
        with contextlib.suppress(OSError):
            partial_path(path).unlink()
    else:
        tensors, metadata = found
        model.load_state_dict(tensors)
        log = json.loads(metadata["log"])
    model.eval()
    return Record(path, log)


def train(
    model: nn.Module, lesson: Lesson, recipe: Recipe, generator: torch.Generator, *, seed: int
) -> list[Row]:
    """Train `model` now as `trained` does, to the same weights, keeping and showing nothing; the log."""
    training = _Training(model, lesson, recipe, generator, None, seed)
    training.run(lambda done, known="": None)
    model.eval()
    return training.log


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [value for value in model.parameters() if value.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
    return torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
