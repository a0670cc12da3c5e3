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
_LOAD, _SUM, _POINTWISE = 310, 40, 40  # what each part takes at the least
_ALONE_LOAD, _STORE = 170, 25  # a program with all of R loads from shared memory; a store
_SEND = 75  # 8 numbers on their way to the thread that stores them
_WORTH = 1.1  # parts in 16 bits are rounded once more than sums of gathered gradients: they have to be worth it
# Registers of a thread that R may take: with more, and the rest of a step, kernels spill; the fewer, the more chunks
# there are, each of which has an address in shared memory.
_HELD, _HELD_OF_MANY, _MANY = 96, 80, 128
# Where the data are their own flag: after how many steps programs make sure of each other, and the slots that takes.
PERIOD, SLOTS = 4, 17


def grid(
    hidden: int, rows: int, units: int, warps: int, scatter: bool = False, exchange: str = "barrier"
) -> LaunchConfig:
    """A launch of programs that share R, all tiles of rows at once. K is split over the warps, which have 16 of a chunk
    each."""
    num_k = ceil_div(hidden, 16 * warps)
    tile = (rows, units, 16 * warps, num_k, num_k, warps, warps)
    return LaunchConfig("persistent", "gluon grid", exchange, *tile, MAX_GRID_Y, scatter)


def slots(config: LaunchConfig) -> int:
    """How many steps' data the wire has at a time."""
    return SLOTS if config.exchange == "flag" else 2


