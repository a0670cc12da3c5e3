"""LSTM, GRU and RNN: what each has of its own, in its constructor, its equations and the shape of its state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn.cells import CELLS, Cell
from fastrnn.layers.base import Layers, fx_leaf


class LSTM(Layers):
    """A multi-layer LSTM; replaces `torch.nn.LSTM`, whose documentation gives the equations:

        i, f, o = sigmoid(W_i* x_t + b_i* + W_h* h_{t-1} + b_h*)
        g = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        c_t = f c_{t-1} + i g;    h_t = o tanh(c_t);    with projection h_t = W_hr (o tanh(c_t))

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: as in
            `torch.nn.LSTM`.
        heads: how many blocks of hidden units see no other's past: a divisor of `hidden_size`, without `proj_size`.
            `weight_hh_l*` is `(4 * hidden_size, hidden_size / heads)` then, and multiplies unit n by the units of its
            own block, the `n // (hidden_size / heads)`-th. All of `hidden_size`: each unit sees itself alone.
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
        ValueError, RuntimeError: what `torch.nn.LSTM` raises, in its words; ValueError for an unknown backend and for
            `heads` that do not fit, RuntimeError with the reason for one that cannot run this layer.
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
        heads: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype, heads=heads, backend=backend,
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
        results = self._forward(input, hx, lengths, resets, return_cells, {})
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


class GRU(Layers):
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
        heads, backend: as in `fastrnn.LSTM`.

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
        heads: int = 1,
        backend: str = "auto",
        **others: Any,
    ) -> None:
        _refuse(others, "GRU")
        if not reset_after:
            self.reset_after = False
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype,
            heads=heads, backend=backend,
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


class RNN(Layers):
    """A multi-layer Elman RNN; replaces `torch.nn.RNN`, whose documentation gives the equation:

        h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu(...)

    Args:
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, device, dtype: as
            in `torch.nn.RNN`; `nonlinearity` is `"tanh"` or `"relu"`.
        heads, backend: as in `fastrnn.LSTM`; with `heads=hidden_size` this is the IndRNN (Li et al. 2018,
            arXiv:1803.04831).

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
        heads: int = 1,
        backend: str = "auto",
        **others: Any,
    ) -> None:
        _refuse(others, "RNN")
        self.nonlinearity = nonlinearity
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype, heads=heads, backend=backend,
        )  # fmt: skip

    def _check_rank(self, input: Tensor) -> None:
        if input.dim() not in (2, 3):
            raise ValueError(f"RNN: Expected input to be 2D or 3D, got {input.dim()}D tensor instead")
