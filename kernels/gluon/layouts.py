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
from fastrnn.kernels.plan.gluon import held, in_flight

_Bit = tuple[int, int]  # dimension, step


def _bits(dimension: int, size: int) -> list[_Bit]:
    return [(dimension, 1 << bit) for bit in range(size.bit_length() - 1)]


def _linear(shape: list[int], registers: Sequence[_Bit], rest: Sequence[_Bit], warps: int) -> Any:
    """`rest` are lanes, then warps, then registers; where there are fewer than threads, several hold the same."""

    def basis(bit: _Bit | None) -> list[int]:
        return [bit[1] if bit is not None and dimension == bit[0] else 0 for dimension in range(len(shape))]

    threads = 5 + warps.bit_length() - 1
    spread = [*rest[:threads], *[None] * max(0, threads - len(rest))]
    bits = ([*registers, *rest[threads:]], spread[:5], spread[5:])
    return gl.DistributedLinearLayout(*([basis(bit) for bit in each] for each in bits), [], shape)


def grid_layouts(config: LaunchConfig, packed: int) -> dict[str, Any]:
    """Of programs that share R: the contraction is split over the warps, and each thread owns (row, unit) pairs of the
    sum. `packed`: how many numbers a register has (`wire.packed`).

    * MMA: of the product of each warp, `[WARPS, rows, units]`.
    * WIRE: of what is read from the wire, `[WARPS, row blocks, load, lane, number]`.
    * KEPT: of a right operand on its way to shared memory, a thread's numbers side by side.
    * SUM: of the partial sums, `[WARPS, rows, units]`, all that a thread owns in that thread; PARTIAL: of them in
      shared memory, units moved by eights, so that neither who stores nor who loads meets another in a bank.
    * OWN: of the tiles of the pointwise part, `[rows, units]`.
    * SEND, PART, SHARED: where parts are sent (`parts.py`), of a product of all gates, of what is sent, of dr.
    """
    warps, rows, units = config.num_warps, config.block_b, config.block_h
    places, flag = units // 8, config.exchange == "flag"
    order = _together(rows, units) if flag else [*_bits(1, units), *_bits(0, rows)]
    # Of sums, row + 8 is beside row where one warp owns both.
    summed = [_beside(bit, units) for bit in order] if flag else order
    sums = [warps, rows // 2, 2 * units] if flag else [warps, rows, units]
    if flag:
        places *= 2
    found = {
        "MMA": gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[warps, 1, 1], instr_shape=[1, 16, 8]),
        "WIRE": _linear(
            [warps, rows // 16, 2 // packed, 32, 4 * packed],
            [*_bits(4, 4 * packed), *_bits(2, 2 // packed), *_bits(1, rows // 16)],
            [*_bits(3, 32), *_bits(0, warps)],
            warps,
        ),
        "SUM": _linear(sums, _bits(0, warps), [(dimension + 1, step) for dimension, step in summed], warps),
        "PARTIAL": gl.SwizzledSharedLayout(8, max(1, 4 // places), places, order=[2, 1, 0]),
        "KEPT": _by_thread(warps, 2 // packed, units // 4 * packed),
        "OWN": _linear([rows, units], [], order, warps),
    }
    if config.scatter:
        found["SEND"] = _warps_along(1, warps)
        found["PART"] = _by_thread(warps, 2 // packed, 4 * packed)
        found["SHARED"] = _shared(units, packed)
    return found


def _together(rows: int, units: int) -> list[_Bit]:
    """Of a tile's numbers, row and row + 8 in one warp, as the wire has them side by side. Lanes have units, then rows:
    reductions of Triton's go wrong where they alternate."""
    bits = _bits(1, units)
    return [*bits[:4], (0, 8), *bits[4:], *(bit for bit in _bits(0, rows) if bit != (0, 8))]


def _beside(bit: _Bit, units: int) -> _Bit:
    """Where a tile `[rows / 2, 2 * units]` that has rows 8 apart side by side has a tile's bit."""
    dimension, step = bit
    if dimension == 1 or step < 8:
        return bit
    return (1, units) if step == 8 else (0, step // 2)


def _by_thread(warps: int, loads: int, numbers: int) -> Any:
    """Of what each thread has for itself, `[warps, loads, lane, number]`."""
    return _linear(
        [warps, loads, 32, numbers], [*_bits(3, numbers), *_bits(1, loads)], [*_bits(2, 32), *_bits(0, warps)], warps
    )


def _warps_along(dimension: int, warps: int) -> Any:
    """Of a product of two dimensions, one of which is divided among the warps."""
    each = [1, warps] if dimension else [warps, 1]
    return gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=each, instr_shape=[16, 8])


def _shared(units: int, packed: int) -> Any:
    """Of an operand `[rows, units]` in shared memory, for all warps to read: 16 bytes are spread over the banks."""
    vector = 4 * packed
    return gl.SwizzledSharedLayout(vector, max(1, 8 * vector // units), max(1, min(8, units // vector)), order=[1, 0])


def solo_layouts(config: LaunchConfig, packed: int) -> dict[str, Any]:
    """Of a program that holds all of R: its units are divided among the warps, which own what they multiply.

    * MMA: of the products, `[units, rows]`.
    * OWN: the same of the tiles, `[rows, units]`.
    * KEPT: of a gate's left operand on its way to shared memory, as above.
    * SHARED: of the other operand.
    """
    warps, rows, units = config.num_warps, config.block_b, config.block_h
    lanes, over = [(0, 2), (0, 4), (1, 1), (1, 2), (1, 4)], [(1, 16 << bit) for bit in range(warps.bit_length() - 1)]
    own = _linear([rows, units], [(0, 1), (1, 8)], [*lanes, *over], warps)
    kept = _by_thread(warps, units // (8 * packed), 4 * packed)
    return {"MMA": _warps_along(0, warps), "OWN": own, "KEPT": kept, "SHARED": _shared(units, packed)}


@functools.cache
def gluon_constants(gates: int, element_bytes: int, config: LaunchConfig) -> dict[str, Any]:
    """The compile-time arguments that Gluon's kernels alone have.

    HELD: how many chunks of R, or gates of all of it, are in registers; IN_FLIGHT: how many of these operands take that
    are on their way.
    """
    packed = 4 // element_bytes
    found = {"WARPS": config.num_warps, "HELD": held(gates, element_bytes, config), "FLAG": config.exchange == "flag"}
    if config.alone:
        return found | solo_layouts(config, packed)
    return found | {"IN_FLIGHT": in_flight(gates, element_bytes, config)} | grid_layouts(config, packed)
