"""One launch of a kernel's PTX on the machine."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptx_machine.decode import Code
from ptx_machine.global_memory import ranges_of
from ptx_machine.grid import ORDERS, Grid
from ptx_machine.memory import MOST_AGENTS
from ptx_machine.report import Report
from ptx_machine.table import CHAPTERS
from ptx_machine.types import WARP, Array

assert CHAPTERS  # with which `Code` knows its instructions


@functools.lru_cache(128)
def _decoded(ptx: str, noise: float) -> Code:
    return Code(ptx, noise)


class Machine:
    """One launch.

    Args:
        ptx: the text of one kernel.
        grid: programs along x, y and z; the last ones may be missing.
        num_warps: of a program.
        shared_bytes: of a program's shared memory.
        args: in the order of the PTX's parameters: tensors on the CPU, integers, floats, None for a null pointer. The
            last ones, which Triton adds, may be missing.
        seed: of all that is random: whose turn it is, and in weak memory what arrives.
        order: who goes in lock-step, "grid", "programs" or "warps"; see `grid.py`.
        weak: whether stores reach other programs late, torn and reordered; see `delivery.py`.
        noise: how much of their documented error approximate instructions make, from -1 to 1.
        fresh: by a tensor's pointer, a flag for each of its bytes: whether anybody wrote it. All are written of tensors
            that are not in it. What the kernel writes is noted in it.
        unwritten: what to do of a load of what nobody wrote: "report", "fault" or "ignore".
        patience: how many jumps back, in vain, of everybody make a deadlock.
        banks: whether to count conflicts of shared memory's banks.

    Raises:
        RefusedError: the PTX has an instruction that is not in the table.
        ValueError: no such `order` or `unwritten`, or too many threads.
    """

    def __init__(
        self,
        ptx: str,
        grid: Sequence[int],
        num_warps: int,
        shared_bytes: int,
        args: Sequence[Any],
        *,
        seed: int = 0,
        order: str = "grid",
        weak: bool = False,
        noise: float = 0.0,
        fresh: dict[int, Array] | None = None,
        unwritten: str = "report",
        patience: int = 1000,
        banks: bool = False,
    ) -> None:
        if order not in ORDERS or unwritten not in ("report", "fault", "ignore"):
            raise ValueError(
                f"order={order!r} is to be one of {ORDERS}, unwritten={unwritten!r} report, fault or ignore"
            )
        x, y, z = (*grid, 1, 1)[:3]
        if x * y * z * num_warps * WARP > MOST_AGENTS:
            raise ValueError(f"{x * y * z * num_warps * WARP} threads; the machine has room for {MOST_AGENTS}")
        code = _decoded(ptx, noise)
        ranges = ranges_of([arg for arg in args if _points(arg)])
        given = {} if fresh is None else fresh
        self.grid = Grid(
            code, (x, y, z), num_warps, shared_bytes, ranges, given, random.Random(seed), order, weak, unwritten,
            patience, banks,
        )  # fmt: skip
        self.grid.args = [self._number(arg) for arg in args] + [0] * (len(code.parameters) - len(args))

    @property
    def report(self) -> Report:
        return self.grid.report

    def _number(self, arg: Any) -> int:
        """What a kernel gets for an argument."""
        if hasattr(arg, "data_ptr") or arg is None:
            return self.grid.memory.address(arg.data_ptr()) if _points(arg) else 0
        return int(np.float32(arg).view(np.uint32)) if isinstance(arg, float) else int(arg)

    def run(self) -> Report:
        """The report; what the kernel stored is in the tensors, after a fault too.

        Raises:
            FaultError: an access outside of what there is, a trap, a deadlock, a register that nobody wrote.
            RefusedError: something that the machine does not model, in how an instruction is used.
        """
        with np.errstate(all="ignore"):
            try:
                self.grid.run()
            finally:
                self.grid.finish()
        return self.report


def _points(arg: Any) -> bool:
    return hasattr(arg, "data_ptr") and arg.numel() > 0
