"""Masks on their way to another device: what the caller may do with his tensors once a call has returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastrnn.layers.checks import checked_lengths, checked_resets


class _Copies(TorchDispatchMode):
    """Notes what is copied to another device, whether anything waits for it, and what memory it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") is not None:
            source = args[0]
            if torch.device(kwargs["device"]) != source.device:
                place = 0 if source.device.type == "meta" else source.untyped_storage().data_ptr()
                self.seen.append((not kwargs.get("non_blocking", False), place))
                return torch.empty(source.shape, dtype=kwargs.get("dtype") or source.dtype, device=kwargs["device"])
        return func(*args, **kwargs)


MASKS: dict[str, tuple[Callable[[str], Tensor], Callable[[Tensor, torch.device], Tensor]]] = {
    "resets": (
        lambda device: torch.zeros(5, 4, dtype=torch.bool, device=device),
        lambda given, device: checked_resets(given, 5, 4, False, device),
    ),
    "resets, batch first": (
        lambda device: torch.zeros(4, 5, dtype=torch.bool, device=device),
        lambda given, device: checked_resets(given, 5, 4, True, device),
    ),
    "resets, unbatched": (
        lambda device: torch.zeros(5, dtype=torch.bool, device=device),
        lambda given, device: checked_resets(given, 5, None, False, device),
    ),
    "lengths": (
        lambda device: torch.ones(4, dtype=torch.int32, device=device),
        lambda given, device: checked_lengths(given, 5, 4, device),
    ),
}


@pytest.mark.parametrize("which", MASKS)
def test_nothing_that_goes_on_after_the_call_reads_the_callers_memory(which: str) -> None:
    """Pinned and rewritten at once, it would be read with the next values in it."""
    make, move = MASKS[which]
    given = make("cpu")
    with _Copies() as copies:
        move(given, torch.device("meta"))
    assert len(copies.seen) == 1
    waits, place = copies.seen[0]
    assert not waits, "the host waits for the device"
    assert place != given.untyped_storage().data_ptr()


@pytest.mark.parametrize("which", MASKS)
def test_the_host_waits_for_what_it_reads(which: str) -> None:
    """From a GPU to the CPU: the layer looks at the values next."""
    make, move = MASKS[which]
    with _Copies() as copies:
        move(make("meta"), torch.device("cpu"))
    assert [waits for waits, _ in copies.seen] == [True]


@pytest.mark.parametrize("which", MASKS)
def test_nothing_is_copied_where_it_is(which: str) -> None:
    make, move = MASKS[which]
    with _Copies() as copies:
        move(make("cpu"), torch.device("cpu"))
    assert not copies.seen
