"""Which backend runs a layer, and how: a pure, ordered choice over data, and its explanation.

`select` walks `BACKENDS` in order and takes the first that supports the problem. Each backend says why it cannot serve
(`supports`) and why `"auto"` passes over it although it could (`declines`); an explicit choice that cannot be honoured
raises with that reason. No environment variable takes part. `choose` is that for a call, at a call's speed, with what
is known of it besides: its batch, its time steps on the host, and who records it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fastrnn import tracers
from fastrnn.backends import aten, handover, packed_cost, persistent, reference, stepwise
from fastrnn.cells import Cell, named
from fastrnn.kernels.plan.rule import Batches, among
from fastrnn.scan.problem import Backend, Extras, Problem, Stack

BACKENDS: tuple[Backend, ...] = (persistent.BACKEND, stepwise.BACKEND, aten.BACKEND, reference.BACKEND)
BY_NAME: dict[str, Backend] = {backend.name: backend for backend in BACKENDS}
NAMES: tuple[str, ...] = ("auto", *BY_NAME)

# How a backend runs a stack of layers.
SCAN = "scan"  # a scan for each layer
WHOLE = "whole"  # by its own layers, all in one call
NODE = "node"  # by torch's own layers, each one node of a graph
ONNX = "onnx"  # not at all: ONNX's operators are left in a graph

_ATEN = aten.BACKEND.name


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


@functools.lru_cache(maxsize=4096)
def _selected(
    backend: str, cell: str, dtype: torch.dtype, device: torch.device, hidden: int, directions: int, layers: int,
    projection: int, grad: bool, packed: bool, lengths: bool, resets: bool, cells: bool, transformed: bool,
    single: bool, evaluating: bool, heads: int, switches: object,
) -> tuple[str, bool, Batches]:  # fmt: skip
    """`select(...).name`; whether its own layers do it all; and for which batches torch's do so all the same.
    Remembered, by plain values: this is on the path of every call, where microseconds count."""
    problem = Problem(
        named(cell), dtype, device, 0, 0, hidden, directions, layers, projection, grad, packed, lengths, resets, cells,
        transformed, single, evaluating, heads=heads,
    )  # fmt: skip
    chosen = select(problem, backend)
    theirs = handover.torchs_batches(problem) if backend == "auto" and chosen.name != _ATEN else ()
    return chosen.name, chosen.lacks(problem) is None, theirs


def _selected_at_tracing(*values: Any) -> tuple[str, bool, Batches]:
    """While torch.compile traces, the choice is made once and becomes part of the graph."""
    return _selected(*values, handover.switches())


@functools.lru_cache(maxsize=4096)
def _step_selected(
    backend: str, cell: str, dtype: torch.dtype, device: torch.device, hidden: int, grad: bool, transformed: bool,
    switches: object,
) -> tuple[str, bool, Batches]:  # fmt: skip
    """`_selected` for one step, by the values that vary there: looking up fewer takes less."""
    asked = (False, False, False, False)
    return _selected(backend, cell, dtype, device, hidden, 1, 1, 0, grad, *asked, transformed, True, False, 1, switches)


def _step_selected_at_tracing(*values: Any) -> tuple[str, bool, Batches]:
    return _step_selected(*values, handover.switches())


# What torch.compiler.assume_constant_result does, without importing the compiler, which takes a second.
_selected_at_tracing._dynamo_marked_constant = True  # type: ignore[attr-defined]
_step_selected_at_tracing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _is_theirs(batch: int, theirs: Batches) -> bool:
    """Whether a batch is one for torch's kernels; under torch.compile, with a batch that varies, the only guards on
    it. What is exported or traced must serve every batch, and is not chosen by that of the example."""
    if tracers.exporting() or tracers.jit_tracing():
        return False
    return among(batch, theirs)


def choose(
    backend: str,
    stack: Stack,
    input: Tensor,
    state: Tensor,
    hidden: int,
    projection: int,
    batch_sizes: Tensor | None,
    extras: Extras,
    batch_first: bool,
    grad: bool,
    recorder: str | None,
) -> tuple[Backend, str]:
    """The backend that runs a stack of layers, and how: SCAN, WHOLE, NODE or ONNX.

    Args:
        backend: `"auto"` or the name of one.
        stack, input, batch_sizes, extras, batch_first: as `fastrnn.stack.run` takes them.
        state: one of the initial states, for the batch size.
        hidden, projection: sizes.
        grad: whether backward will be needed.
        recorder: who records the call, see `fastrnn.tracers`.

    Raises:
        RuntimeError: the backend asked for cannot run this, or not while it is recorded.
    """
    cell, _, layers, _, training, bidirectional, heads = stack
    lengths, resets, cells = extras.lengths, extras.resets, extras.cells
    directions = 2 if bidirectional else 1
    device, packed = input.device, batch_sizes is not None
    of = (cell.name, input.dtype, device, hidden, directions, layers, projection, grad, packed, lengths is not None,
          resets is not None, cells)  # fmt: skip
    if recorder == tracers.COMPILED:
        name, whole, theirs = _selected_at_tracing(backend, *of, False, False, not training, heads)
    else:
        switches = None if device.type == "cpu" else handover.switches()
        name, whole, theirs = _selected(backend, *of, tracers.transformed(), False, not training, heads, switches)
    if theirs and _is_theirs(state.shape[1], theirs):
        name, whole = _ATEN, True
    chosen = BY_NAME[name]
    if recorder is None:
        if not whole and name == _ATEN and (packed or lengths is not None) and heads == 1:
            time = input.shape[int(batch_first)] if batch_sizes is None else batch_sizes.shape[0]
            whole = _trains_rows_by_layers(cell, input, state.shape[1], time, hidden, directions, extras)
        return chosen, WHOLE if whole else SCAN
    if tracers.in_onnx_export():
        return chosen, ONNX
    # A PackedSequence's sizes are data, which only torch's layer, as one node, keeps out of a graph. Those of `lengths`
    # torch's layer would look at, and a trace make constants of.
    packed = packed and cell.mode in aten.MODES and not cells and heads == 1
    whole = name == _ATEN and lengths is None and (whole or packed)
    if recorder == tracers.COMPILED:
        return chosen, NODE if whole else SCAN
    if chosen is reference.BACKEND:
        raise RuntimeError(
            "torch.jit.trace would keep this input's number of time steps for every other: the reference, which "
            "runs here, is a Python loop over them. Trace the layer with backend='auto' or 'aten', and outside of "
            "torch.func transforms."
        )
    return chosen, WHOLE if whole else SCAN


def _trains_rows_by_layers(
    cell: Cell, input: Tensor, batch: int, time: int, hidden: int, directions: int, extras: Extras
) -> bool:
    """Whether torch's own layer is to train rows of unequal length on a CPU, where the lengths can be looked at."""
    lengths = extras.lengths
    if extras.resets is not None or extras.cells or input.device.type != "cpu" or cell.mode not in aten.MODES:
        return False
    sizes, margin = (hidden, directions), packed_cost.MARGIN
    if time < packed_cost.scan_from(cell.mode, batch, *sizes, margin):
        return True
    rows = input.shape[0] if lengths is None else sum(lengths.tolist())  # an operator's call costs more
    return packed_cost.layer_is_faster(cell.mode, time, batch, rows, *sizes, margin)


def choose_step(
    backend: str, cell: Cell, input: Tensor, hidden: int, grad: bool, recorder: str | None
) -> tuple[Backend, bool]:
    """`choose` for one step of a cell module: who runs it, and whether by a step of its own."""
    of = (backend, cell.name, input.dtype, input.device, hidden, grad)
    if recorder == tracers.COMPILED:
        name, whole, theirs = _step_selected_at_tracing(*of, False)
    else:
        switches = None if input.is_cpu else handover.switches()
        name, whole, theirs = _step_selected(*of, tracers.transformed(), switches)
    if theirs and _is_theirs(input.shape[0], theirs):
        return aten.BACKEND, True
    return BY_NAME[name], whole


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
