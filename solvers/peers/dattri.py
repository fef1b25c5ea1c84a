"""dattri (Deng et al. 2024): its inverse Hessian-vector products, and its attributors' DataInf and EK-FAC."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from problems import Problem
from problems.operators.hessian import Hessian
from problems.validation import check_counts
from problems.work import ProductCost
from solvers.datainf import DataInf
from solvers.kronecker import length_of_identity
from solvers.peers.advice import Advice
from solvers.peers.layers import layered_network, layers_skip_reason, sampled_losses
from solvers.peers.library import Library
from solvers.peers.network import PeerNetwork, listening, network_for, skip_reason
from solvers.peers.surroundings import default_dtype, drawing_from
from solvers.solver import Example, Iterate, Solver, check_positive

LIBRARY = Library("dattri", "dattri", ">=0.3.0,<0.4")
# Of a batch that differs from column to column.
BATCH_COST = ProductCost(0, Hessian.cost.shared + Hessian.cost.per_column)
# A forward and a backward pass that are there already.
KEPT_COST = ProductCost(0, Hessian.cost.per_column)
Labels = Literal["true", "sampled"]


@dataclass(frozen=True)
class DattriCG(Solver):
    """`ihvp_at_x_cg`: `max_iter` steps from x = b, all columns together; it has a `tol` and ignores it.

    A column whose residual vanishes before is NaN: 0 is divided by 0. It keeps the gradient's graph of all
    data.
    """

    max_iter: int = 10

    variant: ClassVar[str] = "cg"
    remedy: ClassVar[str] = "lower max_iter, or raise damping until H + λI is positive definite"

    def __post_init__(self) -> None:
        check_counts(max_iter=self.max_iter)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(LIBRARY, problem, matrices=("hessian",))

    def prepare(
        self, problem: Problem, generator: torch.Generator
    ) -> tuple[Callable[[Tensor], Tensor], list[str]]:
        from dattri.func.hessian import ihvp_at_x_cg

        network = network_for(problem)
        network.work.count_gradients(len(network.inputs))
        with listening(LIBRARY) as said:
            inverse = ihvp_at_x_cg(
                _loss(problem, network),
                _parameters(network),
                max_iter=self.max_iter,
                regularization=problem.damping,
            )
        return inverse, said

    def iterates(
        self,
        problem: Problem,
        state: tuple[Callable[[Tensor], Tensor], list[str]],
        b: Tensor,
        generator: torch.Generator,
    ) -> Iterator[Iterate]:
        inverse, said = state
        x = torch.zeros_like(b)
        columns = b.any(dim=0)
        if columns.any():
            x[:, columns] = inverse(b[:, columns].T).T
            # One more for the residual at b.
            count = (self.max_iter + 1) * problem.operator.num_draws
            problem.operator.work.count_product(int(columns.sum()), count, KEPT_COST)
        yield Iterate(x, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """The steps of CG, and those that its start costs."""
        # From x = b one root of the residual's polynomial is at 1, so that the error is up to λ_max + λ − 1
        # times that of as many steps from 0. Many more than needed would make it NaN.
        times = max(1.0, advice.largest_eigenvalue + advice.damping - 1)
        more = math.log(times) / math.log(1 / advice.target)
        return cls(max_iter=math.ceil(max(1, advice.cg_steps) * (1 + more)))

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        definite = float(problem.eigenvalues.min()) > -problem.damping
        root = math.sqrt(problem.condition_number)
        start = 1 + float(problem.eigenvalues.abs().max()) + problem.damping
        # Steps for an error of 1e-8 by its bound; with many more the residual would vanish.
        steps = math.ceil(math.log(2e8 * root * start) * (root + 1) / 2)
        if steps > 2 * problem.size:
            steps, definite = 2 * problem.size, False
        return [Example(cls(max_iter=steps), 1e-8 if definite else None)]


@dataclass(frozen=True)
class DattriLiSSA(Solver):
    """`ihvp_lissa`: h ← b + (1 − damping)h − H̃h/scaling from h = b, H̃ of a fresh batch; x = h/scaling.

    LiSSA with step size 1/scaling, where its damping is λ/scaling; on all data it converges iff
    scaling > (λ_max + λ)/2. A batch is drawn without replacement, for each column its own. The mean of
    `num_repeat` runs of `recursion_depth` steps; a step costs 3k · b/n gradients.
    """

    batch_size: int = 1
    num_repeat: int = 1
    recursion_depth: int = 5000
    scaling: float = 50.0

    variant: ClassVar[str] = "lissa"
    remedy: ClassVar[str] = "raise scaling, or batch_size"

    def __post_init__(self) -> None:
        check_positive(scaling=self.scaling)
        check_counts(
            batch_size=self.batch_size, num_repeat=self.num_repeat, recursion_depth=self.recursion_depth
        )

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(LIBRARY, problem, matrices=("hessian",))

    def prepare(self, problem: Problem, generator: torch.Generator) -> PeerNetwork:
        return network_for(problem)

    def iterates(
        self, problem: Problem, state: PeerNetwork, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        # `ihvp_at_x_lissa` takes batch_size for num_repeat, and num_repeat for batch_size.
        from dattri.func.hessian import ihvp_lissa

        examples = len(state.inputs)

        def loss(parameters: Tensor, rows: Tensor) -> Tensor:
            chosen = rows.long()
            outputs = functional_call(state.model, state.unflatten(parameters), (state.inputs[chosen],))
            value: Tensor = state.loss(outputs, state.targets[chosen])
            return value

        # It differentiates by all that it is given, which cannot be whole numbers, as labels are: it is given
        # the examples by their numbers.
        rows = torch.arange(examples, device=b.device, dtype=b.dtype)
        with listening(LIBRARY) as said, drawing_from(generator, b.device):
            inverse = ihvp_lissa(
                loss,
                batch_size=self.batch_size,
                num_repeat=self.num_repeat,
                recursion_depth=self.recursion_depth,
                damping=problem.damping / self.scaling,
                scaling=self.scaling,
            )
            x = inverse((_parameters(state), rows), b.T, in_dims=(None, 0)).T
        count = self.num_repeat * self.recursion_depth * min(self.batch_size, examples)
        state.work.count_product(b.shape[1], count, BATCH_COST)
        yield Iterate(x, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """Self-tuned LiSSA's step size, batch size and steps, of which h = b is the first."""
        return cls(
            batch_size=advice.batch_size,
            recursion_depth=max(1, advice.num_steps - 1),
            scaling=1 / advice.step_size,
        )

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        scaling = float(problem.eigenvalues.abs().max()) + problem.damping
        # On all data a step takes at least 1/κ of the error away, and h = b is the first.
        claim = (1 - 1 / problem.condition_number) ** 201
        size = problem.operator.num_draws
        example = cls(batch_size=size, recursion_depth=200, scaling=scaling)
        return [Example(example, max(1e-8, claim) if problem.operator.is_psd else None)]


