"""How each image classifier is trained, and the accuracy that this reaches."""

from __future__ import annotations

from dataclasses import dataclass, replace

from problems.models.augmentation import Augmentation
from problems.training import Recipe


@dataclass(frozen=True)
class ImageRecipe:
    """The steps, and what is done to the images on the way."""

    training: Recipe
    augmentation: Augmentation


_AS_THEY_ARE = Augmentation()
_MIRRORED = Augmentation(mirror=True)
_CROPPED = Augmentation(border=4, mirror=True)
_MLP = Recipe()
_RESNET = Recipe(
    batch_size=128, learning_rate=0.1, weight_decay=5e-4, optimizer="sgd", momentum=0.9, warmup=0.2
)

# By model and data. The numbers of epochs are for widths that a laptop trains in a quarter of an hour.
RECIPES = {
    ("mlp", "digits"): ImageRecipe(_MLP, _AS_THEY_ARE),
    ("mlp", "mnist"): ImageRecipe(replace(_MLP, epochs=10), _AS_THEY_ARE),
    ("mlp", "fashion_mnist"): ImageRecipe(replace(_MLP, epochs=10), _AS_THEY_ARE),
    # Of so many pixels that are all positive a larger step takes every unit to where tanh is flat.
    ("mlp", "cifar10"): ImageRecipe(replace(_MLP, epochs=10, learning_rate=1e-4), _AS_THEY_ARE),
    ("resnet18", "digits"): ImageRecipe(replace(_RESNET, epochs=10, batch_size=64), _AS_THEY_ARE),
    ("resnet18", "mnist"): ImageRecipe(replace(_RESNET, epochs=4), _AS_THEY_ARE),
    ("resnet18", "fashion_mnist"): ImageRecipe(replace(_RESNET, epochs=10), _MIRRORED),
    ("resnet18", "cifar10"): ImageRecipe(replace(_RESNET, epochs=12), _CROPPED),
    ("resnet50", "digits"): ImageRecipe(replace(_RESNET, epochs=10, batch_size=64), _AS_THEY_ARE),
    ("resnet50", "mnist"): ImageRecipe(replace(_RESNET, epochs=4), _AS_THEY_ARE),
    ("resnet50", "fashion_mnist"): ImageRecipe(replace(_RESNET, epochs=6), _MIRRORED),
    ("resnet50", "cifar10"): ImageRecipe(replace(_RESNET, epochs=12), _CROPPED),
}

# By model, width and data: what `image_classifier` measured on the test images at the end, on all of the
# training images and with the epochs above, with seed 0.
REACHED = {
    ("mlp", 12, "digits"): 0.939,
    ("mlp", 12, "mnist"): 0.939,
    ("mlp", 12, "fashion_mnist"): 0.860,
    ("mlp", 12, "cifar10"): 0.374,
    ("resnet18", 8, "fashion_mnist"): 0.934,
    ("resnet18", 16, "cifar10"): 0.873,
    ("resnet50", 8, "fashion_mnist"): 0.925,
}
