"""What a step takes and gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Signature:
    """What a step takes and gives.

    Attributes:
        gates, states: how many.
        vectors: names of the trained vectors that it takes besides, one number a unit.
        constants: names of what it takes besides for each row and step, one number.
        inner: 1 if the last gate multiplies something else than h, else 0.
        initial: the states' values where a sequence starts; empty for zeros.
    """

    gates: int
    states: int
    vectors: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    inner: int = 0
    initial: tuple[float, ...] = ()
