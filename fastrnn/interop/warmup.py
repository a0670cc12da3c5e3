"""Compiling ahead of the first real call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastrnn.layers.base import Layers
from fastrnn.layers.cells import CellModule
from fastrnn.layers.recurrent import Recurrent


def warmup(
    layer: Any,
    shapes: Iterable[tuple[int, int]],
    *,
    lengths: bool = False,
    resets: bool = False,
    return_cells: bool = False,
) -> None:
    """Run `layer` once on random input of each shape, so that every kernel those shapes need is compiled and loaded.

    Kernels are compiled for the hidden size, the dtype and a class of batch sizes, never for T, and are kept by Triton
    on disk between processes: one shape for each batch size in use is enough. Inference, training and each of the
    keywords below have kernels of their own: warm up each way of calling in use, and before a CUDA graph is captured
    the one that is captured, since a kernel must not be loaded inside a capture. Gradients and random state stay as
    they were. Where torch's own kernels run, this compiles nothing.

    Args:
        layer: a fastrnn layer or cell, on the device and in the dtype, grad mode and training mode it will be used in.
        shapes: pairs `(T, N)` of sequence length and batch size; cells ignore T.
        lengths, resets, return_cells: whether it will be called with the keyword of that name; cells take none.

    Raises:
        TypeError: `layer` is not one of fastrnn's, or a cell with one of the keywords.
    """
    if not isinstance(layer, (Layers, CellModule)):
        raise TypeError(f"warmup() takes a fastrnn layer or cell, got {type(layer).__module__}.{type(layer).__name__}")
    if isinstance(layer, CellModule) and (lengths or resets or return_cells):
        raise TypeError("warmup(): a cell takes neither lengths, resets nor return_cells")
    weight: Any = layer.weight_ih_l0 if isinstance(layer, Layers) else layer.weight_ih
    device = weight.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for time, batch in shapes:
            shape = (batch, layer.input_size) if isinstance(layer, CellModule) else (time, batch, layer.input_size)
            input = torch.randn(shape, dtype=weight.dtype, device=device)
            given: dict[str, Any] = {"return_cells": True} if return_cells else {}
            if lengths:
                given["lengths"] = torch.full((batch,), time, device=device)
            if resets:
                given["resets"] = torch.zeros(time, batch, dtype=torch.bool, device=device)
            if isinstance(layer, Recurrent):
                given |= {name: torch.zeros(time, batch, device=device) for name in layer.cell.constant_names}
            if getattr(layer, "batch_first", False):
                input = input.transpose(0, 1)
                given |= {name: value.transpose(0, 1) for name, value in given.items() if isinstance(value, Tensor)
                          and value.dim() == 2}  # fmt: skip
            result = layer(input, **given)
            results: tuple[Tensor, ...] = (result,) if isinstance(result, Tensor) else (result[0], *result[2:])
            if results[0].requires_grad:
                needed = [p for p in layer.parameters() if p.requires_grad]
                torch.autograd.grad([r.sum() for r in results], needed, allow_unused=True)
