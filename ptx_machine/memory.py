"""Memory: bytes, and shadows of them: for each granule who stored it last, and whether anybody did.

A granule is as large as the kernel's smallest store to that memory. A stamp says who did what when, in one number:
clock, agent, whether the access was strong, and its instruction. Later ones of the same agent are greater.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ptx_machine.text import Instruction
from ptx_machine.types import Array

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

CLOCK, AGENT, STRONG = 41, 21, 20  # where in a stamp they start; the instruction is below
MOST_AGENTS = 1 << (CLOCK - AGENT)
UNITS: dict[int, Any] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
    16: np.complex128,
}  # moved, not computed


def stamp(clock: Any, agent: Any, strong: bool, one: Instruction) -> Array:
    return (clock << CLOCK) | (agent << AGENT) | (int(strong) << STRONG | one.pc)


def agent_of(stamps: Array) -> Array:
    return (stamps >> AGENT) & (MOST_AGENTS - 1)


def is_strong(stamps: Array) -> Array:
    return (stamps >> STRONG & 1).astype(bool)


def pc_of(stamps: Array) -> Array:
    return stamps & ((1 << STRONG) - 1)


def get(data: Array, at: Array, size: int, raw: Any = np.uint8) -> Array:
    """`size` bytes from each of `at`, multiples of it, as `raw`: `[len(at), elements]`."""
    return data.view(UNITS[size])[at // size].view(raw).reshape(len(at), -1)


def put(data: Array, at: Array, size: int, values: Array) -> None:
    data.view(UNITS[size])[at // size] = np.ascontiguousarray(values).view(UNITS[size]).reshape(len(at))


def fill(shadow: Array, granules: Array, values: Array) -> None:
    """One of `values` for each row of `granules`. (NumPy takes twice as long where it is to broadcast them.)"""
    width = granules.shape[1]
    shadow[granules] = values[:, None] if width == 1 else np.repeat(values, width).reshape(granules.shape)


class Memory:
    """What shared and global memory have in common.

    Attributes:
        data: bytes.
        grain: bytes of a granule.
    """

    def __init__(self, grid: Grid, data: Array, grain: int) -> None:
        self.grid, self.data, self.grain = grid, data, grain

    def granules(self, at: Array, size: int) -> Array:
        """Those of accesses of `size` bytes at `at`: `[len(at), granules]`."""
        first = at // self.grain
        return first[:, None] if size <= self.grain else first[:, None] + np.arange(size // self.grain)

    def same(self, at: Array, size: int, values: Array) -> Array:
        """For each granule, whether `values` are there already."""
        width = min(size, self.grain)
        there = get(self.data, at, size, UNITS[width])
        return there == np.ascontiguousarray(values).view(UNITS[width]).reshape(there.shape)

    def found_unwritten(self, one: Instruction, missing: Array, threads: Array) -> None:
        """`missing`: the granules, of those that `threads` load, that nobody wrote."""
        self.grid.found_unwritten(one, int(threads[missing.any(1).argmax()]), int(missing.sum()))

    def race(self, kind: str, stamps: Array, which: Array, one: Instruction) -> None:
        if which.any():
            code = self.grid.code
            self.grid.report.race(kind, pc_of(stamps[which]), one, code.instructions)

    def race_of_stores(self, what: str, stamps: Array, which: Array, same: Array, one: Instruction) -> None:
        """Where the same value is stored, that is no more than worth knowing: compilers let several warps store one."""
        if which.any():
            self.race(f"race: {what}", stamps, which & ~same, one)
            self.race(f"same value: {what}", stamps, which & same, one)
