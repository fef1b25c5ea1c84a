"""Products recorded once per shape and replayed, with what does not depend on the vector computed once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from problems.operators.curvature import Batch, BlockProduct, Parameters, Retain
from problems.operators.micro_batches import is_out_of_memory
from problems.operators.retained import NotRetained, Retained, retained

# Recording takes as long as ten to forty products, and saves a third of each: for fewer than these it would
# not pay. A count and not a clock decides, so that a run takes the same path every time.
RECORD_AFTER = 48
# As many vectors go through the network together as take so many multiplications, about examples × p each.
# Larger ones go one by one: on the CPU that is as fast, since their intermediates stay in the cache, and
# takes less memory.
BLOCK_MULTIPLICATIONS = 2**27
LARGEST_BLOCK = 16
# Where a forward pass has fewer than this, its kernels are shorter than the time to launch them.
LAUNCH_MULTIPLICATIONS = 2**24
# The length of block under which a forward pass is kept that serves blocks of any.
ANY = 0


@dataclass(frozen=True)
class Recording:
    """A product as two graphs of aten operations: the forward pass, and what is linear in v.

    The same operations that the eager product runs, so the same numbers; without autograd's bookkeeping,
    and with every intermediate freed after its last use.
    """

    primal: fx.GraphModule
    linear: fx.GraphModule

    def linearise(self, parameters: Parameters, batch: Batch) -> Linearised:
        """Run the forward pass for `batch`."""
        given = [*parameters.values(), *batch.tensors()]
        with torch.no_grad():
            residuals = self.primal(*given)
        return Linearised(self.linear, residuals, _bytes(residuals, apart_from=given))


@dataclass(frozen=True)
class Linearised:
    """V ↦ product for one batch whose forward pass is done; `bytes` is the memory that pass left behind."""

    linear: fx.GraphModule
    residuals: list[Tensor]
    bytes: int

    def __call__(self, vectors: Tensor) -> Tensor:
        with torch.no_grad():
            return self.linear(*self.residuals, vectors)


class Recorder:
    """Recordings of one product by shape and dtype, shared by an operator and its mini-batches.

    `seconds` is the time that recording has taken.
    """

    def __init__(self, product: BlockProduct, retain: Retain | None = None) -> None:
        self.together = product
        self.retain = retain
        self.seconds = 0.0
        self._singly = False
        self._eager: Counter[Hashable] = Counter()
        # None where a recording failed: the network branches on its data, say.
        self._recordings: dict[Hashable, Recording | None] = {}

    def product(self, parameters: Parameters, batch: Batch, vectors: Tensor) -> Tensor:
        """The eager product, of single vectors where the network cannot take several together."""
        if len(vectors) == 1:
            return self.together(parameters, batch, vectors)
        if not self._singly:
            try:
                return self.together(parameters, batch, vectors)
            except RuntimeError as error:
                # An operation of the user's own, say, that has no rule for vmap.
                if is_out_of_memory(error):
                    raise
                self._singly = True
        return torch.cat([self.together(parameters, batch, vector) for vector in vectors.split(1)])

    def forgotten(self) -> Recorder:
        """The same without recordings."""
        return Recorder(self.together, self.retain)

    def add_products(
        self,
        parameters: Parameters,
        batch: Callable[[], Batch],
        vectors: Tensor,
        total: Tensor,
        linearised: dict[int, Linearised | Retained],
        size: int,
        again: bool = False,
    ) -> None:
        """Add to `total` (k, p) the products of `batch` with `vectors` (k, p), in blocks of `size`.

        Forward passes are taken from `linearised`, by length of block or ANY, and left there. `again` says
        that the batch is small and will be seen again: autograd then keeps its forward pass, which pays at
        once where launching kernels is most of the time.
        """
        for block, target in zip(vectors.split(size), total.split(size), strict=True):
            found = linearised.get(len(block)) or linearised.get(ANY)
            if found is None:
                recording = self._recording(parameters, batch(), block)
                if recording is not None:
                    found = linearised[len(block)] = recording.linearise(parameters, batch())
                elif again and self.retain is not None:
                    target += self._retaining(self.retain, parameters, batch(), block, linearised)
                    continue
                else:
                    target += self.product(parameters, batch(), block)
                    continue
            target += found(block)

    def _retaining(
        self,
        retain: Retain,
        parameters: Parameters,
        batch: Batch,
        block: Tensor,
        linearised: dict[int, Linearised | Retained],
    ) -> Tensor:
        """The product by a forward pass that is kept; eager, from now on, where there is no such way."""
        try:
            found = retained(retain, parameters, batch)
            product = found(block)
        except (NotRetained, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            self.retain = None
            return self.product(parameters, batch, block)
        linearised[ANY] = found
        return product

    def _recording(self, parameters: Parameters, batch: Batch, block: Tensor) -> Recording | None:
        """The recording for these shapes, made after RECORD_AFTER eager products; None before."""
        shapes = ((part.shape, part.dtype, part.device) for part in batch.tensors())
        key = (len(block), block.dtype, *shapes)
        if key not in self._recordings:
            self._eager[key] += 1
            if self._eager[key] <= RECORD_AFTER:
                return None
            began = time.perf_counter()
            self._recordings[key] = _record(self.product, parameters, batch, block)
            self.seconds += time.perf_counter() - began
        return self._recordings[key]


def _bytes(tensors: list[Tensor], apart_from: list[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    for tensor in apart_from:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def is_small(multiplications: float) -> bool:
    """Whether a forward pass of so many multiplications takes less time than launching it."""
    return multiplications < LAUNCH_MULTIPLICATIONS


def block_size(units: float, parameters: int, vectors: int) -> int:
    """How many of `vectors` go through a network of `parameters` together with `units` examples or tokens."""
    fitting = min(max(1, int(BLOCK_MULTIPLICATIONS / (units * parameters))), LARGEST_BLOCK, vectors)
    # A power of two, so that blocks of different lengths, each with a recording of its own, are few.
    return 1 << (fitting.bit_length() - 1)


def _record(product: BlockProduct, parameters: Parameters, batch: Batch, block: Tensor) -> Recording | None:
    """Trace the product and split it; None where tracing fails or the replay gives other numbers."""
    names = list(parameters)

    def flat(*arguments: Tensor) -> Tensor:
        given = dict(zip(names, arguments[: len(names)], strict=True))
        return product(given, batch.filled(arguments[len(names) : -1]), arguments[-1])

    try:
        # Functionalised: an operation in place would overwrite what the other half still reads.
        traced = make_fx(functionalize(flat))(*parameters.values(), *batch.tensors(), block)
        recording = split(traced)
        replayed = recording.linearise(parameters, batch)(block)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None
    expected = product(parameters, batch, block)
    tolerance = 1e3 * torch.finfo(block.dtype).eps
    agrees = (replayed - expected).abs().amax() <= tolerance * expected.abs().amax()
    return recording if agrees else None


def split(traced: fx.GraphModule) -> Recording:
    """The graph in two: what does not depend on its last argument, and what does."""
    traced.graph.eliminate_dead_code()
    merge_common_subexpressions(traced.graph)
    nodes = list(traced.graph.nodes)
    vector = [node for node in nodes if node.op == "placeholder"][-1]
    dependent = {vector}
    for node in nodes:
        if any(source in dependent for source in node.all_input_nodes):
            dependent.add(node)
    kept = [node for node in nodes if node not in dependent and any(user in dependent for user in node.users)]

    primal = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node not in dependent and node.op != "output":
            copies[node] = primal.node_copy(node, copies.__getitem__)
    primal.output([copies[node] for node in kept])

    linear = fx.Graph()
    copies = {node: linear.placeholder(f"residual_{index}") for index, node in enumerate(kept)}
    for node in nodes:
        if node in dependent:
            copies[node] = linear.node_copy(node, copies.__getitem__)
    primal.eliminate_dead_code()
    return Recording(fx.GraphModule(traced, primal), fx.GraphModule(traced, linear))


def merge_common_subexpressions(graph: fx.Graph) -> None:
    """Let operations with the same arguments share one result; the graph must be free of mutation."""
    seen: dict[Hashable, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        key = (node.target, _hashable(node.args), _hashable(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def _hashable(argument: object) -> Hashable:
    if isinstance(argument, dict):
        return tuple((key, _hashable(value)) for key, value in argument.items())
    if isinstance(argument, list | tuple):
        return tuple(_hashable(value) for value in argument)
    # 1, 1.0 and True are equal but not the same argument.
    return (type(argument), argument)
