"""Cells that torch.nn has no layers for: the catalogue's, and a user's own."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

import fastrnn
from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.cells import BUILTIN, counts_of
from fastrnn.cells import Cell, named

Carried = tuple[Tensor, ...]


def cell_of(name: str) -> Cell:
    """The cell that rows name so."""
    counts = counts_of(name)
    return counts if isinstance(counts, Cell) else named(name)


def is_own(case: Case) -> bool:
    """Whether the cell of `case` is none of torch.nn's and Keras's."""
    return case.cell not in BUILTIN


def make_recurrent(case: Case, **options: object) -> nn.Module:
    """fastrnn's layer of such a cell."""
    sizes = (case.I, case.H, case.layers)
    layer: nn.Module = fastrnn.Recurrent(cell_of(case.cell), *sizes, bidirectional=case.bidirectional, **options)  # type: ignore[arg-type]
    return layer


class OwnCell(nn.Module):
    """One step of a cell, by its function, as one writes it in torch: parameters like those of torch.nn's cells.

    With `hoisted`, what comes as the input is its part of the gates: somebody multiplied all steps by `weight_ih` at
    once.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor

    def __init__(self, cell: Cell, weights: dict[str, Tensor], hoisted: bool) -> None:
        super().__init__()
        self.function, self.gates, self.has_inner, self.hoisted = cell.function, cell.gates, cell.inner, hoisted
        self.vector_names, self.constant_names = cell.vector_names, cell.constant_names
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight.clone()))

    def input_part(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_ih, self.bias_ih)

    def forward(self, x: Tensor, state: Carried, constants: Carried = ()) -> Carried:
        gates = (x if self.hoisted else self.input_part(x)).chunk(self.gates, -1)
        rows = (self.gates - self.has_inner) * state[0].shape[-1]
        outer = F.linear(state[0], self.weight_hh[:rows], self.bias_hh[:rows]).chunk(self.gates - self.has_inner, -1)
        given = {name: cast(Tensor, getattr(self, name)) for name in self.vector_names}
        given |= dict(zip(self.constant_names, constants, strict=True))
        if self.has_inner:
            given["inner"] = lambda v: F.linear(v, self.weight_hh[rows:], self.bias_hh[rows:])  # type: ignore[assignment]
        result = self.function(gates, outer, state, **given)
        return (result,) if isinstance(result, Tensor) else tuple(result)
