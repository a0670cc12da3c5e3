"""How a scan is launched: tile sizes, warps, residency, and the cost model that chooses them.

Pure Python, no torch and no Triton: a choice is a function of sizes and of the device's limits, so it can be made,
tested and reported with no GPU. All times are microseconds, all sizes bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

_KIB = 1024
# Dynamic shared memory one block may use, by compute capability (CUDA C++ Programming Guide, technical specifications).
_SHARED_KIB = {(8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99, (9, 0): 227, (10, 0): 227, (10, 3): 227, (12, 0): 99}


@dataclass(frozen=True)
class Device:
    """The limits and rates of a GPU. Rates are published H100 figures (shared design notes), not measured here.

    Attributes:
        name, capability: what it is.
        sms: streaming multiprocessors, one program each while a persistent scan runs.
        shared_bytes: shared memory one program may use.
        hop_us, barrier_us: from one program's store to another's use of it, through L2, where the data is its own flag,
            and where a counter says that it is there.
        launch_us: from one kernel launch to the next, in a stream kept full.
        l2_rate, memory_rate: bytes per microsecond of the whole device.
        sm_l2_rate, sm_shared_rate: bytes per microsecond of one SM, from L2 and from shared memory.
        sm_mac_rate: 16-bit multiply-adds per microsecond of one SM, through mma.sync.
        sm_issue_rate: instructions of a warp that an SM can issue per microsecond: four a cycle.
        l2_bytes: what L2 holds.
    """

    name: str
    capability: tuple[int, int]
    sms: int
    shared_bytes: int
    hop_us: float = 0.6
    barrier_us: float = 1.1
    launch_us: float = 3.0
    l2_rate: float = 5.5e6
    memory_rate: float = 3.0e6
    sm_l2_rate: float = 1.0e5
    sm_shared_rate: float = 2.2e5
    sm_mac_rate: float = 2.2e6
    sm_issue_rate: float = 4 * 1755.0
    l2_bytes: int = 50_000_000


def shared_bytes(capability: tuple[int, int]) -> int:
    """Shared memory one block may use; the smallest there is for a GPU this table does not know."""
    return _SHARED_KIB.get(capability, 99) * _KIB


DEVICES: dict[str, Device] = {
    name: Device(name, capability, sms, shared_bytes(capability))
    for name, capability, sms in (("sm_80", (8, 0), 108), ("sm_90", (9, 0), 132), ("sm_100", (10, 0), 148))
}


@dataclass(frozen=True)
class LaunchConfig:
    """How one scan kernel is launched.

    Attributes:
        schedule: `"persistent"` (the whole sequence in one launch) or `"stepwise"` (one launch per step).
        tier: `"solo"` (one program holds all of R), `"grid"` (R spread over the grid, resident) or `"streamed"` (R read
            again every step).
        exchange: how programs hand over h or dr: `"none"`, `"flag"` or `"barrier"` (sync.py).
        block_b, block_h: batch rows and hidden units per program.
        block_k, num_k: the contraction's chunk and the number of chunks.
        group: chunks fetched together, where R is resident.
        split: over how many warps one chunk is split.
        num_warps: warps per program.
        batch_tiles: batch tiles per launch; further rows run as further launches (waves).
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
        batch, hidden, directions: sizes.
        ieee: whether products are to be exact float32 ones, which the matrix units do not do.
        inner: how many of the gates are contracted apart from the others, after one more exchange (counts.py).
        moved: elements per row and unit that a step reads from memory or writes there, h's exchange aside; the same for
            every launch, so it has no part in the choice of one.
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

    @property
    def left(self) -> int:
        """Operands read per unit of K: h forward, one gradient per gate backward."""
        return self.gates if self.backward else 1

    @property
    def out(self) -> int:
        """Accumulators per unit: one per gate forward, dh backward."""
        return 1 if self.backward else self.gates


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def shared_estimate(shape: ScanShape, config: LaunchConfig) -> int:
    """Shared memory the compiler will need at most: R's slice, the left operands in flight and the reductions' scratch.

    An upper bound, and tight where it matters; the test of the offline report compares it with the compiler's figure.
    """
    chunk = config.block_k * shape.element_bytes
    chunks = 1 if config.tier == "streamed" else config.num_k
    weights = shape.gates * config.block_h * chunk * chunks
    left = shape.left * config.group * config.block_b * chunk
    scratch = config.split * config.block_b * config.block_h * 4 * shape.out
    # A split contraction's scratch reuses the left operands' memory; the others' does not.
    return weights + (max(left, scratch) if config.split > 1 else left + scratch)


