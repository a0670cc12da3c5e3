"""What a case is measured on: weights, inputs, lengths and resets, random but the same at each call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastrnn.bench.providers.own import cell_of
from fastrnn.bench.providers.provider import State, weight_shapes
from fastrnn.bench.rows.cases import Case


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call, and the gradients of its results where the case trains.

    Attributes:
        x: `(T, B, I)`.
        dout, dcells: `(T, B, D * H)`, or None where there is no gradient, or no cells.
        lengths: `(B,)` on the CPU, where data loaders have them, or None.
        resets: `(T, B)` bool, or None.
        cells: whether every c_t is wanted.
        constants: what the cell takes for each row and step, by name: `(T, B)` each.
    """

    x: Tensor
    dout: Tensor | None = None
    dcells: Tensor | None = None
    lengths: Tensor | None = None
    resets: Tensor | None = None
    cells: bool = False
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """The keywords of the call: only those that are needed, for torch.nn's layers take none."""
        given = {"lengths": self.lengths, "resets": self.resets, "return_cells": self.cells or None, **self.constants}
        return {name: value for name, value in given.items() if value is not None}

    def valid(self) -> Tensor | None:
        """Which steps there are, `(T, B)`, or None for all."""
        if self.lengths is None:
            return None
        return (torch.arange(len(self.x)).unsqueeze(1) < self.lengths).to(self.x.device)

    def double(self) -> Inputs:
        """The same in float64."""
        x = self.x.detach().double().requires_grad_(self.x.requires_grad)
        dout, dcells = (None if d is None else d.double() for d in (self.dout, self.dcells))
        constants = {name: value.double() for name, value in self.constants.items()}
        return Inputs(x, dout, dcells, self.lengths, self.resets, self.cells, constants)


def make_weights(case: Case, device: torch.device) -> State:
    """Random weights, distributed as torch.nn initialises them."""
    generator = torch.Generator(device).manual_seed(1)
    bound = case.H**-0.5
    return {
        name: torch.empty(shape, device=device)
        .uniform_(-bound, bound, generator=generator)
        .to(getattr(torch, case.dtype))
        for name, shape in weight_shapes(case).items()
    }


def make_lengths(case: Case, seed: int) -> Tensor | None:
    """`(B,)` integers in [1, T], as `case.lengths` says; None for full rows."""
    generator = torch.Generator().manual_seed(seed)
    if case.lengths == "uniform":
        return torch.randint(1, case.T + 1, (case.B,), generator=generator)
    if case.lengths == "zipf":
        ranks = torch.randperm(case.B, generator=generator) + 1
        return (case.T + ranks - 1) // ranks
    return None


def make_inputs(case: Case, device: torch.device, seed: int) -> Inputs:
    """Random inputs, the same ones for the same seed."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(width: int) -> Tensor:
        return torch.randn(case.T, case.B, width, generator=generator, device=device).to(getattr(torch, case.dtype))

    width = case.H * (2 if case.bidirectional else 1)
    x, dout, dcells = normal(case.I), None, None
    if case.train:
        x.requires_grad_()
        dout = normal(width)
        dcells = normal(width) if case.return_cells else None
    resets = None
    if case.reset_rate:
        resets = torch.rand(case.T, case.B, generator=generator, device=device) < case.reset_rate
    shape, dtype = (case.T, case.B), getattr(torch, case.dtype)
    # Between nothing and one, as gaps of time are.
    constants = {
        name: torch.rand(shape, generator=generator, device=device).to(dtype)
        for name in cell_of(case.cell).constant_names
    }
    return Inputs(x, dout, dcells, make_lengths(case, seed), resets, case.return_cells, constants)
