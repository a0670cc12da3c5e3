"""Global memory: the tensors that a kernel is launched with, each in an address range of its own, and what races in it.

A tensor's range is 64 GiB from the next one's, so what is outside of one is in none. Order is what `clocks.Clocks`
know: an access, and an earlier store of which its warp does not know, race, lock-step or not, but for two strong
accesses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx_machine.clocks import Clocks
from ptx_machine.delivery import Delivery
from ptx_machine.errors import FaultError
from ptx_machine.memory import CLOCK, Memory, agent_of, get, is_strong, put, stamp
from ptx_machine.text import Instruction
from ptx_machine.types import WARP, Array

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

_SLOT = 36  # bits of an address within its tensor's range
_PAGE = 4096  # an address keeps its tensor's alignment up to so much
_MOST_COLUMNS = 1 << 26


def bytes_at(pointer: int, n: int) -> Array:
    """Memory of this process."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * n).from_address(pointer))


def ranges_of(tensors: Sequence[Any]) -> list[tuple[int, int]]:
    """`(pointer, bytes)` of the memory of all, views of the same memory as one."""
    ranges: list[tuple[int, int]] = []
    for pointer, n in sorted({(t.data_ptr(), t.numel() * t.element_size()) for t in tensors}):
        if ranges and pointer < sum(ranges[-1]):
            base, m = ranges.pop()
            pointer, n = base, max(m, pointer + n - base)
        ranges.append((pointer, n))
    return ranges


