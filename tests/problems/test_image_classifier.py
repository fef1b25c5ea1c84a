"""The default network as it was published, ResNets on made images, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import problems
from problems import Problem, data, image_classifier
from problems.cache import ENVIRONMENT_VARIABLE
from problems.data.images import Images
from problems.image_classifier import DATA, ImageClassifier
from problems.models.image_recipes import RECIPES
from problems.models.resnet import resnet
from problems.problem import CURVATURES

SMALL: dict[str, Any] = {"width": 3, "training_size": 200, "epochs": 2}
TINY: dict[str, Any] = {"model": "resnet18", "width": 1, "training_size": 65, "epochs": 1, "num_queries": 2}


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def made_cifar10(monkeypatch: pytest.MonkeyPatch) -> Images:
    """A few images of noise in place of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (80, 3, 32, 32), generator=generator, dtype=torch.uint8)
    targets = torch.randint(10, (80,), generator=generator)
    made = Images("cifar10", inputs[:70], targets[:70], inputs[70:], targets[70:], 255, 10)
    monkeypatch.setattr(image_classifier, "load_data", lambda name, folder: made)
    return made


def load(**parameters: Any) -> Problem:
    return problems.load("image_classifier", **parameters)


def weights(**parameters: Any) -> torch.Tensor:
    task = load(**parameters).task
    assert task is not None
    return torch.cat([value.flatten() for value in task.function.model.state_dict().values()])


@pytest.mark.parametrize("settings", [SMALL, TINY], ids=["mlp", "resnet18"])
def test_training_is_deterministic_and_the_checkpoint_is_the_same_network(
    settings: dict[str, Any], empty_cache: Path
) -> None:
    trained = weights(**settings)
    (checkpoint,) = empty_cache.rglob("*.safetensors")
    torch.manual_seed(99)
    from_cache = weights(**settings)
    checkpoint.unlink()
    trained_again = weights(**settings)
    assert torch.equal(trained, from_cache)
    assert torch.equal(trained, trained_again)


def test_seed_and_recipe_have_checkpoints_of_their_own(empty_cache: Path) -> None:
    found = [weights(**SMALL), weights(**SMALL, seed=1), weights(**{**SMALL, "epochs": 3})]
    assert len(list(empty_cache.rglob("*.safetensors"))) == 3
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_damaged_checkpoint_is_trained_again(empty_cache: Path) -> None:
    trained = weights(**SMALL)
    (checkpoint,) = empty_cache.rglob("*.safetensors")
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert torch.equal(weights(**SMALL), trained)
    assert torch.equal(weights(**SMALL), trained)


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(blocker / "cache"))
    with pytest.warns(UserWarning, match=f"Set {ENVIRONMENT_VARIABLE}"):
        weights(**SMALL)


def test_it_has_learnt_the_digits() -> None:
    problem = load()
    assert float(problem.facts["test accuracy"]) == pytest.approx(
        float(problem.facts["stated accuracy"]), abs=0.02
    )
    assert problem.operator.shape == (910, 910)


def test_the_default_is_what_was_published(empty_cache: Path) -> None:
    """The checkpoint's name holds a hash of the recipe; of the inputs, digits/16 in rows of 64."""
    problem = load()
    assert [path.name for path in empty_cache.rglob("*.safetensors")] == [
        "mlp-digits-e6dc8ca717b5c164.safetensors"
    ]
    assert problem.task is not None
    inputs, targets = problem.task.training.batch(torch.arange(1437))
    split = data.digits.digits()
    assert torch.equal(inputs, split.train_inputs)  # type: ignore[arg-type]
    assert torch.equal(targets, split.train_targets)
    assert inputs.dtype == torch.float64  # type: ignore[union-attr]


def test_float32_is_the_same_network() -> None:
    assert torch.equal(weights(dtype=torch.float32, **SMALL), weights(**SMALL).float())


