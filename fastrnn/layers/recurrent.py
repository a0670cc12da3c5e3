"""Recurrent: layers of any cell, with torch.nn.LSTM's arguments; and SLSTM, of the sLSTM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn.cells import Cell, slstm
from fastrnn.layers.base import Layers, fx_leaf
from fastrnn.layers.checks import checked_constants
from fastrnn.scan.problem import Extras


class Recurrent(Layers):
    """Layers of a recurrent cell: one of `fastrnn.cells`, or one's own (`fastrnn.cell`).

    Args:
        cell: the cell.
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in
            `torch.nn.LSTM`.
        heads: how many blocks the recurrent matrix has, each of `hidden_size / heads` units, as in `fastrnn.LSTM`.
        backend: as in `fastrnn.LSTM`.

    Parameters are torch's: `weight_ih_l0` `(GATES * hidden_size, input_size)`, `weight_hh_l0` `(GATES * hidden_size,
    hidden_size / heads)`, `bias_ih_l0`, `bias_hh_l0`, and so on, a block of `hidden_size` rows a gate; and each vector
    of the cell, `(hidden_size,)`: `p_i_l0`, `p_i_l0_reverse`. All start uniform in ±1 / sqrt(hidden_size).

    Shapes (L = sequence length, N = batch, D = 2 if bidirectional else 1):
        input, lengths, resets: as in `fastrnn.LSTM`. A row that is reset starts from the cell's initial values.
        hx: the states of the cell, `(D * num_layers, N, hidden_size)` each, as a tuple, h first; of a cell that has one
            state, that. Its initial values by default. A cell with `float32_states` takes the others in the layer's
            dtype or in float32, and gives them in float32.
        one keyword for each constant of the cell: `(L, N)`, `(N, L)` with `batch_first`, `(L,)` unbatched; it must be
            given, and gets no gradient.
        return_cells, keyword: also return the states other than h after every step of the last layer.
        returns: output `(L, N, D * hidden_size)`, laid out like the input, and the final states, like `hx`; with
            `return_cells` a third, `(L, N, D * hidden_size)` laid out like the output, or a tuple of such, one a state.

    Raises:
        TypeError: `cell` is none; a constant is missing, or there is no such keyword.
        ValueError, RuntimeError: as in `fastrnn.LSTM`.
    """

    cell: Cell

    def __init__(
        self,
        cell: Cell,
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
        heads: int = 1,
        backend: str = "auto",
    ) -> None:
        if not isinstance(cell, Cell):
            raise TypeError(
                f"Recurrent() takes a cell, got {type(cell).__name__}: one of fastrnn.cells, or a function made one by "
                "@fastrnn.cell(gates=..., states=...)"
            )
        # Its checks and attributes are torch's; its parameters, which torch has of no such cell, are made below.
        super().__init__(
            "RNN_TANH", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, "meta",
            dtype, heads=heads, backend=backend,
        )  # fmt: skip
        self.cell, self.mode = cell, cell.mode
        self._make_parameters(device, dtype)
        self._init_flat_weights()
        self.reset_parameters()

    def _make_parameters(self, device: Any, dtype: Any) -> None:
        rows, H = self.cell.gates * self.hidden_size, self.hidden_size
        self._flat_weights_names, self._all_weights = [], []
        for layer in range(self.num_layers):
            for suffix in ("", "_reverse")[: 2 if self.bidirectional else 1]:
                width = H * (2 if self.bidirectional else 1) if layer else self.input_size
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, H // self.heads)}
                if self.bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                shapes |= dict.fromkeys(self.cell.vector_names, (H,))
                own = {f"{name}_l{layer}{suffix}": shape for name, shape in shapes.items()}
                for name, shape in own.items():
                    setattr(self, name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
                self._flat_weights_names.extend(own)
                self._all_weights.append(list(own))

    def flatten_parameters(self) -> None:
        """Nothing: cuDNN has no part in these layers."""

    def extra_repr(self) -> str:
        return f"{self.cell.function.__name__}, {super().extra_repr()}"

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(f"torch.jit.script has no {type(self).__name__} layers; use torch.compile or torch.export")

    def _cell(self) -> Cell:
        return self.cell

    def _states(self, hx: Any) -> tuple[Tensor, ...]:
        return (hx,) if self.cell.states == 1 else tuple(hx)

    def _initial(self, input: Tensor, batch: int) -> Any:
        zero = super()._initial(input, batch)
        values = self.cell.initial
        states = tuple(torch.full_like(zero, value) for value in values) if values else (zero,) * self.cell.states
        return states if self.cell.states > 1 else states[0]

    def _check_kind(self, hx: Any) -> None:
        count = self.cell.states
        if count == 1:
            super()._check_kind(hx)
        elif not isinstance(hx, (tuple, list)) or len(hx) != count or not all(isinstance(h, Tensor) for h in hx):
            given = (
                f"({', '.join(type(h).__name__ for h in hx)})" if isinstance(hx, (tuple, list)) else type(hx).__name__
            )
            raise TypeError(f"{self.mode}: Expected hx to be a tuple of {count} tensors, got {given}")

    def _batch_hidden(self, hx: Any, is_batched: bool) -> Any:
        if self.cell.states == 1:
            return super()._batch_hidden(hx, is_batched)
        return tuple(super(Recurrent, self)._batch_hidden(h, is_batched) for h in hx)

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        self.check_input(input, batch_sizes)
        expected = self.get_expected_hidden_size(input, batch_sizes)
        for i, state in enumerate(self._states(hidden)):
            name = "hidden size" if self.cell.states == 1 else f"size of hx[{i}]"
            self.check_hidden_size(state, expected, f"Expected {name} {{}}, got {{}}")

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        if permutation is None:
            return hx
        permuted = tuple(h.index_select(1, permutation) for h in self._states(hx))
        return permuted if self.cell.states > 1 else permuted[0]

    def _extras(
        self,
        input: Tensor | PackedSequence,
        lengths: Tensor | None,
        resets: Tensor | None,
        cells: bool,
        constants: dict[str, Any] | None = None,
    ) -> Extras:
        extras = super()._extras(input, lengths, resets, cells)
        if cells and self.cell.states == 1:
            raise ValueError(f"{self.mode}: return_cells=True, but the cell has no state other than h")
        names = self.cell.constant_names
        given = constants or {}
        for name in given:
            if name not in names:
                raise TypeError(f"{type(self).__name__}.forward() got an unexpected keyword argument {name!r}")
        if not names:
            return extras
        if isinstance(input, PackedSequence):
            raise ValueError(f"a PackedSequence takes no {names[0]}: pass the padded input with lengths= instead")
        for name in names:
            if given.get(name) is None:
                raise TypeError(f"{self.mode}: the cell takes {name}, a number of each row and step: pass {name}=")
        checked = [checked_constants(given[name], name, input, self.batch_first) for name in names]
        return extras._replace(constants=torch.stack(checked, -1))

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_cells: bool = False,
        **constants: Any,
    ) -> tuple[Any, ...]:
        """Run the layers over a sequence; arguments and results as in the class's documentation."""
        if isinstance(input, torch.fx.Proxy):
            return fx_leaf(self, input, hx, lengths=lengths, resets=resets, return_cells=return_cells, **constants)
        results = self._forward(input, hx, lengths, resets, return_cells, constants)
        if not return_cells:
            return results[:2]
        output, final, cells = results
        others = self.cell.states - 1
        return output, final, cells if others == 1 else _by_state(cells, others, 2 if self.bidirectional else 1)


def _by_state(cells: Any, others: int, directions: int) -> Any:
    """What a scan gives of every step's states other than h, `(..., D * STATES * H)`, as one tensor a state."""
    if isinstance(cells, PackedSequence):
        return tuple(cells._replace(data=data) for data in _by_state(cells.data, others, directions))
    by_state = cells.unflatten(-1, (directions, others, -1)).unbind(-2)
    return tuple(state.flatten(-2).clone() for state in by_state)


class SLSTM(Recurrent):
    """Layers of sLSTM, of xLSTM (Beck et al. 2024, arXiv:2405.04517): an LSTM with an exponential input gate, a
    normaliser and a stabiliser, and a recurrent matrix in blocks.

        m_t = max(log f + m_{t-1}, i);  i' = exp(i - m_t);  f' = exp(log f + m_{t-1} - m_t);  log f = log sigmoid(.)
        c_t = f' c_{t-1} + i' tanh(z);  n_t = f' n_{t-1} + i';  h_t = sigmoid(o) c_t / n_t

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, backend: as in
            `fastrnn.LSTM`.
        heads: how many blocks the recurrent matrix has; it divides `hidden_size`.

    Gates are in the order i, f, z, o. `hx` and the final states are `(h, c, n, m)`. Other arguments, shapes and errors:
    as in `fastrnn.Recurrent`. docs/guide/slstm.md says how weights of the published packages carry over.
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
        heads: int = 4,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            slstm, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype,
            heads=heads, backend=backend,
        )  # fmt: skip
