"""A grid of programs as it runs: groups of threads, memories, and whose turn it is.

Threads with one program counter are a group, and go together. `order` says who is kept together:

* "grid": all threads go in lock-step while they agree on the program counter. A branch that divides them makes groups,
  of which the one furthest behind goes first, and which join where they meet.
* "programs": each program goes for itself, in random turns, its threads in lock-step.
* "warps": each warp goes for itself.

A turn ends at barriers, at strong loads and atomics, at stores now and then, and at a backward jump after a strong load
that found nothing new: then others go first. When all wait so, and nothing has changed for long, that is a deadlock.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx_machine.decode import Code
from ptx_machine.errors import FaultError
from ptx_machine.flights import Flights
from ptx_machine.global_memory import Global
from ptx_machine.registers import Registers
from ptx_machine.report import Report
from ptx_machine.shared import Shared
from ptx_machine.table.warpgroups import Accumulators
from ptx_machine.text import Instruction
from ptx_machine.types import WARP, Array

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDERS = ("grid", "programs", "warps")


class _ApartError(Exception):
    """Lanes of `warps` are at an instruction of their whole warp, and others are still on their way."""

    def __init__(self, message: str, warps: Array) -> None:
        super().__init__(message)
        self.warps = warps


@dataclass(eq=False)
class Group:
    """Threads with one program counter.

    Attributes:
        pc, mask: where they are, and which; None for all.
        family: groups of one go in lock-step, and join where they meet.
        warps: how many have a lane in it.
        strong: whether it has loaded strongly since its last backward jump.
        vain, saw: its backward jumps after strong loads while what may be loaded was as `saw` says.
        apart: what is wrong if the other lanes of its warps never come to where it waits for them.
    """

    pc: int
    mask: Array | None
    family: int
    warps: int
    strong: bool = False
    vain: int = 0
    saw: int = -1
    apart: str = ""


def _share_a_warp(one: Group, other: Group) -> bool:
    if one.mask is None or other.mask is None:
        return True
    return bool((one.mask.reshape(-1, WARP).any(1) & other.mask.reshape(-1, WARP).any(1)).any())


class Grid(Registers):
    """One launch, as it goes.

    Attributes:
        mask: the threads that execute now; None for all.
        args: what the kernel gets for its parameters.
        shared, memory: what they load from and store to.
        copies, products: asynchronous instructions under way, cp.async and wgmma.
    """

    def __init__(
        self, code: Code, shape: tuple[int, int, int], num_warps: int, shared_bytes: int, ranges: list[tuple[int, int]],
        fresh: dict[int, Array], rng: random.Random, order: str, weak: bool, unwritten: str, patience: int, banks: bool,
    ) -> None:  # fmt: skip
        super().__init__(code, shape, num_warps)
        programs, total = int(np.prod(shape)), len(self.every)
        self.rng, self.report, self.count_banks = rng, Report(), banks
        self.args: list[int] = []
        self.memory = Global(self, ranges, programs, weak, fresh)
        self.shared = Shared(self, shared_bytes, programs)
        self.copies, self.products, self.accumulators = Flights(total), Flights(total), Accumulators(total)
        self.mask: Array | None = None
        self._unwritten, self._patience, self._order = unwritten, patience, order
        self._live = np.ones(total, bool)
        self._counts = [0] * len(code.steps)
        # Another's turn, to begin with; the groups are not what they were.
        self._stop, self._regroup = True, False
        size = {"grid": total, "programs": self.threads, "warps": WARP}[order]
        self._groups = [
            self._group(0, None if size == total else self.every // size == i, i) for i in range(total // size)
        ]
        self._parked: list[Group] = []  # at a barrier
        self._current = self._groups[0]

    def whole_warps(self, m: Array | None, one: Instruction, member: int | None = None) -> Array:
        """The warps that execute it, each with all of its lanes or not at all."""
        if m is None:
            warps = np.arange(len(self.every) // WARP)
        else:
            lanes = m.reshape(-1, WARP)
            some = lanes.any(1)
            if (some != lanes.all(1)).any():
                self._wait_for_lanes(some & ~lanes.all(1), m, f"executes {one}")
            warps = np.flatnonzero(some)
        if member is not None:
            asked = self.R[member]
            if (asked != 0xFFFFFFFF).any() if len(asked) == 1 else (asked.reshape(-1, WARP)[warps] != 0xFFFFFFFF).any():
                one.refuse("part of a warp")
        return warps

    def found_unwritten(self, one: Instruction, thread: int, count: int) -> None:
        if self._unwritten == "fault":
            raise FaultError(f"{self.name(thread)} loads what nobody wrote: {one}")
        if self._unwritten == "report":
            self.report.unwritten[str(one)] += count

    def _wait_for_lanes(self, warps: Any, active: Array, what: str) -> None:
        """Only part of each of `warps` is there: the rest may come, unless a guard keeps it or it has ended."""
        missing = np.repeat(warps, WARP) & ~active
        message = f"only part of a warp, that of {self.name(int(warps.argmax()) * WARP)}, {what}"
        here = ~self.nobody if self.mask is None else self.mask
        raise _ApartError(message, warps) if (self._live & ~here)[missing].all() else FaultError(message)

    # Flow.

    def _group(self, pc: int, mask: Array | None, family: int, like: Group | None = None) -> Group:
        warps = len(self.every) // WARP if mask is None else int(mask.reshape(-1, WARP).any(1).sum())
        group = Group(pc, mask, family, warps)
        if like is not None:
            group.strong, group.vain, group.saw = like.strong, like.vain, like.saw
        return group

    def _narrow(self, group: Group, mask: Array) -> None:
        group.mask = None if mask.all() else mask
        group.warps = int(mask.reshape(-1, WARP).any(1).sum())

    def run(self) -> None:
        """To the end of every thread."""
        steps, counts = self.code.steps, self._counts
        pc = 0
        try:
            while self._groups or self._parked:
                group, meet, limit = self._choose()
                self._current, self.mask, self._stop, self._regroup, pc = group, group.mask, False, False, group.pc
                warps = group.warps
                try:
                    while True:
                        counts[pc] += warps
                        jump = steps[pc](self)
                        pc = pc + 1 if jump is None else jump
                        if self._stop or self._regroup or pc in meet or pc > limit:
                            break
                except _ApartError as error:
                    counts[pc] -= warps
                    self._hold(pc, np.repeat(error.warps, WARP), str(error))
                group.pc = pc
        except (AttributeError, TypeError) as error:
            self._explain(pc, error)
            raise

    def _explain(self, pc: int, error: Exception) -> None:
        """A register that nobody wrote is None, which no instruction takes."""
        one, index = self.code.instructions[pc], self.code.index
        names = re.findall(r"%?[\w.$]+", " ".join([*one.operands[1:], one.guard]))
        unset = [name for name in names if name in index and self.R[index[name]] is None]
        if unset:
            raise FaultError(f"registers {unset}, that nobody wrote, are used: {one}") from error

    def _choose(self) -> tuple[Group, set[int], int]:
        """The group to go on with; where it meets another of its family, and beyond where it is no longer behind."""
        if self.memory.delivery is not None:
            self.memory.delivery.some()
        if len(self._groups) == 1:
            if self._dozes(self._groups[0]):
                self._check_deadlock()
            return self._groups[0], set(), len(self.code.steps)
        if not self._groups:
            raise FaultError(f"deadlock: all wait at barriers:{self._places(self._parked)}")
        awake = [group for group in self._groups if not self._dozes(group)]
        if not awake:
            self._check_deadlock()
        if self._order != "grid" and self._current in awake and not self._stop:
            family = self._current.family
        else:
            # Now and then one that dozes: what it waits for may be there, and there are stores that nobody waits for.
            pool = awake if awake and self.rng.random() < 0.9 else self._groups
            family = self.rng.choice(pool).family
        mine = self._join([group for group in self._groups if group.family == family])
        able = [group for group in mine if not self._dozes(group)]
        first = min(able, key=lambda group: group.pc) if able and self.rng.random() < 0.95 else self.rng.choice(mine)
        others = [group for group in mine if group is not first]
        limit = min((group.pc for group in others if group in able), default=len(self.code.steps))
        return first, {group.pc for group in others}, max(limit, first.pc)

    def _join(self, groups: list[Group]) -> list[Group]:
        """Those at one place become one; with one that waits for lanes, only one that has some of its warps."""
        at: dict[int, Group] = {}
        alone = []
        for group in sorted(groups, key=lambda group: bool(group.apart)):
            first = at.setdefault(group.pc, group)
            if group.apart and first is not group and not _share_a_warp(first, group):
                alone.append(group)
            elif first is not group:
                mine = self.nobody if first.mask is None or group.mask is None else first.mask | group.mask
                self._narrow(first, mine)
                first.strong, first.vain = first.strong or group.strong, min(first.vain, group.vain)
                first.apart = ""
                self._groups.remove(group)
        return [*at.values(), *alone]

    def split(self, behind: int, target: int, taken: Array) -> int:
        """A branch that only some take: the others go on behind it, in a group of their own."""
        group = self._current
        active = ~self.nobody if self.mask is None else self.mask
        self._narrow(group, active & taken)
        self._groups.append(self._group(behind, active & ~taken, group.family, group))
        self._regroup = True
        return target

    def _hold(self, pc: int, waiting: Array, message: str) -> None:
        """These wait for the other lanes of their warps; whole warps beside them go on, which may be waited for."""
        group, active = self._current, ~self.nobody if self.mask is None else self.mask
        group.apart = message
        if (active & ~waiting).any():
            self._groups.append(self._group(pc, active & ~waiting, group.family, group))
            self._narrow(group, active & waiting)

    def leave(self, m: Array | None) -> None:
        """These threads have ended."""
        active = ~self.nobody if self.mask is None else self.mask
        gone = active if m is None else active & m
        self._live &= ~gone
        for other in self._groups:
            if other.apart and other is not self._current and other.mask is not None:
                warps = other.mask.reshape(-1, WARP).any(1) & gone.reshape(-1, WARP).any(1)
                if warps.any() and other.pc < self._current.pc:  # they did not come by
                    raise FaultError(other.apart)
                other.apart = ""
        left = active & ~gone
        if left.any():
            self._narrow(self._current, left)
        else:
            self._groups.remove(self._current)
        self.memory.note_change()  # that they are gone may be what others wait for: it is no deadlock yet
        self._regroup = True
        self._release()

    def arrive(self, one: Instruction) -> None:
        """At the barrier of all threads of each program."""
        group, mask = self._current, self.mask
        if mask is None and self._live.all():
            self.shared.sync(slice(None))
            self.memory.clocks.barrier(None)
            self.report.barriers += len(self.every) // self.threads
            return
        active = ~self.nobody if mask is None else mask
        lanes, live = active.reshape(-1, WARP), self._live.reshape(-1, WARP)
        split = lanes.any(1) & (live & ~lanes).any(1)
        if split.any():
            self._wait_for_lanes(split, active, f"comes to {one}")
        complete = np.all((active | ~self._live).reshape(-1, self.threads), axis=1)
        present = np.any(active.reshape(-1, self.threads), axis=1)
        if complete[present].all():
            self._pass(present)
            if self._order != "grid":
                self.may_stop(0.1)
            return
        self._groups.remove(group)
        parked = self._group(one.pc + 1, active, group.family, group)
        self._parked.append(parked)
        self._stop = self._regroup = True
        self._release()

    def _pass(self, programs: Array) -> None:
        self.shared.sync(np.flatnonzero(programs))
        self.memory.clocks.barrier(programs)
        self.report.barriers += int(programs.sum())

    def _release(self) -> None:
        """The programs of which all live threads are at the barrier go on."""
        if not self._parked:
            return
        waiting = self.nobody
        for group in self._parked:
            waiting = waiting | (~self.nobody if group.mask is None else group.mask)
        ready = np.all((waiting | ~self._live).reshape(-1, self.threads), axis=1)
        complete: Array = ready & np.any(waiting.reshape(-1, self.threads), axis=1)
        if not complete.any():
            return
        self._pass(complete)
        here = np.repeat(complete, self.threads)
        parked, self._parked = self._parked, []
        for group in parked:
            mask = ~self.nobody if group.mask is None else group.mask
            if (mask & here).any():
                passed = mask & here
                self._groups.append(self._group(group.pc, None if passed.all() else passed, group.family, group))
            if (mask & ~here).any():
                self._parked.append(self._group(group.pc, mask & ~here, group.family, group))

    # Turns.

    def may_stop(self, chance: float) -> None:
        """Another's turn, perhaps."""
        if self._order != "grid" or self.memory.delivery is not None:
            self._stop = self._stop or self.rng.random() < chance

    def polled(self) -> None:
        """A strong load, or an atomic."""
        self._current.strong = True
        self.may_stop(0.7)

    def turn(self) -> None:
        """A backward jump."""
        group, changes = self._current, self.memory.changes
        if group.strong:
            if group.saw == changes:
                group.vain += 1
                self.report.polls += 1
                self._stop = True
            else:
                group.saw, group.vain = changes, 0
                self._stop = len(self._groups) > 1
            group.strong = False

    def _dozes(self, group: Group) -> bool:
        return bool(group.apart) or (group.vain > 0 and group.saw == self.memory.changes)

    def _check_deadlock(self) -> None:
        if self.memory.delivery is not None and len(self.memory.delivery):
            return
        if all(group.apart or group.vain > self._patience for group in self._groups):
            if apart := next((group.apart for group in self._groups if group.apart), None):
                raise FaultError(apart)
            places = self._places([*self._groups, *self._parked])
            raise FaultError(f"deadlock: everybody waits, and nothing changes:{places}")

    def _places(self, groups: Sequence[Group]) -> str:
        shown = []
        for group in groups:
            thread = 0 if group.mask is None else int(group.mask.argmax())
            shown.append(f"\n    {self.name(thread)} and others: {self.code.instructions[group.pc - 1]}")
        return "".join(shown)

    def finish(self) -> None:
        """What was executed goes to the report, and what was stored to the tensors."""
        self.memory.finish()
        for one, count in zip(self.code.instructions, self._counts, strict=True):
            if count:
                self.report.opcodes[one.opcode] += count
                self.report.lines[one.line] += count
