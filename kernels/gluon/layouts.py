"""The layouts of a launch whose kernels are Gluon's: who holds what.

A layout is a list of bits for registers, lanes and warps each: which step along which dimension a bit of the index of
a register, lane or warp means.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fastrnn.kernels.gluon.language import gl
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.plan.gluon import held_chunks

_Bit = tuple[int, int]  # dimension, step


def _bits(dimension: int, size: int) -> list[_Bit]:
    return [(dimension, 1 << bit) for bit in range(size.bit_length() - 1)]


def _linear(shape: list[int], registers: Sequence[_Bit], rest: Sequence[_Bit], warps: int) -> Any:
    """`rest` are lanes, then warps, then registers; where there are fewer than threads, several hold the same."""

    def basis(bit: _Bit | None) -> list[int]:
        return [bit[1] if bit is not None and dimension == bit[0] else 0 for dimension in range(len(shape))]

    threads = 5 + warps.bit_length() - 1
    spread = [*rest[:threads], *[None] * max(0, threads - len(rest))]
    held = [*registers, *rest[threads:]]
    lanes, over = spread[:5], spread[5:]
    return gl.DistributedLinearLayout(*([basis(bit) for bit in bits] for bits in (held, lanes, over)), [], shape)


def grid_layouts(config: LaunchConfig) -> dict[str, Any]:
    """Of programs that share R: the contraction is split over the warps, and each thread owns (row, unit) pairs of the
    sum.

    * MMA: of the product of each warp, `[WARPS, rows, units]`.
    * WIRE: of what is read from the wire, `[WARPS, row blocks, lane, number]`.
    * KEPT: of a right operand on its way to shared memory, a thread's numbers side by side.
    * SUM: of the partial sums, `[WARPS, units / 8, rows, 8]`, all that a thread owns in that thread; PARTIAL: of them
      in shared memory. In rows of more than 8 they would meet in the banks.
    * OWN: of the tiles of the pointwise part, `[rows, units]`.
    * SEND, PART, SHARED: where parts are sent (`parts.py`), of a product of all gates, of what is sent, of dr.
    """
    warps, rows, units = config.num_warps, config.block_b, config.block_h
    owned = [*_bits(3, 8), *_bits(1, units // 8), *_bits(2, rows)]
    found = {
        "MMA": gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[warps, 1, 1], instr_shape=[1, 16, 8]),
        "WIRE": _linear(
            [warps, rows // 16, 32, 8], [*_bits(3, 8), *_bits(1, rows // 16)], [*_bits(2, 32), *_bits(0, warps)], warps
        ),
        "SUM": _linear([warps, units // 8, rows, 8], _bits(0, warps), owned, warps),
        "PARTIAL": gl.SwizzledSharedLayout(1, 1, 1, order=[3, 2, 1, 0]),
        "KEPT": _linear([warps, 32, units // 2], _bits(2, units // 2), [*_bits(1, 32), *_bits(0, warps)], warps),
        "OWN": _linear([rows, units], [], [*_bits(1, units), *_bits(0, rows)], warps),
    }
    if config.scatter:
        found["SEND"] = _by_units(warps)
        found["PART"] = _linear([warps, 32, 8], _bits(2, 8), [*_bits(1, 32), *_bits(0, warps)], warps)
        found["SHARED"] = _shared(units)
    return found


def _by_units(warps: int) -> Any:
    """Of a product `[rows, units]` whose units are divided among the warps."""
    return gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[1, warps], instr_shape=[16, 8])


def _shared(units: int) -> Any:
    """Of an operand `[rows, units]` in shared memory, for all warps to read: 16 bytes are spread over the banks."""
    return gl.SwizzledSharedLayout(8, max(1, 64 // units), max(1, min(8, units // 8)), order=[1, 0])


def solo_layouts(config: LaunchConfig) -> dict[str, Any]:
    """Of a program that holds all of R: its units are divided among the warps, which own what they multiply.

    * MMA and OWN: of the products and tiles, `[rows, units]`.
    * SHARED: of the operand.
    """
    mma = _by_units(config.num_warps)
    return {"MMA": mma, "OWN": mma, "SHARED": _shared(config.block_h)}


@functools.cache
def gluon_constants(gates: int, config: LaunchConfig) -> dict[str, Any]:
    """The compile-time arguments that Gluon's kernels alone have; HELD: how many chunks of R are in registers."""
    layouts = solo_layouts(config) if config.alone else grid_layouts(config)
    return {"WARPS": config.num_warps, "HELD": held_chunks(gates, config), **layouts}
