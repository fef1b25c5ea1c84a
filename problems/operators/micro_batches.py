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

# More examples at once make nothing faster on a CPU, and on a GPU little.
LARGEST_PASS = 512
# A CPU's memory is shared with all else that runs.
CPU_BYTES = 4 * 2**30

Result = TypeVar("Result")


class Size(NamedTuple):
    """Examples and vectors that go through the network together."""

    examples: int
    vectors: int


class MicroBatches:
    """The largest sizes that fit into `max_bytes`, found by measuring small products, and by failing.

    `peak(m, c)` gives the bytes that a product of m examples with c vectors takes, beyond parameters and
    vectors. That is linear in m and in c, so up to four small products tell it for all. Where memory runs out
    nonetheless (kernels take workspace of their own, others use the device), the size is halved for good.
    Half of `max_bytes` is for the products, half for forward passes that are kept.
    """

    def __init__(self, peak: Callable[[int, int], int], max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.largest = Size(LARGEST_PASS, 2**30)
        self.seconds = 0.0
        self._peak = peak
        self._peaks: dict[Size, float] = {}

    @property
    def keep_bytes(self) -> int:
        """What forward passes may hold that are kept for the next product."""
        return self.max_bytes // 2

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
        vectors = 1
        number = min(examples, self.largest.examples)
        while number >= 1:
            vectors = min(block(number), self.largest.vectors)
            if self._bytes(number, vectors) <= self.max_bytes // 2:
                return Size(number, vectors)
            number //= 2
        while vectors > 1:
            vectors //= 2
            if self._bytes(1, vectors) <= self.max_bytes // 2:
                return Size(1, vectors)
        raise ValueError(
            f"max_bytes is {self.max_bytes:,}; the product of one example with one vector takes "
            f"{self._bytes(1, 1):,} bytes, and max_bytes must be at least twice that: raise it, or choose "
            "fewer parameters, shorter inputs or precision='bf16'"
        )

    def halve(self, used: Size, error: BaseException) -> None:
        """Remember that `used` was too much where `error` says so; raise it where it says anything else.

        MemoryError where there is nothing less.
        """
        if not is_out_of_memory(error):
            raise error
        if used.examples > 1:
            self.largest = Size(used.examples // 2, self.largest.vectors)
        elif used.vectors > 1:
            self.largest = Size(1, used.vectors // 2)
        else:
            raise MemoryError(
                "the product of one example with one vector does not fit into memory: choose fewer "
                "parameters, shorter inputs or precision='bf16', or free memory on the device"
            ) from error

    def _bytes(self, examples: int, vectors: int) -> float:
        more_examples, more_vectors = examples - 1, vectors - 1
        found = one = self._measured(1, 1)
        # Only what is asked for is measured: a second vector of a large network may be one too many.
        if more_examples:
            found += more_examples * (self._measured(2, 1) - one)
        if more_vectors:
            found += more_vectors * (self._measured(1, 2) - one)
        if more_examples and more_vectors:
            both = self._measured(2, 2) - self._measured(2, 1) - self._measured(1, 2) + one
            found += more_examples * more_vectors * both
        return found

    def _measured(self, examples: int, vectors: int) -> float:
        size = Size(examples, vectors)
        if size not in self._peaks:
            began = time.perf_counter()
            try:
                self._peaks[size] = self._peak(examples, vectors)
            except (RuntimeError, MemoryError) as error:
                if size == (1, 1) or not is_out_of_memory(error):
                    self.halve(Size(1, 1), error)
                self._peaks[size] = math.inf
            self.seconds += time.perf_counter() - began
        return self._peaks[size]


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
            if isinstance(leaf, Tensor):
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