def register_estimate(shape: ScanShape, config: LaunchConfig) -> float:
    """Registers per thread of a split contraction, fitted to sm_90 compile reports (Triton 3.7.1).

    What counts is the left operands in flight (a 16-bit element takes a register too, while it is checked for the
    exchange's pattern), the accumulators and pointwise tiles, and streamed weights on their way to shared memory.
    """
    threads = config.num_warps * 32
    left = shape.left * config.group * config.block_b * config.block_k / threads
    acc = shape.out * config.block_b * config.block_h / 32
    pointwise = 12 * config.block_b * config.block_h / threads
    streamed = shape.gates * config.block_h * config.block_k * shape.element_bytes / 4 / threads
    base, per_tile = (78, 3.2) if shape.backward else (56, 2.4)
    total = base + 1.6 * left + per_tile * (acc + pointwise) + (0.6 * streamed if config.tier == "streamed" else 0)
    return total + (20 if shape.element_bytes == 4 else 0)


def instruction_estimate(shape: ScanShape, config: LaunchConfig) -> float:
    """Instructions that a warp executes per step, fitted to sm_90 compile reports (Triton 3.7.1; half within 4 %).

    What grows with the tile: the left operands' loads, and the check of each of their elements where the data is its
    own flag; the matrix instructions; and the pointwise part, which a split contraction leaves every warp to repeat.
    """
    threads = config.num_warps * 32
    padded_k = config.num_k * config.block_k
    left = shape.left * config.block_b * padded_k / threads if config.tier != "solo" else 0.0
    rounds = _ceil_div(config.num_k, config.group)
    products = shape.gates * max(1, config.block_h // 8) * (config.block_b // 16) * padded_k / 16 / config.num_warps
    pointwise = shape.gates * config.block_b * config.block_h / (32 if config.split > 1 else threads)
    base, load, check, per_round, mma, point = (
        (137, 0.6, 5.9, 19, 0.6, 15.8) if shape.backward else (99, 0.7, 5.4, 36, 1.9, 31)
    )
    load += check if config.exchange == "flag" else 0
    streamed = shape.gates * config.block_h * padded_k * shape.element_bytes / 16 / threads
    total = base + load * left + per_round * rounds + mma * products + point * pointwise
    return total + (3 * streamed if config.tier == "streamed" else 0)


def _solo_per_sm(shape: ScanShape, config: LaunchConfig, device: Device) -> int:
    """How many solo programs an SM runs at a time; their registers as compile reports have them (sm_90)."""
    registers = min(255, 32 + 5 * config.block_h // 2) * config.num_warps * 32
    return max(1, min(device.shared_bytes // (shared_estimate(shape, config) + _KIB), 65536 // registers))


def step_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """Estimated time of one step: `launch_cost`, or what memory takes for all that a step moves where that is more."""
    moved = shape.moved * shape.batch * shape.hidden * shape.directions * shape.element_bytes
    return max(launch_cost(shape, config, device), moved / device.memory_rate)


def launch_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """Estimated time of one step, all waves counted, if x, saved values and outputs moved in no time.

    The sum of what a step waits for in turn: its instructions, the exchange's hop (or the launch), its tile of h or dr
    through L2, R's slice from shared memory or L2, the matrix instructions, and what waits within the program.
    """
    units = _ceil_div(shape.hidden, config.block_h)
    tiles = _ceil_div(shape.batch, config.block_b)
    programs = units * min(tiles, config.batch_tiles) * shape.directions
    padded_k = config.num_k * config.block_k
    weights = shape.gates * config.block_h * padded_k * shape.element_bytes
    # Backward, an inner gate's operand is one of the gradients; forward, it is read besides h.
    reads = shape.left if shape.backward else shape.left + shape.inner
    left = reads * config.block_b * padded_k * shape.element_bytes
    macs = shape.gates * config.block_h * config.block_b * padded_k * (shape.element_bytes / 2)
    # Exact float32 products are ordinary instructions, one for 32 of them.
    multiply = macs / 2 / (32 * device.sm_issue_rate) if shape.ieee else macs / device.sm_mac_rate
    issue = instruction_estimate(shape, config) * config.num_warps / device.sm_issue_rate
    cost = 0.3 + multiply + issue
    share = _ceil_div(programs, device.sms)
    if config.tier == "solo":
        read = weights / device.sm_shared_rate
        # Programs of one SM wait at the same time, and take turns with its units.
        waves = _ceil_div(share, _solo_per_sm(shape, config, device))
        cost = max((cost + read) * waves, max(multiply, issue, read) * share)
    else:
        cost += max(programs * left / device.l2_rate, left / device.sm_l2_rate)
        if config.schedule == "persistent":
            rounds = _ceil_div(config.num_k, config.group) if config.tier == "grid" else config.num_k
            # Each round of flagged loads waits for its own data; a barrier is waited for once.
            hop = device.barrier_us if config.exchange == "barrier" else device.hop_us * (1 + 0.5 * (rounds - 1))
            cost += hop * (1 + shape.inner)
        if config.tier == "grid":
            cost += weights / device.sm_shared_rate
        else:
            fits = shape.directions * shape.gates * shape.hidden**2 * shape.element_bytes < 0.8 * device.l2_bytes
            cost += max(
                programs * weights / (device.l2_rate if fits else device.memory_rate), weights / device.sm_l2_rate
            )
    if config.schedule == "stepwise":
        launches = 1 if config.tier == "solo" else 1 + shape.inner
        cost = device.launch_us * launches + cost * (1 if config.tier == "solo" else share)
    return cost * _ceil_div(tiles, config.batch_tiles)


# Of 255; the estimate runs further below what four warps need.
_REGISTER_BUDGET = {8: 250, 4: 225}
_MAX_GRID_Y = 65535


# How wide a contraction resident weights may be unrolled for: beyond it registers spill that the estimate does not see,
# under one of Triton 3.6.0, 3.7.1, 3.8.0 and 3.9.0. In a row: whether it is for 4 warps, for float32, for backward, for
# the barrier (None: either), for how many gates at least, for more units and rows than, and the width. The least holds.
_WIDTHS: tuple[tuple[bool | None, bool | None, bool | None, bool | None, int, int, int, int], ...] = (
    # narrow, float32, backward, barrier, gates, units over, rows over, width
    (None, None, False, None, 3, 8, 0, 1536),
    (True, None, False, None, 3, 8, 0, 768),
    (True, None, False, None, 4, 8, 0, 512),
    (True, None, True, None, 1, 8, 0, 1536),
    (None, None, None, None, 1, 16, 0, 1536),
    # Triton 3.6 has all chunks of float32 operands in flight, where nothing checks them in between.
    (None, True, False, None, 1, 0, 0, 1024),
    (True, True, False, True, 1, 0, 0, 512),
    (True, True, False, True, 1, 8, 0, 256),
    (None, True, False, True, 4, 0, 0, 512),
    (None, True, False, None, 4, 0, 16, 768),
    (None, True, True, None, 1, 0, 0, 1536),
    (None, True, True, None, 1, 16, 0, 1024),
    (None, True, True, None, 4, 0, 0, 768),
)
_WIDEST = 1 << 20  # no limit


def _resident_width(shape: ScanShape, config: LaunchConfig) -> int:
    """The widest contraction that `config` may hold weights for."""
    of = (config.num_warps == 4, shape.element_bytes == 4, shape.backward, config.exchange == "barrier")
    return min(
        (
            width
            for *flags, gates, units, rows, width in _WIDTHS
            if all(flag is None or flag == own for flag, own in zip(flags, of, strict=True))
            and shape.gates >= gates
            and config.block_h > units
            and config.block_b > rows
        ),
        default=_WIDEST,
    )


def _fits(shape: ScanShape, config: LaunchConfig, device: Device) -> bool:
    """Whether `config` compiles without spills and into the shared memory there is, as far as reports have shown."""
    if shared_estimate(shape, config) > device.shared_bytes:
        return False
    if config.tier == "solo":
        return not (shape.ieee and config.block_h > 32)
    # Exact float32 products run on the ordinary units, where unrolled dots need more registers than there are: they are
    # streamed, in a loop.
    if shape.ieee and (config.tier == "grid" or config.block_b > 16 or config.block_k > 128):
        return False
    if config.split > 1:
        width = config.num_k * config.block_k
        narrow, elsewhere = config.num_warps == 4, device.capability[0] != 9
        if config.tier == "grid" and width > _resident_width(shape, config):
            return False
        # Under Triton 3.9, four gradients' float32 chunks in flight are too many where they are wider.
        if (
            config.tier == "grid"
            and shape.element_bytes == 4
            and shape.left == 4
            and config.group * config.block_k > 128
        ):
            return False
        # Two contractions a step take twice the room.
        if config.tier == "grid" and config.block_h > 16 and shape.inner and width > 768:
            return False
        if narrow and config.block_h > 8 and elsewhere:
            return False
        if shape.inner and config.tier == "streamed" and config.exchange == "barrier" and elsewhere:
            return False
        eased = config.exchange != "barrier" and not narrow
        if config.block_h > 16 and not eased and (shape.inner or elsewhere):
            return False
        smallest = config.tier == "streamed" and config.block_b == 16 and config.block_k == 128
        if config.block_h > 16 and smallest and shape.element_bytes == 2:
            return True
        return (config.block_h <= 16 or shape.out == 1) and register_estimate(shape, config) <= _REGISTER_BUDGET[
            config.num_warps
        ]
    # 64 rows: Hopper's warpgroup instructions, forward, in 16 bits, streamed: unrolled over resident weights they spill
    # (Triton 3.8 and 3.9 from H = 512 on), with the barrier any do, and so do 8 units of an LSTM (Triton 3.8).
    return (
        device.capability[0] == 9
        and shape.element_bytes == 2
        and not shape.backward
        and config.tier == "streamed"
        and config.exchange != "barrier"
        and config.block_h == 16
        and config.block_k == 256
    )


def _solo(shape: ScanShape, schedule: str) -> Iterator[LaunchConfig]:
    size = max(16, _power_of_two(shape.hidden))
    if size <= 128:
        # Backward in float32, 64 units need more registers than four warps have.
        warps = 8 if size > 64 or (size == 64 and shape.backward and shape.element_bytes > 2) else 4
        yield LaunchConfig(schedule, "solo", "none", 16, size, size, 1, 1, 1, warps, _MAX_GRID_Y)


def _spread(shape: ScanShape, device: Device, schedule: str, exchange: str) -> Iterator[LaunchConfig]:
    """R over the grid: resident or streamed where the schedule is persistent, streamed where it is stepwise."""
    persistent = schedule == "persistent"
    for block_b, block_h, block_k in itertools.product((16, 32, 64), (8, 16, 32), (512, 256, 128)):
        programs = _ceil_div(shape.hidden, block_h) * shape.directions
        tiles = min(max(1, _ceil_div(shape.batch, block_b)), device.sms // programs) if persistent else _MAX_GRID_Y
        if tiles == 0:
            continue
        num_k = _ceil_div(shape.hidden, block_k)
        for tier, group in (*(("grid", g) for g in (4, 3, 2, 1) if persistent and num_k % g == 0), ("streamed", 1)):
            # Of a split contraction every warp repeats the pointwise part: four of them issue half of what eight do.
            for warps in (8, 4) if block_b < 64 else (8,):
                split = warps if block_b < 64 else 1
                yield LaunchConfig(
                    schedule, tier, exchange, block_b, block_h, block_k, num_k, group, split, warps, tiles
                )


def candidates(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> Iterator[LaunchConfig]:
    """Every launch that is known to work for `shape`; of one exchange, where it is given."""
    exchanges = ("none",) if schedule == "stepwise" else ("flag", "barrier") if exchange is None else (exchange,)
    spread = itertools.chain.from_iterable(_spread(shape, device, schedule, kind) for kind in exchanges)
    for config in itertools.chain(_solo(shape, schedule), spread):
        if _fits(shape, config, device):
            yield config


def ranked(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> list[LaunchConfig]:
    """The candidates, the one that the cost model likes best first; none where the device has no room for any."""
    return sorted(candidates(shape, device, schedule, exchange), key=lambda config: launch_cost(shape, config, device))


def choose(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> LaunchConfig | None:
    """The first of `ranked`, or None."""
    return next(iter(ranked(shape, device, schedule, exchange)), None)
