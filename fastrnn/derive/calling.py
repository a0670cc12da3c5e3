"""A step, called with parts that are its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fastrnn.derive.signature import Signature


class Product:
    """`inner` while a step is traced: it keeps what it is called with, and gives a product that is an input."""

    def __init__(self, product: Tensor) -> None:
        self.product = product
        self.operands: list[Tensor] = []

    def __call__(self, operand: Tensor) -> Tensor:
        self.operands.append(operand)
        return self.product


def called(
    step: Callable[..., Any], of: Signature, x: Sequence[Any], r: Sequence[Any], state: Sequence[Any],
    vectors: Sequence[Any], constants: Sequence[Any], inner: Callable[[Any], Any],
) -> tuple[Any, ...]:  # fmt: skip
    """The new states that `step` gives, as a tuple."""
    others = dict(zip(of.vectors, vectors, strict=True)) | dict(zip(of.constants, constants, strict=True))
    if of.inner:
        others["inner"] = inner
    result = step(tuple(x), tuple(r), tuple(state), **others)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)
