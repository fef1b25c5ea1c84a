"""The networks against published counts, another library's forward pass and Jacobians by plain autograd."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from problems import Problem, from_model
from problems.models.resnet import ResNet, resnet
from problems.operators.recording import RECORD_AFTER

# Of torchvision's models: parameters, and tensors of their state dict.
PUBLISHED = {18: (11_689_512, 122), 50: (25_557_032, 320)}
DEPTHS = pytest.mark.parametrize("depth", PUBLISHED)


@DEPTHS
def test_counts_are_torchvisions(depth: int) -> None:
    with torch.device("meta"):
        model = ResNet(depth)
    assert (sum(value.numel() for value in model.parameters()), len(model.state_dict())) == PUBLISHED[depth]


def peer_name(name: str) -> str:
    """What Hugging Face's transformers call torchvision's `name`."""
    parts = {"conv": "convolution", "bn": "normalization"}
    if name.startswith("fc."):
        return name.replace("fc.", "classifier.1.")
    if found := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"resnet.embedder.embedder.{parts[found[1]]}.{found[2]}"
    stage, block, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
    place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    if found := re.fullmatch(r"downsample\.([01])\.(\w+)", rest):
        return f"{place}.shortcut.{('convolution', 'normalization')[int(found[1])]}.{found[2]}"
    kind, number, last = re.fullmatch(r"(conv|bn)(\d)\.(\w+)", rest).groups()  # type: ignore[union-attr]
    return f"{place}.layer.{int(number) - 1}.{parts[kind]}.{last}"


def disturbed(model: ResNet) -> ResNet:
    """With normalisations that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if ("bn" in name or "downsample.1" in name) and value.is_floating_point():
            value.data.uniform_(0.5, 1.5, generator=generator)
    return model


@DEPTHS
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_the_forward_pass_is_that_of_transformers(depth: int, stem: str) -> None:
    transformers = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(0)
    model = resnet(depth, generator, width=4, channels=2, classes=5, stem=stem, dtype=torch.float64)
    disturbed(model)
    widths = [4, 8, 16, 32] if depth == 18 else [16, 32, 64, 128]
    config = transformers.ResNetConfig(
        num_channels=2, embedding_size=4, hidden_sizes=widths, num_labels=5,
        depths=[2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3],
        layer_type="basic" if depth == 18 else "bottleneck",
    )  # fmt: skip
    peer = transformers.ResNetForImageClassification(config).double().eval()
    weights = {peer_name(name): value for name, value in model.state_dict().items()}
    if stem == "cifar":
        # Its first convolution has only the one size: the stem is computed by hand below.
        weights["resnet.embedder.embedder.convolution.weight"] = torch.zeros(4, 2, 7, 7)
    peer.load_state_dict(weights)
    images = torch.randn(3, 2, 40, 40, generator=generator, dtype=torch.float64)
    if stem == "imagenet":
        expected = peer(images).logits
    else:
        norm = model.bn1
        hidden = F.conv2d(images, model.conv1.weight, padding=1)
        shifted = hidden - norm.running_mean[:, None, None]  # type: ignore[index]
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()  # type: ignore[operator]
        hidden = (shifted * scale[:, None, None] + norm.bias[:, None, None]).clamp_min(0)
        hidden = peer.resnet.encoder(hidden).last_hidden_state
        expected = hidden.mean(dim=(2, 3)) @ model.fc.weight.T + model.fc.bias
    torch.testing.assert_close(model(images), expected, rtol=1e-10, atol=1e-10)


def test_weights_are_drawn_as_he_et_al_do() -> None:
    model = resnet(18, torch.Generator().manual_seed(0), width=16, classes=10)
    for name, value in model.named_parameters():
        if value.ndim == 4:
            fan_out = value.shape[0] * value.shape[2] * value.shape[3]
            # The standard deviation of an estimate of one from n normal numbers is σ/√(2n).
            assert float(value.detach().std()) == pytest.approx(
                (2 / fan_out) ** 0.5, rel=5 * (2 * value.numel()) ** -0.5
            ), name
    assert not model.training
    assert not bool(model.fc.bias.any())


def test_the_generator_decides_the_weights() -> None:
    first, second, third = (
        resnet(18, torch.Generator().manual_seed(seed), width=1).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layer4.1.conv2.weight"], third["layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 34}, "depth is 34; allowed are 18 and 50"),
        ({"stem": "cifr"}, "did you mean 'cifar'"),
        ({"width": 0}, "width is 0"),
        ({"channels": 0}, "channels is 0"),
    ],
)
def test_what_does_not_exist_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ResNet(**{"depth": 18, **settings})  # type: ignore[arg-type]


COUNT = 3


@pytest.fixture(params=PUBLISHED)
def small(request: pytest.FixtureRequest) -> Problem:
    """A network of width 1 on a few images, with all its parameters."""
    generator = torch.Generator().manual_seed(0)
    settings = {"width": 1, "channels": 1, "classes": 3, "stem": "cifar", "dtype": torch.float64}
    model = disturbed(resnet(request.param, generator, **settings))  # type: ignore[arg-type]
    images = torch.randn(COUNT, 1, 8, 8, generator=generator, dtype=torch.float64)
    data = (images, torch.arange(COUNT))
    return from_model(model, "cross_entropy", data, data, damping=0.1)


def by_backward(problem: Problem) -> tuple[Tensor, Tensor]:
    """Jacobians of the outputs (COUNT, classes, p) and gradients of the losses (p, COUNT), by .backward()."""
    assert problem.task is not None
    model: nn.Module = problem.task.function.model
    images, targets = problem.task.training.batch(torch.arange(COUNT))

    def flat(value: Tensor) -> Tensor:
        model.zero_grad()
        value.backward(retain_graph=True)
        return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    jacobians, gradients = [], []
    for image, target in zip(images, targets, strict=True):
        outputs = model(image[None])
        jacobians.append(torch.stack([flat(output) for output in outputs[0]]))
        gradients.append(flat(F.cross_entropy(outputs, target[None])))
    return torch.stack(jacobians), torch.stack(gradients, dim=1)


def test_products_and_gradients_are_those_of_plain_autograd(small: Problem) -> None:
    jacobians, gradients = by_backward(small)
    assert small.task is not None
    probabilities = small.task.function.model(small.task.training.batch(torch.arange(COUNT))[0]).softmax(1)
    torch.testing.assert_close(small.rhs, gradients, rtol=1e-8, atol=1e-10)
    generator = torch.Generator().manual_seed(2)
    vector = torch.randn(small.size, generator=generator, dtype=torch.float64)
    outputs = jacobians @ vector
    curved = probabilities * (outputs - (probabilities * outputs).sum(dim=1, keepdim=True))
    expected = (jacobians.mT @ curved[:, :, None]).mean(dim=0)[:, 0].detach()
    # Eager at first, then recorded and replayed: of the deeper network that would take seconds.
    depth = len(list(small.task.function.model.modules()))
    for _ in range(RECORD_AFTER + 2 if depth < 100 else 1):
        torch.testing.assert_close(small.operator @ vector, expected, rtol=1e-8, atol=1e-10)
