"""Matrix instructions of a warpgroup, four warps of 16 rows each. Asynchronous: until it has been waited for, one may
be loading from shared memory, its accumulators hold NaN, and the registers that it reads are its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ptx_machine.decode import Code, Step, op
from ptx_machine.table.matrices import floats, fragments
from ptx_machine.text import Instruction
from ptx_machine.types import WARP, Array, from_bf16, from_f16

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

_POISON = np.full(1, 0x7FFDDEAD, np.uint32)
_UNFENCED = "registers: wgmma with no wgmma.fence after they were written"
_EARLY = "race: registers, written while wgmma may still read them"
_PITCH = np.array([0, 128, 64, 32])  # bytes of a row, by the descriptor's swizzle
_DEEPEST = {"f16": 16, "bf16": 16, "tf32": 8}


def rows(
    g: Grid, one: Instruction, descriptors: Array, which: Array, warps: Array, kind: str, transposed: bool
) -> Array:
    """Rows `which` [warps, n] of 32 bytes of k each, of a matrix in shared memory as descriptors say: `[warps, n, k]`.

    `transposed`: k after k instead, its rows one after the other.
    """
    mode = (descriptors >> np.uint64(62)).astype(np.int64)
    if (mode == 0).any() or (descriptors >> np.uint64(49) & np.uint64(7)).any():
        one.refuse("a descriptor without swizzle, or with a base offset")

    def part(shift: int) -> Array:
        return (descriptors >> np.uint64(shift) & np.uint64(0x3FFF)).astype(np.int64)[:, None, None] << 4

    start, lead, stride, pitch = part(0), part(16), part(32), _PITCH[mode][:, None, None]
    if transposed:  # sixteen k; vectors of eight rows
        k, byte = np.arange(16)[:, None], which[:, None, ::8] * 2
        at = start + k // 8 * stride + k % 8 * pitch + byte // pitch * lead + byte % pitch
    else:  # eight rows, and so on; two vectors of 16 bytes
        at = start + which[:, :, None] // 8 * stride + which[:, :, None] % 8 * pitch + np.arange(2) * 16
    at = at ^ (at >> 7 & pitch // 16 - 1) << 4
    threads = np.repeat(warps * WARP, at[0].size)
    found = g.shared.locate(one, at.ravel(), 16, threads)
    raw = np.uint32 if kind == "tf32" else np.uint16
    values = g.shared.load(one, found, 16, threads, raw, whole=True, wgmma=True)
    if kind == "tf32":
        values = (values & np.uint32(0xFFFFE000)).view(np.float32)
    else:
        values = (from_f16 if kind == "f16" else from_bf16)(values)
    if transposed:
        return values.reshape(len(which), 16, -1).transpose(0, 2, 1)
    return values.reshape(*which.shape, -1)


class Accumulators:
    """What wgmma will have put into registers, and what its registers were at the last wgmma.fence.

    Attributes:
        results: by register, values and numbers of flights, by thread.
        fenced: the registers that wgmma uses, as each thread's last fence found them.
        ever: whether a thread has come to a fence.
    """

    def __init__(self, threads: int) -> None:
        self.results: dict[int, tuple[Array, Array]] = {}
        self.fenced: dict[int, Array] = {}
        self.ever = np.zeros(threads, bool)

    def fence(self, g: Grid, m: Array | None) -> None:
        for x in g.code.fenced:
            now, then = g.old(x), self.fenced.get(x)
            self.fenced[x] = now if m is None or then is None or now is then else np.where(m, now, then)
        self.ever = self.ever | (True if m is None else m)

    def copied(self, g: Grid, x: int, m: Array | None) -> None:
        """A move to `x` is no write: LLVM copies accumulators after the fence, and ptxas makes one register of both."""
        if x in self.fenced:
            self.fenced[x] = g.R[x] if m is None else np.where(m, g.R[x], self.fenced[x])

    def bare(self, g: Grid, registers: list[int], m: Array | None) -> bool:
        """Whether one of them was written since the last fence, but by what is under way."""
        if not (self.ever if m is None else self.ever[m]).all():
            return True
        return any(x not in self.results and _touched(g, x, self.fenced[x], m) for x in registers)

    def value(self, g: Grid, x: int) -> Array:
        """What an accumulator holds once what is under way has come; nobody may have written it, if it is dropped."""
        g.define(x)
        if x not in self.results:
            return g.full(x)
        values, by = self.results[x]
        return np.where(by > 0, values, g.full(x))

    def set(self, g: Grid, x: int, m: Array | None, values: Array, number: int) -> None:
        before, by = self.results.get(x, (np.zeros(len(values), np.uint32), np.zeros(len(values), np.int64)))
        here = True if m is None else m
        self.results[x] = np.where(here, values, before), np.where(here, number, by)
        g.put(x, m, _POISON)

    def land(self, g: Grid, x: int, here: Array, number: int) -> None:
        """For those threads of `here` whose register no later one adds to."""
        values, by = self.results[x]
        mine = here & (by == number)
        if not mine.any():
            return
        left = np.where(mine, 0, by)
        before = g.R[x]
        g.put(x, None if mine.all() else mine, values)
        if x in self.fenced:  # this is no write of the program's
            self.fenced[x] = g.R[x] if self.fenced[x] is before else np.where(mine, g.R[x], self.fenced[x])
        if left.any():
            self.results[x] = values, left
        else:
            del self.results[x]


def _touched(g: Grid, x: int, then: Array, m: Array | None) -> bool:
    """Whether register `x` is another than `then`."""
    now = g.old(x)
    if now is then:
        return False
    if m is None or len(now) == 1 == len(then):
        return not np.array_equal(now, then)
    return bool((np.broadcast_to(now, m.shape)[m] != np.broadcast_to(then, m.shape)[m]).any())


@op("wgmma")
def wgmma(code: Code, one: Instruction) -> Step:
    what, active = one.modifiers[0], code.active(one)
    if what == "fence":
        return lambda g: g.accumulators.fence(g, active(g))
    if what == "commit_group":
        return lambda g: g.products.commit(active(g))
    if what == "wait_group":
        most = int(one.operands[0], 0)
        return lambda g: g.products.wait(active(g), most)
    return _product(code, one)


def _product(code: Code, one: Instruction) -> Step:
    """D = A B + D, or A B alone."""
    if one.modifiers[:3] != ["mma_async", "sync", "aligned"] or len(one.modifiers) != 7:
        one.refuse()
    shape, out, kind, kind_b = one.modifiers[3:]
    n, k = map(int, (re.fullmatch(r"m64n(\d+)k(\d+)", shape) or one.refuse()).groups())
    held, signs = one.operands[1].startswith("{"), one.operands[4:]  # A in registers
    if out != "f32" or kind != kind_b or _DEEPEST.get(kind) != k or signs[:2] != ["1", "1"]:
        one.refuse("types, or signs")
    transposed = [False] * 2 if kind == "tf32" else [x == "1" for x in ["0"] * held + signs[2:]]
    d, keep = code.vector(one.operands[0], 32, one), code.operand(one.operands[3], 1, one)
    a = code.vector(one.operands[1], 32, one) if held else [code.register(one.operands[1], one)]
    b, inputs = code.register(one.operands[2], one), a if held else []
    code.fenced.update((*d, *inputs))
    at_a, _, at_d = fragments(k, 1 if kind == "tf32" else 2)
    at_d = ((at_d // 8)[:, None, :] * n + np.arange(0, n, 8)[:, None] + (at_d % 8)[:, None, :]).reshape(WARP, -1)
    from_d, active = np.argsort(at_d.ravel()), code.active(one)

    def sum_up(g: Grid, warps: Array) -> Array:
        """The result, of these warps: `[warps, lane, register]`."""
        first = warps * WARP  # a descriptor is the same in all lanes
        if held:
            left = floats([g.full(x) for x in a], kind)[warps][:, at_a].reshape(-1, 16, k)
        else:
            own = (warps % 4 * 16)[:, None] + np.arange(16)
            left = rows(g, one, g.full(a[0])[first], own, warps, kind, transposed[0])
        every = np.broadcast_to(np.arange(n), (len(warps), n))
        right = rows(g, one, g.full(b)[first], every, warps, kind, transposed[1])
        total = np.stack([g.accumulators.value(g, x) for x in d], 1).view(np.float32)
        total = total.reshape(len(g.every) // WARP, -1)[warps][:, from_d].reshape(-1, 16, n)
        total = np.where(g.full(keep)[first][:, None, None], total, np.float32(0))
        product: Array = left @ right.transpose(0, 2, 1) + total
        return product.reshape(len(warps), -1)[:, at_d]

    def step(g: Grid) -> None:
        m = active(g)
        warps = g.whole_warps(m, one)
        state = g.accumulators
        if state.bare(g, [*d, *inputs], m):
            g.report.race(_UNFENCED, np.array([one.pc]), one, code.instructions)
        result = np.zeros((len(g.every) // WARP, WARP, len(d)), np.float32)
        result[warps] = sum_up(g, warps)
        loading, given = g.shared.take_loading(), [g.R[x] for x in inputs]

        def land(here: Array) -> None:
            g.shared.finish_loading(one, loading)
            loading.clear()
            if any(_touched(g, x, at, here) for x, at in zip(inputs, given, strict=True)):
                g.report.race(_EARLY, np.array([one.pc]), one, code.instructions)
            for x in d:
                if x in state.results:
                    state.land(g, x, here, number)

        threads = (warps[:, None] * WARP + np.arange(WARP)).ravel()
        number = g.products.begin(threads, land)
        for i, x in enumerate(d):
            state.set(g, x, m, result[:, :, i].ravel().view(np.uint32), number)

    return step
