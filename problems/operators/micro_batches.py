"""How much goes through a network at once, so that a product stays within its memory."""

from __future__ import annotations

import gc
import math
import os
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# More examples at once make nothing faster on a CPU; on a GPU it has not been measured.
LARGEST_PASS = 512
# Unless so few multiplications, about examples × p, take less time than launching them.
LEAST_MULTIPLICATIONS = 2**22
# A CPU's memory is shared with all else that runs.
CPU_BYTES = 4 * 2**30

# What a graph that autograd keeps takes is a little more than a product that keeps none, measured on small
# networks; it is a fourth at most of what there is.
ROOMY = 4

Result = TypeVar("Result")


class Size(NamedTuple):
    """Examples and vectors that go through the network together."""

    examples: int
    vectors: int


class MicroBatches:
    """The largest sizes that fit into `max_bytes`, found by measuring products, and by failing.

    `peak(m, c)` gives the bytes that a product of m examples with c vectors takes, beyond `parameters` and
    vectors. At each moment of a product that is linear in m and in c with no negative part, so the largest
    of all moments grows at most in proportion: small products bound larger ones. Where memory runs out
    nonetheless (kernels take workspace of their own, others use the device), the size is halved for good.
    Half of `max_bytes` is for the products, half for forward passes that are kept.
    """

    def __init__(self, peak: Callable[[int, int], int], max_bytes: int, parameters: int) -> None:
        self.max_bytes = max_bytes
        self.largest = Size(max(LARGEST_PASS, LEAST_MULTIPLICATIONS // parameters), 2**30)
        self.seconds = 0.0
        self._peak = peak
        self._peaks: dict[Size, float] = {}

    @property
    def keep_bytes(self) -> int:
        """What forward passes may hold that are kept for the next product."""
        return self.max_bytes // 2

    def most(self, examples: int, vectors: int) -> float:
        """Bytes that products of so many take at most, with what is kept, by what was measured so far."""
        return min(self.max_bytes, 2 * self._bound(Size(min(examples, self.largest.examples), vectors)))

    def is_roomy(self, size: Size) -> bool:
        """Whether several times what products of `size` take would fit, by what was measured so far."""
        return ROOMY * self._bound(size) <= self.max_bytes // 2

    def run(self, examples: int, attempt: Callable[[int], Result]) -> Result:
        """`attempt(m)` with the largest m at which one vector fits, and with less where memory runs out."""
        while True:
            size = self.size(examples, lambda _: 1)
            try:
                return attempt(size.examples)
            except (RuntimeError, MemoryError) as error:
                self.halve(size, error)

    def size(self, examples: int, block: Callable[[int], int]) -> Size:
        """What to pass through at once, of `examples` with `block(m)` vectors where m examples go together.

        Raises ValueError where one example with one vector needs more than there is.
        """
        numbers = [min(examples, self.largest.examples)]
        while numbers[-1] > 1:
            numbers.append(numbers[-1] // 2)
        found = None
        # From small to large, so that nothing is measured that takes far more than there is.
        for number in reversed(numbers):
            size = Size(number, min(block(number), self.largest.vectors))
            if not self._fits(size):
                break
            found = size
        vectors = min(block(1), self.largest.vectors)
        while found is None and vectors > 1:
            vectors //= 2
            found = Size(1, vectors) if self._fits(Size(1, vectors)) else None
        if found is None:
            raise ValueError(
                f"max_bytes is {self.max_bytes:,}; the product of one example with one vector takes "
                f"{self._peaks[Size(1, 1)]:,} bytes, and max_bytes must be at least twice that: raise it, or "
                "choose fewer parameters, shorter inputs or precision='bf16'"
            )
        return found

    def halve(self, used: Size, error: BaseException) -> None:
        """Remember that `used` was too much where `error` says so; raise it where it says anything else.

        MemoryError where there is nothing less.
        """
        if not is_out_of_memory(error):
            raise error
        if used.vectors > 1:
            self.largest = Size(self.largest.examples, used.vectors // 2)
        elif used.examples > 1:
            self.largest = Size(used.examples // 2, self.largest.vectors)
        else:
            raise MemoryError(
                "the product of one example with one vector does not fit into memory: choose fewer "
                "parameters, shorter inputs or precision='bf16', or free memory on the device"
            ) from error

    def _fits(self, size: Size) -> bool:
        room = self.max_bytes // 2
        if self._bound(size) > room:
            self._measure(size)
        return self._bound(size) <= room

    def _bound(self, size: Size) -> float:
        """What `size` takes at most by what was measured: r times as much takes at most r times the bytes."""
        bounds = (
            peak * max(1, size.examples / known.examples) * max(1, size.vectors / known.vectors)
            for known, peak in self._peaks.items()
        )
        return min(bounds, default=math.inf)

    def _measure(self, size: Size) -> None:
        if size in self._peaks:
            return
        began = time.perf_counter()
        try:
            self._peaks[size] = self._peak(size.examples, size.vectors)
        except (RuntimeError, MemoryError) as error:
            if size == (1, 1) or not is_out_of_memory(error):
                self.halve(Size(1, 1), error)
            self._peaks[size] = math.inf
        self.seconds += time.perf_counter() - began


def default_max_bytes(device: torch.device) -> int:
    """A quarter of the device's memory, on a CPU 4 GiB at most: the same on each run of one machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return CPU_BYTES
    return min(physical // 4, CPU_BYTES)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def peak_bytes(run: Callable[[], Result]) -> int:
    """The most bytes that tensors made by `run` held at one time, on whatever device.

    Workspace that kernels take and give back within one operation is not seen.
    """
    # Whether a collection falls into the run must not move the number.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _LiveBytes() as live:
            run()
    finally:
        if collecting:
            gc.enable()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages of the tensors that operations return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = {id(_storage(leaf)) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # Tangents that are 0 have a size and no memory.
            if isinstance(leaf, Tensor) and not leaf._is_zerotensor():
                storage = _storage(leaf)
                # A view of what existed before is no new memory.
                if id(storage) not in self._known and id(storage) not in arguments:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

        def freed() -> None:
            self._known.discard(key)
            self.bytes -= size

        weakref.finalize(storage, freed)


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
