"""Which launches are considered: those that compile without spills and fit, as far as compile reports have shown."""

from __future__ import annotations

from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.cost import register_estimate, shared_estimate
from fastrnn.kernels.plan.devices import Device

# Of 255; the estimate runs further below what four warps need.
_REGISTER_BUDGET = {8: 250, 4: 225}


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


def fits(shape: ScanShape, config: LaunchConfig, device: Device) -> bool:
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