class Global(Memory):
    """Agents are the grid's warps.

    Attributes:
        ranges: of the tensors, in this process.
        clocks: what each warp knows.
        delivery: where memory is weak.
        loaded: of each granule's loads the last of each program; of a few of them, where that would take too much.
    """

    def __init__(
        self, grid: Grid, ranges: list[tuple[int, int]], programs: int, weak: bool, fresh: dict[int, Array]
    ) -> None:
        starts = np.cumsum([0] + [-(-n // 16) * 16 + _PAGE for _, n in ranges])
        size, grain = int(starts[-1]) + 16, grid.code.grains["global"]
        # By slot, the first and the last of which are nobody's: a tensor's bounds in its slot, and the slot's place.
        nobody = (1 << 62, 0, 0)
        bounds = [(p % _PAGE, p % _PAGE + n, int(start)) for (p, n), start in zip(ranges, starts, strict=False)]
        self._low, self._high, self._start = np.array([nobody, *bounds, nobody]).T.copy()
        data, written = np.zeros(size, np.uint8), np.ones(size, bool)
        self._places = (self._start + self._low)[1:-1].tolist()
        for (pointer, n), at in zip(ranges, self._places, strict=True):
            data[at : at + n] = bytes_at(pointer, n)
            if pointer in fresh:
                written[at : at + n] = fresh[pointer]
        super().__init__(grid, data, grain, np.all(written.reshape(-1, grain), axis=1))
        self.ranges, self._fresh = ranges, fresh
        columns = max(1, min(programs, 16, _MOST_COLUMNS // len(self.written)))
        self.loaded = np.zeros((len(self.written), columns), np.int64)
        self.clocks = Clocks(programs * grid.warps, grid.warps)
        self.delivery = Delivery(np.tile(data, (programs, 1)), grid.rng) if weak else None
        if self.delivery is not None:
            self.data = self.delivery.views.reshape(-1)
        self._bytes = size
        self._releases: list[Array] = []  # what was published, how far it reaches and by which program
        self._reach: list[tuple[int, bool]] = []
        self._published = np.zeros(len(self.written), np.int32)  # of each granule, 1 + which of them it carries
        self._stores = 0

    @property
    def changes(self) -> int:
        """Grows whenever what somebody may load has changed."""
        return self._stores + (0 if self.delivery is None else self.delivery.changes)

    def note_change(self) -> None:
        """Something that nobody stored, but that others may wait for."""
        self._stores += 1

    def address(self, pointer: int) -> int:
        """That of a pointer of this process."""
        slot, (base, _) = next((i, r) for i, r in enumerate(self.ranges, 1) if r[0] <= pointer < sum(r))
        return (slot << _SLOT) + base % _PAGE + pointer - base

    def locate(self, one: Instruction, address: Array, size: int, threads: Array) -> Array:
        slot = np.clip(address >> _SLOT, 0, len(self._low) - 1)
        offset = address & ((1 << _SLOT) - 1)
        bad = (offset < self._low[slot]) | (offset + size > self._high[slot]) | (address % size != 0)
        if bad.any():
            i = int(bad.argmax())
            low, high = self._low[slot[i]], self._high[slot[i]]
            where = f"byte {offset[i] - low} of tensor {slot[i] - 1}, which has {high - low}" if high else "no tensor"
            who = self.grid.name(int(threads[i]))
            raise FaultError(f"address {address[i]:#x}, {where}: {size} bytes are outside, or misaligned: {who}: {one}")
        at: Array = self._start[slot] + offset
        return at

    def _seen_by(self, at: Array, threads: Array) -> Array:
        """Where in `data`, which holds a view a program if memory is weak."""
        return at if self.delivery is None else at + threads // self.grid.threads * self._bytes

    def load(
        self, one: Instruction, at: Array, size: int, threads: Array, raw: Any, order: str | None = None, scope: str =
        "gpu",
    ) -> Array:  # fmt: skip
        granules, agent = self.granules(at, size), threads // WARP
        self.check_written(one, granules, threads)
        stamps = self.stored[granules]
        if stamps.any():
            unordered = self.clocks.unordered(agent[:, None], agent_of(stamps), stamps >> CLOCK)
            if order is None:
                self.race("race: plain load of another's store", stamps, unordered, one)
            else:
                self.race("mixed: strong load of a plain store", stamps, unordered & ~is_strong(stamps), one)
        self._note_load(one, granules, threads, order is not None)
        if order is not None:
            self._learn(granules[:, 0], threads, order, scope)
        self.grid.report.bytes["global load"] += len(at) * size
        return get(self.data, self._seen_by(at, threads), size, raw)

    def _note_load(self, one: Instruction, granules: Array, threads: Array, strong: bool) -> None:
        agent, programs = threads // WARP, threads // self.grid.threads
        self.clocks.touch(programs)
        mine = stamp(self.clocks.now[agent], agent, strong, one)[:, None]
        self.loaded[granules, (programs % self.loaded.shape[1])[:, None]] = mine

    def store(
        self, one: Instruction, at: Array, size: int, threads: Array, values: Array, order: str | None = None, scope:
        str = "gpu",
    ) -> None:  # fmt: skip
        granules, seen = self.granules(at, size), self._seen_by(at, threads)
        self._note_store(one, granules, seen, size, threads, values, order is not None)
        self._publish(granules[:, 0], threads, order, scope)
        put(self.data, seen, size, values)
        mine = stamp(self.clocks.now[threads // WARP] * 0, threads // WARP, False, one)[:, None]
        twice = agent_of(self.stored[granules]) != agent_of(mine)  # two warps in this very instruction
        if twice.any():
            same = self.same(seen, size, values)
            self.race_of_stores("store beside store", self.stored[granules], twice, same, one)
        self._stores += 1
        self.grid.report.bytes["global store"] += len(at) * size
        if self.delivery is not None:
            element = values.dtype.itemsize
            parts = (at[:, None] + np.arange(0, size, element)).ravel()
            source = np.repeat(threads // self.grid.threads, size // element)
            self.delivery.send(source, parts, np.ascontiguousarray(values).ravel())

    def _note_store(
        self, one: Instruction, granules: Array, seen: Array, size: int, threads: Array, values: Array | None, strong:
        bool,
    ) -> None:  # fmt: skip
        """Look for races with earlier accesses; `values` is None where what is stored is known to be another value."""
        agent = threads // WARP
        stored, loaded = self.stored[granules], self.loaded[granules]

        def known() -> Array:
            return np.zeros(granules.shape, bool) if values is None else self.same(seen, size, values)

        if stored.any():
            unordered = self.clocks.unordered(agent[:, None], agent_of(stored), stored >> CLOCK)
            unordered &= ~(is_strong(stored) & strong)
            if unordered.any():
                self.race_of_stores("store after another's store", stored, unordered, known(), one)
        if loaded.any():
            unordered = self.clocks.unordered(agent[:, None, None], agent_of(loaded), loaded >> CLOCK)
            if unordered.any():
                same = np.broadcast_to(known()[..., None], loaded.shape)
                weakly = unordered & ~is_strong(loaded)
                self.race_of_stores("store after another's plain load", loaded, weakly, same, one)
                if not strong:
                    mixed = unordered & is_strong(loaded)
                    self.race("mixed: plain store after a strong load", loaded, mixed, one)
        self.clocks.touch(threads // self.grid.threads)
        self.stored[granules] = stamp(self.clocks.now[agent], agent, strong, one)[:, None]
        self.written[granules] = True

    def update(
        self, one: Instruction, at: Array, size: int, thread: int, f: Callable[[Array], Array], kind: Any, order: str,
        scope: str,
    ) -> Array:  # fmt: skip
        """An atomic of one thread: at once for everybody. One that changes and publishes nothing is a load."""
        threads, granules = np.array([thread]), self.granules(at, size)
        program = thread // self.grid.threads
        self.check_written(one, granules, threads)
        if self.delivery is not None:
            self.delivery.settle(at)
        self._learn(granules[:, 0], threads, order, scope)
        seen = self._seen_by(at, threads)
        old = get(self.data, seen, size, kind)[:, 0].copy()
        new = f(old).astype(old.dtype)
        changed, releases = bool((new != old).any()), order in ("release", "acq_rel")
        if changed or releases:
            self._note_store(one, granules, seen, size, threads, None if changed else new, True)
            self._publish(granules[:, 0], threads, order, scope, atomic=True)
            if self.delivery is not None:
                self.delivery.fence(program, True) if releases else self.delivery.precede(program)
        views = np.arange(1 if self.delivery is None else len(self.delivery.views)) * self._bytes
        put(self.data, views + at, size, np.repeat(new, len(views)))
        self._stores += int(changed)
        self.grid.report.bytes["global atomic"] += size
        return old

    def _learn(self, granules: Array, threads: Array, order: str, scope: str) -> None:
        """An acquire learns what was released at its address; another strong load does once its warp has a fence."""
        published = self._published[granules]
        if not published.any():
            return
        pairs = np.unique(np.stack([threads // WARP, published])[:, published > 0], axis=1)
        for agent, number in pairs.T.tolist():
            program, reaches = self._reach[number - 1]
            if program == agent // self.grid.warps or (reaches and scope != "cta"):
                self.clocks.learn(agent, self._releases[number - 1], order in ("acquire", "acq_rel"))

    def _publish(self, granules: Array, threads: Array, order: str | None, scope: str, atomic: bool = False) -> None:
        """A release publishes what its warp knows; another strong store what it knew at its last fence."""
        releases = order in ("release", "acq_rel")
        before = self._published[granules]
        for agent in np.unique(threads // WARP).tolist() if order is not None else ():
            mine = granules[threads // WARP == agent]
            clock = self.clocks.release(agent) if releases else self.clocks.fenced(agent)
            if releases and self.delivery is not None and not atomic:
                self.delivery.fence(agent // self.grid.warps, False)
            if atomic and before.any():  # which carries an earlier release on
                earlier = self._releases[int(before[0]) - 1]
                clock = earlier if clock is None else np.maximum(clock, earlier)
            if clock is None:
                self._published[mine] = 0
                continue
            self._releases.append(clock)
            self._reach.append((agent // self.grid.warps, scope != "cta"))
            self._published[mine] = len(self._releases)
        if order is None and before.any():
            self._published[granules] = 0

    def fence(self, mask: Array | None, total: bool) -> None:
        threads = self.grid.every if mask is None else np.flatnonzero(mask)
        agents = np.unique(threads // WARP)
        for agent in agents.tolist():
            self.clocks.fence(agent)
        if self.delivery is not None:
            for program in np.unique(agents // self.grid.warps).tolist():
                self.delivery.fence(program, total)

    def finish(self) -> None:
        """Everything is delivered, and what was stored goes to the tensors."""
        if self.delivery is not None:
            self.delivery.all()
        for (pointer, n), at in zip(self.ranges, self._places, strict=True):
            bytes_at(pointer, n)[:] = self.data[at : at + n]
            if pointer in self._fresh:
                first = at // self.grain
                last = -(-(at + n) // self.grain)
                skip = at - first * self.grain
                self._fresh[pointer][:] = np.repeat(self.written[first:last], self.grain)[skip : skip + n]
