"""LSTM, GRU and RNN layers: torch.nn's contract, run by fastrnn's backends. Cells are in `fastrnn.cell_modules`.

The classes derive from torch.nn's own bases, so parameters, initialisation, state dicts, argument checks and error
messages are torch's; what differs is which kernels run. One keyword is ours, `backend`.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn import functional, onnx_layers
from fastrnn.cells import BY_MODE, CELLS, Cell
from fastrnn.checks import checked_lengths, checked_resets
from fastrnn.dispatch import Problem, check_name
from fastrnn.functional import NO_EXTRAS, Extras
from fastrnn.packing import batch_of

_OURS = ("backend", "reset_after")


def torch_twin(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A `kind` of torch.nn with the parameters, hooks and options of `module`."""
    twin = kind.__new__(kind)
    twin.__dict__.update({name: value for name, value in vars(module).items() if name not in _OURS})
    return twin


def fx_leaf(module: nn.Module, *args: Any, **options: Any) -> Any:
    """The call as one node of a graph: torch.fx.symbolic_trace takes only torch.nn's own modules for leaves."""
    tracer = args[0].tracer
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, given)


class _Layers(nn.RNNBase):
    """What the three layers share. Subclasses differ in their constructor and in the shape of `hx`."""

    backend: str = "auto"  # of instances that were given a class of ours, and nothing else

    def __init__(self, mode: str, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        self.backend = check_name(backend)
        # By name: in a class that derives from torch.nn's layer too, super() would be that one, which names the mode.
        nn.RNNBase.__init__(self, mode, *args, **kwargs)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.backend == "auto" else f"{text}, backend={self.backend!r}"

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles, and puts into the model: torch.nn's layer over the same parameters."""
        if inspect.unwrap(type(self).forward) not in (LSTM.forward, _Layers.forward):
            return self  # a subclass with a forward of its own
        return torch_twin(self, {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(self.mode, nn.RNN))

    def _weights(self) -> list[Tensor]:
        """The parameters in torch's order, read afresh: they may have been replaced in any of the ways there are."""
        own: dict[str, Any] = self._parameters
        try:
            # Module.__getattr__ for each would be a tenth of a short call's time.
            return [own[name] for name in self._flat_weights_names]
        except KeyError:  # a parametrized one
            return [getattr(self, name) for name in self._flat_weights_names]

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        weight: Any = self._parameters.get("weight_ih_l0")
        if weight is None:
            weight = self.weight_ih_l0
        if input.dtype != weight.dtype and not torch._C._is_any_autocast_enabled():
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})"
            )
        expected = 2 if batch_sizes is not None else 3
        if input.dim() != expected:
            raise RuntimeError(f"input must have {expected} dimensions, got {input.dim()}")
        if self.input_size != input.size(-1):
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}"
            )

    def _states(self, hx: Any) -> tuple[Tensor, ...]:
        """`hx` as a tuple of states."""
        return (hx,)

    def _initial(self, input: Tensor, batch: int) -> Any:
        """Zero states for a batch."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        return torch.zeros(count, batch, self.hidden_size, dtype=input.dtype, device=input.device)

    def _check_rank(self, input: Tensor) -> None:
        if input.dim() not in (2, 3):
            raise ValueError(f"{self.mode}: Expected input to be 2D or 3D, got {input.dim()}D instead")

    def _check_kind(self, hx: Any) -> None:
        """Refuse what is no state at all; sizes are looked at later."""
        if not isinstance(hx, Tensor):
            raise TypeError(f"{self.mode}: Expected hx to be a tensor, got {type(hx).__name__}")

    def _batch_hidden(self, hx: Any, is_batched: bool) -> Any:
        """Check the rank of `hx`, and give an unbatched one its batch axis."""
        if is_batched:
            if hx.dim() != 3:
                raise RuntimeError(f"For batched 3-D input, hx should also be 3-D but got {hx.dim()}-D tensor")
            return hx
        if hx.dim() != 2:
            raise RuntimeError(f"For unbatched 2-D input, hx should also be 2-D but got {hx.dim()}-D tensor")
        return hx.unsqueeze(1)

    def _cell(self) -> Cell:
        return BY_MODE[self.mode]

    def _prepare(self, input: Tensor | PackedSequence, hx: Any) -> tuple[Tensor, Any, Tensor | None]:
        """Check the arguments and bring them into the form `functional.run` takes: `(input, hx, batch_sizes)`."""
        if hx is not None:
            self._check_kind(hx)
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, _ = input
            if hx is None:
                self.check_input(data, batch_sizes)
                return data, self._initial(data, batch_of(batch_sizes)), batch_sizes
            # Before the permutation: indexing would hide a batch that is too large.
            self.check_forward_args(data, hx, batch_sizes)
            functional.check_tensors(data, self._states(hx), ())  # which torch does of padded input alone
            return data, self.permute_hidden(hx, sorted_indices), batch_sizes
        self._check_rank(input)
        is_batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        if not is_batched:
            input = input.unsqueeze(batch_dim)
        if hx is None:
            self.check_input(input, None)
            return input, self._initial(input, input.size(batch_dim)), None
        hx = self._batch_hidden(hx, is_batched)
        self.check_forward_args(input, hx, None)
        return input, hx, None

    def _extras(
        self, input: Tensor | PackedSequence, lengths: Tensor | None, resets: Tensor | None, cells: bool
    ) -> Extras:
        """Check what torch.nn has no argument for; `input` was checked before."""
        if lengths is None and resets is None:
            return Extras(cells=cells)
        if isinstance(input, PackedSequence):
            name = "resets" if lengths is None else "lengths"
            raise ValueError(f"a PackedSequence takes no {name}: pass the padded input with lengths= instead")
        batched = input.dim() == 3
        time = input.shape[1 if batched and self.batch_first else 0]
        batch = input.shape[0 if self.batch_first else 1] if batched else None
        if lengths is not None:
            lengths = checked_lengths(lengths, time, batch, input.device)
        if resets is not None:
            resets = checked_resets(resets, time, batch, self.batch_first, input.device)
        return Extras(lengths, resets, cells)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run the layers over a sequence; arguments and results as in the class's documentation."""
        if isinstance(input, torch.fx.Proxy):
            return fx_leaf(self, input, hx, lengths=lengths, resets=resets)
        output, final, _ = self._forward(input, hx, lengths, resets, False)
        return output, final

    def _forward(
        self, input: Tensor | PackedSequence, hx: Any, lengths: Tensor | None, resets: Tensor | None, keep_cells: bool
    ) -> tuple[Any, Any, Any]:
        if isinstance(input, PackedSequence) and torch.compiler.is_compiling():
            onnx_layers.refuse_packed()
            if torch.compiler.is_dynamo_compiling():
                from fastrnn.uncompiled import packed_forward

                packed: tuple[Any, Any, Any] = packed_forward(self, input, hx, lengths, resets, keep_cells)
                return packed
        data, hx, batch_sizes = self._prepare(input, hx)
        plain = lengths is None and resets is None and not keep_cells
        extras = NO_EXTRAS if plain else self._extras(input, lengths, resets, keep_cells)
        output, states, cells = functional.run(
            self._cell(),
            data,
            self._states(hx),
            self._weights(),
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            batch_sizes,
            extras,
            self.backend,
            self.batch_first and batch_sizes is None,
        )
        final: Any = states if len(states) > 1 else states[0]
        if isinstance(input, PackedSequence):
            places = input[1:]
            packed_cells = None if cells is None else PackedSequence(cells, *places)
            return PackedSequence(output, *places), self.permute_hidden(final, places[2]), packed_cells
        if input.dim() != 3:
            # Copies, small ones, of a single row: views could not be detached in place.
            batch_dim = 0 if self.batch_first else 1
            output = output.squeeze(batch_dim).clone()
            cells = None if cells is None else cells.squeeze(batch_dim).clone()
            final = tuple(h.squeeze(1).clone() for h in final) if isinstance(final, tuple) else final.squeeze(1).clone()
        return output, final, cells

    def _problem(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_cells: bool = False,
    ) -> Problem:
        """What `forward` asks of a backend; for `fastrnn.explain`."""
        data, hx, batch_sizes = self._prepare(input, hx)
        problem = functional.problem_of(
            self._cell(), data, self._states(hx), self._weights(), self.bias, self.num_layers, self.bidirectional,
            batch_sizes, self._extras(input, lengths, resets, return_cells),
        )  # fmt: skip
        time = data.shape[int(self.batch_first)] if batch_sizes is None else batch_sizes.numel()
        batch, rows = self._states(hx)[0].shape[1], 0 if batch_sizes is None else data.shape[0]
        if lengths is not None and lengths.device.type == "cpu":
            rows = int(lengths.sum())
        return dataclasses.replace(problem, time=time, batch=batch, rows=rows, evaluating=not self.training)


