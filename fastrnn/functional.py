"""Recurrent layers as functions: layers, directions, projection, dropout and packing around one scan per layer.

    x = input W_ih^T + b;  output, final = scan(x, W_hh, ...)

A projected LSTM (Sak et al. 2014, torch.nn.LSTM's `proj_size`), h_t = W_hr m_t, takes the same scan: its recurrent term
W_hh h_{t-1} is (W_hh W_hr) m_{t-1}, so the scan runs over m with the product of the two matrices, and the projection of
all steps is one matrix product afterwards. Only h0, which need not be W_hr times anything, enters through x.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastrnn import flops, layer_op, onnx_layers, ops
from fastrnn.backends import aten, handover, packed_cost, reference
from fastrnn.cells import CELLS, Cell
from fastrnn.checks import jit_tracing
from fastrnn.dispatch import Problem, select
from fastrnn.packing import Padding, by_torchs_packed_layer, lengths_of, padding_of


class Weights(NamedTuple):
    """One direction of one layer, as torch.nn shapes and names them.

    Attributes:
        ih: `(GATES * H, I)`.
        hh: `(GATES * H, H)`, or `(GATES * H, P)` with projection.
        bias_ih, bias_hh: `(GATES * H,)` or None.
        hr: `(P, H)` or None.
    """

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    hr: Tensor | None


class Extras(NamedTuple):
    """What a call asks for beyond torch.nn's arguments.

    Attributes:
        lengths: `(B,)` int32 in [0, T], or None.
        resets: `(T, B)` bool, or None.
        cells: whether the last layer's states other than h are wanted for every step.
    """

    lengths: Tensor | None = None
    resets: Tensor | None = None
    cells: bool = False


NO_EXTRAS = Extras()
flops.register()  # the operators are defined by now


def _group(flat_weights: Sequence[Tensor], has_bias: bool, projected: bool, directions: int) -> list[list[Weights]]:
    """torch.nn's flat list of weights as `[layer][direction]`."""
    width = 2 + 2 * has_bias + projected
    groups = []
    for start in range(0, len(flat_weights), width):
        weights = flat_weights[start : start + width]
        biases = weights[2:4] if has_bias else (None, None)
        groups.append(Weights(weights[0], weights[1], biases[0], biases[1], weights[-1] if projected else None))
    return [groups[i : i + directions] for i in range(0, len(groups), directions)]


