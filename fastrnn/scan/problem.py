"""What is asked of a scan, as plain data, and what a backend is: all that a backend knows of those who call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastrnn.cells import Cell
from fastrnn.kernels.tensors import Gradients, Inputs, Kept, Results, Upstream


class Weights(NamedTuple):
    """One direction of one layer, as torch.nn shapes and names them.

    Attributes:
        ih: `(GATES * H, I)`.
        hh: `(GATES * H, H)`, `(GATES * H, P)` with projection, or `(GATES * H, H / heads)`.
        bias_ih, bias_hh: `(GATES * H,)` or None.
        hr: `(P, H)` or None.
    """

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    hr: Tensor | None


def grouped(flat_weights: Sequence[Tensor], layers: int, directions: int) -> list[list[Weights]]:
    """torch.nn's flat list of weights as `[layer][direction]`."""
    width = len(flat_weights) // (layers * directions)
    has_bias, projected = width >= 4, width % 2 == 1
    groups = []
    for start in range(0, len(flat_weights), width):
        weights = flat_weights[start : start + width]
        biases = weights[2:4] if has_bias else (None, None)
        groups.append(Weights(weights[0], weights[1], biases[0], biases[1], weights[-1] if projected else None))
    return [groups[i : i + directions] for i in range(0, len(groups), directions)]


def without_vectors(
    flat_weights: Sequence[Tensor], layers: int, directions: int, count: int
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """A flat list of weights, those of each direction followed by `count` vectors `(H,)` that its cell takes, as
    torch.nn has it, and those vectors: all of each layer, direction by direction."""
    if not count:
        return list(flat_weights), [[]] * layers
    width = len(flat_weights) // (layers * directions)
    own: list[list[Tensor]] = [[] for _ in range(layers)]
    plain: list[Tensor] = []
    for i, start in enumerate(range(0, len(flat_weights), width)):
        stop = start + width
        plain.extend(flat_weights[start : stop - count])
        own[i // directions].extend(flat_weights[stop - count : stop])
    return plain, own


class Stack(NamedTuple):
    """What a stack of layers is, its weights apart: as torch.nn's layers have it, with the cell for the mode, and
    heads, which they have not."""

    cell: Cell
    has_bias: bool
    num_layers: int
    dropout: float
    training: bool
    bidirectional: bool
    heads: int = 1


class Extras(NamedTuple):
    """What a call asks for beyond torch.nn's arguments.

    Attributes:
        lengths: `(B,)` int32 in [0, T], or None.
        resets: `(T, B)` bool, or None.
        cells: whether the last layer's states other than h are wanted for every step.
        constants: what the cell takes for each row and step, `(T, B, CONSTANTS)`, or None.
    """

    lengths: Tensor | None = None
    resets: Tensor | None = None
    cells: bool = False
    constants: Tensor | None = None


NO_EXTRAS = Extras()


@dataclass(frozen=True)
class Problem:
    """What a layer is asked to compute, as far as the choice of a backend depends on it.

    Attributes:
        cell: the cell.
        dtype: of the computation (autocast's, where it is on).
        device: where the tensors are.
        time, batch, hidden: sizes; `time` is the longest sequence's. Which backend runs never depends on it, and on the
            batch only in that torch's kernels take many rows (`handover`): 0 where they are left open, as in the choice
            that a call looks up, which has the batch to compare with beside it. Within the aten backend both decide, by
            `rows`, what trains rows of unequal length on a CPU (`packed_cost`).
        directions: 1, or 2 for a bidirectional layer.
        layers: how many layers are stacked.
        projection: LSTM's `proj_size`, or 0.
        grad: whether backward will be needed.
        packed: whether the input is a PackedSequence.
        rows: the time steps of all rows together, where rows differ in length and that is known on the host; else 0.
        lengths, resets: whether the call passes them.
        cells: whether it wants every step's cell state.
        transformed: whether a `torch.func` transform or forward-mode differentiation is under way.
        single: whether it is one step of a cell module.
        evaluating: whether the layer is in eval mode, in which cuDNN refuses backward.
        heads: how many independent blocks the recurrent weights have: of `hidden / heads` units, which may be one.
    """

    cell: Cell
    dtype: torch.dtype
    device: torch.device
    time: int
    batch: int
    hidden: int
    directions: int = 1
    layers: int = 1
    projection: int = 0
    grad: bool = False
    packed: bool = False
    lengths: bool = False
    resets: bool = False
    cells: bool = False
    transformed: bool = False
    single: bool = False
    evaluating: bool = False
    rows: int = 0
    heads: int = 1

    def describe(self) -> str:
        sizes = f"T={self.time} B={self.batch} H={self.hidden}" if self.batch else f"H={self.hidden}"
        parts = [f"{self.cell.mode} {str(self.dtype).removeprefix('torch.')} on {self.device}", sizes]
        if self.layers > 1:
            parts.append(f"{self.layers} layers")
        if self.directions == 2:
            parts.append("bidirectional")
        if self.projection:
            parts.append(f"proj_size={self.projection}")
        if self.heads > 1:
            parts.append(f"heads={self.heads}")
        for asked in ("packed", "lengths", "resets"):
            if getattr(self, asked):
                parts.append(asked)
        if self.cells:
            parts.append("all cell states")
        parts.append("training" if self.grad else "inference")
        if self.transformed:
            parts.append("inside a torch.func transform or forward-mode differentiation")
        return ", ".join(parts)


class Backend:
    """One way to run a scan; each module of `fastrnn.backends` has one, `BACKEND`, and `fastrnn.scan.choice` the list.

    Attributes:
        name: what users pass as `backend=`.
        differentiable: whether autograd sees through `scan`, which then is called as it is; where not, it becomes an
            operator, and `scan_backward` its gradient.
    """

    name: str
    differentiable: bool = False

    def supports(self, problem: Problem) -> str | None:
        """Why it cannot run a problem, or None."""
        return None

    def declines(self, problem: Problem) -> str | None:
        """Why `"auto"` passes over it although it could, or None."""
        return None

    def describe(self, problem: Problem) -> str:
        """The tier it runs a problem in, and the launch chosen for it."""
        raise NotImplementedError

    def scan(self, inputs: Inputs, cell: Cell, save: bool, cells: bool) -> Results:
        """One layer's scan, both directions: `state_t = step(x_t, W_hh h_{t-1} + b, state_{t-1})`.

        Args:
            inputs, cell: what is computed. Direction 1 runs from the last time step to the first.
            save: whether to keep what `scan_backward` needs.
            cells: whether to keep the cells without that.
        """
        raise NotImplementedError

    def scan_backward(self, upstream: Upstream, kept: Kept, cell: Cell) -> Gradients:
        """Its gradient, without what single products over all steps compute."""
        raise NotImplementedError

    def lacks(self, problem: Problem) -> str | None:
        """What `layers` and `step` do not do, or not well, of a problem; None where they run it, and no scan does."""
        return "layers of its own"

    def layers(
        self,
        stack: Stack,
        input: Tensor,
        batch_sizes: Tensor | None,
        hx: tuple[Tensor, ...],
        flat_weights: Sequence[Tensor],
        batch_first: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The whole stack in one call: tensors as torch.nn's layers take and return them."""
        raise NotImplementedError

    def step(self, cell: Cell, input: Tensor, hx: tuple[Tensor, ...], weights: Weights) -> tuple[Tensor, ...]:
        """One step of a cell module: tensors as torch.nn's cells take and return them."""
        raise NotImplementedError
