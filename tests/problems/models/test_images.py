"""Augmentation, inputs and training of image classifiers, each against numbers made by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from problems.data.images import Images
from problems.models import image_inputs
from problems.models.augmentation import Augmentation
from problems.models.image_inputs import Flat, encode_all, standardised
from problems.models.image_training import image_lesson, measure_accuracy

COUNT = 60


def random_images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, 3, 5, 4), generator=generator, dtype=torch.uint8)


def windows(image: Tensor, border: int, mirror: bool) -> dict[tuple[int, int, bool], Tensor]:
    """Every crop that there is, by its place and whether it is mirrored."""
    padded = torch.zeros(3, 5 + 2 * border, 4 + 2 * border, dtype=torch.uint8)
    padded[:, border : border + 5, border : border + 4] = image
    found = {}
    for top in range(2 * border + 1):
        for left in range(2 * border + 1):
            window = padded[:, top : top + 5, left : left + 4]
            found[top, left, False] = window
            if mirror:
                found[top, left, True] = window.flip(2)
    return found


@pytest.mark.parametrize(("border", "mirror"), [(0, False), (0, True), (2, False), (2, True)])
def test_every_image_is_one_of_its_crops_and_all_occur(border: int, mirror: bool) -> None:
    images = random_images(1).expand(1000, 3, 5, 4)
    changed = Augmentation(border, mirror)(images, torch.Generator().manual_seed(0))
    allowed = windows(images[0], border, mirror)
    counts = [int((changed == window).flatten(1).all(dim=1).sum()) for window in allowed.values()]
    assert sum(counts) == 1000
    # Each is as frequent as any other: five standard deviations around the mean.
    mean = 1000 / len(allowed)
    assert all(abs(count - mean) <= 5 * mean**0.5 for count in counts)


def test_augmentation_is_the_generators_alone() -> None:
    images, augmentation = random_images(COUNT), Augmentation(2, True)
    first, second, third = (augmentation(images, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_standardised_images_have_mean_0_and_deviation_1_in_each_channel() -> None:
    images = random_images(COUNT)
    images[:, 1] = 7
    encoding = standardised(images)
    pixels = images.double()
    torch.testing.assert_close(torch.tensor(encoding.means).double(), pixels.mean(dim=(0, 2, 3)))
    inputs = encoding(images)
    assert inputs.dtype == torch.float32
    expected = (pixels - pixels.mean(dim=(0, 2, 3), keepdim=True))[:, [0, 2]]
    expected = expected / pixels[:, [0, 2]].std(dim=(0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(inputs[:, [0, 2]].double(), expected, rtol=0, atol=1e-6)
    assert not bool(inputs[:, 1].any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_of_all_images_are_those_of_its_parts(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_inputs, "IMAGES_AT_ONCE", 7)
    images = random_images(COUNT)
    found = encode_all(Flat(255), images, dtype)
    assert torch.equal(found, (images.reshape(COUNT, 60).double() / 255).to(dtype))


def test_a_lesson_is_the_cross_entropy_of_its_images_and_counts_right_answers() -> None:
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(4, (COUNT,), generator=generator)
    # More test images than are looked at at once.
    test_images, test_targets = random_images(1100, seed=1), torch.randint(4, (1100,), generator=generator)
    data = Images("made", random_images(COUNT), targets, test_images, test_targets, 255, 4)
    model = nn.Linear(60, 4).double().eval()
    cpu = torch.device("cpu")
    lesson = image_lesson(data, 40, Flat(255), Augmentation(), cpu)
    assert lesson.count == 40
    chosen = torch.tensor([39, 0, 5])
    outputs = model(data.train_inputs[chosen].reshape(3, 60).double() / 255)
    loss = lesson.loss(model, chosen, generator)
    torch.testing.assert_close(loss, F.cross_entropy(outputs, targets[chosen]))
    outputs = model(test_images.reshape(1100, 60).double() / 255)
    right = float((outputs.argmax(dim=1) == test_targets).double().mean())
    assert lesson.evaluate(model) == {"test accuracy": pytest.approx(right, abs=1e-12)}
    assert measure_accuracy(model, data, Flat(255), cpu) == pytest.approx(right, abs=1e-12)
