"""What the two kernel backends share as backends; how they launch is `fastrnn.backends.fused`'s."""

from __future__ import annotations

from fastrnn.backends import fused, handover
from fastrnn.cells import Cell
from fastrnn.kernels.tensors import Gradients, Inputs, Kept, Results, Upstream
from fastrnn.scan.problem import Backend, Problem


class Kernels(Backend):
    """A backend whose name is the schedule that it launches kernels under."""

    def declines(self, problem: Problem) -> str | None:
        return fused.declined() or handover.declined(problem)

    def describe(self, problem: Problem) -> str:
        return fused.describe(problem, self.name)

    def scan(self, inputs: Inputs, cell: Cell, save: bool, cells: bool) -> Results:
        return fused.scan(inputs, cell, self.name, save, cells)

    def scan_backward(self, upstream: Upstream, kept: Kept, cell: Cell) -> Gradients:
        return fused.scan_backward(upstream, kept, cell, self.name)
