"""A curvature matrix of a network: products through forward and backward passes over its examples."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from problems.examples import Examples, tensors
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.operators.base import CurvatureOperator
from problems.operators.curvature import Batch, Curvature, OutputRoot
from problems.operators.ggn import example_forms
from problems.operators.micro_batches import (
    LARGEST_PASS,
    MicroBatches,
    Size,
    default_max_bytes,
    is_out_of_memory,
    peak_bytes,
)
from problems.operators.recording import Linearised, Recorder, block_size, is_small
from problems.operators.retained import Retained
from problems.operators.roots import example_roots, pull_back, push_forward
from problems.operators.sampled_targets import SampledTargets
from problems.operators.squared_rows import squared_rows
from problems.operators.tokens import Draw, draw_tokens, every_sequence, sequences_for, token_weights
from problems.precision import multiplying
from problems.validation import check_counts
from problems.work import BACKWARD_COST, FORWARD_COST, Work

# Parts of sequences of which E h̃² is the mean, where there are fewer sequences.
PARTS = 1024
PART = "this mini-batch keeps some tokens of its sequences: draw from the whole data"


@dataclass
class Shared:
    """What an operator shares with its mini-batches: recordings, sizes, and what is known of the data."""

    recorder: Recorder
    micro_batches: MicroBatches
    # Tokens that count of each sequence, shape (n,); None where the unit is the example.
    counts: Tensor | None
    # Their mean; 1 where the unit is the example.
    mean_count: float
    # The example with the largest inputs, as far as that was looked at.
    longest: int
    # Outputs of a unit, and units of that example: 1, or its tokens.
    outputs: int
    length: int
    sampled: SampledTargets | None


@dataclass
class Kept:
    """Forward passes that wait for the next product, by batch and length of block.

    Valid for batches of `examples` and parameters of `versions`.
    """

    examples: int = 0
    versions: list[int] = field(default_factory=list)
    passes: dict[int, dict[int, Linearised | Retained]] = field(default_factory=dict)
    # Whether one did not fit any more: another would be made in vain.
    is_full: bool = False

    @property
    def bytes(self) -> int:
        return sum(each.bytes for passes in self.passes.values() for each in passes.values())


class NetworkOperator(CurvatureOperator):
    """H = mean over the units of `examples` of the matrices h that `curvature` defines.

    The unit is the loss's: an example, or a token, of which sequences hold different numbers. A product
    goes through the data in passes that stay within `max_bytes` beyond parameters and vectors (by default
    a quarter of the device's memory, at most 4 GiB on a CPU); that changes no result beyond rounding.
    Forward passes over the same examples are kept within the same bound; they follow every change of the
    parameters but one made through `.data`, after which call `forget()`. Raises ValueError where one
    example does not fit or no token counts, ArithmeticError where a layer's output is not finite.
    """

    def __init__(
        self,
        curvature: Curvature,
        function: ModelFunction,
        loss: Loss,
        examples: Examples,
        *,
        max_bytes: int | None = None,
        work: Work | None = None,
    ) -> None:
        if max_bytes is not None:
            check_counts(max_bytes=max_bytes)
        self._build(
            curvature,
            function,
            loss,
            examples,
            indices=torch.arange(len(examples)),
            work=work or Work(len(examples)),
            max_bytes=max_bytes or default_max_bytes(function.device),
        )

    def _build(
        self,
        curvature: Curvature,
        function: ModelFunction,
        loss: Loss,
        examples: Examples,
        *,
        indices: Tensor,
        work: Work,
        max_bytes: int,
        ranks: tuple[Tensor, ...] | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.curvature = curvature
        self.function = function
        self.loss = loss
        self.examples = examples
        self.indices = indices
        # Of sequences of which some tokens count only: their ranks among all tokens that could.
        self.ranks = ranks
        self.unit = loss.unit
        self.work = work
        self.shared = shared or self._share(max_bytes)
        self._kept = Kept()
        self._used = False
        # Of a matrix over all data more products will be asked for; of a mini-batch mostly one.
        self._lasts = True
        super().__init__(function.num_parameters, self._num_units(), function.dtype, function.device, work)

    @property
    def is_psd(self) -> bool:
        return self.curvature.is_psd

    @property
    def exact(self) -> NetworkOperator:
        return self if self.curvature.exact is self.curvature else self._exact

    @cached_property
    def _exact(self) -> NetworkOperator:
        return self.with_curvature(self.curvature.exact)

    @property
    def num_draws(self) -> int:
        return len(self.indices)

    def draws_in(self, size: int) -> int:
        if self.shared.counts is None:
            return size
        return sequences_for(size, self.num_examples / self.num_draws)[0]

    def single_draws(
        self, size: int, generator: torch.Generator, repeats: int | None = None
    ) -> NetworkOperator:
        """H as the mean over the draws of mini-batches of `size` units: of tokens, sequences or their parts.

        `repeats` parts of each sequence: by default as many as it has, or as make 1024 in all.
        """
        if self.shared.counts is None:
            return self
        if self.ranks is not None:
            raise ValueError(PART)
        share = sequences_for(size, self.num_examples / self.num_draws)[1]
        if share == 1:
            return self
        if repeats is None:
            repeats = min(math.ceil(1 / share), max(1, PARTS // self.num_draws))
        draw = every_sequence(self.shared.counts[self.indices], size, repeats, generator)
        return self._derived(indices=self.indices[draw.sequences], ranks=draw.ranks)

    @property
    def preparation_seconds(self) -> float:
        return self.shared.recorder.seconds + self.shared.micro_batches.seconds

    @property
    def has_examples(self) -> bool:
        return self.curvature.output_curvature(self.loss) is not None

    @property
    def micro_batches(self) -> MicroBatches:
        """The sizes in which examples go through the network."""
        return self.shared.micro_batches

    def subset(self, indices: Tensor) -> NetworkOperator:
        """The mean over `indices` (m,), sequences where the unit is the token.

        A sequence weighs by its tokens over the mean number of tokens, so that the mean over subsets of
        equal size is H.
        """
        ranks = None if self.ranks is None else tuple(self.ranks[int(i)] for i in indices)
        return self._derived(indices=self.indices[indices], ranks=ranks)

    def to(self, dtype: torch.dtype) -> NetworkOperator:
        return self._with_function(self.function.to(dtype), self.examples.to(dtype))

    def _with_function(self, function: ModelFunction, examples: Examples) -> NetworkOperator:
        operator = self._derived(function, examples)
        # The same counts and drawn targets, other recordings and sizes.
        operator.shared = replace(
            self.shared,
            recorder=_recorder(self.curvature, operator.function, self.loss),
            micro_batches=MicroBatches(operator._peak, self.micro_batches.max_bytes, function.num_parameters),
        )
        return operator

    def with_curvature(self, curvature: Curvature) -> NetworkOperator:
        """The matrix of another kind of the same network and examples; work goes on being counted here."""
        operator = self._derived()
        operator.curvature = curvature
        operator.shared = operator._share(self.micro_batches.max_bytes)
        return operator

    def restricted(self, names: Sequence[str]) -> NetworkOperator:
        """The block of H that belongs to the parameters `names`, in their order among all."""
        chosen = set(names)
        function = copy.copy(self.function)
        function.names = [name for name in function.names if name in chosen]
        function.parameters = {name: self.function.parameters[name] for name in function.names}
        others = {n: v for n, v in self.function.parameters.items() if n not in chosen}
        function.constants = self.function.constants | others
        function.shapes = [value.shape for value in function.parameters.values()]
        function.sizes = [value.numel() for value in function.parameters.values()]
        return self._with_function(function, self.examples)

    def forget(self) -> None:
        self._used = False
        self._kept = Kept()
        self.shared.recorder = self.shared.recorder.forgotten()
        self.__dict__.pop("_exact", None)

    def example_forms(self, vectors: Tensor) -> Tensor:
        """vᵀ h_i v of every example i, or sequence, for the vectors V (p, k); shape (n, k), mean vᵀHv.

        Costs k gradient equivalents: a forward pass with its tangents for each vector. ValueError where h_i
        is not made of the outputs' curvature.
        """
        self._check(vectors)
        curve = self.curvature.output_curvature(self.loss)
        if curve is None:
            raise ValueError(f"{self.curvature} has no forms of single examples; the Gauss–Newton matrix has")
        forms = example_forms(self.function, curve)
        columns = vectors.T.contiguous() if vectors.ndim == 2 else vectors[None]
        self.work.count_product(len(columns), len(self.indices), FORWARD_COST)

        def all_examples(size: int) -> Tensor:
            batches = map(self.batch, self.passes(size))
            return torch.cat([forms(self.function.parameters, batch, columns) for batch in batches], dim=1).T

        with multiplying(self.function.precision), torch.no_grad():
            return self.micro_batches.run(len(self.indices), all_examples)

    @property
    def root_rank(self) -> int:
        root = self.curvature.output_root(self.loss)
        return 0 if root is None else self.curvature.root_rank(self.shared.outputs) * self.shared.length

    def root_blocks(self) -> Iterator[Tensor]:
        """The R_i of all examples, or sequences, in order, in blocks (m, r, p): H = mean R_iᵀR_i.

        As many together as half of `max_bytes` hold, and one at least; sequences one by one, r being their
        tokens times their outputs. Costs (1 + 2r)/3 gradient equivalents. ValueError where no root is known.
        """
        root = self._root()
        self._kept = Kept()
        self.work.count_product(self.root_rank, len(self.indices), BACKWARD_COST)
        room = self.micro_batches.keep_bytes // (2 * self.root_rank * self.shape[0] * self.dtype.itemsize)
        size = 1 if self.unit == "token" else max(1, min(room, LARGEST_PASS))
        for positions in self.passes(size):
            with multiplying(self.function.precision):
                try:
                    block = example_roots(self.function, root, self.batch(positions))
                except RuntimeError as error:
                    if len(positions) == 1:
                        raise
                    if is_out_of_memory(error):
                        self.micro_batches.halve(Size(len(positions), 1), error)
                    # Too much together, or a network that looks at its data to choose its way.
                    singly = [
                        example_roots(self.function, root, self.batch(one)) for one in positions.split(1)
                    ]
                    block = torch.cat(singly)
            yield block

    def root_product(self, vectors: Tensor) -> Tensor:
        self._check(vectors)
        root = self._root()
        columns = vectors.T.contiguous()
        self.work.count_product(len(columns), len(self.indices), FORWARD_COST)

        def all_examples(size: int) -> Tensor:
            batches = map(self.batch, self.passes(size if self.unit == "example" else 1))
            return torch.cat([push_forward(self.function, root, batch, columns) for batch in batches])

        with multiplying(self.function.precision), torch.no_grad():
            return self.micro_batches.run(len(self.indices), all_examples) / len(self.indices) ** 0.5

    def root_transpose_product(self, weights: Tensor) -> Tensor:
        root = self._root()
        self.work.count_product(weights.shape[1], len(self.indices), BACKWARD_COST)

        def all_examples(size: int) -> Tensor:
            total = torch.zeros(weights.shape[1], self.shape[0], dtype=self.dtype, device=self.device)
            first = 0
            for positions in self.passes(size if self.unit == "example" else 1):
                batch = self.batch(positions)
                rows = self.curvature.root_rank(self.shared.outputs) * batch.weights.numel()
                total += pull_back(self.function, root, batch, weights[first : first + rows])
                first += rows
            return total.T

        with multiplying(self.function.precision):
            return self.micro_batches.run(len(self.indices), all_examples) / len(self.indices) ** 0.5

    def diagonal(self, joint: bool = False) -> Tensor:
        """The diagonal of H, shape (p,): rows of its root by the handful, or p products where it has none.

        With `joint` all tokens of a sequence go into one row: right in the mean for labels that are drawn.
        """
        root = self.curvature.output_root(self.loss)
        if root is None:
            return super().diagonal()
        rank = self.root_rank // (self.shared.length if joint else 1)
        self.work.count_product(rank, self.num_draws, BACKWARD_COST)
        # Of what is kept at once, a row and what it is computed of are about a quarter.
        room = max(1, self.micro_batches.keep_bytes // (4 * self.shape[0] * self.dtype.itemsize))

        def total(size: int) -> Tensor:
            found = torch.zeros(self.shape[0], dtype=torch.float64, device=self.device)
            for positions in self.passes(max(1, min(size, room))):
                with multiplying(self.function.precision):
                    chunk = max(1, room // len(positions))
                    found += squared_rows(self.function, root, self.batch(positions), chunk, joint)
            return found / self.num_draws

        return self.micro_batches.run(self.num_draws, total).to(self.dtype)

    def _root(self) -> OutputRoot:
        root = self.curvature.output_root(self.loss)
        if root is None:
            raise ValueError(f"{self.curvature} has no root; the Gauss–Newton matrix has")
        return root

    def mean_square(self, vectors: Tensor, between: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """mean h_i M h_i V over all examples i, or sequences, for V (p,) or (p, k), in its shape.

        Two products of every example alone: (1 + 4k) · 2/3 gradient equivalents, memory of some vectors for
        each of the examples that go together.
        """
        if self.exact is not self:
            return self.exact.mean_square(vectors, between)
        self._check(vectors)
        block = vectors.T.contiguous() if vectors.ndim == 2 else vectors[None]
        for _ in range(2):
            self._count(len(block))
        # An example's products, in and out, and what torch keeps on the way.
        self._kept = Kept()
        room = self.micro_batches.keep_bytes // (8 * block.nbytes)
        product = self.shared.recorder.together

        def one_by_one() -> Tensor:
            found = torch.zeros_like(block)
            for positions in self.passes(1):
                first = self.shared.recorder.product(self.function.parameters, self.batch(positions), block)
                if between is not None:
                    first = between(first.T).T
                found += self.shared.recorder.product(self.function.parameters, self.batch(positions), first)
            return found / len(self.indices)

        def total(size: int) -> Tensor:
            found = torch.zeros_like(block)
            for positions in self.passes(max(1, min(size, room))):
                batch = self.batch(positions)

                def alone(block: Tensor, *values: Tensor, batch: Batch = batch) -> Tensor:
                    example = batch.filled([value[None] for value in values])
                    return product(self.function.parameters, example, block)

                values = batch.tensors()
                each = (0,) * len(values)
                first = vmap(alone, in_dims=(None, *each))(block, *values)
                if between is not None:
                    first = between(first.flatten(0, 1).T).T.reshape(first.shape)
                found += vmap(alone, in_dims=(0, *each))(first, *values).sum(dim=0)
            return found / len(self.indices)

        with multiplying(self.function.precision):
            try:
                mean = self.micro_batches.run(len(self.indices), total)
            except RuntimeError:
                # The network looks at its data to choose its way, say.
                mean = one_by_one()
        return mean.T if vectors.ndim == 2 else mean[0]

    def passes(self, size: int) -> list[Tensor]:
        """Positions among this operator's examples, in batches of at most `size`."""
        return list(torch.arange(len(self.indices)).split(size))

    def batch(self, positions: Tensor) -> Batch:
        """The examples at `positions` among this operator's, with their weights."""
        indices = self.indices[positions]
        inputs, targets = self.examples.batch(indices)
        counted = self.loss.counted(targets)
        if self.unit == "token":
            draw = None
            if self.ranks is not None:
                draw = Draw(indices, tuple(self.ranks[int(i)] for i in positions))
            weights = token_weights(counted, self.shared.mean_count, draw)
        else:
            weights = counted
        sampled = self.shared.sampled.read(indices, targets) if self.shared.sampled else ()
        return Batch(inputs, targets, weights.to(self.dtype), sampled)

    def _derived(
        self,
        function: ModelFunction | None = None,
        examples: Examples | None = None,
        *,
        indices: Tensor | None = None,
        ranks: tuple[Tensor, ...] | None = None,
    ) -> NetworkOperator:
        operator = NetworkOperator.__new__(NetworkOperator)
        operator._build(
            self.curvature,
            function or self.function,
            self.loss,
            examples or self.examples,
            indices=self.indices if indices is None else indices,
            work=self.work,
            max_bytes=self.micro_batches.max_bytes,
            ranks=self.ranks if indices is None else ranks,
            shared=self.shared,
        )
        operator._lasts = indices is None and self._lasts
        return operator

    def _share(self, max_bytes: int) -> Shared:
        recorder = _recorder(self.curvature, self.function, self.loss)
        counts, longest = self._token_counts() if self.loss.unit == "token" else (None, 0)
        sampled = None
        if self.curvature.num_samples:
            draws = (self.curvature.num_samples, self.curvature.seed)
            sampled = SampledTargets(self.function, self.loss, self.examples, *draws)
            self.work.count_forward(len(self.examples))
        mean_count = 1.0 if counts is None else float(counts.double().mean())
        found = self._look_at(longest)
        units = 1 if counts is None else found.shape[1]
        sizes = MicroBatches(self._peak, max_bytes, self.function.num_parameters)
        return Shared(recorder, sizes, counts, mean_count, longest, found[0].numel() // units, units, sampled)

    def _look_at(self, example: int) -> Tensor:
        """That example's outputs; what they take to compute becomes the measure of other algebra."""
        inputs, _ = self.examples.batch(torch.tensor([example]))
        with multiplying(self.function.precision), torch.no_grad(), FlopCounterMode(display=False) as counter:
            outputs = self.function.outputs(self.function.parameters, inputs)
        self.work.forward_multiplications = max(1, counter.get_total_flops() // 2)
        return outputs

    def _token_counts(self) -> tuple[Tensor, int]:
        """Of each sequence the tokens that count, shape (n,), and which has the largest inputs."""
        # One by one where sequences may differ in length: together they would be padded to the longest.
        size = 256 if self.examples.columns else 1
        counts, largest, longest = [], -1, 0
        for part in torch.arange(len(self.examples)).split(size):
            inputs, targets = self.examples.batch(part)
            counts.append(self.loss.counted(targets).sum(dim=1).cpu())
            numbers = sum(values.numel() for values in tensors(inputs).values()) // len(part)
            if numbers > largest:
                largest, longest = numbers, int(part[0])
        found = torch.cat(counts)
        if not found.any():
            raise ValueError("no token of the data has a label that counts (all are −100): check the labels")
        return found, longest

    def _num_units(self) -> int:
        if self.shared.counts is None:
            return len(self.indices)
        if self.ranks is not None:
            return sum(len(ranks) for ranks in self.ranks)
        return int(self.shared.counts[self.indices].sum())

    def _draw(self, size: int, generator: torch.Generator) -> NetworkOperator:
        if self.shared.counts is None:
            return self.subset(torch.randint(len(self.indices), (size,), generator=generator))
        if self.ranks is not None:
            raise ValueError(PART)
        draw = draw_tokens(self.shared.counts[self.indices], size, generator)
        return self._derived(indices=self.indices[draw.sequences], ranks=draw.ranks)

    def _count(self, columns: int) -> None:
        self.work.count_product(columns, len(self.indices), self.curvature.cost)

    def _product(self, columns: Tensor) -> Tensor:
        # Each vector in one piece; right-hand sides that are gradients already come so.
        vectors = columns.T.contiguous()
        with multiplying(self.function.precision):
            while True:
                size = self._size(len(vectors))
                try:
                    total = self._pass_through(vectors, size)
                    break
                except (RuntimeError, MemoryError) as error:
                    self._kept = Kept()
                    self.micro_batches.halve(size, error)
        self._used = True
        product = total.div_(len(self.indices)).T
        # The sum is quick, and not finite where any number is not.
        if not math.isfinite(float(product.sum())) and torch.isfinite(columns).all():
            self._blame_a_layer(size)
        return product

    def _size(self, vectors: int) -> Size:
        def block(examples: int) -> int:
            return block_size(examples * self.shared.mean_count, self.shape[0], vectors)

        return self.micro_batches.size(len(self.indices), block)

    def _pass_through(self, vectors: Tensor, size: Size) -> Tensor:
        """Sum over all batches of the products with `vectors` (k, p), shape (k, p)."""
        self._forget_if_changed(size.examples)
        total = torch.zeros_like(vectors)
        for number, positions in enumerate(self.passes(size.examples)):
            linearised = self._kept.passes.pop(number, {})
            # Read when it is needed, which it is not where its forward pass was kept.
            batch = cache(partial(self.batch, positions))
            again = (
                (self._used or self._lasts)
                and not self._kept.is_full
                and self.function.precision == "full"
                and self.micro_batches.is_roomy(Size(len(self.indices), size.vectors))
                and is_small(len(positions) * self.work.forward_multiplications)
            )
            self.shared.recorder.add_products(
                self.function.parameters, batch, vectors, total, linearised, size.vectors, again
            )
            self._keep(number, linearised)
        return total

    def _forget_if_changed(self, examples: int) -> None:
        # torch counts what is written to a tensor in place, as an optimiser's step does; not what is
        # written through `.data`, after which only `forget()` helps.
        values = (*self.function.parameters.values(), *self.function.constants.values())
        versions = [value._version for value in values]
        if versions != self._kept.versions or examples != self._kept.examples:
            self._kept = Kept(examples, versions)

    def _keep(self, number: int, linearised: dict[int, Linearised | Retained]) -> None:
        """Keep the forward passes of batch `number` while there is room, of a mini-batch that came again."""
        if not (self._used or self._lasts):
            return
        room = self.micro_batches.keep_bytes - self._kept.bytes
        if sum(each.bytes for each in linearised.values()) <= room:
            self._kept.passes[number] = linearised
        else:
            self._kept.is_full = True

    def _peak(self, examples: int, vectors: int) -> int:
        """Bytes that a product takes of that many of the longest example, with that many vectors."""
        whole = self._derived(indices=torch.arange(len(self.examples)))
        batch = whole.batch(torch.full((examples,), self.shared.longest))
        block = torch.zeros(vectors, self.shape[0], dtype=self.dtype, device=self.device)
        return peak_bytes(lambda: self.shared.recorder.product(self.function.parameters, batch, block))

    def _blame_a_layer(self, size: Size) -> None:
        """Raise ArithmeticError that names the first layer whose output is not finite, if there is one."""
        for positions in self.passes(size.examples):
            inputs = self.batch(positions).inputs
            layer = self.function.first_layer_not_finite(inputs)
            if layer is None:
                continue
            given = all(bool(torch.isfinite(values).all()) for values in tensors(inputs).values())
            raise ArithmeticError(
                f"the output of layer {layer} holds NaN or inf for examples among "
                f"{int(self.indices[positions].min())} to {int(self.indices[positions].max())}, so H does "
                "too: " + ("use float64, or check the weights" if given else "the inputs do already")
            )


def _recorder(curvature: Curvature, function: ModelFunction, loss: Loss) -> Recorder:
    return Recorder(curvature.block_product(function, loss), curvature.retain(function, loss))
