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


def grid_layouts(config: LaunchConfig, packed: int) -> dict[str, Any]:
    """Of programs that share R: the contraction is split over the warps, and each thread owns (row, unit) pairs of the
    sum. `packed`: how many numbers a register has (`wire.packed`).

    * MMA: of the product of each warp, `[WARPS, rows, units]`.
    * WIRE: of what is read from the wire, `[WARPS, row blocks, load, lane, number]`.
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
            [warps, rows // 16, 2 // packed, 32, 4 * packed],
            [*_bits(4, 4 * packed), *_bits(2, 2 // packed), *_bits(1, rows // 16)],
            [*_bits(3, 32), *_bits(0, warps)],
            warps,
        ),
        "SUM": _linear([warps, units // 8, rows, 8], _bits(0, warps), owned, warps),
        "PARTIAL": gl.SwizzledSharedLayout(1, 1, 1, order=[3, 2, 1, 0]),
        "KEPT": _by_thread(warps, packed, units // 4 * packed),
        "OWN": _linear([rows, units], [], [*_bits(1, units), *_bits(0, rows)], warps),
    }
    if config.scatter:
        found["SEND"] = _by_units(warps)
        found["PART"] = _by_thread(warps, packed, 4 * packed)
        found["SHARED"] = _shared(units, packed)
    return found


def _by_thread(warps: int, packed: int, numbers: int) -> Any:
    """Of what each thread has for itself, `[warps, loads, lane, number]`."""
    loads = 2 // packed
    return _linear(
        [warps, loads, 32, numbers], [*_bits(3, numbers), *_bits(1, loads)], [*_bits(2, 32), *_bits(0, warps)], warps
    )


def _by_units(warps: int) -> Any:
    """Of a product `[rows, units]` whose units are divided among the warps."""
    return gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[1, warps], instr_shape=[16, 8])


def _shared(units: int, packed: int) -> Any:
    """Of an operand `[rows, units]` in shared memory, for all warps to read: 16 bytes are spread over the banks."""
    vector = 4 * packed
    return gl.SwizzledSharedLayout(vector, max(1, 8 * vector // units), max(1, min(8, units // vector)), order=[1, 0])


def solo_layouts(config: LaunchConfig, packed: int) -> dict[str, Any]:
    """Of a program that holds all of R: its units are divided among the warps, which own what they multiply.

    * MMA and OWN: of the products and tiles, `[rows, units]`.
    * SHARED: of the operand.
    """
    mma = _by_units(config.num_warps)
    return {"MMA": mma, "OWN": mma, "SHARED": _shared(config.block_h, packed)}


@functools.cache
def gluon_constants(gates: int, element_bytes: int, config: LaunchConfig) -> dict[str, Any]:
    """The compile-time arguments that Gluon's kernels alone have; HELD: how many chunks of R are in registers."""
    packed = 4 // element_bytes
    layouts = solo_layouts(config, packed) if config.alone else grid_layouts(config, packed)
    return {"WARPS": config.num_warps, "HELD": held_chunks(gates, element_bytes, config), **layouts}
