"""Deriving, whole: from a step, the counts and sources that a cell has of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastrnn.derive.expressions import Expression
from fastrnn.derive.rest import stays_at_zero
from fastrnn.derive.saving import choose_saved, computable, needed
from fastrnn.derive.signature import Signature
from fastrnn.derive.source import Sources, split_gates
from fastrnn.derive.tracing import trace, trace_with_saved


class Derived(NamedTuple):
    """What is derived of a step.

    Attributes:
        saved: how many tensors a step saves for backward.
        split_gates: the gates whose two parts do more than add.
        rests: whether a unit of zeros stays one.
        triton, torch: the source of its functions, without imports: as `source.Sources` says.
    """

    saved: int
    split_gates: tuple[int, ...]
    rests: bool
    triton: str
    torch: str


def derive(step: Callable[..., Any], of: Signature, name: str) -> Derived:
    """Derive both passes of `step`; their functions' names begin with `name`.

    Raises:
        TypeError, ValueError: `step` is nothing that can be derived; the message says what was found, and where.
    """
    joint = trace(step, of)
    saved, split = choose_saved(joint), split_gates(joint, of)
    again = trace_with_saved(joint, saved, step, of)
    had = {*saved, *(s for s in joint.state if isinstance(s, Expression))}
    sources = Sources(joint, saved, of, not split)
    closed = computable(needed(again), had)
    return Derived(
        len(saved),
        split,
        stays_at_zero(joint, of),
        sources.triton(name),
        sources.torch(name, again if closed else None),
    )
