"""A stack of recurrent layers: layers, directions, projection and dropout around one scan a layer.

    x = input W_ih^T + b;  output, final = scan(x, W_hh, ...)

A projected LSTM (Sak et al. 2014, torch.nn.LSTM's `proj_size`), h_t = W_hr m_t, takes the same scan: its recurrent term
W_hh h_{t-1} is (W_hh W_hr) m_{t-1}, so the scan runs over m with the product of the two matrices, and the projection of
all steps is one matrix product afterwards. Only h0, which need not be W_hr times anything, enters through x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import fastrnn.ops  # noqa: F401  # defines the operators
from fastrnn import tracers
from fastrnn.batch import Batch, by_packed_layers
from fastrnn.cells import Cell
from fastrnn.graphs import node, onnx
from fastrnn.kernels.tensors import Inputs
from fastrnn.scan import heads as by_head
from fastrnn.scan import operators
from fastrnn.scan.choice import BY_NAME, NODE, ONNX, WHOLE, choose, choose_step
from fastrnn.scan.problem import NO_EXTRAS, Backend, Extras, Problem, Stack, Weights, grouped, without_vectors


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


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Both directions' tensors as one; None where there are none."""
    present = [t for t in tensors if t is not None]
    if not present:
        return None
    return present[0] if len(present) == 1 else torch.cat(present)


def _stack(tensors: Sequence[Tensor], *shape: int) -> Tensor:
    """Both directions' tensors, each of `shape`, behind a leading direction axis."""
    return tensors[0].reshape(1, *shape) if len(tensors) == 1 else torch.stack([t.reshape(shape) for t in tensors])


def _kept(cell: Cell, state: tuple[Tensor, ...]) -> Tensor:
    """The states as one tensor, in the dtype that the cell keeps them in."""
    if cell.float32_states:
        state = tuple(s.to(torch.promote_types(s.dtype, torch.float32)) for s in state)
    return torch.stack(state)


