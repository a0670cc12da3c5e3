"""Global memory: the tensors that a kernel is launched with, each in an address range of its own, and what races in it.

A tensor's range is 64 GiB from the next one's, so what is outside of one is in none. Order is what `clocks.Clocks`
know: an access, and an earlier store of which its warp does not know, race, lock-step or not, but for two strong
accesses.
"""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx_machine.clocks import Clocks
from ptx_machine.delivery import Delivery
from ptx_machine.errors import FaultError
from ptx_machine.memory import CLOCK, Memory, agent_of, fill, get, is_strong, put, stamp
from ptx_machine.tensors import Tensor
from ptx_machine.text import Instruction
from ptx_machine.types import WARP, Array

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

_SLOT = 36  # bits of an address within its tensor's range
_PAGE = 4096  # an address keeps its tensor's alignment up to so much


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
    """

    def __init__(
        self, grid: Grid, ranges: list[tuple[int, int]], programs: int, weak: bool, fresh: dict[int, Array]
    ) -> None:
        self._starts: list[int] = np.cumsum([0] + [-(-n // 16) * 16 + _PAGE for _, n in ranges]).tolist()
        size, grain = self._starts[-1] + 16, grid.code.grains["global"]
        # By slot, the first and the last of which are nobody's: a tensor's bounds in its slot, and the slot's place.
        nobody = (1 << 62, 0, 0)
        bounds = [(p % _PAGE, p % _PAGE + n, start) for (p, n), start in zip(ranges, self._starts, strict=False)]
        self._low, self._high, self._start = np.array([nobody, *bounds, nobody]).T.copy()
        self._places = [start + low for low, _, start in bounds]
        data = np.zeros(size, np.uint8)
        self._tensors = []
        for (pointer, n), at in zip(ranges, self._places, strict=True):
            data[at : at + n] = bytes_at(pointer, n)
            first, last = at // grain, -(-(at + n) // grain)
            written = None
            if pointer in fresh:
                whole = np.ones((last - first) * grain, bool)
                whole[at - first * grain :][:n] = fresh[pointer]
                written = np.all(whole.reshape(-1, grain), axis=1)
            self._tensors.append(Tensor(first, last - first, programs, written))
        super().__init__(grid, data, grain)
        self.ranges, self._fresh = ranges, fresh
        self.clocks = Clocks(programs * grid.warps, grid.warps)
        self.delivery = Delivery(np.tile(data, (programs, 1)), grid.rng) if weak else None
        if self.delivery is not None:
            self.data = self.delivery.views.reshape(-1)
        self._bytes = size
        self._releases: list[Array] = []  # what was published, and by which program, and whether beyond it
        self._reach: list[tuple[int, bool]] = []
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

    def _parts(self, at: Array) -> list[tuple[Tensor, Any]]:
        """The tensors that are accessed, and where in `at`; nearly always one."""
        slot = bisect.bisect_right(self._starts, int(at.min())) - 1
        if at.max() < self._starts[slot + 1]:
            return [(self._tensors[slot], slice(None))]
        slots = np.searchsorted(self._starts, at, "right") - 1
        return [(self._tensors[slot], slots == slot) for slot in np.unique(slots).tolist()]

    def load(
        self,
        one: Instruction,
        at: Array,
        size: int,
        threads: Array,
        raw: Any,
        order: str | None = None,
        scope: str = "gpu",
        counted: bool = True,
    ) -> Array:
        """`counted`: among the bytes of the report."""
        self.clocks.touch(threads // self.grid.threads)
        for tensor, here in self._parts(at):
            granules, by = self.granules(at[here], size) - tensor.first, threads[here]
            agent = by // WARP
            if not tensor.quiet:
                self._check_load(one, tensor, granules, by, order)
                if order is not None:
                    self._learn(tensor, granules[:, 0], by, order, scope)
            stamps = stamp(self.clocks.now[agent], agent, order is not None, one)
            tensor.note_load(granules, by // self.grid.threads, stamps)
        self.grid.report.bytes["global load"] += len(at) * size * counted
        return get(self.data, self._seen_by(at, threads), size, raw)

    def _check_load(self, one: Instruction, tensor: Tensor, granules: Array, threads: Array, order: str | None) -> None:
        if tensor.written is not None:
            missing = ~tensor.written.take(granules)
            if missing.any():
                self.found_unwritten(one, missing, threads)
        stamps = tensor.stored.take(granules)
        if not stamps.any():
            return
        unordered = self.clocks.unordered((threads // WARP)[:, None], agent_of(stamps), stamps >> CLOCK)
        if order is None:
            self.race("race: plain load of another's store", stamps, unordered, one)
        elif unordered.any():
            self.race("mixed: strong load of a plain store", stamps, unordered & ~is_strong(stamps), one)

    def store(
        self,
        one: Instruction,
        at: Array,
        size: int,
        threads: Array,
        values: Array,
        order: str | None = None,
        scope: str = "gpu",
    ) -> None:
        parts = [(t, self.granules(at[here], size) - t.first, here) for t, here in self._parts(at)]
        for tensor, granules, here in parts:
            by = threads[here]
            seen = self._seen_by(at[here], by)
            self._note_store(one, tensor, granules, seen, size, by, values[here], order is not None)
            self._publish(tensor, granules[:, 0], by, order, scope)
        put(self.data, self._seen_by(at, threads), size, values)
        for tensor, granules, here in parts:
            by = threads[here]
            stamps = tensor.stored.take(granules)
            twice = agent_of(stamps) != (by // WARP)[:, None]  # two warps in this very instruction
            if twice.any():
                same = self.same(self._seen_by(at[here], by), size, values[here])
                self.race_of_stores("store beside store", stamps, twice, same, one)
        self._stores += 1
        self.grid.report.bytes["global store"] += len(at) * size
        if self.delivery is not None:
            element = values.dtype.itemsize
            places = (at[:, None] + np.arange(0, size, element)).ravel()
            source = np.repeat(threads // self.grid.threads, size // element)
            self.delivery.send(source, places, np.ascontiguousarray(values).ravel())

    def _note_store(
        self,
        one: Instruction,
        tensor: Tensor,
        granules: Array,
        seen: Array,
        size: int,
        threads: Array,
        values: Array | None,
        strong: bool,
    ) -> None:
        """Look for races with earlier accesses; `values` is None where what is stored is known to be another value."""
        tensor.disturb()
        agent = threads // WARP

        def known() -> Array:
            return np.zeros(granules.shape, bool) if values is None else self.same(seen, size, values)

        stored = tensor.stored.take(granules)
        if stored.any():
            unordered = self.clocks.unordered(agent[:, None], agent_of(stored), stored >> CLOCK)
            unordered &= ~(is_strong(stored) & strong)
            if unordered.any():
                self.race_of_stores("store after another's store", stored, unordered, known(), one)
        if tensor.loaded is not None:
            loaded = tensor.loaded.take(granules, axis=0)
            unordered = self.clocks.unordered(agent[:, None, None], agent_of(loaded), loaded >> CLOCK)
            if unordered.any():
                same = np.broadcast_to(known()[..., None], loaded.shape)
                weakly = unordered & ~is_strong(loaded)
                self.race_of_stores("store after another's plain load", loaded, weakly, same, one)
                if not strong:
                    mixed = unordered & is_strong(loaded)
                    self.race("mixed: plain store after a strong load", loaded, mixed, one)
        self.clocks.touch(threads // self.grid.threads)
        fill(tensor.stored, granules, stamp(self.clocks.now[agent], agent, strong, one))
        if tensor.written is not None:
            tensor.written[granules] = True

    def update(
        self,
        one: Instruction,
        at: Array,
        size: int,
        thread: int,
        f: Callable[[Array], Array],
        kind: Any,
        order: str,
        scope: str,
    ) -> Array:
        """An atomic of one thread: at once for everybody. One that changes and publishes nothing is a load."""
        ((tensor, _),) = self._parts(at)
        threads, granules = np.array([thread]), self.granules(at, size) - tensor.first
        if tensor.written is not None and not tensor.written[granules].all():
            self.found_unwritten(one, ~tensor.written[granules], threads)
        if self.delivery is not None:
            self.delivery.settle(at)
        tensor.disturb()
        self._learn(tensor, granules[:, 0], threads, order, scope)
        seen = self._seen_by(at, threads)
        old = get(self.data, seen, size, kind)[:, 0].copy()
        new = f(old).astype(old.dtype)
        changed, releases = bool((new != old).any()), order in ("release", "acq_rel")
        if changed or releases:
            self._note_store(one, tensor, granules, seen, size, threads, None if changed else new, True)
            self._publish(tensor, granules[:, 0], threads, order, scope, atomic=True)
            if self.delivery is not None:
                program = thread // self.grid.threads
                self.delivery.fence(program, True) if releases else self.delivery.precede(program)
        views = np.arange(1 if self.delivery is None else len(self.delivery.views)) * self._bytes
        put(self.data, views + at, size, np.repeat(new, len(views)))
        self._stores += int(changed)
        self.grid.report.bytes["global atomic"] += size
        return old

    def _learn(self, tensor: Tensor, granules: Array, threads: Array, order: str, scope: str) -> None:
        """An acquire learns what was released at its address; another strong load does once its warp has a fence."""
        published = tensor.published.take(granules)
        if not published.any():
            return
        pairs = np.unique(np.stack([threads // WARP, published])[:, published > 0], axis=1)
        for agent, number in pairs.T.tolist():
            program, reaches = self._reach[number - 1]
            if program == agent // self.grid.warps or (reaches and scope != "cta"):
                self.clocks.learn(agent, self._releases[number - 1], order in ("acquire", "acq_rel"))

    def _publish(
        self, tensor: Tensor, granules: Array, threads: Array, order: str | None, scope: str, atomic: bool = False
    ) -> None:
        """A release publishes what its warp knows; another strong store what it knew at its last fence."""
        releases = order in ("release", "acq_rel")
        before = tensor.published.take(granules)
        if not releases and (order is None or not self.clocks.any_fence) and not atomic:
            if before.any():
                tensor.published[granules] = 0
            return
        for agent in np.unique(threads // WARP).tolist():
            mine = granules[threads // WARP == agent]
            clock = self.clocks.release(agent) if releases else self.clocks.fenced(agent)
            if releases and self.delivery is not None and not atomic:
                self.delivery.fence(agent // self.grid.warps, False)
            if atomic and before.any():  # which carries an earlier release on
                earlier = self._releases[int(before[0]) - 1]
                clock = earlier if clock is None else np.maximum(clock, earlier)
            if clock is None:
                tensor.published[mine] = 0
                continue
            self._releases.append(clock)
            self._reach.append((agent // self.grid.warps, scope != "cta"))
            tensor.published[mine] = len(self._releases)

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
        for (pointer, n), at, tensor in zip(self.ranges, self._places, self._tensors, strict=True):
            bytes_at(pointer, n)[:] = self.data[at : at + n]
            if pointer in self._fresh and tensor.written is not None:
                skip = at - tensor.first * self.grain
                self._fresh[pointer][:] = np.repeat(tensor.written, self.grain)[skip : skip + n]
