"""Layers of other projects as providers: what each adapter says of its project, and weights for it to lay out anew.

Where a project lays out weights in another way than torch.nn, they are laid out anew inside each call: a copy of them,
timed with it, so that gradients arrive under torch's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastrnn.bench.providers.provider import Adapter, State
from fastrnn.bench.rows.cases import Case


class Foreign(Adapter):
    """An adapter of another project's layer.

    Attributes:
        project: its name, for the reasons.
        cells, dtypes: those it has.
        layers, resets, return_cells: whether it takes several, takes them, returns them.
    """

    project: ClassVar[str]
    cells: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[str, ...]]
    layers: ClassVar[bool] = False
    resets: ClassVar[bool] = False
    return_cells: ClassVar[bool] = False
    cuda_only = True

    @classmethod
    def lacks(cls, case: Case) -> str | None:
        reasons = (
            (case.cell not in cls.cells, f"has no {case.cell}"),
            (case.dtype not in cls.dtypes, f"takes {' and '.join(cls.dtypes)} only"),
            (case.layers > 1 and not cls.layers, "runs one layer"),
            (case.bidirectional, "runs in one direction"),
            (case.lengths != "full", "does not end rows at their lengths"),
            (case.reset_rate > 0 and not cls.resets, "takes no resets"),
            (case.return_cells and not cls.return_cells, "returns no cells"),
        )
        return next((f"{cls.project} {reason}" for holds, reason in reasons if holds), None)


class OneLayer(Foreign):
    """With the weights of a torch.nn layer, one layer and direction."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, case: Case, state: State) -> None:
        super().__init__()
        self.cell, self.hidden_size = case.cell, case.H
        for name, weight in state.items():
            self.register_parameter(name, nn.Parameter(weight.clone()))


def reordered(weight: Tensor, order: Sequence[int]) -> Tensor:
    """A weight with its gates, `len(order)` blocks of rows, in another order."""
    gates = weight.chunk(len(order))
    return torch.cat([gates[k] for k in order])
