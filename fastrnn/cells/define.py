"""`fastrnn.cell`: a recurrence of one's own, from one function."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import keyword
import re
from collections.abc import Callable, Sequence
from typing import Any, overload

from fastrnn.cells.cell import Cell
from fastrnn.cells.registry import register

_MOST = 16
_TAKEN = frozenset({"x", "r", "state", "inner", "input", "hx", "lengths", "resets", "return_cells", "self"})


@overload
def cell(
    function: Callable[..., Any],
    /,
    *,
    gates: int,
    states: int = 1,
    vectors: Sequence[str] = (),
    constants: Sequence[str] = (),
    inner: int = 0,
    initial: Sequence[float] | None = None,
    float32_states: bool = False,
) -> Cell: ...


@overload
def cell(
    *,
    gates: int,
    states: int = 1,
    vectors: Sequence[str] = (),
    constants: Sequence[str] = (),
    inner: int = 0,
    initial: Sequence[float] | None = None,
    float32_states: bool = False,
) -> Callable[[Callable[..., Any]], Cell]: ...


def cell(
    function: Callable[..., Any] | None = None,
    /,
    *,
    gates: int,
    states: int = 1,
    vectors: Sequence[str] = (),
    constants: Sequence[str] = (),
    inner: int = 0,
    initial: Sequence[float] | None = None,
    float32_states: bool = False,
) -> Any:
    """A recurrent cell of one function, its step, in plain torch: for `fastrnn.Recurrent`, whose kernels are derived.

        @fastrnn.cell(gates=3, states=2)
        def cifg(x, r, state):
            f, g, o = (a + b for a, b in zip(x, r))
            f = torch.sigmoid(f)
            c = f * state[1] + (1 - f) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c

    The function is called with tuples: `x`, the gates' input part, `W_ih x_t + b_ih`; `r`, their recurrent part,
    `W_hh h_{t-1} + b_hh`; and `state`, whose first is h. Each is a tensor `(..., H)`, any dtype. It returns the new
    states, one tensor if it has one. It may use pointwise operators, and nothing else: no reductions over units, no
    random numbers, no branches on values, no tensors but those it is given, no writing in place to those. It is traced
    here, once, which takes a fraction of a second; torch derives the gradient. docs/guide/your-own-cell.md has more.

    Args:
        gates: blocks of H rows in `weight_ih` and `weight_hh`.
        states: how many tensors go from step to step.
        vectors: names of trained vectors `(H,)`: arguments of these names, and the layer's parameters.
        constants: names of what is given for each row and step, one number: arguments of these names, `(..., 1)`, and
            keywords of the layer's call. They get no gradient.
        inner: 1 if the last gate multiplies something else than h: `r` then lacks that gate, and an argument `inner` is
            a function to be called once, `inner(v)`, which gives `W_hh v + b_hh` of that gate.
        initial: each state's value where a sequence starts, zeros by default.
        float32_states: whether the states other than h, and what is saved for backward, are kept in float32 where a
            layer's dtype has 16 bits, and given back so: for sums over many steps, and for what exp() is taken of.

    Raises:
        TypeError, ValueError: what is given is no such function; the message says what was found, and in which line.
    """
    if function is None:
        return lambda function: cell(
            function, gates=gates, states=states, vectors=vectors, constants=constants, inner=inner, initial=initial,
            float32_states=float32_states,
        )  # fmt: skip
    if not inspect.isfunction(function):
        raise TypeError(f"cell() takes a function, got {type(function).__name__}")
    for name, count, least in (("gates", gates, 1), ("states", states, 1)):
        if not isinstance(count, int) or not least <= count <= _MOST:
            raise ValueError(f"{name} should be a number from {least} to {_MOST}, got {count!r}")
    if inner not in (0, 1) or inner >= gates:
        raise ValueError(f"inner should be 0 or 1, and leave at least one outer gate: got {inner!r} of {gates} gates")
    starts = (0.0,) * states if initial is None else tuple(float(v) for v in initial)
    if len(starts) != states:
        raise ValueError(f"initial should have a number for each of {states} states, got {len(starts)}")
    names = [*vectors, *constants]
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN or names.count(name) > 1:
            raise ValueError(f"{name!r} cannot be the name of a vector or constant: it is taken, or no name")
    own = Cell(
        name=function.__name__,
        gates=gates,
        states=states,
        saved=0,
        split_gates=(),
        inner=int(inner),
        vectors=len(tuple(vectors)),
        constants=len(tuple(constants)),
        initial=starts if any(starts) else (),
        float32_states=float32_states,
        mode=function.__name__.upper(),
        function=function,
        vector_names=tuple(vectors),
        constant_names=tuple(constants),
    )
    return register(_derived(own))


def _derived(cell: Cell) -> Cell:
    """`cell` with what is derived of its function; its name says which of those that were called so it is."""
    from fastrnn.derive.derived import derive  # which imports what fastrnn alone does without

    plain = derive(cell.function, cell.signature, "step")
    digest = hashlib.sha256(repr((plain, cell.signature, cell.float32_states)).encode()).hexdigest()[:8]
    name = f"{cell.name}_{digest}" if cell.name.isascii() else f"cell_{digest}"
    return dataclasses.replace(
        cell,
        name=name,
        saved=plain.saved,
        split_gates=plain.split_gates,
        rests=plain.rests,
        source=_renamed(plain.triton, name),
        text=_renamed(plain.torch, name),
    )


def _renamed(source: str, name: str) -> str:
    """What was derived of a "step", of `name`."""
    return re.sub(r"^(def )?step_", rf"\1{name}_", source, flags=re.MULTILINE)
