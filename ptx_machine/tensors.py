"""A tensor's shadow: who stored and loaded each of its granules, and whether anybody wrote it.

Most tensors are only ever loaded from. So nothing is kept of a tensor before its first store but the loads, one by one,
and then only what they come to.
"""

from __future__ import annotations

import numpy as np

from ptx_machine.memory import fill
from ptx_machine.types import Array


class Tensor:
    """Granules are counted from the tensor's first.

    Attributes:
        first: its first granule in memory.
        quiet: whether there was no store to it, and all of it is written.
        stored: the stamp of each granule's last store; 0 for none in this launch.
        loaded: the stamps of its last loads, one of each program; of a few of them, where that would take too much.
        written: whether anybody wrote it, before the launch or in it; None where all of it is.
        published: 1 + which of the releases it carries.
    """

    MOST = 1 << 26  # of `loaded`

    def __init__(self, first: int, count: int, columns: int, written: Array | None) -> None:
        self.first, self._count = first, count
        self._columns = max(1, min(columns, 16, self.MOST // max(count, 1)))
        self.written = None if written is None or written.all() else written
        self.quiet = self.written is None
        self.stored = self.published = np.zeros(0, np.int64)
        self.loaded: Array | None = None
        self._loads: list[tuple[Array, Array, Array]] = []
        if not self.quiet:
            self.disturb()

    def disturb(self) -> None:
        """There comes a store."""
        if len(self.stored):
            return
        self.quiet = False
        self.stored, self.published = np.zeros(self._count, np.int64), np.zeros(self._count, np.int64)
        loads, self._loads = self._loads, []
        for granules, programs, stamps in loads:
            self.note_load(granules, programs, stamps)

    def note_load(self, granules: Array, programs: Array, stamps: Array) -> None:
        """`granules` [n, few], as the n threads of those programs load them."""
        if self.quiet:
            self._loads.append((granules, programs, stamps))
            return
        if self.loaded is None:
            self.loaded = np.zeros((self._count, self._columns), np.int64)
        places = granules * self._columns + (programs % self._columns)[:, None]
        fill(self.loaded.reshape(-1), places, stamps)
