"""Recurrent cells, each a function of plain torch: torch.nn's, a catalogue of others, and how to make one's own."""

from __future__ import annotations

from fastrnn.cells.builtin import BY_MODE, CELLS
from fastrnn.cells.cell import Cell, Inner, State, Upstream
from fastrnn.cells.registry import named, register

__all__ = ["BY_MODE", "CELLS", "Cell", "Inner", "State", "Upstream", "named", "register"]
