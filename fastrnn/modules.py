"""LSTM, GRU and RNN layers: torch.nn's contract, run by fastrnn's backends. Cells are in `fastrnn.cell_modules`.

The classes derive from torch.nn's own bases, so parameters, initialisation, state dicts, argument checks and error
messages are torch's; what differs is which kernels run. One keyword is ours, `backend`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn import functional
from fastrnn.cells import BY_MODE
from fastrnn.dispatch import Problem, check_name


def torch_twin(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A `kind` of torch.nn with the parameters, hooks and options of `module`."""
    twin = kind.__new__(kind)
    twin.__dict__.update({name: value for name, value in vars(module).items() if name != "backend"})
    return twin


class _Layers(nn.RNNBase):
    """What the three layers share. Subclasses differ in their constructor and in the shape of `hx`."""

    def __init__(self, mode: str, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        self.backend = check_name(backend)
        super().__init__(mode, *args, **kwargs)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.backend == "auto" else f"{text}, backend={self.backend!r}"

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles, and puts into the model: torch.nn's layer over the same parameters."""
        return torch_twin(self, {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(self.mode, nn.RNN))

    def _weights(self) -> list[Tensor]:
        """The parameters in torch's order, read afresh: they may have been replaced in any of the ways there are."""
        return [getattr(self, name) for name in self._flat_weights_names]

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
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

    def _batch_hidden(self, hx: Any, is_batched: bool) -> Any:
        """Check the rank of `hx`, and give an unbatched one its batch axis."""
        if is_batched:
            if hx.dim() != 3:
                raise RuntimeError(f"For batched 3-D input, hx should also be 3-D but got {hx.dim()}-D tensor")
            return hx
        if hx.dim() != 2:
            raise RuntimeError(f"For unbatched 2-D input, hx should also be 2-D but got {hx.dim()}-D tensor")
        return hx.unsqueeze(1)

    def _prepare(self, input: Tensor | PackedSequence, hx: Any) -> tuple[Tensor, Any, Tensor | None]:
        """Check the arguments and bring them into the form `functional.run` takes: `(input, hx, batch_sizes)`."""
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, _ = input
            if hx is None:
                hx = self._initial(data, int(batch_sizes[0]))
            # Before the permutation: indexing would hide a batch that is too large.
            self.check_forward_args(data, hx, batch_sizes)
            return data, self.permute_hidden(hx, sorted_indices), batch_sizes
        self._check_rank(input)
        is_batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        if not is_batched:
            input = input.unsqueeze(batch_dim)
        hx = self._initial(input, input.size(batch_dim)) if hx is None else self._batch_hidden(hx, is_batched)
        self.check_forward_args(input, hx, None)
        return input.transpose(0, 1) if self.batch_first else input, hx, None

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Run the layers over a sequence; arguments and results as in the torch.nn layer of the same name."""
        output, final = self._run(*self._prepare(input, hx))
        if isinstance(input, PackedSequence):
            _, batch_sizes, sorted_indices, unsorted_indices = input
            packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
            return packed, self.permute_hidden(final, unsorted_indices)
        is_batched = input.dim() == 3
        if self.batch_first:
            output = output.transpose(0, 1)
        if not is_batched:
            output = output.squeeze(0 if self.batch_first else 1)
            final = tuple(h.squeeze(1) for h in final) if isinstance(final, tuple) else final.squeeze(1)
        return output, final

    def _run(self, input: Tensor, hx: Any, batch_sizes: Tensor | None) -> tuple[Tensor, Any]:
        output, final = functional.run(
            BY_MODE[self.mode],
            input,
            self._states(hx),
            self._weights(),
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            batch_sizes,
            self.backend,
        )
        return output, final if len(final) > 1 else final[0]

    def _problem(self, input: Tensor | PackedSequence, hx: Any = None) -> Problem:
        """What `forward` asks of a backend; for `fastrnn.explain`."""
        data, hx, batch_sizes = self._prepare(input, hx)
        problem = functional.problem_of(
            BY_MODE[self.mode], data, self._states(hx), self._weights(), self.bias, self.num_layers,
            self.bidirectional, batch_sizes,
        )  # fmt: skip
        time = data.shape[0] if batch_sizes is None else batch_sizes.numel()
        return dataclasses.replace(problem, time=time, batch=self._states(hx)[0].shape[1])


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
        returns: output `(L, N, D * H_out)`, laid out like the input, and `(h_n, c_n)`, shaped like `hx`.

    Raises:
        ValueError, RuntimeError: what `torch.nn.LSTM` raises, in its words; ValueError for an unknown backend,
            RuntimeError with the reason for one that cannot run this layer.
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

    def _states(self, hx: Any) -> tuple[Tensor, ...]:
        return hx[0], hx[1]

    def _initial(self, input: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        cell = super()._initial(input, batch)
        return (cell[..., : self.proj_size] if self.proj_size else cell), cell

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

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in
            `torch.nn.GRU`.
        backend: as in `fastrnn.LSTM`.

    Shapes and errors: as in `fastrnn.LSTM`, with `hx` and the final state one tensor
    `(D * num_layers, N, hidden_size)`.
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
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str = "auto",
        **others: Any,
    ) -> None:
        _refuse(others, "GRU")
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype,
            backend=backend,
        )  # fmt: skip


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
