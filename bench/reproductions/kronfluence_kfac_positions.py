"""Strategy "kfac" divides a convolution's curvature by its number of positions once too often.

Documented: DOCUMENTATION.md: fit_all_factors computes "all factors that aim to approximate the Hessian
(Gauss-Newton Hessian)", of a `compute_train_loss` that is "the summed loss (over batches and tokens)".
"""

import tempfile

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.task import Task

LIBRARY = "kronfluence"


class SquaredLoss(Task):
    def compute_train_loss(
        self, batch: list[torch.Tensor], model: torch.nn.Module, sample: bool = False
    ) -> torch.Tensor:
        images, targets = batch
        residuals: torch.Tensor = model(images) - targets
        return 0.5 * residuals.square().sum()

    def compute_measurement(self, batch: list[torch.Tensor], model: torch.nn.Module) -> torch.Tensor:
        return self.compute_train_loss(batch, model)


# One weight at 16 positions whose inputs are 2: the Gauss–Newton matrix is the sum of their squares, 64.
# With these residuals, ±1 and orthogonal, the empirical Fisher is the Fisher. Both factors are numbers, of
# which K-FAC, A = mean of aa', G = sum over positions of gg' (arXiv:1602.01407), makes the same 64.
images = torch.full((16, 1, 4, 4), 2.0)
signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
residuals = torch.kron(torch.kron(signs, signs), torch.kron(signs, signs)).reshape(16, 1, 4, 4)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False))
data = torch.utils.data.TensorDataset(images, model(images).detach() + residuals)

task = SquaredLoss()
with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
    analyzer = Analyzer("a", prepare_model(model, task), task, cpu=True, disable_tqdm=True, output_dir=folder)
    arguments = FactorArguments(strategy="kfac", use_empirical_fisher=True)
    analyzer.fit_all_factors("f", data, per_device_batch_size=16, factor_args=arguments)
    factors = analyzer.load_all_factors("f")

# Both covariances are divided by the number of positions of all examples
# (NUM_ACTIVATION_COVARIANCE_PROCESSED and NUM_GRADIENT_COVARIANCE_PROCESSED in perform_eigendecomposition).
expected = 64.0
got = float(factors["activation_eigenvalues"]["0"] * factors["gradient_eigenvalues"]["0"])
differs = abs(got - expected) > 1e-3 * expected
print(f"expected {expected:.3g}, got {got:.3g}")
