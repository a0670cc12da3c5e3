"""Registers: vectors over all threads of all programs of a grid, or of one element while all have the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptx_machine.decode import Code
from ptx_machine.types import RAW, WARP, Array

_POISON = 0x7FFDDEAD7FFDDEAD  # a NaN in every float type, and no plausible index


class Registers:
    """What the threads of a grid hold. An array in a register is never written to, for another may share it.

    Attributes:
        R: registers, by the code's numbers; None where nobody wrote one.
        shape: programs along x, y and z.
        threads, warps: of one program.
        every, lane: all threads of the grid, by number, and each one's lane.
        nobody: the mask of no thread.
    """

    def __init__(self, code: Code, shape: tuple[int, int, int], num_warps: int) -> None:
        self.code, self.shape, self.warps, self.threads = code, shape, num_warps, num_warps * WARP
        self.every = np.arange(int(np.prod(shape)) * self.threads)
        self.lane = self.every % WARP
        self.nobody = np.zeros(len(self.every), bool)
        self.R: list[Any] = list(code.initial)
        for i, name in code.specials:
            self.R[i] = self._special(name).astype(RAW[code.width[i]])

    def _special(self, name: str) -> Array:
        name, _, axis = name[1:].partition(".")
        place, inside = "xyz".find(axis or "x"), self.every % self.threads
        program = self.every // self.threads
        x, y, _ = self.shape
        if name.startswith("lanemask"):
            one = np.uint64(1) << self.lane.astype(np.uint64)
            below = one - np.uint64(1)
            full = np.uint64(0xFFFFFFFF)
            return {"eq": one, "lt": below, "le": one | below, "gt": full ^ (one | below), "ge": full ^ below}[
                name[-2:]
            ]
        values: dict[str, Any] = {
            "tid": inside if place == 0 else 0,
            "ntid": self.threads if place == 0 else 1,
            "ctaid": (program % x, program // x % y, program // (x * y))[place],
            "nctaid": self.shape[place],
            "laneid": self.lane,
            "warpid": inside // WARP,
            "nwarpid": self.warps,
        }
        # Clocks stand still, and every program has an SM of its own.
        return np.atleast_1d(np.asarray(values.get(name, program if name == "smid" else 0)))

    def name(self, thread: int) -> str:
        """Who that is, for a message."""
        program, inside = divmod(thread, self.threads)
        x, y, _ = self.shape
        return f"thread {inside} of program {(program % x, program // x % y, program // (x * y))}"

    def put(self, d: int, m: Array | None, value: Array) -> None:
        self.R[d] = value if m is None else np.where(m, value, self.old(d))

    def scatter(self, d: int, m: Array | None, threads: Array, values: Array) -> None:
        if m is None:
            self.R[d] = np.ascontiguousarray(values)
        else:
            new = np.array(np.broadcast_to(self.old(d), self.every.shape))
            new[threads] = values
            self.R[d] = new

    def old(self, d: int) -> Array:
        """What is in a register; poison where nobody wrote it."""
        self.define(d)
        value: Array = self.R[d]
        return value

    def define(self, d: int) -> None:
        if self.R[d] is None:
            width = self.code.width[d]
            self.R[d] = np.full(1, _POISON & (1 << width) - 1, RAW[width])

    def full(self, d: int) -> Array:
        """A register as a vector over all threads."""
        value: Array = self.R[d]
        return value if len(value) > 1 else np.repeat(value, len(self.every))
