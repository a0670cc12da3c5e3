"""What is asynchronous: begun, and not there before it is waited for. The machine is as late as it may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ptx_machine.types import Array


@dataclass(eq=False)
class Flight:
    """One instruction under way.

    Attributes:
        pending: the threads, of the whole grid, for which it has not landed.
        group: by thread, which of its groups it is part of.
        land: what happens for the threads that have waited for it.
    """

    pending: Array
    group: Array
    land: Callable[[Array], None]


class Flights:
    """Of one kind of asynchronous instruction; groups are counted by thread, as the manual has it."""

    def __init__(self, threads: int) -> None:
        self._group = np.zeros(threads, np.int64)  # of each thread, that which it fills now
        self._under_way: list[Flight] = []
        self._count = 0

    def begin(self, threads: Array, land: Callable[[Array], None]) -> int:
        """Its number, from 1."""
        pending = np.zeros(len(self._group), bool)
        pending[threads] = True
        self._count += 1
        self._under_way.append(Flight(pending, self._group.copy(), land))
        return self._count

    def commit(self, mask: Array | None) -> None:
        self._group[slice(None) if mask is None else mask] += 1

    def wait(self, mask: Array | None, most: int) -> None:
        """Until at most so many of each thread's groups, the last ones, are under way."""
        for flight in self._under_way:
            here = flight.pending & (flight.group < self._group - most)
            if mask is not None:
                here &= mask
            if here.any():
                flight.land(here)
                flight.pending &= ~here
        self._under_way = [flight for flight in self._under_way if flight.pending.any()]
