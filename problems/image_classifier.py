"""Image classifiers trained in-process, or from a file of weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from problems.data import load as load_data
from problems.data.images import Images
from problems.exhibits import Exhibit, Exhibits, png
from problems.footprint import Footprint, footprint_of
from problems.models.image_inputs import Encoding, Flat, encode_all, standardised
from problems.models.image_recipes import REACHED, RECIPES, ImageRecipe
from problems.models.image_retraining import ImageRetraining
from problems.models.image_training import image_lesson, measure_accuracy
from problems.models.mlp import mlp
from problems.models.resnet import STEMS, resnet
from problems.models.weights_file import check_weights_file, load_weights
from problems.precision import PRECISIONS, Precision, check_precision
from problems.problem import Problem, ProblemFamily, as_curvature, from_model
from problems.training import Lesson, NetworkWarning, Recipe, train, trained
from problems.validation import check_counts, check_damping, unknown


@dataclass(frozen=True)
class DataShape:
    """What is known of a data set before it is read; `names` are those of its classes, or else numbers."""

    channels: int
    side: int
    training_size: int
    test_size: int
    names: tuple[str, ...] = tuple("0123456789")


MODELS = {"mlp": 12, "resnet18": 64, "resnet50": 64}
DEPTHS = {"resnet18": 18, "resnet50": 50}
DATA = {
    "digits": DataShape(1, 8, 1437, 360),
    "mnist": DataShape(1, 28, 60_000, 10_000),
    "fashion_mnist": DataShape(
        1, 28, 60_000, 10_000,
        ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
    ),
    "cifar10": DataShape(
        3, 32, 50_000, 10_000,
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}  # fmt: skip
CLASSES = 10
LARGEST_CIFAR_SIDE = 64
# By how much less than its recipe states a network may classify rightly before that is worth a word.
TOLERATED = 0.02


@dataclass(frozen=True)
class ImageClassifier(ProblemFamily):
    """A network trained on images; right-hand sides are gradients of the first `num_queries` test images.

    `model` is "mlp" (features-`width`-10, pixels in [0, 1], float64), "resnet18" or "resnet50" (`width`
    channels in the first stage, 64 by default; pixels standardised, float32); `data` is "digits", "mnist",
    "fashion_mnist" or "cifar10", which are looked for in `data_folder` first. `stem` of a ResNet is "cifar"
    for images of up to 64 pixels, else "imagenet".

    H is the network's `curvature`, "ggn", "hessian" (indefinite), "empirical_fisher", "monte_carlo_fisher" or
    "finite_difference" (the first, with approximate products), of the mean loss over the first
    `curvature_size` of the `training_size` images that it was trained on. `parameters` selects as in
    `from_model`: by default all of an MLP's and "no_batchnorm_no_bias" of a ResNet's (Klochkov & Liu 2024);
    "." selects all.

    Deterministic given the seed; the checkpoint, keyed by its recipe, is kept under the user's cache
    directory with the log of its training, whatever device and dtype the network is used in. `weights` is a
    file with a state dict instead, of torchvision's names for a ResNet; `training_size` then says which
    images it was trained on. A network that ends more than two points below what its recipe states is a
    warning.
    """

    model: str = "mlp"
    width: int | None = None
    data: str = "digits"
    data_folder: str | None = None
    training_size: int | None = None
    curvature_size: int | None = None
    epochs: int | None = None
    num_queries: int = 4
    damping: float = 1e-2
    curvature: str = "ggn"
    parameters: str | None = None
    stem: str | None = None
    weights: str | None = None
    precision: Precision = "full"

    def __post_init__(self) -> None:
        check_damping(self.damping)
        as_curvature(self.curvature)
        for kind, name, known in (
            ("model", self.model, list(MODELS)),
            ("image data set", self.data, list(DATA)),
            ("precision", self.precision, PRECISIONS),
            ("stem", self.stem or STEMS[0], STEMS),
        ):
            if name not in known:
                raise ValueError(unknown(kind, name, known))
        check_counts(width=self._width, epochs=1 if self.epochs is None else self.epochs)
        self._check_sizes()
        if self.stem is not None and not self._is_resnet:
            raise ValueError(
                f"stem is {self.stem!r}, which is a ResNet's; leave it out for model={self.model!r}"
            )
        if self.data_folder is not None and not Path(self.data_folder).expanduser().is_dir():
            raise ValueError(
                f"there is no folder {self.data_folder}; data_folder must be one that holds the data"
            )
        if self.weights is not None:
            check_weights_file(Path(self.weights).expanduser())
            if self.epochs is not None:
                raise ValueError(
                    f"epochs is {self.epochs}, but weights are read and nothing is trained: set one of them"
                )
        if self.parameters is not None:
            self.footprint()  # names parameters that there are none of

    def _check_sizes(self) -> None:
        shape = DATA[self.data]
        # Of a batch of one example a ResNet's normalisations know no variance.
        fewest = 2 if self._is_resnet else 1
        for name, value, least, most in (
            ("training_size", self._training_size, fewest, shape.training_size),
            ("curvature_size", self._curvature_size, 1, self._training_size),
            ("num_queries", self.num_queries, 1, shape.test_size),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; it must be from {least} to {most}")

    @classmethod
    def examples(cls) -> Sequence[ImageClassifier]:
        small = cls(width=2, training_size=60, epochs=5, num_queries=3, damping=0.3)
        return (small, replace(small, curvature="hessian", damping=3.0))

    def footprint(self) -> Footprint:
        with torch.device("meta"):
            return footprint_of(self._network(torch.Generator()), self._parameters, self.num_queries)

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        check_precision(self.precision, dtype, device)
        data, encoding = self.data_and_encoding()
        generator = torch.Generator().manual_seed(seed)
        model = self._network(generator)
        if self.weights is None:
            found = self._train(model, data, encoding, generator, seed, device)
        else:
            load_weights(model, Path(self.weights).expanduser())
            found = measure_accuracy(model.to(device), data, encoding, device)
        # A ResNet's inputs have float32's digits whatever its dtype, so that H is the same in each.
        kept = torch.float32 if self._is_resnet else dtype
        count = self._curvature_size
        return from_model(
            model.to(device, dtype),
            "cross_entropy",
            (encode_all(encoding, data.train_inputs[:count], kept).to(device), data.train_targets[:count]),
            self.queries(data, encoding, kept),
            damping=self.damping,
            curvature=self.curvature,
            parameters=self._parameters,
            precision=self.precision,
            name="image_classifier",
            facts=self._facts(model, found),
            exhibits=Exhibits(
                lambda index: self._exhibit(data.train_inputs[index], data.train_targets[index], data.white),
                lambda index: self._exhibit(data.test_inputs[index], data.test_targets[index], data.white),
            ),
            retraining=ImageRetraining(self, seed, device, dtype),
        )

    def _exhibit(self, image: Tensor, target: Tensor, white: int) -> Exhibit:
        return Exhibit(label=DATA[self.data].names[int(target)], picture=png(image, white))

    def _facts(self, model: nn.Module, found: float) -> dict[str, float | str]:
        facts: dict[str, float | str] = {
            "model": self._description,
            "data": self.data,
            "test accuracy": found,
            "trained parameters": sum(value.numel() for value in model.parameters()),
            "curvature examples": self._curvature_size,
        }
        if self.weights is not None:
            return facts | {"weights": Path(self.weights).name}
        stated = self._stated_accuracy
        return (
            facts
            | {"training examples": self._training_size}
            | ({"stated accuracy": stated} if stated else {})
        )

    def _network(self, generator: torch.Generator) -> nn.Module:
        """As it is before training: on the CPU, an MLP in float64 and a ResNet in float32."""
        shape = DATA[self.data]
        if not self._is_resnet:
            return mlp([self._features, self._width, CLASSES], generator)
        return resnet(
            DEPTHS[self.model],
            generator,
            width=self._width,
            channels=shape.channels,
            classes=CLASSES,
            stem=self._stem,
        )

    def _train(
        self,
        model: nn.Module,
        data: Images,
        encoding: Encoding,
        generator: torch.Generator,
        seed: int,
        device: torch.device,
    ) -> float:
        """Train it, the MLP on the CPU; the test accuracy at the end."""
        recipe, steps = RECIPES[self.model, self.data], self._steps(self._training_size)
        lesson = self._lesson(data, encoding, device)
        key: dict[str, object] = {"training_size": self._training_size}
        if self._is_resnet:
            _lay_out(model.to(device), torch.channels_last)
            key |= {"width": self._width, "stem": self._stem, **asdict(recipe.augmentation)}
        else:
            key |= {"widths": self._width}
        kind = f"{self.model}-{self.data}"
        record = trained(model, lesson, steps, generator, kind=kind, key=key, seed=seed)
        _lay_out(model, torch.contiguous_format)
        found = record.measured["test accuracy"]
        stated = self._stated_accuracy
        if stated is not None and found < stated - TOLERATED:
            warnings.warn(
                f"{self._description} classifies {found:.1%} of the test images of {self.data} rightly, but "
                f"its recipe states {stated:.1%}: delete {record.path} and train again, or look at its log",
                NetworkWarning,
                stacklevel=3,
            )
        return found

    def train_again(
        self, data: Images, encoding: Encoding, kept: Tensor, *, seed: int, device: torch.device
    ) -> nn.Module:
        """From the fresh initialisation of `seed`, by the same recipe, on the training images `kept` (m,).

        On all of them, with the seed of the problem, it gives the problem's weights.
        """
        generator = torch.Generator().manual_seed(seed)
        model = self._network(generator)
        if self._is_resnet:
            _lay_out(model.to(device), torch.channels_last)
        whole = self._lesson(data, encoding, device)
        lesson = Lesson(
            len(kept),
            lambda network, indices, augmentation: whole.loss(network, kept[indices], augmentation),
            lambda network: {},
        )
        train(model, lesson, self._steps(len(kept)), generator, seed=seed)
        _lay_out(model, torch.contiguous_format)
        return model

    def queries(self, data: Images, encoding: Encoding, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The first test images as the network takes them, and their classes."""
        images, targets = data.test_inputs[: self.num_queries], data.test_targets[: self.num_queries]
        return encode_all(encoding, images, dtype), targets

    @property
    def recipe(self) -> ImageRecipe:
        """How it is trained, on all of its images."""
        return replace(RECIPES[self.model, self.data], training=self._steps(self._training_size))

    @property
    def num_trained(self) -> int:
        """The images that it is trained on."""
        return self._training_size

    def data_and_encoding(self) -> tuple[Images, Encoding]:
        """All images, and how they become what the network takes."""
        data = load_data(self.data, self.data_folder)
        assert isinstance(data, Images)
        if not self._is_resnet:
            return data, Flat(data.white)
        return data, standardised(data.train_inputs[: self._training_size])

    def _lesson(self, data: Images, encoding: Encoding, device: torch.device) -> Lesson:
        """An MLP learns on the CPU."""
        place = device if self._is_resnet else torch.device("cpu")
        augmentation = RECIPES[self.model, self.data].augmentation
        return image_lesson(data, self._training_size, encoding, augmentation, place)

    def _steps(self, count: int) -> Recipe:
        """The recipe of a training on `count` images."""
        training = RECIPES[self.model, self.data].training
        steps = replace(training, epochs=self.epochs or training.epochs)
        if not self._is_resnet:
            return steps
        return replace(steps, batch_size=_without_single(steps.batch_size, count))

    @property
    def _is_resnet(self) -> bool:
        return self.model in DEPTHS

    @property
    def _parameters(self) -> str | None:
        return self.parameters or ("no_batchnorm_no_bias" if self._is_resnet else None)

    @property
    def _features(self) -> int:
        return DATA[self.data].channels * DATA[self.data].side ** 2

    @property
    def _width(self) -> int:
        return MODELS[self.model] if self.width is None else self.width

    @property
    def _training_size(self) -> int:
        return DATA[self.data].training_size if self.training_size is None else self.training_size

    @property
    def _curvature_size(self) -> int:
        return self._training_size if self.curvature_size is None else self.curvature_size

    @property
    def _stem(self) -> str:
        return self.stem or ("cifar" if DATA[self.data].side <= LARGEST_CIFAR_SIDE else "imagenet")

    @property
    def _description(self) -> str:
        if not self._is_resnet:
            return f"MLP {self._features}-{self._width}-{CLASSES}"
        return f"ResNet-{DEPTHS[self.model]}, width {self._width}, {self._stem} stem"

    @property
    def _stated_accuracy(self) -> float | None:
        """What was measured with this very recipe; None where it differs in anything."""
        whole = (DATA[self.data].training_size, RECIPES[self.model, self.data].training.epochs)
        epochs = self.epochs or whole[1]
        if (self._training_size, epochs) != whole or self.stem == "imagenet" or self.weights is not None:
            return None
        return REACHED.get((self.model, self._width, self.data))


def _without_single(batch_size: int, count: int) -> int:
    """The next batch size that leaves no batch of one example."""
    while count % batch_size == 1:
        batch_size += 1
    return batch_size


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """How its tensors lie in memory: a CPU trains half as fast again where channels are last."""
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
