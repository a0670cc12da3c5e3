"""What each warp of the grid knows of each other: vector clocks.

A warp's clock goes on when it publishes something. Whoever learns what was published knows all that the publisher
knew. Barriers make all warps of a program know what one does; a release publishes at an address, and an acquire that
reads from there learns; around relaxed and volatile accesses, fences do the same. Between programs nothing else makes
order.
"""

from __future__ import annotations

import numpy as np

from ptx_machine.types import Array


class Clocks:
    """Agents are the grid's warps.

    Attributes:
        seen: of each agent (rows) what it knows of each.
        now: of each agent its own, the diagonal of `seen`.
    """

    def __init__(self, agents: int, warps: int) -> None:
        self.seen = np.eye(agents, dtype=np.int64)
        self.now = np.ones(agents, np.int64)
        self._warps = warps
        self._active = np.zeros(agents // warps, bool)  # programs that touched global memory since their last barrier
        self._observed: dict[int, Array] = {}  # by agent: what a fence would let it know
        self._fenced: dict[int, Array] = {}  # by agent: what it knew at its last fence

    def unordered(self, agent: Array, by: Array, clock: Array) -> Array:
        """Whether `agent` does not know of what `by` did at `clock`."""
        return self.seen[agent, by] < clock

    def touch(self, programs: Array) -> None:
        self._active[programs] = True

    def _advance(self, agents: Array | int) -> None:
        self.seen[agents, agents] += 1
        self.now[agents] += 1

    def barrier(self, programs: Array | None) -> None:
        """All warps of each of these; of all programs, where it is None."""
        active = self._active if programs is None else self._active & programs
        chosen = np.flatnonzero(active)
        if len(chosen) == 0:
            return
        by_program = self.seen.reshape(len(active), self._warps, -1)
        by_program[chosen] = by_program[chosen].max(1, keepdims=True)
        self._advance((chosen[:, None] * self._warps + np.arange(self._warps)).ravel())
        self._active[chosen] = False

    def learn(self, agent: int, clock: Array, at_once: bool) -> None:
        """What was published, by an acquire; or by a weaker load, whose warp knows it once it comes to a fence."""
        self._active[agent // self._warps] = True
        if at_once:
            np.maximum(self.seen[agent], clock, out=self.seen[agent])
        else:
            self._observed[agent] = np.maximum(self._observed.get(agent, 0), clock)

    def release(self, agent: int) -> Array:
        """What it publishes: all that it knows."""
        known = self.seen[agent].copy()
        self._advance(agent)
        self._active[agent // self._warps] = True
        return known

    @property
    def any_fence(self) -> bool:
        return bool(self._fenced)

    def fenced(self, agent: int) -> Array | None:
        """What a relaxed store publishes: what its warp knew at its last fence."""
        return self._fenced.get(agent)

    def fence(self, agent: int) -> None:
        if agent in self._observed:
            np.maximum(self.seen[agent], self._observed[agent], out=self.seen[agent])
        self._fenced[agent] = self.release(agent)
