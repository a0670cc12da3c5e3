"""From text to steps: an instruction becomes a function of the grid that executes it for all active threads at once.

A chapter of the table (`table/`) names with `@op` what it decodes. It gets a `Code` and an `Instruction`, and returns
a step: `step(grid)` executes, and returns where to jump to, or None. All operands are indices into the grid's
registers; an immediate is a register that nobody writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ptx_machine.text import Instruction, parse
from ptx_machine.types import RAW, SIGNED, Array, bits, dtype

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

Step = Callable[["Grid"], "int | None"]
Active = Callable[["Grid"], "Array | None"]
Build = Callable[["Code", Instruction], Step]

OPS: dict[str, Build] = {}
SHARED_BASE = 1024  # where a program's shared memory starts: a null address is outside, as on a GPU
_SPECIAL = re.compile(
    r"%(tid|ntid|ctaid|nctaid|laneid|warpid|nwarpid|smid|nsmid|clock|clock_hi|clock64|globaltimer|lanemask_(?:eq|le|lt|ge|gt))\b"
)


def op(*names: str) -> Callable[[Build], Build]:
    """Names the opcodes that the decorated function decodes."""

    def register(build: Build) -> Build:
        OPS.update(dict.fromkeys(names, build))
        return build

    return register


class Code:
    """A kernel decoded.

    Attributes:
        instructions, steps: the text of each instruction, and what executes it.
        labels, parameters: as in `text.Kernel`.
        index: a register's number by name; `width` and `initial` values by number, and the `specials` among them.
        noise: how much of their documented error approximate instructions make.
        grains: the smallest store in bytes to shared and to global memory: what is kept of memory is kept by so much.
        wgmma: whether there are such instructions.
        fenced: the registers that wgmma reads and writes.
    """

    def __init__(self, ptx: str, noise: float) -> None:
        kernel = parse(ptx)
        self.instructions, self.labels, self.parameters = kernel.instructions, kernel.labels, kernel.parameters
        self.noise = noise
        self.index: dict[object, int] = {}
        self.width: list[int] = []
        self.initial: list[Array | None] = []
        self.specials: list[tuple[int, str]] = []
        self.grains = {space: _grain(self.instructions, space) for space in ("shared", "global")}
        self.wgmma = any(one.name == "wgmma" for one in self.instructions)
        self.fenced: set[int] = set()
        self._types, self._arrays = kernel.registers, kernel.arrays
        self.steps: list[Step] = [(OPS.get(one.name) or one.refuse())(self, one) for one in self.instructions]

    def _new(self, key: object, width: int, value: Array | None = None) -> int:
        self.index[key] = len(self.initial)
        self.initial.append(value)
        self.width.append(width)
        return self.index[key]

    def register(self, name: str, one: Instruction) -> int:
        if self._width(name, one) > 64:
            one.refuse("a register of 128 bits")
        return self.index[name] if name in self.index else self._new(name, self._width(name, one))

    def pair(self, name: str, one: Instruction) -> list[int]:
        """Those that a register of 128 bits is kept as: 64 bits each, the low ones first."""
        if self._width(name, one) != 128:
            one.refuse("operands")
        return [self.index[half] if half in self.index else self._new(half, 64) for half in (name, f"{name} high")]

    def _width(self, name: str, one: Instruction) -> int:
        kind = self._types.get(name) or self._types.get(name.rstrip("0123456789"))
        return bits(kind or one.refuse(f"no register {name}"))

    def operand(self, text: str, width: int, one: Instruction) -> int:
        """A register, a special register, a shared array's address, or an immediate, which is `width` bits wide."""
        if _SPECIAL.match(text):
            if text not in self.index:
                self.specials.append((self._new(text, 64 if text in ("%clock64", "%globaltimer") else 32), text))
            return self.index[text]
        if text in self._arrays:
            text = str(SHARED_BASE)
        if not re.match(r"-?\d", text):
            return self.register(text, one)
        key = (text, width)
        if key not in self.index:
            value = int(text[2:], 16) if re.match("0[fFdD]", text) else int(text.rstrip("U"), 0)
            self._new(key, width, np.full(1, value & (1 << width) - 1, RAW[width]))
        return self.index[key]

    def vector(self, text: str, width: int, one: Instruction) -> list[int]:
        return [self.operand(part.strip(), width, one) for part in text.strip("{}").split(",")]

    def address(self, text: str, width: int, one: Instruction) -> tuple[int, int]:
        """`[register or array + offset]` as an index and a number."""
        base, _, offset = text.strip("[] ").partition("+")
        return self.operand(base.strip(), width, one), int(offset or "0", 0)

    def active(self, one: Instruction) -> Active:
        """The threads that execute it, of a grid: a mask, or None for all."""
        if not one.guard:
            return lambda g: g.mask
        guard, negate = self.register(one.guard.lstrip("!"), one), one.guard[0] == "!"

        def active(g: Grid) -> Array | None:
            m = ~g.R[guard] if negate else g.R[guard]
            if len(m) == 1:
                return g.mask if m[0] else g.nobody
            if g.mask is not None:
                m = m & g.mask
            return None if m.all() else m

        return active

    def alu(
        self,
        one: Instruction,
        out: str,
        ins: Sequence[str],
        f: Callable[..., Array],
        operands: Sequence[str] | None = None,
    ) -> Step:
        """A step that applies `f` to operands of the types `ins`, and writes one of type `out`.

        `f` takes and gives arrays over threads, or of one element where all threads have the same.
        """
        target, *names = operands or one.operands
        if len(names) != len(ins):
            one.refuse("operands")
        d, active = self.register(target, one), self.active(one)
        raw = RAW[self.width[d]]
        views = [dtype(kind) for kind in ins]
        sources = [self.operand(name, bits(kind), one) for name, kind in zip(names, ins, strict=True)]
        if any(self.width[s] != bits(kind) for s, kind in zip(sources, ins, strict=True)):
            # The type is part of a register.
            f = _of_parts(f, [(RAW[bits(kind)], dtype(kind)) for kind in ins])
            views = [RAW[self.width[s]] for s in sources]
        if bits(out) < self.width[d]:
            f = _widened(f, SIGNED[self.width[d]] if out[0] == "s" else raw)
        result = _result(f, list(zip(sources, views, strict=True)), raw)

        def step(g: Grid) -> None:
            m = active(g)
            if m is None:
                g.R[d] = result(g.R)
            else:
                g.put(d, m, result(g.R))

        return step


