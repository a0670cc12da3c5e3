"""What a launch did, and what is wrong with it."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ptx_machine.text import Instruction
from ptx_machine.types import WARP, Array


@dataclass
class Race:
    """Accesses of one instruction that have no order with those of another; `count` of granules of memory."""

    kind: str
    first: Instruction
    second: Instruction
    count: int = 0

    def __str__(self) -> str:
        return f"{self.kind} ({self.count} granules):\n    {self.first}\n    {self.second}"


@dataclass
class Report:
    """What happened in one launch.

    Attributes:
        opcodes: warp-instructions by opcode: one for each warp of which a lane executed it.
        lines: the same by line of the PTX.
        barriers: programs that came through a `bar.sync`, each time.
        polls: backward jumps after a strong load, with nothing changed in memory since the last such jump.
        bytes: by `"global load"`, `"global store"`, `"global atomic"`, `"shared load"`, `"shared store"`.
        conflicts: of a warp's accesses to shared memory, how many more passes over its banks were needed than for that
            many bytes at best. Counted where the machine was asked to.
        races: by kind and instructions. The kinds, before the colon: "race" between warps or programs; "lanes" within a
            warp, with no `bar.warp.sync` between; "mixed", a plain store and a strong load, what an exchange by flagged
            data lives on; "same value", a store of what is there; "registers", of wgmma's, with no fence.
        unwritten: loads of what nobody wrote, in granules, by instruction.
    """

    opcodes: collections.Counter[str] = field(default_factory=collections.Counter)
    lines: collections.Counter[int] = field(default_factory=collections.Counter)
    barriers: int = 0
    polls: int = 0
    bytes: collections.Counter[str] = field(default_factory=collections.Counter)
    conflicts: int = 0
    races: dict[tuple[str, int, int], Race] = field(default_factory=dict)
    unwritten: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def instructions(self) -> int:
        """Thread-instructions: what all lanes of the warps executed, active or not."""
        return WARP * sum(self.opcodes.values())

    def found(self, *kinds: str) -> list[Race]:
        """The races of these kinds; of all, where none is given."""
        return [race for race in self.races.values() if not kinds or race.kind.split(":")[0] in kinds]

    def kinds(self) -> set[str]:
        """The kinds of its races, and "unwritten" where something was loaded that nobody wrote."""
        return {race.kind.split(":")[0] for race in self.races.values()} | ({"unwritten"} if self.unwritten else set())

    def race(self, kind: str, firsts: Array, second: Instruction, instructions: Sequence[Instruction]) -> None:
        """Note pairs without order: of the instructions numbered `firsts` with `second`."""
        for pc, count in zip(*np.unique(firsts, return_counts=True), strict=True):
            new = Race(kind, instructions[pc], second)
            self.races.setdefault((kind, int(pc), second.pc), new).count += int(count)
