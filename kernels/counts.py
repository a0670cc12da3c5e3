"""Each cell's counts, in plain Python: what the launch, the cost model and the report need to know of a cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastrnn.kernels.derived.table import TABLE


@dataclass(frozen=True)
class Counts:
    """How many of what a cell has.

    Attributes:
        name: key of `fastrnn.cells.CELLS`, and how the names of its derived functions begin.
        gates: blocks of H rows in `weight_ih` and `weight_hh`.
        states: tensors carried from step to step; the first is h.
        saved: tensors per step that the backward kernel reads, beyond the states.
        split_gates: the gates whose input and recurrent parts do not simply add.
        inner: how many of the last gates (0 or 1) multiply not h but a function of h and of the other gates, which
            takes a second matmul, and a second exchange, in every step.
        vectors: trained vectors, one number a unit, that a step takes besides.
        constants: numbers of each row and step that it takes besides.
        initial: the states' values where a sequence starts; empty for zeros.
        rests: whether a unit of zeros stays one, forward and backward: then lanes past H need no mask.
        float32_states: whether the states other than h, and what is saved, are kept in float32 where a layer's dtype
            has 16 bits.
        source: the Triton source of its steps; empty where `kernels/derived/` has them.
    """

    name: str
    gates: int
    states: int
    saved: int
    split_gates: tuple[int, ...]
    inner: int
    vectors: int = 0
    constants: int = 0
    initial: tuple[float, ...] = ()
    rests: bool = False
    float32_states: bool = False
    source: str = field(default="", compare=False, repr=False)

    @property
    def splits_bias(self) -> bool:
        """Whether the recurrent bias must stay on the recurrent side: where some gate's parts do not simply add. Their
        gradients differ too, then."""
        return bool(self.split_gates)

    def extra(self, backward: bool) -> int:
        """Tiles that are live in a step beyond those of an LSTM, to which the plan was fitted: states and saved tensors
        more than two above the gates, and backward each vector's gradient."""
        return max(0, self.states + self.saved - self.gates - 2) + (self.vectors if backward else 0)

    def tiles(self, backward: bool) -> dict[str, Any]:
        """What a plan has to know of the cell beside its gates: arguments of `plan.configs.ScanShape`."""
        return {
            "inner": self.inner,
            "extra": self.extra(backward),
            "states": self.states,
            "constants": self.constants,
        }

    def moved(self, backward: bool, save: bool) -> int:
        """Elements per row and unit that one step of a scan reads from memory, or writes there.

        Forward: x in, h out, and the other states and the saved values with `save`. Backward: the saved values, a
        state and the output's gradient in, the gates' gradients out.
        """
        if backward:
            return self.gates * (1 + self.splits_bias) + self.saved + 2
        return self.gates + 1 + (self.states - 1 + self.saved if save else 0)


COUNTS: dict[str, Counts] = {name: Counts(name, **row) for name, row in TABLE.items()}
