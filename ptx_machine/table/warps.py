"""Across the lanes of a warp. Each of a warp's lanes has to take part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx_machine.decode import Code, Step, op
from ptx_machine.text import Instruction
from ptx_machine.types import RAW, WARP, Array, dtype

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

_LANE = np.arange(WARP)


@op("shfl")
def shfl(code: Code, one: Instruction) -> Step:
    if len(one.modifiers) != 3 or one.modifiers[0] != "sync" or one.modifiers[2] != "b32":
        one.refuse()
    mode = one.modifiers[1]
    target, _, flag = (part.strip() for part in one.operands[0].partition("|"))
    d, inside_d = code.register(target, one), code.register(flag, one) if flag else None
    a, b, c, member = (code.operand(o, 32, one) for o in one.operands[1:])
    active = code.active(one)

    def step(g: Grid) -> None:
        m = active(g)
        g.whole_warps(m, one, member)
        shift, clamp = g.R[b].astype(np.int64) & 31, g.R[c].astype(np.int64)
        segment, clamp = clamp >> 8 & 31, clamp & 31
        low, last = g.lane & segment, (g.lane & segment) | (clamp & ~segment)
        if mode == "bfly":
            source = g.lane ^ shift
        elif mode == "idx":
            source = low | (shift & ~segment)
        else:
            source = g.lane - shift if mode == "up" else g.lane + shift
        inside = source >= last if mode == "up" else source <= last
        g.put(d, m, g.full(a)[np.where(inside, source - g.lane, 0) + g.every])
        if inside_d is not None:
            g.put(inside_d, m, inside)

    return step


_OVER_LANES: dict[str, dict[str, Callable[..., Any]]] = {
    "redux": {
        "add": np.sum, "min": np.min, "max": np.max, "and": np.bitwise_and.reduce, "or": np.bitwise_or.reduce,
        "xor": np.bitwise_xor.reduce,
    },
    "vote": {
        "all": np.all, "any": np.any, "uni": lambda x, axis: x.all(axis) | ~x.any(axis),
        "ballot": lambda x, axis: (x << _LANE.astype(np.uint32)).sum(axis),
    },
}  # fmt: skip


@op("redux", "vote")
def over_lanes(code: Code, one: Instruction) -> Step:
    """One value of all lanes, in each of them."""
    _, how, kind = one.modifiers if len(one.modifiers) == 3 else one.refuse()
    reduces = one.name == "redux"
    d, active = code.register(one.operands[0], one), code.active(one)
    a = code.operand(one.operands[1].lstrip("!"), 32 if reduces else 1, one)
    negate, member = one.operands[1].startswith("!"), code.operand(one.operands[2], 32, one)
    f = _OVER_LANES[one.name].get(how) or one.refuse()
    view, out = dtype(kind) if reduces else np.bool_, dtype(kind)

    def step(g: Grid) -> None:
        m = active(g)
        g.whole_warps(m, one, member)
        values: Array = g.full(a).view(view).reshape(-1, WARP)
        result = f(~values if negate else values, axis=1).astype(out)
        g.put(d, m, np.repeat(result, WARP).view(RAW[code.width[d]]))

    return step


@op("activemask")
def activemask(code: Code, one: Instruction) -> Step:
    d = code.register(one.operands[0], one)

    def step(g: Grid) -> None:
        lanes = np.ones(len(g.every), bool) if g.mask is None else g.mask
        bits = (lanes.reshape(-1, WARP) << _LANE.astype(np.uint32)).sum(1).astype(np.uint32)
        g.put(d, g.mask, np.repeat(bits, WARP))

    return step


@op("elect")
def elect(code: Code, one: Instruction) -> Step:
    """One lane of each warp; the manual does not say which: the first."""
    target, _, flag = (part.strip() for part in one.operands[0].partition("|"))
    leader = None if target == "_" else code.register(target, one)
    chosen, member, active = code.register(flag, one), code.operand(one.operands[1], 32, one), code.active(one)

    def step(g: Grid) -> None:
        m = active(g)
        g.whole_warps(m, one, member)
        g.put(chosen, m, g.lane == 0)
        if leader is not None:
            g.put(leader, m, np.zeros(1, np.uint32))

    return step
