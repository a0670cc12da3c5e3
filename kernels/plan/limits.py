"""Which launches are considered: those that fit by two estimates, and by a table of what the estimates do not see.

The table is what compile reports have shown so far: what spills registers under one of Triton 3.6.0, 3.7.1, 3.8.0 and
3.9.0, on one of the GPUs in `DEVICES`, is not taken anywhere. A report of something else adds a row.
"""

from __future__ import annotations

import sys
from collections.abc import Container
from typing import Any, NamedTuple

from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.cost import register_estimate, shared_estimate
from fastrnn.kernels.plan.devices import Device


class Facts(NamedTuple):
    """What a row of the table can speak of.

    Attributes:
        gates, backward, element_bytes, ieee, inner, extra, states, constants, left, out: as in `ScanShape`.
        hopper: whether the GPU is of compute capability 9, which has warpgroup instructions.
        tensor_memory: whether it is of compute capability 10, whose products are in a memory of their own.
        tier, exchange, warps: of the launch, as in `LaunchConfig`.
        split: whether the contraction is split over the warps.
        units, rows: of one program.
        scatter: whether backward sends parts of dh.
        chunk, fetched, width: how much of the contraction is walked at once, fetched together, and there in all.
        depth: that in numbers of 16 bits, as many as take the same room: twice as many of float32.
    """

    gates: int
    backward: bool
    element_bytes: int
    ieee: bool
    inner: int
    extra: int
    states: int
    constants: int
    left: int
    out: int
    hopper: bool
    tensor_memory: bool
    tier: str
    exchange: str
    warps: int
    split: bool
    units: int
    rows: int
    scatter: bool
    chunk: int
    fetched: int
    width: int
    depth: int


def facts(shape: ScanShape, config: LaunchConfig, device: Device) -> Facts:
    return Facts(
        shape.gates,
        shape.backward,
        shape.element_bytes,
        shape.ieee,
        shape.inner,
        shape.extra,
        shape.states,
        shape.constants,
        shape.left,
        shape.out,
        device.capability[0] == 9,
        device.capability[0] == 10,
        config.tier,
        config.exchange,
        config.num_warps,
        config.split > 1,
        config.block_h,
        config.block_b,
        config.scatter,
        config.block_k,
        config.group * config.block_k,
        config.num_k * config.block_k,
        config.num_k * config.block_k * shape.element_bytes // 2,
    )


# A condition: of some facts, by their place, the values there may be. All have to hold.
Condition = tuple[tuple[int, Container[Any]], ...]


def _of(**allowed: Container[Any] | int | str) -> Condition:
    """The condition on the facts that are named: one value, or several."""
    return tuple(
        (Facts._fields.index(name), (values,) if isinstance(values, (int, str)) else values)
        for name, values in allowed.items()
    )


def _holds(condition: Condition, launch: Facts) -> bool:
    # Asked ten thousand times for a choice, which a generator in here makes take twice as long.
    for place, allowed in condition:  # noqa: SIM110
        if launch[place] not in allowed:
            return False
    return True


def _over(value: int) -> range:
    return range(value + 1, sys.maxsize)


def _to(value: int) -> range:
    return range(value + 1)


class Limit(NamedTuple):
    """Launches that are not considered.

    Attributes:
        reason: why.
        of: which.
        unless: those among them that are.
    """

    reason: str
    of: Condition
    unless: Condition | None = None

    def forbids(self, launch: Facts) -> bool:
        return _holds(self.of, launch) and not (self.unless is not None and _holds(self.unless, launch))


_SPREAD = ("grid", "streamed")  # over several programs
_WIDE = ("wide", "wide streamed")
_GLUON, _ALONE = "gluon grid", "gluon solo"
_NO_BARRIER = ("none", "flag")

_EXACT = "exact float32 products run on the ordinary units, where unrolled dots need more registers than there are"
_UNROLLED = "unrolled over resident weights, a wider contraction spills registers that the estimate does not see"
_IN_FLIGHT = "Triton 3.6 has all chunks of float32 operands in flight, where nothing checks them in between"
_FLOAT32 = f"{_UNROLLED}; float32's is the less wide"
_TWO = "two contractions a step keep both slices' descriptors"
_THIRTY_TWO = "of many rows, 32 units in float32 leave room for little else"
_MORE_THAN_GATES = "vectors, or more states than two, have no room beside all of R"
_IN_REGISTERS = "other GPUs than Hopper multiply what is in registers"
_OTHER_GPUS = "compiled for other GPUs than Hopper it spills"
# The streamed tile of 32 units that has room all the same, in 16 bits.
_SMALLEST = _of(tier="streamed", rows=16, chunk=128, element_bytes=2)
# Eight warps, and loads that wait for their own data.
_EASED = _of(exchange=_NO_BARRIER, warps=_over(4))

