"""Branches, and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptx_machine.decode import Code, Step, op
from ptx_machine.errors import FaultError
from ptx_machine.text import Instruction

if TYPE_CHECKING:
    from ptx_machine.grid import Grid


@op("bra")
def bra(code: Code, one: Instruction) -> Step:
    one.only("uni")
    label = one.operands[0]
    target, behind = code.labels[label] if label in code.labels else one.refuse("no such label"), one.pc + 1
    back = target <= one.pc
    if not one.guard:

        def jump(g: Grid) -> int:
            if back:
                g.turn()
            return target

        return jump
    guard, negate = code.register(one.guard.lstrip("!"), one), one.guard[0] == "!"

    def step(g: Grid) -> int | None:
        taken = ~g.R[guard] if negate else g.R[guard]
        chosen = taken if len(taken) == 1 or g.mask is None else taken[g.mask]
        if chosen.all():
            if back:
                g.turn()
            return target
        if not chosen.any():
            return None
        return g.split(behind, target, taken)

    return step


@op("ret", "exit")
def ret(code: Code, one: Instruction) -> Step:
    active = code.active(one)
    return lambda g: g.leave(active(g))


@op("trap")
def trap(code: Code, one: Instruction) -> Step:
    active = code.active(one)

    def step(g: Grid) -> None:
        m = active(g)
        if m is None or m.any():
            thread = 0 if m is None else int(m.argmax())
            raise FaultError(f"trap of {g.name(thread)}: {one}")

    return step
