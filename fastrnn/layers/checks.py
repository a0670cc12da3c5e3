"""What callers may get wrong about `heads`, `lengths` and `resets`, and the switch that has values on a GPU checked."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_DEBUG = contextvars.ContextVar("fastrnn.debug", default=False)


@contextlib.contextmanager
def debug(enabled: bool = True) -> Iterator[None]:
    """Check the values of `lengths` that live on a GPU, which waits for it; without this they are clamped to [0, T].

    Example:
        with fastrnn.debug():
            layer(x, lengths=lengths)

    Args:
        enabled: False turns the checks off again inside.
    """
    token = _DEBUG.set(enabled)
    try:
        yield
    finally:
        _DEBUG.reset(token)


def checked_heads(heads: int, hidden_size: Any, proj_size: int) -> int:
    """`heads`, where it is not 1.

    Raises:
        TypeError: no integer.
        ValueError: it does not divide `hidden_size`, or there is a projection.
    """
    if not isinstance(heads, int) or isinstance(heads, bool):
        raise TypeError(f"heads should be of type int, got: {type(heads).__name__}")
    # Of another hidden_size torch says what is wrong.
    if heads < 1 or (isinstance(hidden_size, int) and hidden_size > 0 and hidden_size % heads):
        raise ValueError(
            f"heads should be a positive divisor of hidden_size, got heads={heads} for hidden_size={hidden_size}: "
            "choose another hidden_size, or heads=1 for recurrent weights in one piece"
        )
    if proj_size:
        raise ValueError(
            f"heads takes no projection, got heads={heads} with proj_size={proj_size}: leave out one of the two"
        )
    return heads


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; the host waits only where it could not go on, and may then change what it gave.

    A copy to a GPU that nothing waits for reads pinned memory later, when the caller may have written the next values
    into it, as into a rollout buffer: so it reads a copy of ours. From pageable memory the driver has taken the values
    before the call returns. A copy to the host that nothing waits for would be read here before it is there.
    """
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu":
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor.to(device, non_blocking=device.type != "cpu")


def checked_lengths(lengths: Tensor, time: int, batch: int | None, device: torch.device) -> Tensor:
    """`lengths` as the scan takes them: `(B,)` int32 in [0, T], on `device`.

    Args:
        lengths: as the caller gave them.
        time: T.
        batch: B, or None for unbatched input, whose lengths have no axis.
        device: the input's.

    Raises:
        TypeError: not a tensor of integers.
        ValueError: another shape than `(batch,)`; values outside [0, T], if they are on the CPU or under `debug`.
    """
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths should be a tensor of integers, got {type(lengths).__name__}: torch.tensor(lengths)")
    if lengths.dtype != torch.int64:
        if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
            raise TypeError(f"lengths should be a tensor of integers, got {lengths.dtype}")
        # T may be more than a narrow dtype holds, and unsigned ones lack operators.
        lengths = lengths.long()
    expected = () if batch is None else (batch,)
    if lengths.shape != expected:
        raise ValueError(f"lengths should have shape {expected}, one per row of the batch, got {tuple(lengths.shape)}")
    # Neither tracers nor torch.func.vmap know values.
    if (
        not (torch.compiler.is_compiling() or torch._C._is_tracing())
        and torch._C._functorch.peek_interpreter_stack() is None
        and (lengths.is_cpu or _DEBUG.get())
    ):
        values = [lengths.item()] if batch is None else lengths.tolist()
        if values and not 0 <= min(values) <= max(values) <= time:
            raise ValueError(
                f"lengths should lie between 0 and the {time} time steps of the input, got {min(values)} to "
                f"{max(values)}"
            )
    else:
        lengths = lengths.clamp(0, time)
    if batch is None:
        lengths = lengths.reshape(1)
    return moved(lengths.int(), device)


def checked_constants(value: Tensor, name: str, input: Tensor, batch_first: bool) -> Tensor:
    """A constant of each row and step as the scan takes it: `(T, B)`, on the input's device.

    Args:
        value: as the caller gave it, laid out like the input's batch and time axes.
        name: the keyword it was given by.
        input: the input, batched or not.
        batch_first: whether the batch axis comes first.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: another shape than the input's, or one that a gradient is to go to.
    """
    if not isinstance(value, Tensor) or value.is_complex():
        given = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} should be a tensor of numbers, one of each row and step, got {given}")
    expected = tuple(input.shape[:-1])
    if tuple(value.shape) != expected:
        raise ValueError(f"{name} should have the input's time and batch axes, {expected}, got {tuple(value.shape)}")
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} is a constant, and gets no gradient: pass {name}.detach()")
    if not value.is_floating_point():
        value = value.to(torch.promote_types(input.dtype, torch.float32))
    if len(expected) == 1:
        value = value.unsqueeze(1)
    elif batch_first:
        value = value.t()
    return moved(value, input.device)


def checked_resets(resets: Tensor, time: int, batch: int | None, batch_first: bool, device: torch.device) -> Tensor:
    """`resets` as the scan takes them: `(T, B)` bool, on `device`.

    Args:
        resets: as the caller gave them, laid out like the input's batch and time axes.
        time, batch, device: as for `checked_lengths`.
        batch_first: whether the batch axis comes first.

    Raises:
        TypeError: not a tensor of bool.
        ValueError: another shape than the input's.
    """
    if not isinstance(resets, Tensor):
        raise TypeError(f"resets should be a tensor of bool, got {type(resets).__name__}")
    if resets.dtype != torch.bool:
        raise TypeError(f"resets should be a tensor of bool, got {resets.dtype}: resets.bool(), or resets > 0")
    expected = (time,) if batch is None else (batch, time) if batch_first else (time, batch)
    if tuple(resets.shape) != expected:
        raise ValueError(f"resets should have the input's time and batch axes, {expected}, got {tuple(resets.shape)}")
    if batch is None:
        resets = resets.unsqueeze(1)
    elif batch_first:
        resets = resets.t()
    return moved(resets, device).contiguous()
