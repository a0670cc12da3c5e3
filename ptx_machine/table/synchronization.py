"""Barriers of a program, fences, and what waits for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptx_machine.decode import Code, Step, op
from ptx_machine.text import Instruction

if TYPE_CHECKING:
    from ptx_machine.grid import Grid


@op("bar", "barrier")
def bar(code: Code, one: Instruction) -> Step:
    """`bar.sync 0` of all threads, `bar.warp.sync` of the lanes of a warp."""
    active = code.active(one)
    if one.modifiers == ["warp", "sync"]:
        return lambda g: g.shared.sync_warps(g.whole_warps(active(g), one))
    one.only("cta", "sync", "aligned")
    if "sync" not in one.modifiers or one.guard or one.operands[0] != "0":
        one.refuse("a barrier of some threads, or not barrier 0")
    if len(one.operands) == 1:
        return lambda g: g.arrive(one)
    count = int(one.operands[1], 0)

    def step(g: Grid) -> None:
        if count != g.threads:
            one.refuse("a barrier of some threads")
        g.arrive(one)

    return step


@op("fence", "membar")
def fence(code: Code, one: Instruction) -> Step:
    active = code.active(one)
    if "proxy" in one.modifiers:
        one.only("proxy", "async", "shared::cta")
        return lambda g: g.shared.fence_proxy(g.whole_warps(active(g), one))
    one.only("sc", "acq_rel", "cta", "gpu", "sys", "gl")
    # membar is fence.sc, by the manual.
    total = one.name == "membar" or "sc" in one.modifiers
    if "cta" in one.modifiers:
        one.refuse("a fence within a program")
    return lambda g: g.memory.fence(active(g), total)


@op("nanosleep", "griddepcontrol")
def nothing(code: Code, one: Instruction) -> Step:
    """What changes when something happens, and not what."""
    return lambda g: None
