"""Shared memory of every program of the grid, one after the other, and what races in it.

Its order is made of barriers, and within a warp of `bar.warp.sync`. So a program has a time, which goes on at each, and
two accesses to a granule, one a store, have no order where they come from two warps since the last barrier, or from two
lanes of one since that warp's last. Lock-step hides nothing: what counts is who did what since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ptx_machine.decode import SHARED_BASE
from ptx_machine.errors import FaultError
from ptx_machine.memory import CLOCK, Memory, agent_of, fill, get, put, stamp
from ptx_machine.text import Instruction
from ptx_machine.types import WARP, Array

if TYPE_CHECKING:
    from ptx_machine.grid import Grid


class Shared(Memory):
    """Agents are the grid's threads.

    Attributes:
        size: bytes that each program has.
        stored: the stamp of each granule's last store; 0 for none.
        time, barrier: of each program, now and at its last barrier.
        synced: of each warp, the time of its last barrier, of whatever kind.
        last, other: of each granule's loads the last, and the last of another warp than that one.
        unfenced: 1 + the warp that stored a granule with no proxy fence since; kept where there is wgmma.
        proxied: of each warp, up to what time its last proxy fence covers stores of other warps.
        loading: what the wgmma that is being executed loads, and the stamps of who stored it.
    """

    def __init__(self, grid: Grid, size: int, programs: int) -> None:
        self.size, self.stride, grain = size, -(-size // 16) * 16, grid.code.grains["shared"]
        total = self.stride * programs
        super().__init__(grid, np.zeros(total, np.uint8), grain)
        self.stored, self.last, self.other = (np.zeros(total // grain, np.int64) for _ in range(3))
        self._coming: Array | None = None  # granules that a copy is on its way to
        self.time, self.barrier = np.ones(programs, np.int64), np.ones(programs, np.int64)
        self.synced = np.ones(grid.warps * programs, np.int64)
        self.unfenced = np.zeros(len(self.stored) if grid.code.wgmma else 0, np.int32)
        self.proxied = np.zeros(grid.warps * programs, np.int64)
        self.loading: list[tuple[Array, Array, Array]] = []

    # What makes order.

    def sync(self, programs: Array | slice) -> None:
        """A barrier of all warps of these programs."""
        self.time[programs] += 1
        self.barrier[programs] = self.time[programs]
        self.synced.reshape(len(self.time), -1)[programs] = self.time[programs][:, None]

    def sync_warps(self, warps: Array) -> None:
        """A barrier of the lanes of each of these."""
        programs = warps // self.grid.warps
        self.time[np.unique(programs)] += 1
        self.synced[warps] = self.time[programs]

    def fence_proxy(self, warps: Array) -> None:
        """Covers what these warps stored, and what others of their programs did before the last barrier."""
        self.unfenced[np.isin(self.unfenced, warps + 1)] = 0
        self.proxied[warps] = self.barrier[warps // self.grid.warps]

    # Accesses.

    def locate(self, one: Instruction, address: Array, size: int, threads: Array) -> Array:
        """Where in `data` each thread's `address` is."""
        at = address - SHARED_BASE
        bad = (at < 0) | (at > self.size - size) | (address % size != 0)
        if bad.any():
            i = int(bad.argmax())
            where = f"shared memory of {self.size} bytes, byte {at[i]}: {size} bytes are outside, or misaligned"
            raise FaultError(f"{where}: {self.grid.name(int(threads[i]))}: {one}")
        if self.grid.count_banks and one.name != "wgmma":  # whose loads are no warp's
            self._count_banks(at, size, threads)
        return at + threads // self.grid.threads * self.stride

    def _count_banks(self, at: Array, size: int, threads: Array) -> None:
        """32 banks of 4 bytes; a pass serves as many lanes as ask for 128 bytes, and any number for the same word."""
        words = max(1, size // 4)  # of an access
        bound = self.stride // 4 + words
        turn = threads * words // WARP  # of the lanes of one warp, for a warp has a whole number of them
        asked = np.unique((turn[:, None] * bound + at[:, None] // 4 + np.arange(words)).ravel())
        turn, word = np.divmod(asked, bound)
        passes = np.bincount(turn * 32 + word % 32, minlength=32 * (int(turn[-1]) + 1)).reshape(-1, 32).max(1)
        self.grid.report.conflicts += int(passes.sum() - np.count_nonzero(passes))

    def _unordered(self, stamps: Array, threads: Array, whole: bool) -> tuple[Array, Array]:
        """Whether accesses stamped so and those by `threads` now (by their `whole` warps) have no barrier between; and
        whether, within a warp, no warp sync."""
        at, by = stamps >> CLOCK, agent_of(stamps)
        warp = threads // WARP
        near = by // WARP == warp
        across = ~near & (at >= self.barrier[threads // self.grid.threads])
        return across, near & (at >= self.synced[warp]) & ((by != threads) | whole)

    def load(
        self,
        one: Instruction,
        at: Array,
        size: int,
        threads: Array,
        raw: Any,
        whole: bool = False,
        wgmma: bool = False,
    ) -> Array:
        """`whole`: a warp loads together, whichever lane named the address."""
        granules = self.granules(at, size)
        stamps = self.stored.take(granules)
        missing = stamps == 0
        if self._coming is not None:
            missing |= self._coming.take(granules)
        if missing.any():
            self.found_unwritten(one, missing, threads)
        if wgmma:
            bare = self.unfenced.take(granules) > 0
            bare &= stamps >> CLOCK >= self.proxied[threads // WARP][:, None]
            self.race("race: shared, load by wgmma with no proxy fence after the store", stamps, bare, one)
            self.loading.append((granules, threads, stamps))
        self._note_load(one, granules, stamps, threads, whole)
        self.grid.report.bytes["shared load"] += len(at) * size
        return get(self.data, at, size, raw)

    def _note_load(self, one: Instruction, granules: Array, stamps: Array, threads: Array, whole: bool) -> None:
        programs, warp = threads // self.grid.threads, (threads // WARP)[:, None]
        floor = (self.barrier[programs] << CLOCK)[:, None]
        if (stamps >= floor).any():
            across, lanes = self._unordered(stamps, threads[:, None], whole)
            self.race("race: shared, load after store", stamps, across, one)
            self.race("lanes: shared, load after store", stamps, lanes, one)
        mine = stamp(self.time[programs], threads, False, one)
        if self.grid.warps == 1:
            fill(self.last, granules, mine)
            return
        last = self.last.take(granules)
        recent = (last >= floor) & (agent_of(last) // WARP != warp)  # before the last barrier it no longer matters
        if recent.any():
            self.other[granules[recent]] = last[recent]
        fill(self.last, granules, mine)
        beside = agent_of(self.last.take(granules)) // WARP != warp  # two warps in this very instruction
        if beside.any():
            self.other[granules[beside]] = np.broadcast_to(mine[:, None], granules.shape)[beside]

    def store(
        self, one: Instruction, at: Array, size: int, threads: Array, values: Array, counted: bool = True
    ) -> None:
        """`counted`: among the bytes of the report."""
        granules = self.granules(at, size)
        programs = threads // self.grid.threads
        floor = (self.barrier[programs] << CLOCK)[:, None]
        self._check_store(one, "store", self.stored.take(granules), floor, at, size, threads, values)
        if self._check_store(one, "load", self.last.take(granules), floor, at, size, threads, values):
            self._check_store(one, "load", self.other.take(granules), floor, at, size, threads, values)
        mine = stamp(self.time[programs], threads, False, one)
        fill(self.stored, granules, mine)
        put(self.data, at, size, values)
        stamps = self.stored.take(granules)
        twice = stamps != mine[:, None]  # two threads in this very instruction
        if twice.any():
            self.race_of_stores("shared, store beside store", stamps, twice, self.same(at, size, values), one)
        if self._coming is not None:
            self._coming[granules] = False
        if len(self.unfenced):
            fill(self.unfenced, granules, threads // WARP + 1)
        self.grid.report.bytes["shared store"] += len(at) * size * counted

    def _check_store(
        self,
        one: Instruction,
        after: str,
        stamps: Array,
        floor: Array,
        at: Array,
        size: int,
        threads: Array,
        values: Array,
    ) -> bool:
        """Whether any access stamped so is since the last barrier; those without order with the store are races."""
        if not (stamps >= floor).any():
            return False
        across, lanes = self._unordered(stamps, threads[:, None], False)
        same = self.same(at, size, values)
        self.race_of_stores(f"shared, store after {after}", stamps, across, same, one)
        self.race(f"lanes: shared, store after {after}", stamps, lanes & ~same, one)
        return True

    # What is under way: wgmma's loads, and asynchronous copies.

    def take_loading(self) -> list[tuple[Array, Array, Array]]:
        loading, self.loading = self.loading, []
        return loading

    def finish_loading(self, one: Instruction, loading: list[tuple[Array, Array, Array]]) -> None:
        """Now it has loaded: what was stored since it began, was stored too early."""
        for granules, threads, then in loading:
            stamps = self.stored.take(granules)
            self.race("race: shared, store while wgmma may still load", stamps, stamps != then, one)
            self._note_load(one, granules, stamps, threads, True)

    def begin_copy(self, one: Instruction, at: Array, size: int, threads: Array) -> Array:
        """A copy to there has begun: until it comes, what is there counts as written by nobody. Returns its stamps."""
        self.store(one, at, size, threads, np.full((len(threads), size), 0xFF, np.uint8), counted=False)
        if self._coming is None:
            self._coming = np.zeros(len(self.stored), bool)
        granules = self.granules(at, size)
        self._coming[granules] = True
        return self.stored.take(granules)

    def end_copy(self, one: Instruction, at: Array, size: int, threads: Array, values: Array, then: Array) -> None:
        stamps = self.stored.take(self.granules(at, size))
        self.race("race: shared, store while a copy may still come", stamps, stamps != then, one)
        self.store(one, at, size, threads, values)
