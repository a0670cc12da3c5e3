"""What users of torch.nn write today for what its layers lack: packing for lengths, a loop over cells for the rest.

Called as fastrnn's layers are: `module(x, lengths=, resets=, return_cells=)`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class _Packing(nn.RNNBase):
    """Packs the padded input, and pads the output again."""

    def forward(self, input: Tensor, hx: Any = None, *, lengths: Tensor | None = None) -> Any:
        time, batch = input.shape[:2]
        if lengths is None:
            lengths = torch.full((batch,), time)
        packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
        output, final = super().forward(packed, hx)
        return pad_packed_sequence(output, total_length=time)[0], final


class PackedLSTM(_Packing, nn.LSTM):  # type: ignore[misc]  # called as fastrnn's layers are
    """torch.nn.LSTM over packed rows."""


class PackedGRU(_Packing, nn.GRU):  # type: ignore[misc]  # called as fastrnn's layers are
    """torch.nn.GRU over packed rows."""


class PackedRNN(_Packing, nn.RNN):  # type: ignore[misc]  # called as fastrnn's layers are
    """torch.nn.RNN over packed rows."""


class TextbookGRUCell(nn.GRUCell):
    """n = tanh(W_in x + b_in + W_hn (r h) + b_hn), of which torch.nn has no cell."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if hx is None:
            raise ValueError("pass the state")
        H = self.hidden_size
        x = F.linear(input, self.weight_ih, self.bias_ih)
        outer = x[:, : 2 * H] + F.linear(hx, self.weight_hh[: 2 * H], self.bias_hh[: 2 * H])
        r, z = torch.sigmoid(outer).chunk(2, 1)
        n = torch.tanh(x[:, 2 * H :] + F.linear(r * hx, self.weight_hh[2 * H :], self.bias_hh[2 * H :]))
        return (1 - z) * n + z * hx


State = tuple[Tensor, ...]


def _where(rows: Tensor, yes: State, no: State) -> State:
    return tuple(torch.where(rows.unsqueeze(1), y, n) for y, n in zip(yes, no, strict=True))


def step(cell: nn.Module, x: Tensor, state: State) -> State:
    """The next state of a cell."""
    return cell(x, state) if len(state) > 1 else (cell(x, state[0]),)


class Loop(nn.Module):
    """Cells of torch.nn in a Python loop over time, one per layer and direction, with masks at resets and ends.

    Its parameters are named `l0_reverse.weight_ih`, for torch.nn's `weight_ih_l0_reverse`.
    """

    def __init__(
        self,
        kind: type[nn.RNNCellBase],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        **options: Any,
    ) -> None:
        super().__init__()
        self.suffixes = ("", "_reverse") if bidirectional else ("",)
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.states = 2 if kind is nn.LSTMCell else 1
        self.step = step
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * len(self.suffixes)
            for suffix in self.suffixes:
                self.add_module(f"l{layer}{suffix}", kind(width, hidden_size, **options))

    def forward(
        self, x: Tensor, *, lengths: Tensor | None = None, resets: Tensor | None = None, return_cells: bool = False
    ) -> tuple[Any, ...]:
        lengths = None if lengths is None else lengths.to(x.device)
        output, cells, finals = x, x, []
        for layer in range(self.num_layers):
            found = [self._scan(output, layer, reverse, lengths, resets) for reverse in range(len(self.suffixes))]
            output = torch.cat([every[0] for every, _ in found], -1)
            cells = torch.cat([every[-1] for every, _ in found], -1)
            finals += [state for _, state in found]
        final = tuple(torch.stack(same) for same in zip(*finals, strict=True))
        results = output, final if self.states > 1 else final[0]
        return (*results, cells) if return_cells else results

    def _scan(
        self, x: Tensor, layer: int, reverse: int, lengths: Tensor | None, resets: Tensor | None
    ) -> tuple[list[Tensor], State]:
        """Every state of every step, one `(T, B, H)` each, and the last ones."""
        cell = self.get_submodule(f"l{layer}{self.suffixes[reverse]}")
        T, B = x.shape[:2]
        nothing = (x.new_zeros(B, self.hidden_size),) * self.states
        state, steps = nothing, [nothing] * T
        for t in reversed(range(T)) if reverse else range(T):
            if resets is not None and t + reverse < T:
                # Backwards, a sequence ends where the step before it, in that order, starts the next one.
                cut = resets[t + reverse]
                if lengths is not None:
                    cut = cut & (t + reverse < lengths)
                state = tuple(s * ~cut.unsqueeze(1) for s in state)
            new = self.step(cell, x[t], state)
            active = None if lengths is None else t < lengths
            steps[t] = new if active is None else _where(active, new, nothing)
            state = new if active is None else _where(active, new, state)
        return [torch.stack(same) for same in zip(*steps, strict=True)], state
