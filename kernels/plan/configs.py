"""What is planned for, a scan's shape, and what a plan says: how one scan kernel is launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_GRID_Y = 65535  # batch tiles that a launch has at the most


@dataclass(frozen=True)
class LaunchConfig:
    """How one scan kernel is launched.

    Attributes:
        schedule: `"persistent"` (the whole sequence in one launch) or `"stepwise"` (one launch per step).
        tier: `"solo"` (one program holds all of R), `"grid"` (R spread over the grid, resident), `"streamed"` (R read
            again every step) or `"diagonal"` (no unit needs another: R is diagonal); of the kernels for many rows
            `"wide"` (resident) or `"wide streamed"`; of the kernels for few rows whose layouts are said, in Gluon,
            `"gluon solo"` or `"gluon grid"`.
        exchange: how programs hand over h or dr: `"none"`, `"flag"` or `"barrier"` (sync.py).
        block_b, block_h: batch rows and hidden units per program.
        block_k, num_k: the contraction's chunk and the number of chunks.
        group: chunks fetched together, where R is resident.
        split: over how many warps one chunk is split.
        num_warps: warps per program.
        batch_tiles: batch tiles per launch; further rows run as further launches (waves).
        scatter: of a wide backward, whether programs send parts of dh; else they gather dr.
        stages: chunks on their way at a time, where R is streamed for many rows.
    """

    schedule: str
    tier: str
    exchange: str
    block_b: int
    block_h: int
    block_k: int
    num_k: int
    group: int
    split: int
    num_warps: int
    batch_tiles: int
    scatter: bool = False
    stages: int = 1

    @property
    def wide(self) -> bool:
        """Whether it is of the kernels for many rows."""
        return self.tier.startswith("wide")

    @property
    def gluon(self) -> bool:
        """Whether it is of the kernels that are written in Gluon."""
        return self.tier.startswith("gluon")

    @property
    def resident(self) -> bool:
        """Whether R stays where it is over the whole time loop."""
        return self.tier not in ("streamed", "wide streamed")

    @property
    def counted(self) -> bool:
        """Whether programs have a counter: the barrier's, or that of the slots that Gluon's flag uses again."""
        return self.exchange == "barrier" or (self.gluon and self.exchange == "flag")

    @property
    def alone(self) -> bool:
        """Whether a program computes all that it multiplies, and needs no other's."""
        return self.tier in ("solo", "diagonal", "gluon solo")

    def describe(self) -> str:
        text = f"{self.tier} tier, {self.block_h} units x {self.block_b} rows per program, {self.num_warps} warps"
        return text if self.exchange == "none" else f"{text}, {self.exchange} exchange"


@dataclass(frozen=True)
class ScanShape:
    """What a launch is chosen for.

    Attributes:
        gates: the cell's gates.
        backward: which of the two scans.
        element_bytes: of the exchanged tensors and the weights.
        batch, hidden, directions: sizes; `hidden`: of one head.
        ieee: whether products are to be exact float32 ones, which the matrix units do not do.
        inner: how many of the gates are contracted apart from the others, after one more exchange (counts.py).
        moved: elements per row and unit that a step reads from memory or writes there, h's exchange aside; the same for
            every launch, so it has no part in the choice of one.
        heads: how many independent blocks R has in each direction.
        diagonal: whether they are of one unit each, and for that no blocks to anybody: `heads` is 1, `hidden` is all.
        extra: tiles that are live besides those that the gates let expect (counts.py).
        states, constants: of the cell (counts.py); for the limits alone.
    """

    gates: int
    backward: bool
    element_bytes: int
    batch: int
    hidden: int
    directions: int
    ieee: bool = False
    inner: int = 0
    moved: int = field(default=0, compare=False)
    heads: int = 1
    diagonal: bool = False
    extra: int = 0
    states: int = 1
    constants: int = 0

    @property
    def groups(self) -> int:
        """How many scans run side by side, none of which needs another."""
        return self.directions * self.heads

    @property
    def left(self) -> int:
        """Operands read per unit of K: h forward, one gradient per gate backward."""
        return self.gates if self.backward else 1

    @property
    def out(self) -> int:
        """Accumulators per unit: one per gate forward, dh backward."""
        return 1 if self.backward else self.gates


def describe(launches: Sequence[LaunchConfig]) -> str:
    """The launches of a layer's passes, in words."""
    texts = [launch.describe() for launch in launches]
    return f"forward: {texts[0]}; backward: {texts[1]}" if len({*texts}) == 2 else texts[0]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The least from `n` on."""
    return 1 << max(n - 1, 0).bit_length()
