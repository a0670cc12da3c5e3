"""How a call's time divides: what comes before and around the scan, the scan, and the gradients after it.

The scan is one operator forward and one backward, `fastrnn::scan` and `fastrnn::scan_backward`. A dispatch mode puts
marks around both, in calls of their own, which no timing of a row sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_CALLS = 5


@dataclass(frozen=True)
class Shares:
    """Parts of a call's time; they add up to 1.

    Attributes:
        input: forward without the scan: the input products of all time steps, above all.
        scan: the scans, forward and backward.
        gradient: backward without the scan: the products that give the gradients of weights and input.
    """

    input: float
    scan: float
    gradient: float


def _mark(device: torch.device) -> Any:
    """A moment: on a GPU of its queue, which later calls keep full, so that the host's own time does not count."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: Any, end: Any) -> float:
    return float(end - start if isinstance(start, float) else start.elapsed_time(end))


class _ScanMarks(TorchDispatchMode):
    """Keeps the moments before and after every scan."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self.device = device
        self.scans: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "fastrnn":
            return func(*args, **kwargs or {})
        start = _mark(self.device)
        result = func(*args, **kwargs or {})
        self.scans.append((start, _mark(self.device)))
        return result


def shares(
    forward: Callable[[], Any],
    backward: Callable[[Any], object] | None,
    clear: Callable[[], object],
    device: torch.device,
) -> Shares | None:
    """How the time of `backward(forward())` divides; None where no scan operator runs, as in torch's own layers.

    `clear` comes before each call and is not counted; the first call does not count. Without `backward`, nothing is
    a gradient's.
    """
    calls: list[tuple[list[Any], int, list[tuple[Any, Any]]]] = []
    for _ in range(1 + _CALLS):
        clear()
        with _ScanMarks(device) as marks:
            moments = [_mark(device)]
            result = forward()
            moments.append(_mark(device))
            first_back = len(marks.scans)
            if not first_back:
                return None
            if backward is not None:
                backward(result)
                moments.append(_mark(device))
        calls.append((moments, first_back, marks.scans))
    if device.type == "cuda":
        torch.cuda.synchronize(device)

    input = scan = gradient = 0.0
    for (start, middle, *end), first_back, scans in calls[1:]:
        times = [_between(*marks) for marks in scans]
        input += _between(start, middle) - sum(times[:first_back])
        gradient += sum(_between(middle, last) for last in end) - sum(times[first_back:])
        scan += sum(times)
    whole = input + scan + gradient
    return Shares(input / whole, scan / whole, gradient / whole)
