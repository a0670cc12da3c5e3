"""Recurrent layers and what they should give: the literal loop of each direction of each layer, one after the other."""

from __future__ import annotations

from typing import Any

import literal
import torch
from support import as_tuple
from torch import Tensor

import fastrnn
from fastrnn.cells import CATALOGUE, CELLS, Cell

EVERY: dict[str, Cell] = {**CELLS, **CATALOGUE}
T, B, INPUTS, H = 4, 3, 2, 6
LENGTHS, RESETS = torch.tensor([3, 0, 4]), torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]], dtype=torch.bool)
MASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "resets": {"resets": RESETS},
    "lengths and resets": {"lengths": LENGTHS, "resets": RESETS},
}


def make(name: str, **options: Any) -> fastrnn.Recurrent:
    layer = fastrnn.Recurrent(EVERY[name], INPUTS, H, dtype=torch.float64, **options)
    assert isinstance(layer, fastrnn.Recurrent)
    return layer


def draw(layer: fastrnn.Recurrent) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
    """An input, initial states and constants; states are positive, since a normaliser is."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    hx = tuple((torch.rand(count, B, H, dtype=torch.float64) + 0.1).requires_grad_() for _ in range(layer.cell.states))
    return x, hx, {name: torch.rand(T, B, dtype=torch.float64) for name in layer.cell.constant_names}


def literally(
    layer: fastrnn.Recurrent, x: Tensor, hx: tuple[Tensor, ...], constants: dict[str, Tensor], **masks: Any
) -> list[Tensor]:
    """Output, final states, and the last layer's other states of every step, `(T, B, D * H)` each."""
    name, rows, finals, others = layer.cell.function.__name__, x, [], []
    directions = 2 if layer.bidirectional else 1
    for n in range(layer.num_layers * directions):
        d = n % directions
        suffix = f"_l{n // directions}" + ("_reverse" if d else "")
        params = {key.removesuffix(suffix): p for key, p in layer.named_parameters() if key.endswith(suffix)}
        if d == 0:
            given, outputs, every = rows, [], []
        output, final, steps = literal.run(
            name, given, params, tuple(h[n] for h in hx), constants=constants, heads=layer.heads, reverse=d == 1,
            initial=layer.cell.initial or None, **masks,
        )  # fmt: skip
        outputs.append(output)
        finals.append(final)
        every.append([torch.stack(state) for state in list(zip(*steps, strict=True))[1:]])
        if d == directions - 1:
            rows, others = torch.cat(outputs, -1), [torch.cat(state, -1) for state in zip(*every, strict=True)]
    return [rows, *(torch.stack(state) for state in zip(*finals, strict=True)), *others]


def run(
    layer: fastrnn.Recurrent, x: Tensor, hx: tuple[Tensor, ...], constants: dict[str, Tensor], **masks: Any
) -> list[Tensor]:
    """The same of the layer."""
    several = layer.cell.states > 1
    output, *rest = layer(x, hx if several else hx[0], return_cells=several, **masks, **constants)
    return [output, *(t for part in rest for t in as_tuple(part))]


def gradients(results: list[Tensor], layer: fastrnn.Recurrent, x: Tensor, hx: tuple[Tensor, ...]) -> list[Tensor]:
    """Of everything, by the same upstream gradients each time."""
    generator = torch.Generator().manual_seed(0)
    upstream = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    leaves = [x, *hx, *layer.parameters()]
    found = torch.autograd.grad(results, leaves, upstream, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
