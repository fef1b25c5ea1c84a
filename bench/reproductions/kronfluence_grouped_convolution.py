"""Gradients of a convolution in groups are those of the mean over its groups' inputs.

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


# Two weights, each of an input of its own.
images = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)
layer = torch.nn.Conv2d(2, 2, 1, groups=2, bias=False)
model = torch.nn.Sequential(layer)
gradient = torch.autograd.grad(model(images).sum(), layer.weight)[0].flatten()

task = SummedOutputs()
with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
    analyzer = Analyzer("a", prepare_model(model, task), task, cpu=True, disable_tqdm=True, output_dir=folder)
    arguments = FactorArguments(strategy="diagonal", use_empirical_fisher=True)
    data = torch.utils.data.TensorDataset(images)
    analyzer.fit_all_factors("f", data, per_device_batch_size=1, factor_args=arguments)
    factors = analyzer.load_all_factors("f")

# The diagonal of one example's empirical Fisher: its gradient squared. extract_patches
# (kronfluence/module/conv2d.py) takes the mean of the inputs over the groups, for per-example gradients too.
expected = str((gradient**2).tolist())
got = str(factors["lambda_matrix"]["0"].flatten().tolist())
differs = expected != got
print(f"expected {expected}, got {got}")
