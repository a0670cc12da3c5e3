"""What a launch of Gluon's kernels for few rows takes: registers, shared memory, programs to an SM, a step's time.

A step is a chain there, from the load of h to the store of the next. Its parts are those of `offline.path`, as compile
reports have them (`bench kernels --path`; sm_90, Triton 3.7.1), as functions of what a warp multiplies and computes.
Times are cycles of an H100's clock, where they are not microseconds.
"""

from __future__ import annotations

from fastrnn.kernels.plan.configs import MAX_GRID_Y, LaunchConfig, ScanShape, ceil_div, power_of_two
from fastrnn.kernels.plan.devices import KIB, Device

CYCLES_PER_US = 1755.0
_TELL = 60  # barriers of a hand-over; the rest of it is a hop, fence and all, of one lane to one lane
_MATRIX, _LATENCY = 8, 25  # a matrix instruction's turn, and how much longer it takes
_LOAD, _SUM, _POINTWISE, _AFTER = 310, 40, 40, 60  # what each part takes at the least
_SOLO_LOAD = 110
_WORTH = 1.1  # parts in 16 bits are rounded once more than sums of gathered gradients: they have to be worth it
# Registers of a thread that R may take: with more, and the rest of a step, kernels spill; the fewer, the more chunks
# there are, each of which has an address in shared memory.
_HELD, _HELD_OF_MANY, _MANY = 96, 80, 128


def grid(hidden: int, rows: int, units: int, warps: int, scatter: bool = False) -> LaunchConfig:
    """A launch of programs that share R, all tiles of rows at once. K is split over the warps, which have 16 of a chunk
    each."""
    num_k = ceil_div(hidden, 16 * warps)
    tile = (rows, units, 16 * warps, num_k, num_k, warps, warps)
    return LaunchConfig("persistent", "gluon grid", "barrier", *tile, MAX_GRID_Y, scatter)


def solo(hidden: int, warps: int) -> LaunchConfig:
    """A launch of programs that have all of R."""
    size = max(16, power_of_two(hidden))
    return LaunchConfig("persistent", "gluon solo", "none", 16, size, size, 1, 1, 1, warps, MAX_GRID_Y)


def _per_chunk(gates: int, element_bytes: int, config: LaunchConfig) -> int:
    """Registers of a thread that R takes for a chunk of the contraction."""
    width = config.block_h if config.alone else config.block_k
    return gates * config.block_h * width * element_bytes // (4 * 32 * config.num_warps)


def held_chunks(gates: int, element_bytes: int, config: LaunchConfig) -> int:
    """How many chunks of R are in registers; the others are in shared memory."""
    each = _per_chunk(gates, element_bytes, config)
    return min(config.num_k, (_HELD if each * config.num_k <= _MANY else _HELD_OF_MANY) // each)


def roomy(shape: ScanShape, config: LaunchConfig) -> bool:
    """Whether R has room where a program without others to hand it to needs it: in registers."""
    return not config.alone or held_chunks(shape.gates, shape.element_bytes, config) == config.num_k


def _kept_bytes(shape: ScanShape, config: LaunchConfig) -> int:
    """Of R in shared memory."""
    chunks = config.num_k - held_chunks(shape.gates, shape.element_bytes, config)
    return chunks * _per_chunk(shape.gates, shape.element_bytes, config) * 128 * config.num_warps


def shared_estimate(shape: ScanShape, config: LaunchConfig) -> int:
    """Shared memory, in bytes, at the most: what is kept of R there, and the operands that warps hand each other, or
    their sums."""
    tile = config.block_b * config.block_h
    operand = tile * shape.element_bytes
    if config.alone:
        return operand * (shape.gates if shape.backward else 1 + shape.inner)
    operands = operand * shape.gates if config.scatter else 0
    return _kept_bytes(shape, config) + operands + max(4 * tile * config.num_warps * shape.out, 2048)


def programs_per_sm(shape: ScanShape, config: LaunchConfig, device: Device) -> int:
    """How many an SM is sure to have room for: registers, 255 a thread at the most, and shared memory."""
    registers = 65536 // (256 * 32 * config.num_warps)
    return max(1, min(registers, device.shared_bytes // (shared_estimate(shape, config) + KIB)))


def _solo_per_sm(shape: ScanShape, config: LaunchConfig) -> int:
    registers = min(255, 100 + config.block_h * shape.element_bytes // 2)
    return max(1, 65536 // (registers * 32 * config.num_warps))


def launch_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """`cost.launch_cost`."""
    turns = max(1.0, config.num_warps / 4)  # of the warps of a quarter of an SM
    blocks = config.block_b // 16
    elements = max(1.0, config.block_b * config.block_h / (32 * config.num_warps))
    chunks = config.block_h // 16 if config.alone else config.num_k
    columns = max(1.0, config.block_h / 8 / (config.num_warps if config.alone else 1))
    operands = chunks * blocks * shape.element_bytes / 2  # of 16 of K in 16 bits, of 8 in float32
    matrix = _MATRIX * turns * shape.gates * columns * operands
    # The special units take a fifth of a quarter's turn: ten of their instructions to an LSTM's element forward.
    special = (7 if shape.backward else 20) * (shape.gates + shape.extra) * turns * elements
    moves = 4 * turns * shape.left * operands
    contractions = 1 + shape.inner
    tiles = ceil_div(shape.batch, config.block_b)
    programs = ceil_div(shape.hidden, config.block_h) * min(tiles, config.batch_tiles) * shape.groups
    share = ceil_div(programs, device.sms)
    busy = matrix + special + moves
    if config.alone:
        chain = contractions * (_SOLO_LOAD + _LATENCY) + busy + _POINTWISE + _AFTER
        cost = max(chain * ceil_div(share, _solo_per_sm(shape, config)), busy * share)
        return cost / CYCLES_PER_US * ceil_div(tiles, config.batch_tiles)
    fetch = _LOAD + 12 * config.num_warps * (1 if shape.backward else 0.8)
    added = _SUM + 12 * config.num_warps * (1 if shape.backward else shape.out / 4)
    hop = device.hop_us * CYCLES_PER_US + _TELL
    chain = contractions * (fetch + _LATENCY + added + hop) + matrix + special + _POINTWISE
    width = config.num_k * config.block_k
    reads = 2 if config.scatter else shape.left + (0 if shape.backward else shape.inner)  # parts come and go
    moved = reads * config.block_b * width * shape.element_bytes
    through = max(programs * moved / device.l2_rate, share * moved / device.sm_l2_rate)
    if config.scatter:
        chain += 2 * _MATRIX * config.num_k * turns + 2 * _SUM
    else:  # what has come is multiplied while the rest comes
        through -= min(through, matrix / CYCLES_PER_US)
    kept = _kept_bytes(shape, config)
    cost = (chain + (share - 1) * busy) / CYCLES_PER_US + through + share * kept / device.sm_shared_rate
    rounded = config.scatter and shape.element_bytes == 2
    return cost * (_WORTH if rounded else 1) * ceil_div(tiles, config.batch_tiles)