@dataclass(frozen=True)
class DattriArnoldi(Solver):
    """`ihvp_at_x_arnoldi` (Schioppa et al. 2022): x = UΘ⁻¹Uᵀb with the `top_k` Ritz pairs of H + λ.

    They are of a Krylov space of `max_iter` − 1 dimensions that starts at a random vector, so that what of b
    lies outside is lost. It ends where the next vector is shorter than `tol`; where rounding hides that, as
    it does after many steps, the basis is no longer orthogonal, Ritz values fall to 0 and x runs away.
    """

    max_iter: int = 100
    top_k: int = 100
    tol: float = 1e-7

    variant: ClassVar[str] = "arnoldi"
    remedy: ClassVar[str] = "lower max_iter, raise tol, or use float64"

    def __post_init__(self) -> None:
        check_counts(max_iter=self.max_iter, top_k=self.top_k)
        if self.max_iter < 2:
            raise ValueError(f"max_iter is {self.max_iter}; it must be at least 2, of which one step comes")
        check_positive(tol=self.tol)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(LIBRARY, problem, matrices=("hessian",))

    def prepare(self, problem: Problem, generator: torch.Generator) -> PeerNetwork:
        return network_for(problem)

    def iterates(
        self, problem: Problem, state: PeerNetwork, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        from dattri.func.hessian import ihvp_at_x_arnoldi

        with (
            listening(LIBRARY) as said,
            drawing_from(generator, b.device),
            default_dtype(b.dtype),
            state.counting(Hessian.cost),
        ):
            inverse = ihvp_at_x_arnoldi(
                _loss(problem, state),
                _parameters(state),
                max_iter=self.max_iter,
                top_k=self.top_k,
                tol=self.tol,
                regularization=problem.damping,
            )
            x = inverse(b.T).T
        yield Iterate(x, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """A space of twice as many dimensions as eigenvalues are above λ, and all of it."""
        # On more Ritz pairs of one space, all above λ, the error is never larger in the norm of H + λ.
        steps = 2 * max(1, advice.rank)
        return cls(max_iter=steps + 1, top_k=steps)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        # 0 ⪯ U(Uᵀ(H + λ)U)⁻¹Uᵀ ⪯ (H + λ)⁻¹; with few steps, while its basis is orthogonal.
        claim = length_of_identity(problem) if problem.operator.is_psd else None
        return [Example(cls(max_iter=9, top_k=8), claim)]


@dataclass(frozen=True)
class DattriDataInf(Solver):
    """`IFAttributorDataInf` (Kwon et al. 2024): module by module the mean of (gᵢgᵢᵀ + λ)⁻¹b over examples.

    gᵢ is an example's gradient. Memory: those of all examples, n × p, and k² × p.
    """

    variant: ClassVar[str] = "datainf"

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(LIBRARY, problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> tuple[Any, list[str]]:
        from dattri.algorithm.influence_function import IFAttributorDataInf
        from dattri.task import AttributionTask

        network = network_for(problem)

        def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
            inputs, targets = data
            value: Tensor = network.loss(functional_call(network.model, parameters, (inputs,)), targets)
            return value

        with listening(LIBRARY) as said:
            task = AttributionTask(loss, network.model, network.model.state_dict())
            device = str(problem.operator.device)
            attributor = IFAttributorDataInf(task, device=device, regularization=problem.damping)
            attributor.cache(network.batches(equal=False))
        network.work.count_gradients(len(network.inputs))
        return attributor, said

    def iterates(
        self, problem: Problem, state: tuple[Any, list[str]], b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        attributor, said = state
        with default_dtype(b.dtype):
            x = attributor.transform_test_rep(0, b.T).T
        problem.operator.work.count_algebra(2 * problem.operator.num_draws * b.numel())
        yield Iterate(x, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """There is nothing to set."""
        return cls()

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        return [Example(cls(), each.relative_error) for each in DataInf.examples(problem)]


@dataclass(frozen=True)
class DattriEKFAC(Solver):
    """`IFAttributorEKFAC` of linear layers with one position, in the basis that it takes for K-FAC's.

    Its matrices of eigenvectors are the transposed ones, and a layer's weights and biases go into rows as
    they lie in memory, so that its answer is another than EK-FAC's. `labels` "true" are the given targets,
    "sampled" ones are drawn from the model.
    """

    labels: Labels = "true"  # of its documentation's example

    variant: ClassVar[str] = "ekfac"
    remedy: ClassVar[str] = "raise damping"

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise ValueError(f"labels is {self.labels!r}; it must be 'true' or 'sampled'")

    def skip(self, problem: Problem) -> str | None:
        reason = layers_skip_reason(LIBRARY, problem, (nn.Linear,))
        if reason is not None:
            return reason
        for name, positions in layered_network(problem).positions().items():
            if positions != 1:
                return (
                    f"dattri factors layers with one position, and {name.removeprefix('0.')} has "
                    f"{positions}: use kronfluence_ekfac"
                )
        return None

    def prepare(self, problem: Problem, generator: torch.Generator) -> tuple[Any, list[str]]:
        from dattri.algorithm.influence_function import IFAttributorEKFAC
        from dattri.task import AttributionTask

        assert problem.task is not None
        given, criterion = layered_network(problem), problem.task.loss
        network = given.network

        def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
            inputs, targets = data
            outputs = functional_call(given.model, parameters, (inputs,))
            if self.labels == "sampled":
                return sampled_losses(criterion, outputs, generator).mean()
            return criterion.per_unit(outputs, targets).mean()

        with listening(LIBRARY) as said, network.counting(ProductCost(1, 2)):
            task = AttributionTask(loss, given.model, given.model.state_dict())
            device = str(problem.operator.device)
            attributor = IFAttributorEKFAC(task, list(given.layers), device, problem.damping)
            attributor.cache(network.batches(equal=False))
        examples = len(network.inputs)
        for layer in given.layers.values():
            squares = layer.outputs**2 + layer.columns**2
            rotations = layer.size * (1 + layer.outputs + layer.columns)
            cubes = 10 * (layer.outputs**3 + layer.columns**3)
            network.work.count_algebra(examples * (squares + rotations) + cubes)
        return attributor, said

    def iterates(
        self, problem: Problem, state: tuple[Any, list[str]], b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        attributor, said = state
        x = attributor.transform_test_rep(0, b.T).T
        for module in attributor.name_to_module.values():
            outputs, columns = module.out_features, module.in_features + (module.bias is not None)
            rotations = 2 * outputs * columns * (outputs + columns)
            problem.operator.work.count_algebra(b.shape[1] * rotations)
        yield Iterate(x, diagnostics={"said": said})

    @classmethod
    def tuned(cls, advice: Advice) -> Self:
        """With labels drawn from the model, whose Fisher matrix H is."""
        return cls(labels="sampled")

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        claim = length_of_identity(problem) if problem.operator.is_psd else None
        return [Example(cls(), claim), Example(cls(labels="sampled"), claim)]


def _loss(problem: Problem, network: PeerNetwork) -> Callable[[Tensor], Tensor]:
    """The mean over all data of a flat vector; not torch's own losses, of which one has no such tangents."""
    assert problem.task is not None
    criterion = problem.task.loss

    def loss(parameters: Tensor) -> Tensor:
        outputs = functional_call(network.model, network.unflatten(parameters), (network.inputs,))
        return criterion.per_unit(outputs, network.targets).mean()

    return loss


def _parameters(network: PeerNetwork) -> Tensor:
    return torch.cat([each.detach().flatten() for each in network.parameters])
