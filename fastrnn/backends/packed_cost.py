"""What training on rows of unequal length costs on a CPU: by torch's packed layer, and by the scan in its operators.

torch's layer pays for a step's many nodes in autograd's graph, and in backward for one zero-filled copy of the gates of
all rows at every step, so its time is quadratic in T. The scan has neither, and pays more for a call and for
each element. Plain Python: the times are estimates, in microseconds, fitted to measurements of
`python -m bench packed` (a core of an x86 server, torch 2.13, float32). What decides is their ratio.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

# The scan is taken where it is faster by more than the estimates are off.
MARGIN = 1.1
_LONGEST = 4096  # beyond which the scan is not waited for


class Cost(NamedTuple):
    """Microseconds for a call; and in one direction for each time step, for each unit of each row's step, for each of
    that unit's weights, for each unit of the batch at each step, padding included, and for each unit of each row's step
    at each step: the quadratic part."""

    call: float
    step: float
    unit: float
    weight: float
    padded: float
    quadratic: float

    def time(self, time: int, batch: int, rows: int, hidden: int, directions: int) -> float:
        of_units = rows * (self.unit + self.weight * hidden + self.quadratic * time) + self.padded * time * batch
        return self.call + directions * (self.step * time + hidden * of_units)


_TORCH = {
    "LSTM": Cost(640, 81, 4.46e-3, 8.26e-4, 0, 2.68e-3),
    "GRU": Cost(464, 91.9, 2.75e-3, 6.08e-4, 0, 1.98e-3),
    "RNN": Cost(369, 34.2, 1.37e-2, 1.5e-4, 0, 5.1e-4),
}
_SCAN = {
    "LSTM": Cost(2070, 48.7, 0.178, 3.94e-4, 0, 0),
    "GRU": Cost(1800, 46.7, 0.133, 3.28e-4, 0, 0),
    "RNN": Cost(1560, 19.6, 0.0511, 7.9e-5, 0, 0),
}


def estimates(mode: str, time: int, batch: int, rows: int, hidden: int, directions: int) -> tuple[float, float]:
    """Forward and backward of one layer: by torch's layer, and by the scan.

    Args:
        mode: torch's name of the cell.
        time, batch, hidden, directions: sizes.
        rows: the time steps of all rows together.
    """
    cell = mode.partition("_")[0]
    sizes = (time, batch, rows, hidden, directions)
    return _TORCH[cell].time(*sizes), _SCAN[cell].time(*sizes)


def layer_is_faster(mode: str, time: int, batch: int, rows: int, hidden: int, directions: int, margin: float) -> bool:
    """Whether torch's layer is to run it: where the scan is not faster by more than `margin`, which is MARGIN."""
    torchs, scan = estimates(mode, time, batch, rows, hidden, directions)
    return torchs < margin * scan


@functools.lru_cache(maxsize=4096)
def scan_from(mode: str, batch: int, hidden: int, directions: int, margin: float) -> int:
    """How many time steps there are at least where the scan is taken, whatever the lengths: below, a call need not look
    at them, for microseconds that would count there. Found in steps of an eighth.

    At a given T both times are linear in the rows' steps, of which none and all are the extremes.
    """
    time, tried = 0, 1
    while tried < _LONGEST:
        if not all(layer_is_faster(mode, tried, batch, n, hidden, directions, margin) for n in (0, tried * batch)):
            break
        time, tried = tried, tried + max(1, tried // 8)
    return time + 1
