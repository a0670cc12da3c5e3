"""Weak memory: each program has a view of its own, which what others store reaches late, torn and in another order.

What holds all the same: stores to the same 16 bytes come in one order to everybody; what a program stored before a
fence or a release comes before what it stores after, and so does what it had received from others; `fence.sc`, an
atomic that releases, and the end of the launch deliver at once.
"""

from __future__ import annotations

import random
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
        pending = np.arange(len(self.views))[:, None] != programs
        self._queue.append(_Store(programs, self._epochs[programs], at, values, pending))

    def _deliver(self, program: int, store: _Store, which: Array) -> None:
        if which.any():
            size = store.values.dtype.itemsize
            put(self.views[program], store.at[which], size, store.values[which])
            store.pending[program, which] = False
            self.changes += 1

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
                    which = which & ~np.isin(store.at // _BLOCK, older.at[left] // _BLOCK)
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
        for store in self._queue:
            there = np.isin(store.at // _BLOCK, at // _BLOCK)
            for program in range(len(self.views)):
                self._deliver(program, store, store.pending[program] & there)
        self._tidy()

    def all(self) -> None:
        for store in self._queue:
            for program in range(len(self.views)):
                self._deliver(program, store, store.pending[program].copy())
        self._queue = []
