"""What a launch of the kernels for many rows takes: shared memory, instructions, programs to an SM, and a step's time.

A step is work there, more than a wait. So it takes the longer of two: what one program waits for in turn, and what all
programs of an SM keep the busiest of its parts busy for. The rates are those of `devices`, the instructions those of
sm_90 compile reports (Triton 3.7.1). All times are microseconds, all sizes bytes.
"""

from __future__ import annotations

from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape, ceil_div, power_of_two
from fastrnn.kernels.plan.devices import KIB, Device

# A trip to L2 that nothing hides, of what is not on its way with the exchange: a chunk, or some parts.
_TRIP_US = 0.3
_WITHIN_US = 0.3  # what waits within a program, as in `cost.launch_cost`
# The share of its cycles in which a scheduler issues: of one warp, of several.
_ISSUE_ALONE, _ISSUE_SHARED = 0.5, 0.7
# The share of its rate that a matrix unit reaches over few columns, since it reads the left operand for each anew.
_NARROW = {16: 0.4, 32: 0.67}
# Parts that are on their way to a thread together (`wide.sum_parts`): this over units and bytes.
_PARTS_AT_ONCE = 512


def slots(shape: ScanShape) -> int:
    """Places for gates in one product: the power of two from the outer gates' number on."""
    return power_of_two(shape.gates - shape.inner)


def _columns(shape: ScanShape, config: LaunchConfig) -> int:
    """Of one product."""
    if not shape.backward:
        return slots(shape) * config.block_h
    return config.block_k if config.scatter else config.block_h


def _weights(shape: ScanShape, config: LaunchConfig) -> int:
    """The slice of R that a program multiplies by."""
    outer = shape.gates - shape.inner
    if shape.backward and not config.scatter:  # the gates' gradients are one row
        width = ceil_div(outer * shape.hidden, config.block_k) * config.block_k
    else:
        width = (outer if shape.backward else slots(shape)) * config.num_k * config.block_k
    return (width + shape.inner * config.num_k * config.block_k) * config.block_h * shape.element_bytes


def shared_estimate(shape: ScanShape, config: LaunchConfig) -> int:
    """Shared memory the compiler will need at most: of R what stays or is on its way, a left operand, a tile that
    changes its layout. Of gradients that are sent, and have 16 bits, those two have the same place."""
    size, cell = shape.element_bytes, config.block_b * config.block_h
    outer, chunk = shape.gates - shape.inner, config.block_k * size
    stages = config.stages
    if config.resident:
        weights, stages = _weights(shape, config), min(2, config.num_k)  # a chunk comes before the last one has gone
    else:
        held = outer if config.scatter else _columns(shape, config) // config.block_h
        weights = (held + shape.inner) * config.block_h * chunk * stages
    left = outer * cell * size if config.scatter else config.block_b * chunk * stages
    moved = config.block_b * _columns(shape, config) * size
    return weights + (max(left, moved) if config.scatter and size == 2 else left + moved)


def instruction_estimate(shape: ScanShape, config: LaunchConfig) -> float:
    """Instructions that a warp executes per step.

    They grow with the units of a thread, by gate, and with what it loads to multiply, or sends and adds up.
    """
    threads = config.num_warps * 32
    units = config.block_b * config.block_h / threads
    left = config.block_b * config.num_k * config.block_k / threads
    size = shape.element_bytes / 2
    if not shape.backward:
        return 75 + 12.5 * shape.gates * units + 1.5 * size * left * (1 + shape.inner)
    gates = shape.gates + 0.35 * shape.extra
    read = 4.0 * left if config.scatter else 1.4 * size * left * (shape.gates - shape.inner)
    return 80 + 12.5 * gates * units + read + 1.4 * size * left * shape.inner


def programs_per_sm(shape: ScanShape, config: LaunchConfig, device: Device) -> int:
    """How many programs an SM has room for, whatever their registers below the most there may be."""
    by_registers = 65536 // (256 * config.num_warps * 32)
    return max(1, min(by_registers, device.shared_bytes // (shared_estimate(shape, config) + KIB)))


def _wave(shape: ScanShape, config: LaunchConfig, device: Device, tiles: int) -> float:
    """A step of one launch of `tiles` batch tiles."""
    size, cell, outer = shape.element_bytes, config.block_b * config.block_h, shape.gates - shape.inner
    units = ceil_div(shape.hidden, config.block_h)
    programs = units * tiles * shape.groups
    share, active = ceil_div(programs, device.sms), min(device.sms, programs)
    l2 = min(device.sm_l2_rate, device.l2_rate / active)
    row = config.block_b * config.num_k * config.block_k * size  # a left operand as wide as h
    read = row * ((outer if shape.backward and not config.scatter else 1) + shape.inner)
    sent = row if config.scatter else 0
    weights = 0 if config.resident else _weights(shape, config)
    # In before the products: the input parts of gates, or what was saved of them, which L2 was asked for a step ahead.
    # Out after them, as much.
    early = cell * (shape.gates + (shape.states if shape.backward else 0)) * size
    late = cell * (shape.gates + shape.states) * size

    narrow = _NARROW.get(_columns(shape, config), 1.0)
    macs = (slots(shape) if not shape.backward else outer) + shape.inner
    multiply = macs * cell * config.num_k * config.block_k * size / 2 / (device.sm_mac_rate * narrow)
    rate = device.sm_issue_rate * (_ISSUE_ALONE if config.num_warps * share < 8 else _ISSUE_SHARED)
    issue = instruction_estimate(shape, config) * config.num_warps / rate

    if config.scatter:
        if 2 * sent * programs > 0.8 * device.l2_bytes:  # two slots of parts
            l2 = min(l2, device.memory_rate / active)
        # All parts come before anything else; a program's own leave while the next are multiplied.
        waits = ceil_div(units * config.block_h * size, _PARTS_AT_ONCE) - 1 + (0 if config.resident else config.num_k)
        products = read / l2 + max((sent + weights) / l2, multiply) + _TRIP_US * waits
    else:
        chunks = config.num_k * (outer if shape.backward else 1)
        load = (read + weights) / l2 / chunks
        if config.resident:  # the next chunk is on its way while one is multiplied
            products = load + (chunks - 1) * max(_TRIP_US, load, multiply / chunks) + multiply / chunks
        else:
            products = (chunks - 1) * _TRIP_US + chunks * load + multiply
    if shape.inner:
        products += (config.num_k - 1) * _TRIP_US
    hops = device.barrier_us * (1 + shape.inner) if config.exchange == "barrier" else _TRIP_US
    chain = _WITHIN_US + max(hops, early / l2) + products + issue
    moved = (early + late + read + sent + weights) * share / l2
    return max(chain, multiply * share, issue * share, moved)


def launch_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """`cost.launch_cost` of these kernels."""
    tiles = ceil_div(shape.batch, config.block_b)
    if config.schedule == "stepwise":
        at_once = programs_per_sm(shape, config, device) * device.sms
        at_once = max(1, at_once // (ceil_div(shape.hidden, config.block_h) * shape.groups))
    else:
        at_once = config.batch_tiles
    whole, rest = divmod(tiles, at_once)
    cost = whole * _wave(shape, config, device, at_once)
    if rest:
        cost += _wave(shape, config, device, rest)
    return cost + (device.launch_us * (1 + shape.inner) if config.schedule == "stepwise" else 0.0)
