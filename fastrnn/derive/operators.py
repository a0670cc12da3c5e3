"""The operators that a step may be made of, and how each is written in torch and in Triton.

Names are those of torch's operators, into whose core set torch itself takes most others apart (`tracing.py`). Triton's
text must be what torch computes for every number: a NaN survives a maximum, and log1p and expm1 keep what is near zero.
Functions without a module are those of `kernels/triton/pointwise.py`; FAST is an argument of what is printed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Those functions.
POINTWISE = ("expm1", "log1p", "maximum", "minimum", "relu", "sigmoid", "sign", "tanh", "zeros_like")


class Operator(NamedTuple):
    """How an operator is written: formats whose `{0}`, `{1}` are its arguments, each a name, a literal or in
    parentheses."""

    torch: str
    triton: str
    boolean: bool = False


OPERATORS: dict[str, Operator] = {
    "add": Operator("{0} + {1}", "{0} + {1}"),
    "sub": Operator("{0} - {1}", "{0} - {1}"),
    "mul": Operator("{0} * {1}", "{0} * {1}"),
    "div": Operator("{0} / {1}", "{0} / {1}"),
    "neg": Operator("-{0}", "-{0}"),
    "abs": Operator("torch.abs({0})", "tl.abs({0})"),
    "sigmoid": Operator("torch.sigmoid({0})", "sigmoid({0}, FAST)"),
    "tanh": Operator("torch.tanh({0})", "tanh({0}, FAST)"),
    "exp": Operator("torch.exp({0})", "tl.exp({0})"),
    "exp2": Operator("torch.exp2({0})", "tl.exp2({0})"),
    "expm1": Operator("torch.expm1({0})", "expm1({0})"),
    "log": Operator("torch.log({0})", "tl.log({0})"),
    "log2": Operator("torch.log2({0})", "tl.log2({0})"),
    "log1p": Operator("torch.log1p({0})", "log1p({0})"),
    "sqrt": Operator("torch.sqrt({0})", "tl.sqrt({0})"),
    "rsqrt": Operator("torch.rsqrt({0})", "1.0 / tl.sqrt({0})"),
    "sin": Operator("torch.sin({0})", "tl.sin({0})"),
    "cos": Operator("torch.cos({0})", "tl.cos({0})"),
    "erf": Operator("torch.erf({0})", "tl.erf({0})"),
    "floor": Operator("torch.floor({0})", "tl.floor({0})"),
    "sign": Operator("torch.sign({0})", "sign({0})"),
    "relu": Operator("torch.relu({0})", "relu({0})"),
    "maximum": Operator("torch.maximum({0}, {1})", "maximum({0}, {1})"),
    "minimum": Operator("torch.minimum({0}, {1})", "minimum({0}, {1})"),
    # Of a number and a literal; torch.where takes ten times as long on a CPU.
    "at_least": Operator("torch.clamp({0}, min={1})", "tl.where({0} < {1}, {1}, {0})"),
    "at_most": Operator("torch.clamp({0}, max={1})", "tl.where({0} > {1}, {1}, {0})"),
    "where": Operator("torch.where({0}, {1}, {2})", "tl.where({0}, {1}, {2})"),
    "gt": Operator("{0} > {1}", "{0} > {1}", True),
    "ge": Operator("{0} >= {1}", "{0} >= {1}", True),
    "lt": Operator("{0} < {1}", "{0} < {1}", True),
    "le": Operator("{0} <= {1}", "{0} <= {1}", True),
    "eq": Operator("{0} == {1}", "{0} == {1}", True),
    "ne": Operator("{0} != {1}", "{0} != {1}", True),
    "logical_and": Operator("{0} & {1}", "{0} & {1}", True),
    "logical_or": Operator("{0} | {1}", "{0} | {1}", True),
    "logical_not": Operator("~{0}", "{0} == 0", True),
    # Of a truth value; `dtype` is that of the step's tensors.
    "number": Operator("({0}).to(dtype)", "tl.where({0}, 1.0, 0.0)"),
}


def evaluate(operator: str, *args: Tensor | float) -> Tensor:
    """An operator's value, as its text in torch gives it."""
    names = "abc"[: len(args)]
    known: dict[str, object] = {"torch": torch, **dict(zip(names, args, strict=True))}
    known["dtype"] = next((a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()), torch.float64)
    result: Tensor = eval(OPERATORS[operator].torch.format(*names), known)
    return result