class LSTM(_Layers):
    """A multi-layer LSTM; replaces `torch.nn.LSTM`, whose documentation gives the equations:

        i, f, o = sigmoid(W_i* x_t + b_i* + W_h* h_{t-1} + b_h*)
        g = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        c_t = f c_{t-1} + i g;    h_t = o tanh(c_t);    with projection h_t = W_hr (o tanh(c_t))

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: as in
            `torch.nn.LSTM`.
        backend: `"auto"`, or `"persistent"`, `"stepwise"`, `"aten"` or `"reference"` to insist on one.

    Shapes (L = sequence length, N = batch, D = 2 if bidirectional else 1, H_out = proj_size or hidden_size):
        input: `(L, N, input_size)`, `(N, L, input_size)` with `batch_first`, `(L, input_size)` unbatched, or a
            `PackedSequence`. float16, bfloat16, float32 or float64, the parameters' dtype.
        hx: `(h_0, c_0)`, `(D * num_layers, N, H_out)` and `(D * num_layers, N, hidden_size)`, zeros by default.
        lengths, keyword: `(N,)` integers in any order, zeros allowed, on any device: how many steps of each row there
            are. Past them output and gradients are zero; the final state is that of the row's last step (of its first,
            for the reverse direction), the initial state for a row of length 0. Values on a GPU are not looked at,
            which would wait for it, but clamped to [0, L]; under `fastrnn.debug()` they are checked.
        resets, keyword: bool, the input's batch and time axes: where true, the row starts that step from zero state,
            `hx` included, and no gradient crosses. The reverse direction is cut at the same boundary, between the step
            before and this one. This is what others call `is_init` or `episode_starts`; where `dones` marks an
            episode's last step, `resets` is one step later.
        return_cells, keyword: also return every c_t of the last layer.
        returns: output `(L, N, D * H_out)`, laid out like the input, and `(h_n, c_n)`, shaped like `hx`; with
            `return_cells` a third, `(L, N, D * hidden_size)`, laid out like the output and zero where that is.

    Raises:
        ValueError, RuntimeError: what `torch.nn.LSTM` raises, in its words; ValueError for an unknown backend,
            RuntimeError with the reason for one that cannot run this layer.
        TypeError, ValueError: `lengths` or `resets` of another dtype or shape, or with a `PackedSequence`; `lengths`
            outside [0, L], where they are on the CPU.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype, backend=backend,
        )  # fmt: skip

    # torch's own, so that sizes and wording are torch's.
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]  # hx is a pair, as torch notes
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]  # likewise

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_cells: bool = False,
    ) -> tuple[Any, ...]:
        """Run the layers over a sequence; arguments and results as in the class's documentation."""
        if isinstance(input, torch.fx.Proxy):
            return fx_leaf(self, input, hx, lengths=lengths, resets=resets, return_cells=return_cells)
        results = self._forward(input, hx, lengths, resets, return_cells)
        return results if return_cells else results[:2]

    def _states(self, hx: Any) -> tuple[Tensor, ...]:
        return hx[0], hx[1]

    def _initial(self, input: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        cell = super()._initial(input, batch)
        return (cell[..., : self.proj_size] if self.proj_size else cell), cell

    def _check_kind(self, hx: Any) -> None:
        if isinstance(hx, Tensor):
            # Both states in one. Of too few torch says so.
            if hx.dim() and hx.shape[0] > 2:
                raise RuntimeError("lstm expects two hidden states")
            return
        if not isinstance(hx, (tuple, list)) or not all(isinstance(h, Tensor) for h in hx):
            given = (
                f"({', '.join(type(h).__name__ for h in hx)})" if isinstance(hx, (tuple, list)) else type(hx).__name__
            )
            raise TypeError(f"LSTM: Expected hx to be two tensors, (h_0, c_0), got {given}")
        if len(hx) != 2:
            raise RuntimeError("lstm expects two hidden states")

    def _batch_hidden(self, hx: Any, is_batched: bool) -> Any:
        dims = f"({hx[0].dim()}-D, {hx[1].dim()}-D)"
        if is_batched:
            if hx[0].dim() != 3 or hx[1].dim() != 3:
                raise RuntimeError(f"For batched 3-D input, hx and cx should also be 3-D but got {dims} tensors")
            return hx
        if hx[0].dim() != 2 or hx[1].dim() != 2:
            raise RuntimeError(f"For unbatched 2-D input, hx and cx should also be 2-D but got {dims} tensors")
        return hx[0].unsqueeze(1), hx[1].unsqueeze(1)


def _refuse(others: dict[str, Any], name: str) -> None:
    """What torch says of arguments that a GRU or RNN does not take."""
    if "proj_size" in others:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
    if others:
        raise TypeError(f"{name}.__init__() got an unexpected keyword argument {next(iter(others))!r}")


class GRU(_Layers):
    """A multi-layer GRU; replaces `torch.nn.GRU`, whose documentation gives the equations:

        r, z = sigmoid(W_i* x_t + b_i* + W_h* h_{t-1} + b_h*)
        n = tanh(W_in x_t + b_in + r (W_hn h_{t-1} + b_hn))
        h_t = (1 - z) n + z h_{t-1}

    With `reset_after=False` the reset gate applies before the matmul, as in Cho et al. 2014 (arXiv:1406.1078) and in
    Keras's `GRU(reset_after=False)`; parameters keep their names and shapes:

        n = tanh(W_in x_t + b_in + W_hn (r h_{t-1}) + b_hn)

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in
            `torch.nn.GRU`.
        reset_after: whether the reset gate applies after the recurrent matmul, as in torch.
        backend: as in `fastrnn.LSTM`.

    Shapes, `lengths`, `resets` and errors: as in `fastrnn.LSTM`, with `hx` and the final state one tensor
    `(D * num_layers, N, hidden_size)`.
    """

    reset_after: bool = True  # on the instance only where it is not: others have torch.nn's attributes and no more

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
        backend: str = "auto",
        **others: Any,
    ) -> None:
        _refuse(others, "GRU")
        if not reset_after:
            self.reset_after = False
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype,
            backend=backend,
        )  # fmt: skip

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.reset_after else f"{text}, reset_after=False"

    def __prepare_scriptable__(self) -> nn.Module:
        if not self.reset_after:
            raise RuntimeError("torch.jit.script has no GRU with reset_after=False; use torch.compile or torch.export")
        return super().__prepare_scriptable__()

    def _cell(self) -> Cell:
        return CELLS["gru" if self.reset_after else "gru_textbook"]


class RNN(_Layers):
    """A multi-layer Elman RNN; replaces `torch.nn.RNN`, whose documentation gives the equation:

        h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu(...)

    Args:
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, device, dtype: as
            in `torch.nn.RNN`; `nonlinearity` is `"tanh"` or `"relu"`.
        backend: as in `fastrnn.LSTM`.

    Shapes and errors: as in `fastrnn.GRU`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str = "auto",
        **others: Any,
    ) -> None:
        _refuse(others, "RNN")
        self.nonlinearity = nonlinearity
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype, backend=backend,
        )  # fmt: skip

    def _check_rank(self, input: Tensor) -> None:
        if input.dim() not in (2, 3):
            raise ValueError(f"RNN: Expected input to be 2D or 3D, got {input.dim()}D tensor instead")
