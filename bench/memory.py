"""The most memory a piece of work held."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """`with PeakMemory(device) as peak: ...` leaves the peak's bytes in `peak.bytes`.

    On CUDA what torch had allocated; on Linux the process's resident memory; NaN where neither can be read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes = float("nan")

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._resettable = _reset_high_water_mark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self.bytes = float(torch.cuda.max_memory_allocated(self._device))
        elif self._resettable:
            self.bytes = _high_water_mark()


def _reset_high_water_mark() -> bool:
    try:
        _CLEAR.write_text("5")  # resets VmHWM to what is resident now, see proc(5)
    except OSError:
        return False
    return True


def _high_water_mark() -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024.0 * int(line.split()[1])
    return float("nan")