def check_tensors(input: Tensor, hx: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """What torch's own layers refuse below Python, in their words."""
    for name, tensors in (("hidden", hx), ("parameter", weights)):
        for tensor in tensors:
            if tensor.device != input.device:
                raise RuntimeError(
                    f"Input and {name} tensors are not at the same device, found input tensor at {input.device} and "
                    f"{name} tensor at {tensor.device}"
                )
            if tensor.dtype != input.dtype:
                raise RuntimeError(
                    f"Input and {name} tensors are not the same dtype, found input tensor with {input.dtype} and "
                    f"{name} tensor with {tensor.dtype}"
                )


def _scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    extras: Extras,
    cell: Cell,
    backend: str,
    batch_first: bool,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """`ops.scan`, by any backend."""
    lengths, resets, keep_cells = extras
    if backend != reference.NAME:
        return ops.scan(x, weight, bias, state, lengths, resets, cell.name, backend, keep_cells, batch_first)
    output, final, cells = reference.scan(x, weight, bias, state, lengths, resets, cell)
    if batch_first:
        output, cells = output.transpose(0, 1), cells.transpose(0, 1)
    states = tuple(final[i].clone() for i in range(cell.states))
    cells = torch.cat(cells.flatten(3).unbind(2), -1) if keep_cells else cells
    return torch.cat(output.unbind(2), -1), states, cells


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Both directions' tensors as one; None where there are none."""
    present = [t for t in tensors if t is not None]
    if not present:
        return None
    return present[0] if len(present) == 1 else torch.cat(present)


def _stack(tensors: Sequence[Tensor], *shape: int) -> Tensor:
    """Both directions' tensors, each of `shape`, behind a leading direction axis."""
    return tensors[0].reshape(1, *shape) if len(tensors) == 1 else torch.stack([t.reshape(shape) for t in tensors])


def _layer(
    cell: Cell,
    input: Tensor,
    state: tuple[Tensor, ...],
    weights: list[Weights],
    extras: Extras,
    backend: str,
    padding: Padding | None = None,
    batch_first: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """One layer, both directions: `(T, B, I)` and states `(D, B, H or P)` to `(T, B, D * (H or P))`, new states and
    cells `(T, B, D * (STATES - 1) * H)`, those only where `extras` asks for them. With `batch_first`, B comes before T
    in output and cells; with `padding`, input and output are packed, `(rows, I)` and `(rows, D * (H or P))`."""
    T, B = input.shape[:2] if padding is None else (padding.time, padding.batch)
    D, G = len(weights), cell.gates
    H = weights[0].ih.shape[0] // G
    bias_ih, bias_hh = _cat([w.bias_ih for w in weights]), _cat([w.bias_hh for w in weights])
    if bias_ih is not None and bias_hh is not None and not cell.splits_bias:
        bias_ih, bias_hh = bias_ih + bias_hh, None
    weight_ih = _cat([w.ih for w in weights])
    assert weight_ih is not None
    x = F.linear(input, weight_ih, bias_ih)
    x = (x if padding is None else padding.pad(x)).reshape(T, B, D, G, H)
    if bias_hh is not None:
        bias_hh = bias_hh.reshape(D, G, H)

    projection = [w.hr for w in weights if w.hr is not None]
    if not projection:
        weight_hh = _stack([w.hh for w in weights], G, H, H)
        output, final, cells = _scan(x, weight_hh, bias_hh, torch.stack(state), extras, cell, backend, batch_first)
        return output if padding is None else padding.pack(output), final, cells

    weight_hh = _stack([w.hh @ w.hr for w in weights if w.hr is not None], G, H, H)
    terms = [F.linear(h0, w.hh).reshape(B, G, H) for h0, w in zip(state[0], weights, strict=True)]
    x = _add_first(x, torch.stack(terms), extras)
    memory = torch.stack((torch.zeros_like(state[1]), *state[1:]))
    output, (last, *others), cells = _scan(x, weight_hh, bias_hh, memory, extras, cell, backend, batch_first)
    h = torch.stack([F.linear(m, hr) for m, hr in zip(last, projection, strict=True)])
    if extras.lengths is not None:
        h = torch.where((extras.lengths > 0).view(1, B, 1), h, state[0])
    memories = (output.transpose(0, 1) if batch_first else output).unflatten(2, (D, H)).unbind(2)
    output = torch.cat([F.linear(m, hr) for m, hr in zip(memories, projection, strict=True)], -1)
    if batch_first:
        output = output.transpose_(0, 1)
    return output if padding is None else padding.pack(output), (h, *others), cells


def _add_first(x: Tensor, terms: Tensor, extras: Extras) -> Tensor:
    """Add the `(D, B, GATES, H)` terms to the step at which each direction's rows start from their initial state."""
    T, B = x.shape[:2]
    lengths, resets, _ = extras
    starts = torch.zeros(1, B, dtype=torch.long, device=x.device)
    if len(terms) == 2:
        ends = torch.full_like(starts, T - 1) if lengths is None else (lengths.long() - 1).clamp(min=0).unsqueeze(0)
        starts = torch.cat((starts, ends))
    if resets is not None:
        # The forward direction's first step may itself be a reset; the reverse direction's cannot.
        terms = torch.cat((terms[:1].masked_fill(resets[0].view(1, B, 1, 1), 0), terms[1:]))
    rows = torch.arange(B, device=x.device).expand_as(starts)
    directions = torch.arange(len(terms), device=x.device).unsqueeze(1).expand_as(starts)
    return x.index_put((starts, rows, directions), terms, accumulate=True)


def _autocast_dtype(input: Tensor) -> torch.dtype | None:
    """The dtype autocast asks for, where it is on for the input's device; it leaves float64 alone."""
    if not torch._C._is_any_autocast_enabled():
        return None
    kind = input.device.type
    if not torch.amp.is_autocast_available(kind):  # "meta"
        return None
    if torch.is_autocast_enabled(kind) and input.is_floating_point() and input.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return None


def _transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _plain(size: int) -> int:
    """A size as a number: under torch.jit.trace sizes are tensors, by which nothing can be chosen."""
    if not jit_tracing():
        return size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that parameters' sizes become constants
        return int(size)


def _needs_grad(weights: Sequence[Tensor | None], hx: Sequence[Tensor], input: Tensor) -> bool:
    """Whether backward will be needed."""
    if not torch.is_grad_enabled():
        return False
    for weight in weights:  # mostly the first answers, and a generator would cost more than it asks
        if weight is not None and weight.requires_grad:
            return True
    return input.requires_grad or any(h.requires_grad for h in hx)


def problem_of(
    cell: Cell,
    input: Tensor,
    hx: tuple[Tensor, ...],
    flat_weights: Sequence[Tensor],
    has_bias: bool,
    num_layers: int,
    bidirectional: bool,
    batch_sizes: Tensor | None,
    extras: Extras = NO_EXTRAS,
) -> Problem:
    """What `run` is asked with these arguments, as `fastrnn.dispatch` sees it, with T and B left open."""
    directions = 2 if bidirectional else 1
    return Problem(
        cell=cell,
        dtype=_autocast_dtype(input) or input.dtype,
        device=input.device,
        time=0,
        batch=0,
        hidden=_plain(flat_weights[0].shape[0]) // cell.gates,
        directions=directions,
        layers=num_layers,
        projection=_projection(flat_weights, has_bias, num_layers * directions),
        grad=_needs_grad(flat_weights, hx, input),
        packed=batch_sizes is not None,
        lengths=extras.lengths is not None,
        resets=extras.resets is not None,
        cells=extras.cells,
        transformed=not torch.compiler.is_compiling() and _transformed(),
    )


def _projection(flat_weights: Sequence[Tensor], has_bias: bool, layers_and_directions: int) -> int:
    """`proj_size`, from how many weights there are."""
    return _plain(flat_weights[-1].shape[0]) if len(flat_weights) == layers_and_directions * (3 + 2 * has_bias) else 0


@functools.lru_cache(maxsize=4096)
def _selected(
    backend: str, cell: str, dtype: torch.dtype, device: torch.device, hidden: int, directions: int, layers: int,
    projection: int, grad: bool, packed: bool, lengths: bool, resets: bool, cells: bool, transformed: bool,
    single: bool, evaluating: bool, switches: object,
) -> tuple[str, bool, int | None]:  # fmt: skip
    """`select(...).name`; whether torch's own layer does it all; and from which batch on it does so all the same.
    Remembered, by plain values: this is on the path of every call, where microseconds count."""
    problem = Problem(
        CELLS[cell], dtype, device, 0, 0, hidden, directions, layers, projection, grad, packed, lengths, resets, cells,
        transformed, single, evaluating,
    )  # fmt: skip
    name = select(problem, backend).name
    most = handover.torchs_from(problem) if backend == "auto" and name != aten.NAME else None
    return name, name == aten.NAME and aten.lacks(problem) is None, most


def _selected_at_tracing(*values: Any) -> tuple[str, bool, int | None]:
    """While torch.compile traces, the choice is made once and becomes part of the graph."""
    return _selected(*values, handover.switches())


# What torch.compiler.assume_constant_result does, without importing the compiler, which takes a second.
_selected_at_tracing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _backend(
    backend: str, cell: Cell, input: Tensor, dtype: torch.dtype | None, grad: bool, batch: int, hidden: int,
    directions: int = 1, layers: int = 1, projection: int = 0, packed: bool = False, lengths: bool = False,
    resets: bool = False, cells: bool = False, single: bool = False, evaluating: bool = False, compiling: bool = False,
) -> tuple[str, bool]:  # fmt: skip
    """The name of the backend that runs this, whatever T is, and whether torch's own layer does it all.

    Args:
        input: for its dtype and device.
        dtype: autocast's.
        compiling: whether torch.compile is tracing.
        others: as in `Problem`.
    """
    dtype, device = dtype or input.dtype, input.device
    shape = (hidden, directions, layers, projection)
    asked = (packed, lengths, resets, cells)
    if compiling:
        name, torchs, most = _selected_at_tracing(
            backend, cell.name, dtype, device, *shape, grad, *asked, False, single, evaluating
        )
    else:
        switches = None if device.type == "cpu" else handover.switches()
        name, torchs, most = _selected(
            backend, cell.name, dtype, device, *shape, grad, *asked, _transformed(), single, evaluating, switches
        )
    if most is not None and _is_at_least(batch, most):
        return aten.NAME, True
    return name, torchs


def _exporting() -> bool:
    return torch.compiler.is_exporting()


# Dynamo of torch 2.11 takes torch's function for True: so ask while it traces.
_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _is_at_least(batch: int, most: int) -> bool:
    """Whether a batch has so many rows; under torch.compile, with a batch that varies, the one guard on
    it. What is exported or traced must serve every batch, and is not chosen by that of the example."""
    if _exporting() or jit_tracing():
        return False
    return batch >= most


def _layer_is_faster(
    cell: Cell,
    input: Tensor,
    batch: int,
    time: int,
    batch_sizes: Tensor | None,
    extras: Extras,
    hidden: int,
    directions: int,
) -> bool:
    """Whether torch's own layer is to train rows of unequal length on a CPU, where the lengths can be looked at."""
    lengths, resets, keep_cells = extras
    if resets is not None or keep_cells or input.device.type != "cpu" or cell.mode not in aten.MODES:
        return False
    if batch_sizes is not None:
        time = batch_sizes.shape[0]
    elif lengths is None:
        return False
    sizes, margin = (hidden, directions), packed_cost.MARGIN
    if time < packed_cost.scan_from(cell.mode, batch, *sizes, margin):
        return True
    rows = input.shape[0] if lengths is None else sum(lengths.tolist())  # an operator's call costs more
    return packed_cost.layer_is_faster(cell.mode, time, batch, rows, *sizes, margin)


def _dropout(input: Tensor, probability: float, padding: Padding | None) -> Tensor:
    """Dropout between layers; of packed input on its rows alone, as torch drops for the same seed."""
    if padding is None:
        return F.dropout(input, probability, training=True)
    return padding.pad(F.dropout(padding.pack(input), probability, training=True))


def run(
    cell: Cell,
    input: Tensor,
    hx: tuple[Tensor, ...],
    flat_weights: Sequence[Tensor],
    has_bias: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_sizes: Tensor | None = None,
    extras: Extras = NO_EXTRAS,
    backend: str = "auto",
    batch_first: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """A stack of recurrent layers.

    Args:
        cell: the cell.
        input: `(T, B, I)`; with `batch_sizes`, a PackedSequence's data `(rows, I)`.
        hx: one tensor per state, `(num_layers * D, B, H)`, the first `(..., P)` with projection.
        flat_weights: torch.nn's, in its order.
        has_bias, num_layers, dropout, training, bidirectional: as torch.nn's layers take them.
        batch_sizes: a PackedSequence's, on the CPU, or None.
        extras: what torch.nn has no argument for; without `lengths` and `resets` where there are `batch_sizes`.
        backend: `"auto"` or a backend's name.
        batch_first: whether B comes before T, in the input and in what is returned; not of packed input.

    Returns:
        The output `(T, B, D * (H or P))`, or packed `(rows, D * (H or P))`; the final states, like `hx`; and the last
        layer's cells `(T, B, D * H)`, or packed, or None where `extras` does not ask for them. None is a view, except
        for the output where torch's own layer makes it one.

    Raises:
        RuntimeError: an empty sequence, tensors that differ in device or dtype, or a backend that cannot run this.
    """
    D = 2 if bidirectional else 1
    projection = _projection(flat_weights, has_bias, num_layers * D)
    # Asked once: this is on the path of every call.
    compiling = torch.compiler.is_compiling()
    recording = not compiling and torch._C._is_tracing()
    rows = flat_weights[0].shape[0]
    hidden = (_plain(rows) if recording else rows) // cell.gates
    dtype = _autocast_dtype(input) if torch._C._is_any_autocast_enabled() else None
    lengths, resets, keep_cells = extras
    grad = torch.is_grad_enabled() and (flat_weights[0].requires_grad or _needs_grad(flat_weights, hx, input))
    chosen, torchs = _backend(
        backend, cell, input, dtype, grad, hx[0].shape[1], hidden, D, num_layers, projection, batch_sizes is not None,
        lengths is not None, resets is not None, keep_cells, evaluating=not training, compiling=compiling,
    )  # fmt: skip
    if dtype is not None:
        # Here, not below Python: there cuDNN's layers run in float16 whatever autocast's dtype, and the CPU's in part.
        hx, flat_weights = tuple(h.to(dtype) for h in hx), [w.to(dtype) for w in flat_weights]
        with torch.autocast(input.device.type, enabled=False):
            return run(
                cell, input.to(dtype), hx, flat_weights, has_bias, num_layers, dropout, training, bidirectional,
                batch_sizes, extras, chosen, batch_first,
            )  # fmt: skip
    if (compiling or recording) and onnx_layers.exporting():
        onnx_layers.check(cell, extras)
        if recording:
            settings = (flat_weights, has_bias, num_layers, dropout, training, bidirectional, batch_first)
            return *aten.layers(cell, input, batch_sizes, hx, *settings), None
        layers = _group(flat_weights, has_bias, projection > 0, D)
        time_first = input.transpose(0, 1) if batch_first else input
        output, states = onnx_layers.stack(cell, time_first, hx, layers, dropout if training else 0.0, lengths)
        return output.transpose(0, 1) if batch_first else output, states, None
    if not torchs and chosen == aten.NAME and not (compiling or recording):
        torchs = _layer_is_faster(
            cell, input, hx[0].shape[1], input.shape[int(batch_first)], batch_sizes, extras, hidden, D
        )
    traced = False
    # A PackedSequence's sizes are data, which only torch's layer, as one node, keeps out of a graph.
    whole = chosen == aten.NAME and batch_sizes is not None and cell.mode in aten.MODES and not keep_cells
    if compiling:
        traced = whole or (torchs and lengths is None)
    elif recording:
        if chosen == reference.NAME:
            raise RuntimeError(
                "torch.jit.trace would keep this input's number of time steps for every other: the reference, which "
                "runs here, is a Python loop over them. Trace the layer with backend='auto' or 'aten', and outside of "
                "torch.func transforms."
            )
        torchs = torchs or whole
    options = (flat_weights, has_bias, num_layers, dropout, training, bidirectional)
    if torchs and not traced and lengths is None:
        return *aten.layers(cell, input, batch_sizes, hx, *options, batch_first), None
    if batch_first:
        input = input.transpose(0, 1)
    if batch_sizes is None and input.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    check_tensors(input, hx, flat_weights)
    # by_torchs_packed_layer looks at lengths, which a trace would make constants of.
    if torchs and lengths is not None and not compiling and not recording:
        output, states = by_torchs_packed_layer(cell, input, hx, options, lengths)
        return output.transpose_(0, 1) if batch_first else output, states, None

    # On a CPU the lengths can be looked at, and products be taken over the steps that there are. A GPU multiplies all
    # of them in the time in which it would pick some out.
    on_host = chosen == aten.NAME and input.device.type == "cpu"
    packed = on_host and not compiling and not recording
    padding = order = unsorted = None
    if batch_sizes is not None and not traced:
        padding = padding_of(batch_sizes.numel(), lengths_of(batch_sizes), input.device)
        lengths = padding.lengths
        input = input if packed else padding.pad(input)
    elif lengths is not None and on_host:
        # Longest first, as in a PackedSequence: rows that have ended then cost nothing.
        lengths, order = lengths.sort(descending=True)
        hx = tuple(h.index_select(1, order) for h in hx)
        resets = None if resets is None else resets.index_select(1, order)
        if packed:
            padding = padding_of(input.shape[0], lengths, input.device)
            unsorted = padding.reordered(order)
            input = unsorted.pack(input)
        else:
            input = input.index_select(1, order)
    if lengths is not None and padding is None:
        # What lies past a row's length may be anything: a NaN there must not reach the gradient of the weights.
        past = (torch.arange(input.shape[0], device=input.device).unsqueeze(1) >= lengths).unsqueeze(-1)
        input = torch.where(past, 0, input)
    cells = None
    finals: list[tuple[Tensor, ...]] = []
    for i, weights in enumerate(_group(flat_weights, has_bias, projection > 0, D)):
        state = tuple(h[i * D : (i + 1) * D] for h in hx)
        last = i + 1 == num_layers
        if traced:
            input, final = layer_op.aten_layer(
                cell, input, batch_sizes, state, [t for w in weights for t in w if t is not None]
            )
        else:
            asked = Extras(lengths, resets, keep_cells and last)
            within = batch_first and last and order is None
            input, final, cells = _layer(
                cell, input, state, weights, asked, chosen, padding if packed else None, within
            )
        finals.append(final)
        if dropout and training and not last:
            input = _dropout(input, dropout, None if packed else padding)
    states = finals[0] if num_layers == 1 else tuple(torch.cat(same) for same in zip(*finals, strict=True))
    cells = cells if keep_cells else None
    if padding is not None and batch_sizes is not None:
        input = input if packed else padding.pack(input)
        cells = None if cells is None else padding.pack(cells)
    if order is not None:
        back = order.argsort()
        input = input.index_select(1, back) if unsorted is None else unsorted.pad(input)
        cells = None if cells is None else cells.index_select(1, back)
        states = tuple(s.index_select(1, back) for s in states)
    if batch_first and (traced or order is not None):
        # In place, as torch does it: a view could not be detached in place.
        input = input.transpose_(0, 1)
        cells = None if cells is None else cells.transpose_(0, 1)
    return input, states, cells


def _check_step(cell: Cell, input: Tensor, hx: tuple[Tensor, ...], weights: Weights) -> None:
    """What torch's own cells refuse below Python, in their words."""
    if input.shape[1] != weights.ih.shape[1]:
        raise RuntimeError(f"input has inconsistent input_size: got {input.shape[1]} expected {weights.ih.shape[1]}")
    if len(hx) != cell.states:
        raise RuntimeError(f"{cell.mode.lower()}_cell expects two hidden states")
    for i, h in enumerate(hx):
        if h.dim() != 2:
            raise RuntimeError(f"hidden{i} should be 2-D like the input, got {h.dim()}-D")
        if h.shape[1] != weights.hh.shape[1]:
            raise RuntimeError(
                f"hidden{i} has inconsistent hidden_size: got {h.shape[1]}, expected {weights.hh.shape[1]}"
            )
        if h.shape[0] != input.shape[0]:
            raise RuntimeError(f"Input batch size {input.shape[0]} doesn't match hidden{i} batch size {h.shape[0]}")


def one_step_problem(cell: Cell, input: Tensor, hx: tuple[Tensor, ...], weights: Weights) -> Problem:
    """What `one_step` would be asked with these arguments."""
    flat = [w for w in weights if w is not None]
    states = tuple(h.unsqueeze(0) for h in hx)
    return problem_of(cell, input.unsqueeze(0), states, flat, weights.bias_ih is not None, 1, False, None)


def one_step(
    cell: Cell, input: Tensor, hx: tuple[Tensor, ...], weights: Weights, backend: str = "auto", checked: bool = False
) -> tuple[Tensor, ...]:
    """One time step of one layer: `(B, I)` and states `(B, H)` to new states `(B, H)`; `checked` if those are known to
    have the input's batch, dtype and device, of which torch's own cells look at a part."""
    # Asked here, not in functions of their own: a step's time is mostly such calls.
    dtype = _autocast_dtype(input) if torch._C._is_any_autocast_enabled() else None
    grad = torch.is_grad_enabled() and _needs_grad(weights, hx, input)
    compiling = torch.compiler.is_compiling()
    hidden = weights.hh.shape[1]
    if not compiling and torch._C._is_tracing():
        hidden = _plain(hidden)
    chosen, torchs = _backend(
        backend, cell, input, dtype, grad, input.shape[0], hidden, single=True, compiling=compiling
    )
    if dtype is not None:
        hx = tuple(h.to(dtype) for h in hx)
        weights = Weights(*(None if w is None else w.to(dtype) for w in weights))  # type: ignore[arg-type]  # ih and hh are there
        with torch.autocast(input.device.type, enabled=False):
            return one_step(cell, input.to(dtype), hx, weights, chosen)
    if not (torchs and checked):
        _check_step(cell, input, hx, weights)
        check_tensors(input, hx, [w for w in weights if w is not None])
    if torchs or onnx_layers.exporting():
        return aten.one_step(cell, input, hx, weights)
    states = tuple(h.unsqueeze(0) for h in hx)
    _, final, _ = _layer(cell, input.unsqueeze(0), states, [weights], NO_EXTRAS, chosen)
    # In place: a view could not be detached in place.
    return tuple(h.squeeze_(0) for h in final)