def test_facts_are_the_checkpoints_and_tell_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(**TINY, curvature_size=20).facts
    # What was measured when it was trained is not measured again.
    monkeypatch.setattr("problems.models.image_training.measure_accuracy", lambda *_: 1 / 0)
    again = load(**TINY, curvature_size=20, dtype=torch.float32)
    assert again.facts == first
    assert again.task is not None
    assert len(again.task.training) == first["curvature examples"] == 20
    assert first["training examples"] == 65
    # A stage from c/2 to c channels: one convolution of c/2 channels, three of c, and a 1 × 1 shortcut.
    stages = sum(c * c // 2 * 9 + 3 * c * c * 9 + c * c // 2 for c in (2, 4, 8))
    convolutions, normalisations = 9 + 4 * 9 + stages, 2 * (5 + 5 * (2 + 4 + 8))
    assert again.size == convolutions + 80
    assert first["trained parameters"] == convolutions + normalisations + 80 + 10


def test_a_resnet_takes_images_by_the_mean_of_those_it_is_trained_on(made_cifar10: Images) -> None:
    settings = {**TINY, "data": "cifar10", "training_size": 33, "curvature_size": 5}
    doubles, singles = load(**settings), load(**settings, dtype=torch.float32)
    assert doubles.task is not None
    assert singles.task is not None
    found = [problem.task.training.batch(torch.arange(5))[0] for problem in (doubles, singles)]  # type: ignore[union-attr]
    pixels = made_cifar10.train_inputs[:33].double()
    means = pixels.mean(dim=(0, 2, 3), keepdim=True)
    expected = (pixels - means) / pixels.std(dim=(0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(found[0], expected[:5], rtol=0, atol=1e-6)
    # The same numbers in both, so that H is the same.
    assert torch.equal(found[0], found[1].double())  # type: ignore[union-attr]
    assert doubles.size == singles.size


def test_parameters_are_chosen_by_name_or_preset(made_cifar10: Images) -> None:
    settings = {**TINY, "data": "cifar10", "training_size": 33, "curvature_size": 5}
    default, everything, last = (load(**settings, parameters=each) for each in (None, ".", r"^fc\.weight"))
    assert default.task is not None
    assert not any("bn" in name or "bias" in name for name in default.task.function.names)
    assert everything.size == everything.facts["trained parameters"]
    assert last.size == 80


def test_weights_of_a_file_are_the_networks(tmp_path: Path, made_cifar10: Images) -> None:
    model = resnet(18, torch.Generator().manual_seed(5), width=1, classes=10, stem="imagenet")
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    chosen = {"model": "resnet18", "width": 1, "data": "cifar10", "training_size": 70, "curvature_size": 4}
    chosen["weights"] = str(tmp_path / "mine.pth")
    problem = load(**chosen, stem="imagenet", dtype=torch.float32)
    assert problem.task is not None
    for name, value in problem.task.function.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert problem.facts["weights"] == "mine.pth"
    with pytest.raises(ValueError, match="stem=cifar"):
        load(**chosen)


def test_a_network_far_below_what_its_recipe_states_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    key, accuracy = ("mlp", 12, "digits"), float(load().facts["test accuracy"])
    for stated, warned in ((accuracy + 0.019, False), (accuracy + 0.021, True)):
        monkeypatch.setitem(image_classifier.REACHED, key, stated)
        if warned:
            with pytest.warns(UserWarning, match=f"its recipe states {stated:.1%}"):
                load()
            # Another number of epochs is another recipe.
            assert "stated accuracy" not in load(epochs=29).facts
        else:
            assert load().facts["stated accuracy"] == stated


def test_there_is_a_recipe_for_every_model_on_every_data_set() -> None:
    assert set(RECIPES) == {(model, name) for model in image_classifier.MODELS for name in DATA}


def test_sizes_of_data_sets_are_theirs() -> None:
    assert set(DATA) <= set(data.available())
    for name, shape in DATA.items():
        if data.is_cached(name):
            images = data.load(name)
            assert isinstance(images, Images)
            assert images.train_inputs.shape == (shape.training_size, shape.channels, shape.side, shape.side)
            assert len(images.test_inputs) == shape.test_size
            assert images.num_classes == image_classifier.CLASSES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"model": "resnet"}, "there is no model 'resnet'; did you mean 'resnet"),
        ({"data": "cifar"}, "there is no image data set 'cifar'; did you mean 'cifar10'"),
        ({"stem": "cifr", "model": "resnet18"}, "there is no stem 'cifr'; did you mean 'cifar'"),
        ({"stem": "cifar"}, "stem is 'cifar', which is a ResNet's; leave it out"),
        ({"training_size": 1438}, "training_size is 1438; it must be from 1 to 1437"),
        ({"training_size": 1, "model": "resnet18"}, "training_size is 1; it must be from 2 to 1437"),
        ({"training_size": 9, "curvature_size": 10}, "curvature_size is 10; it must be from 1 to 9"),
        ({"num_queries": 361}, "num_queries is 361; it must be from 1 to 360"),
        ({"curvature": "fisher"}, "no curvature 'fisher'"),
        ({"damping": 0.0}, "damping is 0.0"),
        ({"parameters": "layer5", "model": "resnet18"}, "'layer5' selects nothing"),
        ({"parameters": "("}, "is no regular expression"),
        ({"precision": "fp8"}, "'full', 'tf32' or 'bf16'"),
        ({"data_folder": "/nowhere"}, "there is no folder /nowhere"),
        ({"weights": "/nowhere.pth"}, "there is no file /nowhere.pth"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_read(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_classifier, "load_data", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match=re.escape(message)):
        problems.family("image_classifier", **settings)


def test_contradictory_parameters_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").touch()
    with pytest.raises(ValueError, match="epochs is 3, but weights are read"):
        ImageClassifier(epochs=3, weights=str(tmp_path / "mine.pth"))
    with pytest.raises(ValueError, match="precision='bf16' needs parameters in float32"):
        load(precision="bf16", model="resnet18")


def test_bfloat16_rounds_products(made_cifar10: Images) -> None:
    settings = {**TINY, "data": "cifar10", "training_size": 33, "curvature_size": 5, "dtype": torch.float32}
    full, rounded = load(**settings), load(**settings, precision="bf16")
    vector = torch.randn(full.size, generator=torch.Generator().manual_seed(0))
    expected = full.operator @ vector
    error = float((rounded.operator @ vector - expected).norm() / expected.norm())
    # bfloat16 has eight bits.
    assert 1e-5 < error < 0.2


@pytest.mark.parametrize("curvature", list(CURVATURES))
def test_it_offers_every_curvature(curvature: str) -> None:
    problem = load(**SMALL, curvature=curvature)
    assert problem.eigenvalues is not None
    indefinite = float(problem.eigenvalues[0]) < -1e-3
    assert indefinite == (curvature == "hessian") == (not problem.operator.is_psd)


def test_no_batch_of_one_is_trained_on() -> None:
    """A ResNet's normalisations know no variance of one number: 65 = 64 + 1 would leave one."""
    assert RECIPES["resnet18", "digits"].training.batch_size == 64
    assert len(weights(**TINY)) > 0
    assert [image_classifier._without_single(64, count) for count in (64, 65, 66, 129, 2)] == [
        64,
        65,
        64,
        65,
        64,
    ]
