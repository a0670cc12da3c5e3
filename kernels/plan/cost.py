"""What a launch of ours takes: shared memory, registers, instructions, and by them the time of a step.

Estimates, from sizes and the device's limits alone. All times are microseconds, all sizes bytes.
"""

from __future__ import annotations

from fastrnn.kernels.plan import gluon, wide
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape, ceil_div
from fastrnn.kernels.plan.devices import KIB, Device

# Accumulators' worth of registers that a tile takes which is live beyond those that the gates let expect.
_EXTRA_REGISTERS = 0.6


def shared_estimate(shape: ScanShape, config: LaunchConfig) -> int:
    """Shared memory the compiler will need at most: R's slice, the left operands in flight and the reductions' scratch.

    An upper bound, and tight where it matters; the test of the offline report compares it with the compiler's figure.
    """
    if config.wide:
        return wide.shared_estimate(shape, config)
    if config.gluon:
        return gluon.shared_estimate(shape, config)
    if config.tier == "diagonal":  # four gates on their way to the threads that multiply them, or back
        return config.block_b * config.block_h * 16
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
    acc = (shape.out + _EXTRA_REGISTERS * shape.extra) * config.block_b * config.block_h / 32
    pointwise = 12 * config.block_b * config.block_h / threads
    streamed = shape.gates * config.block_h * config.block_k * shape.element_bytes / 4 / threads
    base, per_tile = (78, 3.2) if shape.backward else (56, 2.4)
    total = base + 1.6 * left + per_tile * (acc + pointwise) + (0.6 * streamed if config.tier == "streamed" else 0)
    return total + (20 if shape.element_bytes == 4 else 0)


def _approximate(shape: ScanShape) -> int:
    """How many instructions less an element of a gate takes where activations are approximate: forward, 10.8 of a GRU,
    13.8 of an LSTM, 16 of an RNN (Triton 3.7.1). Backward few gates have any."""
    return 13 if not (shape.ieee or shape.backward) else 0


def instruction_estimate(shape: ScanShape, config: LaunchConfig) -> float:
    """Instructions that a warp executes per step, fitted to sm_90 compile reports (Triton 3.7.1; half within 4 %).

    What grows with the tile: the left operands' loads, and the check of each of their elements where the data is its
    own flag; the matrix instructions; and the pointwise part, which a split contraction leaves every warp to repeat.
    """
    threads = config.num_warps * 32
    padded_k = config.num_k * config.block_k
    left = shape.left * config.block_b * padded_k / threads
    rounds = ceil_div(config.num_k, config.group)
    products = shape.gates * max(1, config.block_h // 8) * (config.block_b // 16) * padded_k / 16 / config.num_warps
    # Backward, a state or saved tensor beyond those that the gates let expect takes a third of what a gate does.
    gates = shape.gates + (0.35 * shape.extra if shape.backward else 0)
    pointwise = gates * config.block_b * config.block_h / (32 if config.split > 1 else threads)
    if config.tier == "solo":
        base, mma, point = (50, 1.4, 16) if shape.backward else (45, 1.2, 25.5 - _approximate(shape))
        return base + mma * products * shape.element_bytes / 2 + point * pointwise
    base, load, check, per_round, mma, point = (
        (137, 0.6, 5.9, 19, 0.6, 15.8) if shape.backward else (99, 0.7, 5.4, 36, 1.9, 31)
    )
    point -= _approximate(shape)
    load += check if config.exchange == "flag" else 0
    streamed = shape.gates * config.block_h * padded_k * shape.element_bytes / 16 / threads
    total = base + load * left + per_round * rounds + mma * products + point * pointwise
    return total + (3 * streamed if config.tier == "streamed" else 0)


def _solo_per_sm(shape: ScanShape, config: LaunchConfig, device: Device) -> int:
    """How many solo programs an SM runs at a time; their registers as compile reports have them (sm_90)."""
    registers = min(255, 32 + 5 * config.block_h // 2) * config.num_warps * 32
    return max(1, min(device.shared_bytes // (shared_estimate(shape, config) + KIB), 65536 // registers))


def _diagonal_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """`launch_cost` where no unit needs another: an SM's programs wait for memory at the same time, and take turns with
    its units. Instructions and registers as compile reports have them (sm_90, Triton 3.7.1)."""
    elements = ceil_div(config.block_b * config.block_h, config.num_warps * 32)  # of a thread
    programs = ceil_div(shape.hidden, config.block_h) * ceil_div(shape.batch, config.block_b) * shape.groups
    base, point = (60, 20 * shape.gates) if shape.backward else (48, (28 - _approximate(shape)) * shape.gates)
    issue = (base + point * elements) * config.num_warps / device.sm_issue_rate
    share = ceil_div(programs, device.sms)
    at_once = max(1, 65536 // ((36 + 21 * elements) * config.num_warps * 32))
    cost = max((0.3 + issue) * ceil_div(share, at_once), issue * share)
    return cost + (device.launch_us if config.schedule == "stepwise" else 0.0)


def step_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """Estimated time of one step: `launch_cost`, or what memory takes for all that a step moves where that is more."""
    moved = shape.moved * shape.batch * shape.hidden * shape.groups * shape.element_bytes
    return max(launch_cost(shape, config, device), moved / device.memory_rate)


def launch_cost(shape: ScanShape, config: LaunchConfig, device: Device) -> float:
    """Estimated time of one step, all waves counted, if x, saved values and outputs moved in no time.

    The sum of what a step waits for in turn: its instructions, the exchange's hop (or the launch), its tile of h or dr
    through L2, R's slice from shared memory or L2, the matrix instructions, and what waits within the program.
    """
    if config.wide:
        return wide.launch_cost(shape, config, device)
    if config.gluon:
        return gluon.launch_cost(shape, config, device)
    if config.tier == "diagonal":
        return _diagonal_cost(shape, config, device)
    units = ceil_div(shape.hidden, config.block_h)
    tiles = ceil_div(shape.batch, config.block_b)
    programs = units * min(tiles, config.batch_tiles) * shape.groups
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
    share = ceil_div(programs, device.sms)
    if config.tier == "solo":
        read = weights / device.sm_shared_rate
        # Programs of one SM wait at the same time, and take turns with its units.
        waves = ceil_div(share, _solo_per_sm(shape, config, device))
        cost = max((cost + read) * waves, max(multiply, issue, read) * share)
    else:
        cost += max(programs * left / device.l2_rate, left / device.sm_l2_rate)
        if config.schedule == "persistent":
            rounds = ceil_div(config.num_k, config.group) if config.tier == "grid" else config.num_k
            # Each round of flagged loads waits for its own data; a barrier is waited for once.
            hop = device.barrier_us if config.exchange == "barrier" else device.hop_us * (1 + 0.5 * (rounds - 1))
            cost += hop * (1 + shape.inner)
        if config.tier == "grid":
            cost += weights / device.sm_shared_rate
        else:
            fits = shape.groups * shape.gates * shape.hidden**2 * shape.element_bytes < 0.8 * device.l2_bytes
            cost += max(
                programs * weights / (device.l2_rate if fits else device.memory_rate), weights / device.sm_l2_rate
            )
    if config.schedule == "stepwise":
        launches = 1 if config.tier == "solo" else 1 + shape.inner
        cost = device.launch_us * launches + cost * (1 if config.tier == "solo" else share)
    return cost * ceil_div(tiles, config.batch_tiles)