def _layer(
    cell: Cell,
    rows: Tensor,
    state: tuple[Tensor, ...],
    weights: list[Weights],
    vectors: list[Tensor],
    batch: Batch,
    keep_cells: bool,
    backend: Backend,
    batch_first: bool,
    heads: int = 1,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """One layer, both directions: a batch's rows, of I, and states `(D, B, H or P)` to rows of D * (H or P), new states
    and cells `(T, B, D * (STATES - 1) * H)`, those only if they are to be kept. With `batch_first`, which only padded
    batches have, B comes before T in output and cells."""
    T, B = batch.time, batch.batch
    D, G = len(weights), cell.gates
    H = weights[0].ih.shape[0] // G
    if heads > 1:
        heads = 1 if heads == tracers.number(H) else heads  # blocks of one unit are a diagonal, and no groups
    if heads > 1:
        D, H, weights = D * heads, H // heads, [by_head.reordered(w, G, heads) for w in weights]
    bias_ih, bias_hh = _cat([w.bias_ih for w in weights]), _cat([w.bias_hh for w in weights])
    if bias_ih is not None and bias_hh is not None and not cell.splits_bias:
        bias_ih, bias_hh = bias_ih + bias_hh, None
    weight_ih = _cat([w.ih for w in weights])
    assert weight_ih is not None
    x = batch.pad(F.linear(rows, weight_ih, bias_ih)).reshape(T, B, D, G, H)
    if bias_hh is not None:
        bias_hh = bias_hh.reshape(D, G, H)
    options = (cell, backend, keep_cells, batch_first)
    masks = (batch.lengths, batch.resets)

    projection = [w.hr for w in weights if w.hr is not None]
    if not projection:
        weight_hh, initial = _stack([w.hh for w in weights], heads * G, H, weights[0].hh.shape[1]), _kept(cell, state)
        own = torch.stack(vectors).reshape(len(weights), -1, H * heads) if vectors else None
        if heads > 1:
            weight_hh, initial = weight_hh.reshape(D, G, H, H), by_head.split(initial, heads)
            own = None if own is None else by_head.vectors(own, heads)
        inputs = Inputs(x, weight_hh, bias_hh, initial, *masks, own, batch.constants, heads)
        output, final, cells = operators.scan(inputs, *options)
        final = (final[0].to(x.dtype), *final[1:])
        if heads > 1:
            final = tuple(by_head.joined(s, heads) for s in final)
            cells = by_head.joined_cells(cells, cell.states - 1, heads, H) if keep_cells else cells
        return batch.pack(output), final, cells

    weight_hh = _stack([w.hh @ w.hr for w in weights if w.hr is not None], G, H, H)
    terms = [F.linear(h0, w.hh).reshape(B, G, H) for h0, w in zip(state[0], weights, strict=True)]
    x = _add_first(x, torch.stack(terms), *masks)
    memory = torch.stack((torch.zeros_like(state[1]), *state[1:]))
    output, (last, *others), cells = operators.scan(Inputs(x, weight_hh, bias_hh, memory, *masks), *options)
    h = torch.stack([F.linear(m, hr) for m, hr in zip(last, projection, strict=True)])
    if batch.lengths is not None:
        h = torch.where((batch.lengths > 0).view(1, B, 1), h, state[0])
    memories = (output.transpose(0, 1) if batch_first else output).unflatten(2, (D, H)).unbind(2)
    output = torch.cat([F.linear(m, hr) for m, hr in zip(memories, projection, strict=True)], -1)
    if batch_first:
        output = output.transpose_(0, 1)
    return batch.pack(output), (h, *others), cells


def _add_first(x: Tensor, terms: Tensor, lengths: Tensor | None, resets: Tensor | None) -> Tensor:
    """Add the `(D, B, GATES, H)` terms to the step at which each direction's rows start from their initial state."""
    T, B = x.shape[:2]
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


def _needs_grad(weights: Sequence[Tensor | None], hx: Sequence[Tensor], input: Tensor) -> bool:
    """Whether backward will be needed."""
    if not torch.is_grad_enabled():
        return False
    for weight in weights:  # mostly the first answers, and a generator would cost more than it asks
        if weight is not None and weight.requires_grad:
            return True
    return input.requires_grad or any(h.requires_grad for h in hx)


def _projection(flat_weights: Sequence[Tensor], stack: Stack) -> int:
    """`proj_size`, from how many weights there are."""
    projected = stack.num_layers * (2 if stack.bidirectional else 1) * (3 + 2 * stack.has_bias)
    if stack.cell.vectors:  # of cells of torch.nn's alone
        return 0
    return tracers.number(flat_weights[-1].shape[0]) if len(flat_weights) == projected else 0


def problem_of(
    stack: Stack,
    input: Tensor,
    hx: tuple[Tensor, ...],
    flat_weights: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    extras: Extras = NO_EXTRAS,
) -> Problem:
    """What `run` is asked with these arguments, as backends see it, with T and B left open."""
    return Problem(
        cell=stack.cell,
        dtype=_autocast_dtype(input) or input.dtype,
        device=input.device,
        time=0,
        batch=0,
        hidden=tracers.number(flat_weights[0].shape[0]) // stack.cell.gates,
        directions=2 if stack.bidirectional else 1,
        layers=stack.num_layers,
        projection=_projection(flat_weights, stack),
        grad=_needs_grad(flat_weights, hx, input),
        packed=batch_sizes is not None,
        lengths=extras.lengths is not None,
        resets=extras.resets is not None,
        cells=extras.cells,
        transformed=not torch.compiler.is_compiling() and tracers.transformed(),
        evaluating=not stack.training,
        heads=stack.heads,
    )


def run(
    stack: Stack,
    input: Tensor,
    hx: tuple[Tensor, ...],
    flat_weights: list[Tensor],
    batch_sizes: Tensor | None = None,
    extras: Extras = NO_EXTRAS,
    backend: str = "auto",
    batch_first: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """A stack of recurrent layers.

    Args:
        stack: what it is.
        input: `(T, B, I)`; with `batch_sizes`, a PackedSequence's data `(rows, I)`.
        hx: one tensor per state, `(num_layers * D, B, H)`, the first `(..., P)` with projection.
        flat_weights: torch.nn's, in its order.
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
    if torch._C._is_any_autocast_enabled():
        dtype = _autocast_dtype(input)
        if dtype is not None:
            # Not below Python: there cuDNN's layers run in float16 whatever autocast's dtype, and the CPU's in part.
            hx, flat_weights = tuple(h.to(dtype) for h in hx), [w.to(dtype) for w in flat_weights]
            with torch.autocast(input.device.type, enabled=False):
                return run(stack, input.to(dtype), hx, flat_weights, batch_sizes, extras, backend, batch_first)
    recorder = tracers.recorder()
    gates = flat_weights[0].shape[0]
    hidden = (tracers.number(gates) if recorder == tracers.TRACED else gates) // stack.cell.gates
    grad = torch.is_grad_enabled() and (flat_weights[0].requires_grad or _needs_grad(flat_weights, hx, input))
    sizes = (hidden, _projection(flat_weights, stack))
    chosen, way = choose(backend, stack, input, hx[0], *sizes, batch_sizes, extras, batch_first, grad, recorder)
    if way == WHOLE and extras.lengths is None:
        return *chosen.layers(stack, input, batch_sizes, hx, flat_weights, batch_first), None
    if way == ONNX:
        return *onnx.run(stack, input, batch_sizes, hx, flat_weights, extras, batch_first), None
    if batch_sizes is None and input.shape[int(batch_first)] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    check_tensors(input, hx[:1] if stack.cell.float32_states else hx, flat_weights)
    if way == WHOLE and extras.lengths is not None:
        done = by_packed_layers(chosen, stack, input, hx, flat_weights, extras.lengths, batch_first)
        if done is not None:
            return done
    on_host = chosen.name == "aten" and input.device.type == "cpu"
    batch = Batch.of(input, batch_sizes, extras, batch_first, way == NODE, on_host, recorder is not None)
    return _through(stack, batch, batch.states(hx), flat_weights, extras.cells, chosen, way == NODE)


def _through(
    stack: Stack,
    batch: Batch,
    hx: tuple[Tensor, ...],
    flat_weights: list[Tensor],
    keep_cells: bool,
    backend: Backend,
    as_nodes: bool,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """A batch through all layers, by a scan each or as nodes of a graph."""
    D = 2 if stack.bidirectional else 1
    rows, cells = batch.input, None
    finals: list[tuple[Tensor, ...]] = []
    flat_weights, vectors = without_vectors(flat_weights, stack.num_layers, D, stack.cell.vectors)
    for i, weights in enumerate(grouped(flat_weights, stack.num_layers, D)):
        state = tuple(h[i * D : (i + 1) * D] for h in hx)
        last = i + 1 == stack.num_layers
        if as_nodes:
            rows, final = node.aten_layer(stack.cell, rows, batch.sizes, state, weights)
        else:
            asked = (keep_cells and last, backend, batch.batch_first and last, stack.heads)
            rows, final, cells = _layer(stack.cell, rows, state, weights, vectors[i], batch, *asked)
        finals.append(final)
        if stack.dropout and stack.training and not last:
            rows = batch.dropped(rows, stack.dropout)
    states = finals[0] if len(finals) == 1 else tuple(torch.cat(same) for same in zip(*finals, strict=True))
    return batch.restore(rows, states, cells if keep_cells else None)


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


def step_problem(cell: Cell, input: Tensor, hx: tuple[Tensor, ...], weights: Weights) -> Problem:
    """What `step` is asked with these arguments, as backends see it, with B left open."""
    flat = [w for w in weights if w is not None]
    states = tuple(h.unsqueeze(0) for h in hx)
    stack = Stack(cell, weights.bias_ih is not None, 1, 0.0, True, False)
    return problem_of(stack, input.unsqueeze(0), states, flat)


def step(
    cell: Cell,
    input: Tensor,
    hx: tuple[Tensor, ...],
    weights: Weights,
    backend: str,
    checked: bool,
    recorder: str | None,
) -> tuple[Tensor, ...]:
    """One time step of one layer: `(B, I)` and states `(B, H)` to new states `(B, H)`; `checked` if those are known to
    have the input's batch, dtype and device, of which torch's own cells look at a part."""
    if torch._C._is_any_autocast_enabled():
        dtype = _autocast_dtype(input)
        if dtype is not None:
            hx = tuple(h.to(dtype) for h in hx)
            weights = Weights(*(None if w is None else w.to(dtype) for w in weights))  # type: ignore[arg-type]  # ih and hh are there
            with torch.autocast(input.device.type, enabled=False):
                return step(cell, input.to(dtype), hx, weights, backend, False, recorder)
    grad = torch.is_grad_enabled() and _needs_grad(weights, hx, input)
    hidden = weights.hh.shape[1]
    if recorder == tracers.TRACED:
        hidden = tracers.number(hidden)
    chosen, whole = choose_step(backend, cell, input, hidden, grad, recorder)
    if not (whole and checked):
        _check_step(cell, input, hx, weights)
        check_tensors(input, hx, [w for w in weights if w is not None])
    if whole or (recorder is not None and tracers.in_onnx_export()):
        return (chosen if whole else BY_NAME["aten"]).step(cell, input, hx, weights)
    rows = input.unsqueeze(0)
    batch = Batch(rows, None, None, *rows.shape[:2])
    states = tuple(h.unsqueeze(0) for h in hx)
    _, final, _ = _layer(cell, rows, states, [weights], [], batch, False, chosen, False)
    # In place: a view could not be detached in place.
    return tuple(h.squeeze_(0) for h in final)
