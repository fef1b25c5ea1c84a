"""Residual networks with torchvision's parameter names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from problems.validation import check_counts, unknown

# 7 × 7 with stride 2 and a pool, for images of some 224 pixels; 3 × 3 that keeps the size, for small ones.
STEMS = ("imagenet", "cifar")


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        hidden = self.relu(self.bn1(self.conv1(images)))
        return self.relu(self.bn2(self.conv2(hidden)) + shortcut)


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions and a shortcut; the 3 × 3 one has the stride, as in torchvision."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        hidden = self.relu(self.bn1(self.conv1(images)))
        hidden = self.relu(self.bn2(self.conv2(hidden)))
        return self.relu(self.bn3(self.conv3(hidden)) + shortcut)


BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """ResNet-18 or -50 (He et al. 2016): images (m, channels, h, w) to outputs (m, classes).

    `width` is the number of channels of the first stage, 64 of the full network; all others scale with it.
    All parameters and buffers have torchvision's names. ReLUs are not in place, so that products can be
    recorded. Raises ValueError for a depth or a stem that does not exist and for counts below 1.
    """

    def __init__(
        self, depth: int, *, width: int = 64, channels: int = 3, classes: int = 1000, stem: str = "imagenet"
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth is {depth}; allowed are {' and '.join(map(str, BLOCKS))}")
        if stem not in STEMS:
            raise ValueError(unknown("stem", stem, STEMS))
        check_counts(width=width, channels=channels, classes=classes)
        is_large = stem == "imagenet"
        self.conv1 = nn.Conv2d(
            channels, width, *((7, 2, 3) if is_large else (3, 1, 1)), bias=False
        )  # kernel, stride, padding
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if is_large else nn.Identity()
        block, counts = BLOCKS[depth]
        inputs, stages = width, []
        for index, count in enumerate(counts):
            planes = width * 2**index
            blocks = []
            for number in range(count):
                blocks.append(block(inputs, planes, 2 if index > 0 and number == 0 else 1))
                inputs = block.expansion * planes
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.fc(self.avgpool(hidden).flatten(1))


def resnet(
    depth: int,
    generator: torch.Generator,
    *,
    width: int = 64,
    channels: int = 3,
    classes: int = 1000,
    stem: str = "imagenet",
    dtype: torch.dtype = torch.float32,
) -> ResNet:
    """A ResNet with weights drawn from `generator`, in evaluation mode.

    Convolutions from N(0, 2/(outputs · pixels of the kernel)) (He et al. 2015), the classifier from
    N(0, 1/inputs), biases 0 and normalisations the identity.
    """
    model = ResNet(depth, width=width, channels=channels, classes=classes, stem=stem).to(dtype)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
        model.fc.weight.normal_(std=model.fc.in_features**-0.5, generator=generator)
        model.fc.bias.zero_()
    return model.eval()


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """What brings a block's input to the shape of its output; None where it has that shape already."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
