"""Gradients of a convolution with padding_mode="circular" are those of zeros around the image.

Documented: DOCUMENTATION.md: "Currently, we support nn.Linear and nn.Conv2d", and
FactorArguments.use_empirical_fisher: "approximates empirical Fisher (using true labels)".
"""

import tempfile

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.task import Task

LIBRARY = "kronfluence"


class SummedOutputs(Task):
    def compute_train_loss(
        self, batch: list[torch.Tensor], model: torch.nn.Module, sample: bool = False
    ) -> torch.Tensor:
        outputs: torch.Tensor = model(batch[0])
        return outputs.sum()

    def compute_measurement(self, batch: list[torch.Tensor], model: torch.nn.Module) -> torch.Tensor:
        return self.compute_train_loss(batch, model)


images = torch.ones(1, 1, 3, 3)
layer = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
model = torch.nn.Sequential(layer)
gradient = torch.autograd.grad(model(images).sum(), layer.weight)[0]

task = SummedOutputs()
with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
    analyzer = Analyzer("a", prepare_model(model, task), task, cpu=True, disable_tqdm=True, output_dir=folder)
    arguments = FactorArguments(strategy="diagonal", use_empirical_fisher=True)
    data = torch.utils.data.TensorDataset(images)
    analyzer.fit_all_factors("f", data, per_device_batch_size=1, factor_args=arguments)
    factors = analyzer.load_all_factors("f")

# The diagonal of one example's empirical Fisher: its gradient squared, the first entry here. extract_patches
# (kronfluence/module/conv2d.py) takes F.unfold's padding, which is of zeros; padding_mode is not looked at.
expected = float(gradient[0, 0, 0, 0] ** 2)
got = float(factors["lambda_matrix"]["0"][0, 0])
differs = abs(got - expected) > 1e-3 * expected
print(f"expected {expected:.3g}, got {got:.3g}")
