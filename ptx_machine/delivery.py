"""Weak memory: each program has a view of its own, which what others store reaches late, torn and in another order.

What holds all the same: stores to the same 16 bytes come in one order to everybody; what a program stored before a
fence or a release comes before what it stores after, and so does what it had received from others; `fence.sc`, an
atomic that releases, and the end of the launch deliver at once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptx_machine.memory import put
from ptx_machine.types import Array

_BLOCK = 16  # bytes of which stores come in order


@dataclass(eq=False)
class _Store:
    """One instruction's, by element: its program, that program's epoch, where, what, and to whom it is on its way."""

    source: Array
    epoch: Array
    at: Array
    values: Array
    pending: Array  # [programs, elements]

    def __post_init__(self) -> None:
        self.blocks = self.at // _BLOCK
        self.low, self.high = int(self.blocks.min()), int(self.blocks.max())
        self.oldest, self.newest = int(self.epoch.min()), int(self.epoch.max())

    def meets(self, blocks: Array, programs: Sequence[int]) -> bool:
        """Whether something of it around `blocks` is on its way to one of `programs`."""
        if self.high < blocks.min() or blocks.max() < self.low:
            return False
        left = self.pending[programs].any(0)
        return bool(left.any() and np.isin(self.blocks[left], blocks).any())


class Delivery:
    """`views`: memory as each program sees it, `[programs, bytes]`."""

    def __init__(self, views: Array, rng: random.Random) -> None:
        self.views, self._rng = views, rng
        self._epochs = np.zeros(len(views), np.int64)  # of each program, the fences that it has come through
        self._queue: list[_Store] = []
        self.changes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def send(self, programs: Array, at: Array, values: Array) -> None:
        """Each program's own view has it already."""
        sources = np.unique(programs).tolist()
        if len(sources) > 1 and len(np.unique(at)) < len(at):  # several to one place: one after the other
            for program in sources:
                mine = programs == program
                self.send(programs[mine], at[mine], values[mine])
            return
        for program in sources if self._queue else ():  # what is older came before, to itself as well
            mine = programs == program
            if self._arrive(self._first_after(at[mine], [program]), [program]):
                put(self.views[program], at[mine], values.dtype.itemsize, values[mine])
        pending = np.arange(len(self.views))[:, None] != programs
        self._queue.append(_Store(programs, self._epochs[programs], at, values, pending))

    def _deliver(self, program: int, store: _Store, which: Array) -> None:
        if which.any():
            size = store.values.dtype.itemsize
            put(self.views[program], store.at[which], size, store.values[which])
            store.pending[program, which] = False
            self.changes += 1

    def _first_after(self, at: Array, programs: Sequence[int]) -> int:
        """How many of the queue there are up to the last one around any of `at` that is on its way to `programs`."""
        blocks = np.unique(at // _BLOCK)
        for i in range(len(self._queue), 0, -1):
            if self._queue[i - 1].meets(blocks, programs):
                return i
        return 0

    def _arrive(self, count: int, programs: Sequence[int]) -> int:
        """So many of the queue are there for these programs: nothing comes before what it has to come after."""
        for store in self._queue[:count]:
            for program in programs:
                self._deliver(program, store, store.pending[program].copy())
        return count

    def _tidy(self) -> None:
        self._queue = [store for store in self._queue if store.pending.any()]

    def some(self) -> None:
        """Some elements of any stores, to some programs."""
        if not self._queue:
            return
        for program in range(len(self.views)):
            for _ in range(min(self._rng.randrange(3), len(self._queue))):
                i = self._rng.randrange(len(self._queue))
                store = self._queue[i]
                lucky = np.frombuffer(self._rng.randbytes(len(store.at)), np.uint8) < 180
                which = store.pending[program] & lucky
                for older in self._queue[:i]:
                    if not which.any():
                        break
                    left = older.pending[program]
                    if not left.any():
                        continue
                    if older.high >= store.low and store.high >= older.low:
                        which = which & ~np.isin(store.blocks, older.blocks[left])
                    if store.newest <= older.oldest:
                        continue
                    for source in np.unique(older.source[left]):
                        first = older.epoch[left & (older.source == source)].min()
                        which = which & ~((store.source == source) & (store.epoch > first))
                self._deliver(program, store, which)
        self._tidy()

    def fence(self, program: int, total: bool) -> None:
        """What it has received from others goes on to everybody, and what it stored before what it will store;
        `total`: at once."""
        for store in self._queue:
            received = ~store.pending[program] & (total | (store.source != program))
            for other in range(len(self.views)):
                self._deliver(other, store, store.pending[other] & received)
        self._epochs[program] += 1
        self._tidy()

    def settle(self, at: Array) -> None:
        """Every store to the 16 bytes around each of `at` is there for everybody: an atomic comes."""
        everybody = range(len(self.views))
        self._arrive(self._first_after(at, everybody), everybody)
        self._tidy()

    def precede(self, program: int) -> None:
        """What it stored before its last fence is there for everybody: an atomic comes, which is so at once."""
        count = 0
        for i, store in enumerate(self._queue, 1):
            before = (store.source == program) & (store.epoch < self._epochs[program])
            count = i if (before & store.pending.any(0)).any() else count
        self._arrive(count, range(len(self.views)))
        self._tidy()

    def all(self) -> None:
        self._arrive(len(self._queue), range(len(self.views)))
        self._queue = []