LIMITS: tuple[Limit, ...] = (
    Limit(_EXACT, _of(tier="solo", ieee=True, units=_over(32))),
    Limit("an LSTM's exact float32 products, unrolled, end the compiler of Triton 3.9, and the process with it",
          _of(tier="solo", ieee=True, backward=False, gates=_over(3), units=_over(16))),
    Limit(f"{_EXACT}: they are streamed, in a loop", _of(tier=_SPREAD, ieee=True),
          unless=_of(tier="streamed", rows=_to(16), chunk=_to(128))),
    Limit("128 units of several gates in float32 spill a few registers, activations being approximate (Triton 3.7)",
          _of(tier="solo", element_bytes=4, backward=False, gates=_over(2), units=_over(64))),
    # How wide a contraction resident weights may be unrolled for.
    Limit(_UNROLLED, _of(tier="grid", backward=False, gates=_over(2), units=_over(8), width=_over(1536))),
    Limit(_UNROLLED, _of(tier="grid", backward=False, gates=_over(2), units=_over(8), warps=4, width=_over(768))),
    Limit(_UNROLLED, _of(tier="grid", backward=False, gates=_over(3), units=_over(8), warps=4, width=_over(512))),
    Limit(_UNROLLED, _of(tier="grid", backward=False, gates=_over(4), warps=4, width=_over(512))),
    Limit(_UNROLLED, _of(tier="grid", backward=False, gates=_over(4), width=_over(768))),
    Limit(_UNROLLED, _of(tier="grid", backward=True, units=_over(8), warps=4, width=_over(1536))),
    Limit(_UNROLLED, _of(tier="grid", backward=True, extra=_over(0), width=_over(768))),
    Limit(_UNROLLED, _of(tier="grid", backward=True, states=_over(2), width=_over(512))),
    Limit(_UNROLLED, _of(tier="grid", backward=True, gates=_over(2), states=_over(1), units=_over(16),
                         width=_over(512))),
    Limit(_UNROLLED, _of(tier="grid", units=_over(16), width=_over(1536))),
    Limit(_IN_FLIGHT, _of(tier="grid", element_bytes=4, backward=False, width=_over(1024))),
    Limit(_IN_FLIGHT, _of(tier="grid", element_bytes=4, backward=False, exchange="barrier", warps=4,
                          width=_over(512))),
    Limit(_IN_FLIGHT, _of(tier="grid", element_bytes=4, backward=False, exchange="barrier", warps=4, units=_over(8),
                          width=_over(256))),
    Limit(_IN_FLIGHT, _of(tier="grid", element_bytes=4, backward=False, exchange="barrier", gates=_over(3),
                          width=_over(512))),
    Limit(_IN_FLIGHT, _of(tier="grid", element_bytes=4, backward=False, exchange="barrier", gates=_over(4), warps=4,
                          width=_over(256))),
    Limit("more states than an LSTM's beside float32 operands that nothing checks spill (Triton 3.7)",
          _of(tier="grid", element_bytes=4, backward=False, exchange="barrier", extra=_over(0), units=_over(8))),
    Limit(_FLOAT32, _of(tier="grid", element_bytes=4, backward=False, gates=_over(3), rows=_over(16),
                        width=_over(768))),
    Limit(_FLOAT32, _of(tier="grid", element_bytes=4, backward=True, width=_over(1536))),
    Limit(_FLOAT32, _of(tier="grid", element_bytes=4, backward=True, units=_over(16), width=_over(1024))),
    Limit(_FLOAT32, _of(tier="grid", element_bytes=4, backward=True, gates=_over(3), width=_over(768))),
    Limit("under Triton 3.9, wider chunks of four gradients in float32 are too many in flight",
          _of(tier="grid", element_bytes=4, left=_over(3), fetched=_over(128))),
    Limit("under Triton 3.9, more than four gradients in float32 leave no room to check them",
          _of(tier=_SPREAD, element_bytes=4, left=_over(4), exchange="flag")),
    Limit("under Triton 3.9, more than four gradients in float32 spill a register beside resident weights",
          _of(tier="grid", element_bytes=4, left=_over(4))),
    Limit("two contractions a step take twice the room", _of(tier="grid", inner=_over(0), units=_over(16),
                                                             width=_over(768))),
    # Many rows. Each product over a resident chunk keeps its descriptors over the time loop.
    Limit(_UNROLLED, _of(tier="wide", width=_over(1024))),
    Limit(_UNROLLED, _of(tier="wide", units=_over(16), width=_over(512))),
    Limit(_UNROLLED, _of(tier="wide", units=_over(32), gates=_over(1), width=_over(128))),
    Limit(_UNROLLED, _of(tier="wide", backward=True, extra=_over(0))),
    Limit(_UNROLLED, _of(tier="wide", backward=True, constants=_over(0), width=_over(512))),
    Limit("vectors, or more states than two, leave room for 16 units", _of(tier=_WIDE, backward=True, extra=_over(0),
                                                                          units=_over(16))),
    Limit("a number of each row leaves room for 16 units (Triton 3.9)", _of(tier=_WIDE, backward=True,
                                                                            constants=_over(0), units=_over(16))),
    Limit("64 units in float32 spill (Triton 3.9)", _of(tier="wide", backward=True, element_bytes=4, units=_over(32))),
    Limit(_UNROLLED, _of(tier="wide", backward=False, states=_over(2), width=_over(512))),
    Limit("more states than two leave room for 16 units",
          _of(tier="wide streamed", backward=False, states=_over(2), units=_over(16))),
    Limit(_UNROLLED, _of(tier="wide", gates=_over(4), width=_over(256))),
    Limit("more than four gates leave no room for a chunk of their weights on its way",
          _of(tier="wide streamed", gates=_over(4))),
    Limit("of a gate in two parts, one is kept apart besides",
          _of(tier="wide", gates=3, backward=False, units=_over(16), width=_over(256))),
    Limit("of a gate in two parts, one is kept apart besides",
          _of(tier="wide", gates=3, backward=False, width=_over(512))),
    Limit("of a gate in two parts, one is kept apart besides (Triton 3.9)",
          _of(tier="wide streamed", gates=3, backward=False, units=_over(16))),
    Limit("two gates' weights of 64 units on their way leave four warps no room (Triton 3.6)",
          _of(tier="wide streamed", gates=2, backward=False, units=_over(32))),
    Limit("two contractions a step are for 32 units at the most", _of(tier=_WIDE, inner=_over(0), units=_over(32))),
    Limit(_TWO, _of(tier="wide", backward=True, inner=_over(0), units=_over(16))),
    Limit(_TWO, _of(tier="wide", backward=True, inner=_over(0), width=_over(256))),
    Limit(_TWO, _of(tier="wide", inner=_over(0), element_bytes=4)),
    Limit(_FLOAT32, _of(tier="wide", element_bytes=4, width=_over(512))),
    Limit(_FLOAT32, _of(tier="wide", element_bytes=4, backward=False, gates=_over(1), width=_over(256))),
    Limit(_FLOAT32, _of(tier="wide", element_bytes=4, backward=True, gates=_over(2), width=_over(256))),
    Limit(_FLOAT32, _of(tier="wide", element_bytes=4, backward=True, units=_over(16), width=_over(256))),
    Limit(_FLOAT32, _of(tier="wide", element_bytes=4, units=_over(32), width=_over(256))),
    Limit(_FLOAT32, _of(tier="wide", element_bytes=4, units=_over(16), gates=_over(1))),
    Limit("products in tensor memory take more of it than there is (Triton 3.7)", _of(tier=_WIDE, tensor_memory=True)),
    Limit(_IN_REGISTERS, _of(tier=_WIDE, hopper=False, gates=_over(1), units=_over(16))),
    Limit(_IN_REGISTERS, _of(tier=_WIDE, hopper=False, units=_over(32))),
    Limit(_IN_REGISTERS, _of(tier=_WIDE, hopper=False, element_bytes=4, backward=False)),
    Limit(_IN_REGISTERS, _of(tier=_WIDE, hopper=False, element_bytes=4, units=_over(16))),
    Limit(_IN_REGISTERS, _of(tier=_WIDE, hopper=False, backward=True, inner=_over(0))),
    Limit(_IN_REGISTERS, _of(tier="wide", hopper=False, backward=False, width=_over(128))),
    Limit(_IN_REGISTERS, _of(tier="wide", hopper=False, backward=True, scatter=False, width=_over(256))),
    Limit(_IN_REGISTERS, _of(tier="wide streamed", hopper=False, backward=True, scatter=False)),
    Limit(_IN_REGISTERS, _of(tier="wide streamed", hopper=False, backward=False)),
    Limit("more than four gates in float32 have more accumulators than there is room for",
          _of(tier=_WIDE, element_bytes=4, backward=False, gates=_over(4))),
    Limit(_THIRTY_TWO, _of(tier=_WIDE, element_bytes=4, backward=False, units=_over(16), gates=_over(3))),
    Limit(_THIRTY_TWO, _of(tier=_WIDE, element_bytes=4, backward=True, units=_over(16), gates=_over(1), scatter=False)),
    Limit(_THIRTY_TWO, _of(tier=_WIDE, element_bytes=4, backward=True, gates=_over(3), units=_over(16),
                           width=_to(128))),
    Limit(_THIRTY_TWO, _of(tier=_WIDE, element_bytes=4, backward=True, units=_over(32), gates=_over(1))),
    Limit(_THIRTY_TWO, _of(tier=_WIDE, element_bytes=4, backward=True, units=_over(16), inner=_over(0))),
    # Layouts said. R takes the registers that it is given: what is left is for the operands on their way.
    Limit("32 rows of several gates have twice the operands and sums", _of(tier=_GLUON, backward=False, gates=_over(3),
                                                                        units=_over(8), rows=_over(16),
                                                                        depth=_over(768))),
    Limit("32 rows of many gates have twice the operands and sums", _of(tier=_GLUON, gates=_over(4), rows=_over(16),
                                                                      depth=_over(512))),
    Limit("32 rows have twice the operands, of which each of four warps has twice as many",
          _of(tier=_GLUON, gates=_over(1), rows=_over(16), warps=4, depth=_over(512))),
    Limit("32 rows have twice the operands, of which each of four warps has twice as many",
          _of(tier=_GLUON, gates=_over(3), rows=_over(16), warps=4, depth=_over(256))),
    Limit("32 rows have twice the operands, and two contractions twice the room",
          _of(tier=_GLUON, inner=_over(0), rows=_over(16), warps=4, depth=_over(256))),
    Limit("32 rows and units of several gates", _of(tier=_GLUON, backward=True, gates=_over(1), units=_over(16),
                                                   rows=_over(16), depth=_over(256))),
    Limit("parts of many gates are for eight warps", _of(tier=_GLUON, scatter=True, gates=_over(4), warps=4)),
    Limit("32 rows and units of a long contraction", _of(tier=_GLUON, backward=True, units=_over(16), rows=_over(16),
                                                        depth=_over(1024))),
    Limit("vectors, or more states than two, leave room for 16 units", _of(tier=_GLUON, backward=True, extra=_over(0),
                                                                          units=_over(16))),
    Limit("vectors, or more states than two, leave room for 16 rows", _of(tier=_GLUON, backward=True, extra=_over(0),
                                                                         rows=_over(16), depth=_over(512))),
    Limit("a number of each row leaves room for 16 rows", _of(tier=_GLUON, backward=True, constants=_over(0),
                                                             rows=_over(16), depth=_over(512))),
    Limit(_MORE_THAN_GATES, _of(tier=_ALONE, backward=True, extra=_over(0), units=_over(64))),
    Limit(_MORE_THAN_GATES, _of(tier=_ALONE, element_bytes=4, backward=True, extra=_over(0), units=_over(32))),
    Limit(_MORE_THAN_GATES, _of(tier=_ALONE, element_bytes=4, backward=True, states=_over(2), units=_over(16))),
    Limit("the gradients of many gates take all registers", _of(tier=_ALONE, backward=True, gates=_over(4),
                                                               units=_over(32))),
    Limit("the gradients of many gates take all registers", _of(tier=_ALONE, element_bytes=4, backward=True,
                                                               gates=_over(4), units=_over(16))),
    Limit("32 rows have twice the operands, and two contractions twice the room",
          _of(tier=_GLUON, inner=_over(0), rows=_over(16), depth=_over(1024))),
    Limit("32 rows and units of a long contraction", _of(tier=_GLUON, units=_over(16), rows=_over(16),
                                                        depth=_over(2048))),
    Limit("32 rows of several gradients in float32 (Triton 3.6)",
          _of(tier=_GLUON, element_bytes=4, backward=True, gates=_over(2), rows=_over(16))),
    Limit("32 rows of many gates in float32", _of(tier=_GLUON, element_bytes=4, gates=_over(4), rows=_over(16),
                                                 depth=_over(256))),
    Limit(_OTHER_GPUS, _of(tier=_GLUON, hopper=False, backward=True, gates=_over(2), rows=_over(16), depth=_over(640))),
    Limit(_OTHER_GPUS, _of(tier=_GLUON, hopper=False, element_bytes=4, backward=True, gates=3, units=_over(8),
                           width=range(1024, 1281))),
    Limit(_OTHER_GPUS, _of(tier=_ALONE, tensor_memory=True, backward=True, gates=_over(2), units=_over(64))),
    # What is split over the warps, resident or not.
    Limit(_OTHER_GPUS, _of(split=True, hopper=False, warps=4, units=_over(8))),
    Limit(_OTHER_GPUS, _of(split=True, hopper=False, units=_over(16)), unless=_EASED),
    Limit(_OTHER_GPUS, _of(tier="streamed", split=True, hopper=False, inner=_over(0), exchange="barrier")),
    Limit(_OTHER_GPUS, _of(tier="streamed", split=True, hopper=False, backward=False, element_bytes=4, gates=_over(3),
                           exchange=("barrier", "flag"), width=range(1024, 1536)),
          unless=_of(exchange="flag", chunk=_to(128))),
    Limit("two contractions a step of 32 units each spill", _of(split=True, inner=_over(0), units=_over(16)),
          unless=_EASED),
    Limit("of more than four gates, an accumulator each beside streamed weights is too much for four warps",
          _of(tier="streamed", backward=False, gates=_over(4), warps=4)),
    Limit("a GRU's second set of gradients spills beside 32 units (Triton 3.7)",
          _of(tier="streamed", backward=True, gates=3, inner=0, exchange="barrier", units=_over(16), warps=4)),
    Limit("more states than two leave room for 8 units", _of(tier=_SPREAD, backward=True, states=_over(2),
                                                             units=_over(8))),
    Limit("a number of each row spills beside 32 units (Triton 3.9)",
          _of(split=True, backward=True, constants=_over(0), units=_over(16))),
    Limit("an accumulator for each of several gates, of 32 units each, is more than there is room for",
          _of(split=True, out=_over(1), units=_over(16)), unless=_SMALLEST),
    # 64 rows: unrolled over resident weights they spill (Triton 3.8 and 3.9 from H = 512 on), with the barrier any do,
    # and so do 8 units of an LSTM (Triton 3.8).
    Limit("64 rows are for Hopper's warpgroup instructions: forward, in 16 bits, streamed",
          _of(tier=_SPREAD, split=False),
          unless=_of(hopper=True, element_bytes=2, backward=False, tier="streamed", exchange=_NO_BARRIER, units=16,
                     chunk=256, gates=_to(4), inner=0, states=_to(2))),
)  # fmt: skip

# Of 255; the estimate runs further below what four warps need.
_REGISTER_BUDGET = {8: 250, 4: 225}
# Of split contractions, those that compile without spills although the estimate is above the budget.
_OVERESTIMATED = (*_SMALLEST, *_of(units=_over(16), gates=_to(4), extra=0))
# The least tile of all, so that there is a launch whatever the cell: for more than eight gates it may spill.
_LEAST = _of(tier="streamed", gates=_over(4), units=8, rows=16, chunk=128, warps=8, exchange=("none", "barrier"))


def fits(shape: ScanShape, config: LaunchConfig, device: Device) -> bool:
    """Whether `config` compiles without spills and into the shared memory there is, as far as reports have shown."""
    if shared_estimate(shape, config) > device.shared_bytes:
        return False
    launch = facts(shape, config, device)
    if any(limit.forbids(launch) for limit in LIMITS):
        return False
    if config.gluon or config.split == 1 or _holds(_OVERESTIMATED, launch) or _holds(_LEAST, launch):
        return True
    return register_estimate(shape, config) <= _REGISTER_BUDGET[config.num_warps]
