"""Loads and stores, asynchronous copies and atomics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_machine.decode import Code, Step, op
from ptx_machine.memory import UNITS
from ptx_machine.text import Instruction
from ptx_machine.types import RAW, SIGNED, Array, bits, dtype

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

_SPACES, _ORDERS = ("global", "shared", "param"), ("acquire", "release", "acq_rel", "relaxed", "volatile")
_SCOPES, _VECTORS = ("cta", "cluster", "gpu", "sys"), {"v2": 2, "v4": 4, "v8": 8}
# Whatever caches do, values are the same here.
_HINTS = {"ca", "cg", "cs", "cv", "lu", "wb", "wt", "nc", "weak", "shared::cta"}


class _Access:
    """What the modifiers of a load, a store or an atomic say, in any order. `order` is None for a plain one."""

    def __init__(self, one: Instruction, *operations: str) -> None:
        *modifiers, self.kind = one.modifiers
        for modifier in modifiers:
            known = modifier in (*_HINTS, *_ORDERS, *_SCOPES, *_SPACES, *_VECTORS, *operations)
            if not known and not modifier.startswith(("L1::", "L2::")):
                one.refuse(f"modifier .{modifier}")
        named = (s for s in _SPACES if s in modifiers or f"{s}::cta" in modifiers)
        self.space = next(named, "global")  # a generic address: nothing else is mapped
        self.order = next((o for o in _ORDERS if o in modifiers), None)
        self.scope = next((s for s in _SCOPES if s in modifiers), "sys" if self.order == "volatile" else "gpu")
        if self.scope == "cluster":
            one.refuse("clusters")
        self.count = next((_VECTORS[v] for v in modifiers if v in _VECTORS), 1)
        self.bits = 64 if self.kind == "b128" else bits(self.kind)
        if self.kind == "b128":
            if self.count > 1:
                one.refuse("more than 16 bytes at once")
            self.count = 2
        self.raw, self.size = RAW[self.bits], self.bits // 8 * self.count
        if self.size > 16:
            one.refuse("more than 16 bytes at once")

    @property
    def address_bits(self) -> int:
        return 32 if self.space == "shared" else 64


def _addresses(g: Grid, base: int, offset: int, threads: Array) -> Array:
    values = g.R[base]
    chosen = values if len(values) == 1 else values[threads]
    return np.broadcast_to(chosen.astype(np.int64) + offset, threads.shape)


def _widened(code: Code, access: _Access, values: Array, d: int) -> Array:
    width = code.width[d]
    if width == access.bits:
        return values
    if access.kind[0] == "s":
        return values.view(SIGNED[access.bits]).astype(SIGNED[width]).view(RAW[width])
    return values.astype(RAW[width])


def _registers(code: Code, access: _Access, text: str, one: Instruction) -> list[int]:
    """The registers of a vector; of b128, which is one register, the two that it is kept as."""
    return code.pair(text, one) if access.kind == "b128" else code.vector(text, access.bits, one)


@op("ld")
def load(code: Code, one: Instruction) -> Step:
    access = _Access(one)
    targets = _registers(code, access, one.operands[0], one)
    if access.space == "param":
        return _parameter(code, one, access, targets[0])
    (a, offset), active = code.address(one.operands[1], access.address_bits, one), code.active(one)

    def step(g: Grid) -> None:
        m = active(g)
        threads = g.every if m is None else np.flatnonzero(m)
        if not len(threads):
            for d in targets:
                g.define(d)  # undefined, and allowed to be: Triton lets such values go through shuffles, and uses none
            return
        address = _addresses(g, a, offset, threads)
        if access.space == "shared":
            at = g.shared.locate(one, address, access.size, threads)
            values = g.shared.load(one, at, access.size, threads, access.raw)
        else:
            at = g.memory.locate(one, address, access.size, threads)
            values = g.memory.load(one, at, access.size, threads, access.raw, access.order, access.scope)
        for i, d in enumerate(targets):
            g.scatter(d, m, threads, _widened(code, access, values[:, i], d))
        if access.order:
            g.polled()

    return step


def _parameter(code: Code, one: Instruction, access: _Access, d: int) -> Step:
    name, _, offset = one.operands[1].strip("[] ").partition("+")
    if offset or name not in code.parameters or access.count > 1:
        one.refuse("part of a parameter")
    number, mask = code.parameters.index(name), (1 << access.bits) - 1
    return lambda g: g.put(d, g.mask, _widened(code, access, np.array([g.args[number] & mask], access.raw), d))


@op("prefetch")
def prefetch(code: Code, one: Instruction) -> Step:
    """What a cache is asked for has to be there; nothing else comes of it here."""
    if one.modifiers[:1] != ["global"] or one.modifiers[1:] not in (["L1"], ["L2"]):
        one.refuse()
    (a, offset), active = code.address(one.operands[0], 64, one), code.active(one)

    def step(g: Grid) -> None:
        m = active(g)
        threads = g.every if m is None else np.flatnonzero(m)
        if len(threads):
            g.memory.locate(one, _addresses(g, a, offset, threads), 1, threads)

    return step


@op("st")
def store(code: Code, one: Instruction) -> Step:
    access = _Access(one)
    (a, offset), active = code.address(one.operands[0], access.address_bits, one), code.active(one)
    sources = _registers(code, access, one.operands[1], one)

    def step(g: Grid) -> None:
        m = active(g)
        threads = g.every if m is None else np.flatnonzero(m)
        if not len(threads):
            return
        address = _addresses(g, a, offset, threads)
        values = np.empty((len(threads), len(sources)), access.raw)
        for i, s in enumerate(sources):
            values[:, i] = g.R[s] if len(g.R[s]) == 1 else g.R[s][threads].astype(access.raw)
        if access.kind == "b128":
            values = values.view(UNITS[16])  # one element, which no weak memory tears
        if access.space == "shared":
            at = g.shared.locate(one, address, access.size, threads)
            g.shared.store(one, at, access.size, threads, values)
        else:
            at = g.memory.locate(one, address, access.size, threads)
            g.memory.store(one, at, access.size, threads, values, access.order, access.scope)
            g.may_stop(0.3)

    return step


@op("cp")
def copy(code: Code, one: Instruction) -> Step:
    """cp.async. What it reads is noted when it begins and when it lands."""
    what = one.modifiers[1:] if one.modifiers[:1] == ["async"] else one.refuse()
    active = code.active(one)
    if what == ["commit_group"]:
        return lambda g: g.copies.commit(active(g))
    if what == ["wait_group"]:
        most = int(one.operands[0], 0)
        return lambda g: g.copies.wait(active(g), most)
    if what == ["wait_all"]:

        def all_(g: Grid) -> None:
            g.copies.commit(active(g))
            g.copies.wait(active(g), 0)

        return all_
    if what[:1] not in (["ca"], ["cg"]) or what[1] not in ("shared", "shared::cta") or what[2:3] != ["global"]:
        one.refuse()
    one.only(*what[:3], "async", "L2::64B", "L2::128B", "L2::256B")
    (a, offset_a), (b, offset_b) = (code.address(o, w, one) for o, w in zip(one.operands[:2], (32, 64), strict=True))
    size = int(one.operands[2], 0)
    given = code.operand(one.operands[3], 32, one) if len(one.operands) > 3 else None  # bytes; the rest becomes zero

    def step(g: Grid) -> None:
        m = active(g)
        threads = g.every if m is None else np.flatnonzero(m)
        if not len(threads):
            return
        count = np.full(len(threads), size) if given is None else g.full(given)[threads].astype(np.int64)
        if not np.isin(count, (0, size)).all():
            one.refuse("part of a vector")
        at = g.shared.locate(one, _addresses(g, a, offset_a, threads), size, threads)
        loads = threads[count > 0]
        source = g.memory.locate(one, _addresses(g, b, offset_b, loads), size, loads)
        if len(loads):
            g.memory.load(one, source, size, loads, np.uint8)
        then = g.shared.begin_copy(one, at, size, threads)

        def land(here: Array) -> None:
            now, now_loads = here[threads], here[loads]
            values = np.zeros((len(threads), size), np.uint8)
            if now_loads.any():
                values[count > 0] = 0xFF
                whole = np.zeros((len(loads), size), np.uint8)
                again = one, source[now_loads], size, loads[now_loads], np.uint8
                whole[now_loads] = g.memory.load(*again, counted=False)
                values[count > 0] = whole
            g.shared.end_copy(one, at[now], size, threads[now], values[now], then[now])

        g.copies.begin(threads, land)

    return step


_ATOMIC: dict[str, Callable[[Array, Array, Array], Array]] = {
    "add": lambda b, c, old: old + b,
    "min": lambda b, c, old: np.minimum(old, b),
    "max": lambda b, c, old: np.maximum(old, b),
    "and": lambda b, c, old: old & b,
    "or": lambda b, c, old: old | b,
    "xor": lambda b, c, old: old ^ b,
    "exch": lambda b, c, old: b,
    "cas": lambda b, c, old: np.where(old == b, c, old),
}


@op("atom", "red")
def atomic(code: Code, one: Instruction) -> Step:
    """Thread after thread."""
    access = _Access(one, *_ATOMIC)
    how = next((m for m in one.modifiers if m in _ATOMIC), None) or one.refuse()
    if access.space != "global" or access.bits < 32 or access.count > 1:
        one.refuse()
    target, where, *values = one.operands if one.name == "atom" else ["_", *one.operands]
    (a, offset), active = code.address(where, 64, one), code.active(one)
    d = None if target == "_" else code.register(target, one)
    sources, kind = [code.operand(v, access.bits, one) for v in values], dtype(access.kind)

    def step(g: Grid) -> None:
        m = active(g)
        threads = g.every if m is None else np.flatnonzero(m)
        if not len(threads):
            if d is not None:
                g.define(d)
            return
        at = g.memory.locate(one, _addresses(g, a, offset, threads), access.size, threads)
        given = [g.full(s).view(kind) for s in sources]
        olds = np.empty(len(threads), kind)
        for i, thread in enumerate(threads.tolist()):
            b, c = ([x[thread : thread + 1] for x in given] + [np.zeros(1, kind)])[:2]
            f = functools.partial(_ATOMIC[how], b, c)
            olds[i] = g.memory.update(
                one, at[i : i + 1], access.size, thread, f, kind, access.order or "relaxed", access.scope
            )[0]  # fmt: skip
        if d is not None:
            g.scatter(d, m, threads, olds.view(access.raw))
        g.polled()

    return step