def _result(f: Callable[..., Array], sources: list[tuple[int, type]], raw: type) -> Callable[[list[Array]], Array]:
    if len(sources) == 2:  # most are
        (a, ta), (b, tb) = sources
        return lambda R: f(R[a].view(ta), R[b].view(tb)).view(raw)
    if len(sources) == 1:
        ((a, ta),) = sources
        return lambda R: f(R[a].view(ta)).view(raw)
    return lambda R: f(*[R[s].view(t) for s, t in sources]).view(raw)


def _of_parts(f: Callable[..., Array], cut: list[tuple[type, type]]) -> Callable[..., Array]:
    return lambda *x: f(*(a.astype(raw).view(kind) for a, (raw, kind) in zip(x, cut, strict=True)))


def _widened(f: Callable[..., Array], wide: type) -> Callable[..., Array]:
    return lambda *x: f(*x).astype(wide)


def _grain(instructions: Sequence[Instruction], space: str) -> int:
    """The smallest store's bytes, at most 4: no access is to less of memory than is kept track of."""
    smallest = 4
    for one in instructions:
        spaces = {modifier.partition("::")[0] for modifier in one.modifiers} & {"global", "shared"} or {"global"}
        if one.name in ("st", "atom", "red") and space in spaces:
            smallest = min(smallest, max(1, bits(one.modifiers[-1]) // 8))
    return smallest
