"""Which backend runs a layer: a pure, ordered choice over data, and its explanation.

`select` walks `BACKENDS` in order and takes the first that supports the problem. Each backend says why it cannot serve
(`supports`) and why `"auto"` passes over it although it could (`declines`); an explicit choice that cannot be honoured
raises with that reason. No environment variable takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fastrnn.backends import aten, handover, persistent, reference, stepwise

if TYPE_CHECKING:
    from fastrnn.cells import Cell


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

    def describe(self) -> str:
        sizes = f"T={self.time} B={self.batch} H={self.hidden}" if self.batch else f"H={self.hidden}"
        parts = [f"{self.cell.mode} {str(self.dtype).removeprefix('torch.')} on {self.device}", sizes]
        if self.layers > 1:
            parts.append(f"{self.layers} layers")
        if self.directions == 2:
            parts.append("bidirectional")
        if self.projection:
            parts.append(f"proj_size={self.projection}")
        for asked in ("packed", "lengths", "resets"):
            if getattr(self, asked):
                parts.append(asked)
        if self.cells:
            parts.append("all cell states")
        parts.append("training" if self.grad else "inference")
        if self.transformed:
            parts.append("inside a torch.func transform or forward-mode differentiation")
        return ", ".join(parts)


@dataclass(frozen=True)
class Backend:
    """One way to run a layer.

    Attributes:
        name: what users pass as `backend=`.
        supports: why it cannot run a problem, or None.
        declines: why `"auto"` passes over it although it could, or None.
        describe: the tier it runs a problem in, and the launch chosen for it.
    """

    name: str
    supports: Callable[[Problem], str | None]
    declines: Callable[[Problem], str | None]
    describe: Callable[[Problem], str]


BACKENDS: tuple[Backend, ...] = tuple(
    Backend(module.NAME, module.supports, module.declines, module.describe)
    for module in (persistent, stepwise, aten, reference)
)
NAMES: tuple[str, ...] = ("auto", *(backend.name for backend in BACKENDS))


def check_name(backend: str) -> str:
    """`backend` itself, or ValueError with the names there are."""
    if backend not in NAMES:
        raise ValueError(f"backend should be one of {', '.join(map(repr, NAMES))}, got {backend!r}")
    return backend


def select(problem: Problem, backend: str = "auto") -> Backend:
    """The backend that runs `problem`.

    Args:
        problem: what is to be computed.
        backend: `"auto"` or the name of one of `BACKENDS`.

    Raises:
        ValueError: `backend` is no backend's name.
        RuntimeError: the backend asked for cannot run this problem; the message says why and what to do.
    """
    check_name(backend)
    for candidate in BACKENDS:
        if backend not in ("auto", candidate.name):
            continue
        reason = candidate.supports(problem)
        if backend == candidate.name and reason is not None:
            raise RuntimeError(
                f"backend={backend!r} cannot run {problem.describe()}: {reason}. "
                "Pass backend='auto' to let fastrnn choose, or see fastrnn.explain()."
            )
        if reason is None and (backend == candidate.name or candidate.declines(problem) is None):
            return candidate
    raise AssertionError("the reference backend runs everything")


def explanation(problem: Problem, backend: str = "auto") -> str:
    """A line per backend: which one runs, in which tier, and why each other does not."""
    lines = [problem.describe()]
    try:
        chosen = select(problem, backend)
    except RuntimeError as error:
        chosen = None
        lines.append(f"  error: {error}")
    for candidate in BACKENDS:
        cannot, declined = candidate.supports(problem), candidate.declines(problem)
        if candidate is chosen:
            verdict = f"runs: {candidate.describe(problem)}"
        elif cannot is not None:
            verdict = f"cannot run: {cannot}"
        elif backend != "auto":
            verdict = f"could run, but backend={backend!r} was asked for"
        elif declined is not None:
            verdict = f"passed over: {declined}"
        else:
            verdict = "could run, but comes later"
        lines.append(f"  {candidate.name:<11} {verdict}")
    times = handover.times_us(problem)
    if times is not None:
        lines.append(f"  scans       {handover.in_words(times)}; by models, not measured")
    return "\n".join(lines)


def explain(layer: Any, input: Any, hx: Any = None, **options: Any) -> None:
    """Print which backend and tier would run `layer(input, hx, **options)`, and why each other backend would not.

    Args:
        layer: a fastrnn layer or cell.
        input, hx, options: what it would be called with; nothing is computed.

    Raises:
        TypeError: `layer` is not one of fastrnn's.
    """
    if not hasattr(layer, "_problem"):
        raise TypeError(f"explain() takes a fastrnn layer or cell, got {type(layer).__module__}.{type(layer).__name__}")
    print(explanation(layer._problem(input, hx, **options), layer.backend))
