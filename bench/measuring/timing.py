"""How long a call takes: warmed up, over inputs that rotate, on either kind of device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from fastrnn.bench.rows.errors import LostGPUError

_BUDGET_S = {"cpu": 0.5, "cuda": 0.3}


def percentiles(samples: list[float]) -> tuple[float, float, float]:
    """20th percentile, median and 80th percentile of two samples or more."""
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return fifths[0], statistics.median(samples), fifths[3]


def synchronize(device: torch.device) -> None:
    """Wait for the device, where it works apart from the host."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lost(device: torch.device) -> str | None:
    """What the GPU says if an error has made it useless to this process, or None.

    An illegal address, a trap or a launch that timed out fails every call that follows it until the process ends. An
    error that only one call met (memory, a grid that does not fit) does not come back when the device is asked again.
    """
    for _ in range(2):
        try:
            synchronize(device)
        except RuntimeError as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        else:
            return None
    return said


def stop_if_lost(device: torch.device, place: str) -> None:
    """End the command where something took the GPU with it: all that came after it would fail."""
    reason = lost(device)
    if reason is not None:
        raise LostGPUError(f"this process can use its GPU no more ({reason}): stopped at {place}")


def _time_cpu(call: Callable[[int], object], clear: Callable[[int], None], budget: float) -> list[float]:
    """Seconds of each call."""
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < 5 or (time.perf_counter() - begin < budget and len(samples) < 1000):
        clear(len(samples))
        start = time.perf_counter()
        call(len(samples))
        samples.append(time.perf_counter() - start)
    return samples


def _time_cuda(call: Callable[[int], object], clear: Callable[[int], None], budget: float) -> list[float]:
    """Seconds of each call, by events: the queue stays full, so the host's own time hides where it can."""
    start = time.perf_counter()
    clear(0)
    call(0)
    torch.cuda.synchronize()
    count = min(500, max(10, int(budget / (time.perf_counter() - start))))
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for i, (before, after) in enumerate(events):
        clear(i)
        before.record()
        call(i)
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in events]


def time_calls(
    call: Callable[[int], object], clear: Callable[[int], None], count: int, device: torch.device
) -> list[float]:
    """Seconds of each of many calls, after a warm-up of `count`; `clear(i)`, which is not timed, comes before
    `call(i)`."""
    for i in range(count):
        clear(i)
        call(i)
    synchronize(device)
    timed = _time_cuda if device.type == "cuda" else _time_cpu
    return timed(call, clear, _BUDGET_S[device.type])
