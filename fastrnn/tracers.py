"""Who watches a call: torch.compile, torch.jit.trace, an exporter, a torch.func transform. Asked in functions of their
own, since tracers disagree about what may be asked of them, and how."""

from __future__ import annotations

import warnings

import torch
from torch.autograd import forward_ad

COMPILED = "compiled"
TRACED = "traced"


def recorder() -> str | None:
    """What records this call: COMPILED for torch.compile and torch.export, TRACED for torch.jit.trace, or None."""
    if torch.compiler.is_compiling():
        return COMPILED
    return TRACED if torch._C._is_tracing() else None


def jit_tracing() -> bool:
    """Whether torch.jit.trace is recording; torch.compile cannot look, and does not have to."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def number(size: int) -> int:
    """A size as a number: under torch.jit.trace sizes are tensors, by which nothing can be chosen."""
    if not jit_tracing():
        return size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that parameters' sizes become constants
        return int(size)


def exporting() -> bool:
    """Whether torch.export is recording."""
    return torch.compiler.is_exporting()


def in_onnx_export() -> bool:
    """Whether torch.onnx.export is running; asked only where something records, for asking imports it."""
    return torch.onnx.is_in_onnx_export()


# Dynamo answers these itself, and wrongly: it takes the first for True (torch 2.11), and the second, the exporter's
# second try, for False. So they are asked while it traces, which is what torch.compiler.assume_constant_result does.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]
in_onnx_export._dynamo_marked_constant = True  # type: ignore[attr-defined]
