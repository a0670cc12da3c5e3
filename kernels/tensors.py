"""The tensors of a scan, as types: what forward takes and gives, and backward.

T steps, B rows, D directions, GATES, STATES and SAVED as `counts.Counts` has them, H hidden units. Operators flatten
these tuples and rebuild them at one place, `fastrnn.scan.operators`.

Where R is block-diagonal, each of its HEADS blocks is a scan of its own. To everything here a head is what a direction
is: D counts both, in D * HEADS groups of H units each, of which group p belongs to direction p // HEADS. Blocks of one
unit are no groups: the whole weight then is `(P, GATES, H, 1)`, the diagonals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Inputs(NamedTuple):
    """What a scan computes from.

    Attributes:
        x: the gates' input part, `(T, B, P, GATES, H)`.
        weight: the recurrent matrices, `(P, GATES, H, H)`, or their diagonals, `(P, GATES, H, 1)`.
        bias: the recurrent bias, `(P, GATES, H)`, or None.
        state: the initial states, `(STATES, P, B, H)`, in the dtype that states other than h, and what is saved, are
            kept in: that of x, or float32.
        lengths: `(B,)` int32, or None: a row at or past its length keeps its state and outputs zero.
        resets: `(T, B)` bool, or None: a row starts from the cell's initial values where it is cut.
        vectors: what the cell takes for each unit, `(P, VECTORS, H)`, or None.
        constants: what it takes for each row and step, `(T, B, CONSTANTS)`, or None.
        heads: how many groups a direction has.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    state: Tensor
    lengths: Tensor | None
    resets: Tensor | None
    vectors: Tensor | None = None
    constants: Tensor | None = None
    heads: int = 1


class Results(NamedTuple):
    """What it gives; rows past their length are zero, but for the final state.

    Attributes:
        output: h of every step, `(T, B, P, H)`.
        final: the final states, like the initial ones.
        cells: the states other than h of every step, `(T, B, P, STATES - 1, H)`; empty where nobody asked.
        saved: what backward needs besides, `(T, B, P, SAVED, H)`; empty where nobody asked.
    """

    output: Tensor
    final: Tensor
    cells: Tensor
    saved: Tensor


class Kept(NamedTuple):
    """What backward needs of forward: of its `Inputs` and of its `Results`."""

    weight: Tensor
    state: Tensor
    lengths: Tensor | None
    resets: Tensor | None
    output: Tensor
    cells: Tensor
    saved: Tensor
    vectors: Tensor | None = None
    constants: Tensor | None = None
    heads: int = 1


class Upstream(NamedTuple):
    """The gradients that come to a scan's results of the same names; None for zero."""

    output: Tensor | None
    final: Tensor | None
    cells: Tensor | None


class Gradients(NamedTuple):
    """The gradients that a scan passes on.

    Attributes:
        x, r: of the gates' input and recurrent parts, `(T, B, P, GATES, H)`, zero past a row's length; one and the same
            tensor where the cell does not split its bias.
        state: of the initial states, like them.
        vectors: of the vectors, like them, or None.
    """

    x: Tensor
    r: Tensor
    state: Tensor
    vectors: Tensor | None = None