def solo(hidden: int) -> LaunchConfig:
    """A launch of programs that have all of R, for 8 rows each; a warp has 16 units."""
    size = max(16, power_of_two(hidden))
    return LaunchConfig("persistent", "gluon solo", "none", 8, size, size, 1, 1, 1, size // 16, MAX_GRID_Y)


def _per_chunk(gates: int, element_bytes: int, config: LaunchConfig) -> int:
    """Registers of a thread that R takes for a chunk of the contraction; where a program has all of it, for a gate."""
    several = 1 if config.alone else gates
    return several * config.block_h * config.block_k * element_bytes // (4 * 32 * config.num_warps)


def _chunks(gates: int, config: LaunchConfig) -> int:
    """In how many R is divided between registers and shared memory."""
    return gates if config.alone else config.num_k


def held(gates: int, element_bytes: int, config: LaunchConfig) -> int:
    """How many chunks of R are in registers; the others are in shared memory."""
    each, chunks = _per_chunk(gates, element_bytes, config), _chunks(gates, config)
    return min(chunks, (_HELD if each * chunks <= _MANY else _HELD_OF_MANY) // each)


def in_flight(gates: int, element_bytes: int, config: LaunchConfig) -> int:
    """How many registers of a thread operands take that are on their way."""
    return 96 if held(gates, element_bytes, config) == config.num_k else 80


def _kept_bytes(shape: ScanShape, config: LaunchConfig) -> int:
    """Of R in shared memory."""
    chunks = _chunks(shape.gates, config) - held(shape.gates, shape.element_bytes, config)
    return chunks * _per_chunk(shape.gates, shape.element_bytes, config) * 128 * config.num_warps


def shared_estimate(shape: ScanShape, config: LaunchConfig) -> int:
    """Shared memory, in bytes, at the most: what is kept of R there, and the operands that warps hand each other, or
    their sums."""
    tile = config.block_b * config.block_h
    operand = tile * shape.element_bytes
    if config.alone:
        return _kept_bytes(shape, config) + operand * (shape.gates if shape.backward else 1 + shape.inner)
    operands = operand * shape.gates if config.scatter else 0
    return _kept_bytes(shape, config) + operands + max(4 * tile * config.num_warps * shape.out, 2048)


def programs_per_sm(shape: ScanShape, config: LaunchConfig, device: Device) -> int:
    """How many an SM is sure to have room for: registers, 255 a thread at the most, and shared memory."""
    registers = 65536 // (256 * 32 * config.num_warps)
    return max(1, min(registers, device.shared_bytes // (shared_estimate(shape, config) + KIB)))


def _work(shape: ScanShape, config: LaunchConfig) -> tuple[float, float, float]:
    """What a step of a program is busy with: its products, activations, and operands on their way."""
    turns = max(1.0, config.num_warps / 4)  # of the warps of a quarter of an SM
    tile = config.block_b * config.block_h
    chunks = config.block_h / 16 if config.alone else config.num_k
    # An instruction has 16 of K in 16 bits and 8 in float32, and a tile of 16 by 8; a thread one number at the least.
    depth = chunks * shape.element_bytes / 2
    products = shape.gates * depth * tile / 128 / (config.num_warps if config.alone else 1)
    elements = max(1.0, tile / (32 * config.num_warps))
    # The special units take a fifth of a quarter's turn: ten of their instructions to an LSTM's element forward.
    special = (7 if shape.backward else 20) * (shape.gates + shape.extra) * elements
    moves = 4 * shape.left * depth * config.block_b / 16
    return _MATRIX * turns * products, turns * special, turns * moves


def _alone_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """`launch_cost` of programs that wait for nobody, which take turns on an SM."""
    programs = ceil_div(shape.batch, config.block_b) * shape.groups
    share = ceil_div(programs, device.sms)
    busy = sum(_work(shape, config)) + _kept_bytes(shape, config) / device.sm_shared_rate * CYCLES_PER_US
    stores = _STORE * (4 if shape.backward else shape.gates)
    chain = (1 + shape.inner) * (_ALONE_LOAD + _LATENCY) + busy + _POINTWISE + stores
    threads = 32 * config.num_warps
    weights = held(shape.gates, shape.element_bytes, config) * _per_chunk(shape.gates, shape.element_bytes, config)
    registers = min(255, 110 + weights + (40 if shape.backward else 0))
    at_once = min(65536 // (registers * threads), device.shared_bytes // (shared_estimate(shape, config) + KIB))
    return max(chain * ceil_div(share, max(1, at_once)), busy * share) / CYCLES_PER_US


def launch_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """`cost.launch_cost`."""
    if config.alone:
        return _alone_cost(shape, config, device)
    matrix, special, moves = _work(shape, config)
    tiles = ceil_div(shape.batch, config.block_b)
    programs = ceil_div(shape.hidden, config.block_h) * min(tiles, config.batch_tiles) * shape.groups
    share = ceil_div(programs, device.sms)
    fetch = _LOAD + 12 * config.num_warps * (1 if shape.backward else 0.8)
    added = _SUM + 12 * config.num_warps * (1 if shape.backward else shape.out / 4)
    hop = device.hop_us * CYCLES_PER_US + _TELL
    flag = config.exchange == "flag"
    if flag:  # the load that finds the data is part of the hop
        hop += _SEND - _TELL - _LOAD
    chain = (1 + shape.inner) * (fetch + _LATENCY + added + hop) + matrix + special + _POINTWISE
    width = config.num_k * config.block_k
    reads = 2 if config.scatter else shape.left + (0 if shape.backward else shape.inner)  # parts come and go
    moved = reads * config.block_b * width * shape.element_bytes
    through = max(programs * moved / device.l2_rate, share * moved / device.sm_l2_rate)
    if config.scatter:
        chain += 2 * _MATRIX * config.num_k * max(1.0, config.num_warps / 4) + 2 * _SUM
    else:  # what has come is multiplied while the rest comes; of flags, half as much again comes too early
        through += through / 2 if flag else 0.0
        through -= min(through, matrix / CYCLES_PER_US)
        # Where registers have not room for all of it at once, it comes in several rounds.
        operand = 2 * shape.element_bytes * shape.left * config.block_b / 16
        window = max(1, in_flight(shape.gates, shape.element_bytes, config) // operand)
        rounds = max(1.0, config.num_k / window)
        chain += (rounds - 1) * max(0.0, _LOAD - matrix / rounds)
    kept = share * _kept_bytes(shape, config) / device.sm_shared_rate
    cost = (chain + (share - 1) * (matrix + special + moves)) / CYCLES_PER_US + through + kept
    rounded = config.scatter and shape.element_bytes == 2
    return cost * (_WORTH if rounded else 1) * ceil_div(tiles, config.batch_tiles)
