"""LSTMCell, GRUCell and RNNCell: torch.nn's contract, run by fastrnn's backends.

A policy takes one step at a time and spends most of it in Python: what is on the path of `forward` is kept short.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastrnn import stack, tracers
from fastrnn.cells import BY_MODE, Cell
from fastrnn.layers.base import forward_is_ours, fx_leaf, torch_twin
from fastrnn.scan.choice import check_name
from fastrnn.scan.problem import Problem, Weights
from fastrnn.tracers import TRACED

_BY_NONLINEARITY = {"tanh": BY_MODE["RNN_TANH"], "relu": BY_MODE["RNN_RELU"]}


class CellModule(nn.RNNCellBase):
    """What the three cells share."""

    backend: str = "auto"  # as in the layers
    _name: ClassVar[str]  # in torch's error messages
    _mode: ClassVar[str]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str = "auto",
    ) -> None:
        # By name, as in the layers.
        nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, BY_MODE[self._mode].gates, device, dtype)
        self.backend = check_name(backend)

    def __prepare_scriptable__(self) -> nn.Module:
        """As for the layers."""
        if not forward_is_ours(self):
            return self
        return torch_twin(self, getattr(nn, self._name))

    def _cell(self) -> Cell:
        return BY_MODE[self._mode]

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.backend == "auto" else f"{text}, backend={self.backend!r}"

    def _check_rank(self, input: Tensor) -> None:
        if input.dim() not in (1, 2):
            raise ValueError(f"{self._name}: Expected input to be 1D or 2D, got {input.dim()}D instead")

    def _fits(self, input: Tensor, hx: Any, recorder: str | None) -> bool:
        """Whether the states are what they should be, said quickly."""
        try:
            if recorder == TRACED:  # sizes are tensors then, which nothing can be asked of
                return all(isinstance(h, Tensor) and h.dim() == input.dim() for h in hx)
            hidden, dtype, device = self.hidden_size, input.dtype, input.device
            shape = (input.shape[0], hidden) if input.dim() == 2 else (hidden,)
            for h in hx:
                if h.shape != shape or h.dtype != dtype or h.device != device:
                    return False
        except (AttributeError, TypeError):
            return False
        return True

    def _check_states(self, input: Tensor, hx: Any) -> None:
        """Say what is wrong with states that do not fit. torch's kernels would not look, and end in nonsense, or the
        process."""
        count, several = self._cell().states, self._cell().states > 1
        if not isinstance(hx, (tuple, list)) and not (several and isinstance(hx, Tensor) and hx.dim()):
            expected = f"hx to be {count} tensors" if several else "hidden to be a tensor"
            raise TypeError(f"{self._name}: Expected {expected}, got {type(hx).__name__}")
        rank = input.dim()
        for i, value in enumerate(hx):
            name = f"hx[{i}]" if several else "hidden"
            if not isinstance(value, Tensor):
                raise TypeError(f"{self._name}: Expected {name} to be a tensor, got {type(value).__name__}")
            if value.dim() not in (1, 2):
                raise ValueError(f"{self._name}: Expected {name} to be 1D or 2D, got {value.dim()}D instead")
            if value.dim() != rank:
                raise RuntimeError(
                    f"{self._name}: Expected {name} to be {rank}D like the input, got {value.dim()}D instead"
                )

    def _weights(self) -> Weights:
        own: dict[str, Any] = self._parameters
        try:
            # Module.__getattr__, four times, would be a tenth of a step's time on a CPU.
            return Weights(own["weight_ih"], own["weight_hh"], own["bias_ih"], own["bias_hh"], None)
        except KeyError:  # a parametrized one
            return Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, None)

    def _prepare(self, input: Tensor, hx: tuple[Tensor, ...] | None, count: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Check the arguments and give unbatched ones their batch axis: `(N, I)` and states `(N, H)`."""
        is_batched = input.dim() == 2
        if not is_batched:
            input = input.unsqueeze(0)
        if hx is None:
            zeros = torch.zeros(input.size(0), self.hidden_size, dtype=input.dtype, device=input.device)
            hx = (zeros,) * count
        elif not is_batched:
            hx = tuple(h.unsqueeze(0) for h in hx)
        return input, hx

    def _step(self, input: Tensor, hx: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """The next states, shaped like the input."""
        cell, recorder = self._cell(), tracers.recorder()
        fits = hx is None or self._fits(input, hx, recorder)
        if not fits:
            self._check_states(input, hx)
        batched, states = (input, hx) if hx is not None and input.dim() == 2 else self._prepare(input, hx, cell.states)
        final = stack.step(cell, batched, states, self._weights(), self.backend, fits, recorder)
        # Copies: a view could not be detached in place.
        return final if batched is input else tuple(h.squeeze(0).clone() for h in final)

    def _problem(self, input: Tensor, hx: Any = None) -> Problem:
        """What `forward` would ask of a backend; for `fastrnn.explain`."""
        self._check_rank(input)
        states = None if hx is None else tuple(hx) if self._cell().states > 1 else (hx,)
        batched, states = self._prepare(input, states, self._cell().states)
        problem = stack.step_problem(self._cell(), batched, states, self._weights())
        return dataclasses.replace(problem, time=1, batch=batched.shape[0], single=True)


class LSTMCell(CellModule):
    """One step of an LSTM; replaces `torch.nn.LSTMCell`.

    Args:
        input_size, hidden_size, bias, device, dtype: as in `torch.nn.LSTMCell`.
        backend: as in `fastrnn.LSTM`.

    Shapes: input `(N, input_size)` or `(input_size,)`, `hx` a pair `(N, hidden_size)` or `(hidden_size,)`, zeros by
    default; returns the next pair. Errors are `torch.nn.LSTMCell`'s.
    """

    _name = "LSTMCell"
    _mode = "LSTM"

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if isinstance(input, torch.fx.Proxy):
            return fx_leaf(self, input, hx)
        self._check_rank(input)
        h, c = self._step(input, hx)
        return h, c


class _SingleStateCell(CellModule):
    """A cell whose only state is h."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if isinstance(input, torch.fx.Proxy):
            return fx_leaf(self, input, hx)
        self._check_rank(input)
        return self._step(input, None if hx is None else (hx,))[0]


class GRUCell(_SingleStateCell):
    """One step of a GRU; replaces `torch.nn.GRUCell`.

    Args:
        input_size, hidden_size, bias, device, dtype: as in `torch.nn.GRUCell`.
        backend: as in `fastrnn.LSTM`.

    Shapes: input `(N, input_size)` or `(input_size,)`, `hx` `(N, hidden_size)` or `(hidden_size,)`, zeros by default;
    returns the next `hx`. Errors are `torch.nn.GRUCell`'s.
    """

    _name = "GRUCell"
    _mode = "GRU"


class RNNCell(_SingleStateCell):
    """One step of an Elman RNN; replaces `torch.nn.RNNCell`.

    Args:
        input_size, hidden_size, bias, nonlinearity, device, dtype: as in `torch.nn.RNNCell`.
        backend: as in `fastrnn.LSTM`.

    Shapes and errors: as in `fastrnn.GRUCell`; RuntimeError for an unknown nonlinearity, at the call, as in torch.
    """

    _name = "RNNCell"
    _mode = "RNN_TANH"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, backend=backend)
        self.nonlinearity = nonlinearity

    def _cell(self) -> Cell:
        cell = _BY_NONLINEARITY.get(self.nonlinearity)
        if cell is None:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return cell
