"""Cells in a Python loop: what users of torch write today for all that torch.nn's layers lack; also compiled.

torch.nn's own cells where it has them, else the cell's function. Those take their input's product step by step; for a
cell of one's own there is the loop that takes it of all steps at once, too.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrnn.bench.providers.own import OwnCell, cell_of, is_own
from fastrnn.bench.providers.provider import Adapter, State
from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.cells import counts_of
from fastrnn.cells import Cell

_LOOP = "cells in a Python loop"
Carried = tuple[Tensor, ...]


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


_CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "gru_textbook": TextbookGRUCell}


def _where(rows: Tensor, yes: Carried, no: Carried) -> Carried:
    return tuple(torch.where(rows.unsqueeze(1), y, n) for y, n in zip(yes, no, strict=True))


def step(cell: nn.Module, x: Tensor, state: Carried, constants: Carried) -> Carried:
    """The next state of a cell."""
    if isinstance(cell, OwnCell):
        return cell(x, state, constants)  # type: ignore[no-any-return]
    return cell(x, state) if len(state) > 1 else (cell(x, state[0]),)


class Loop(Adapter):
    """Cells in a Python loop over time, one per layer and direction, with masks at resets and ends.

    Its parameters are named `l0_reverse.weight_ih`, for torch.nn's `weight_ih_l0_reverse`.
    """

    ran = "loop", _LOOP
    hoisted = False
    constant_names: tuple[str, ...] = ()

    def __init__(self, case: Case, state: State) -> None:
        super().__init__()
        self.suffixes = ("", "_reverse") if case.bidirectional else ("",)
        self.hidden_size, self.num_layers = case.H, case.layers
        counts = counts_of(case.cell)
        self.states, self.initial = counts.states, counts.initial or (0.0,) * counts.states
        self.step = step
        if is_own(case):
            self._make_own(cell_of(case.cell), state)
        else:
            self._make(case, state)

    def _make_own(self, cell: Cell, state: State) -> None:
        self.constant_names = cell.constant_names
        for layer, suffix in itertools.product(range(self.num_layers), self.suffixes):
            end = f"_l{layer}{suffix}"
            weights = {name.removesuffix(end): weight for name, weight in state.items() if name.endswith(end)}
            self.add_module(end[1:], OwnCell(cell, weights, self.hoisted))

    def _make(self, case: Case, state: State) -> None:
        like = state["weight_ih_l0"]
        options: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        if case.cell.startswith("rnn_"):
            options["nonlinearity"] = case.cell.removeprefix("rnn_")
        for layer in range(case.layers):
            width = case.I if layer == 0 else case.H * len(self.suffixes)
            for suffix in self.suffixes:
                self.add_module(f"l{layer}{suffix}", _CELLS.get(case.cell, nn.RNNCell)(width, case.H, **options))
        named = (name.rpartition("_l") for name in state)
        self.load_state_dict({f"l{suffix}.{name}": state[f"{name}_l{suffix}"] for name, _, suffix in named})

    @classmethod
    def algorithm(cls, case: Case, device: torch.device) -> str:
        """What it runs."""
        return _LOOP

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_cells: bool = False,
        **constants: Tensor,
    ) -> tuple[Any, ...]:
        lengths = None if lengths is None else lengths.to(x.device)
        given = tuple(constants[name].unsqueeze(-1) for name in self.constant_names)
        output, cells, finals = x, x, []
        for layer in range(self.num_layers):
            found = [self._scan(output, layer, back, lengths, resets, given) for back in range(len(self.suffixes))]
            output = torch.cat([every[0] for every, _ in found], -1)
            cells = torch.cat([every[-1] for every, _ in found], -1)
            finals += [state for _, state in found]
        final = tuple(torch.stack(same) for same in zip(*finals, strict=True))
        results = output, final if self.states > 1 else final[0]
        return (*results, cells) if return_cells else results

    def _scan(
        self, x: Tensor, layer: int, reverse: int, lengths: Tensor | None, resets: Tensor | None, given: Carried
    ) -> tuple[list[Tensor], Carried]:
        """Every state of every step, one `(T, B, H)` each, and the last ones."""
        cell = self.get_submodule(f"l{layer}{self.suffixes[reverse]}")
        T, B = x.shape[:2]
        nothing = (x.new_zeros(B, self.hidden_size),) * self.states
        start = tuple(zeros + value for zeros, value in zip(nothing, self.initial, strict=True))
        state, steps = start, [nothing] * T
        if self.hoisted and isinstance(cell, OwnCell):
            x = cell.input_part(x)
        for t in reversed(range(T)) if reverse else range(T):
            if resets is not None and t + reverse < T:
                # Backwards, a sequence ends where the step before it, in that order, starts the next one.
                cut = resets[t + reverse]
                if lengths is not None:
                    cut = cut & (t + reverse < lengths)
                state = _where(cut, start, state)
            new = self.step(cell, x[t], state, tuple(every[t] for every in given))
            active = None if lengths is None else t < lengths
            steps[t] = new if active is None else _where(active, new, nothing)
            state = new if active is None else _where(active, new, state)
        return [torch.stack(same) for same in zip(*steps, strict=True)], state


class HoistedLoop(Loop):
    """A cell of one's own, its input's product taken of all steps ahead of the loop."""

    hoisted = True

    @classmethod
    def lacks(cls, case: Case) -> str | None:
        return None if is_own(case) else "torch's own cells take their input's product in the step"


class CompiledLoop(Loop):
    """The same with the step of a cell compiled. The loop is not: unrolled, hundreds of steps compile for minutes."""

    ran = "inductor", f"compiled {_LOOP}"

    def __init__(self, case: Case, state: State) -> None:
        super().__init__(case, state)
        # What earlier rows compiled counts against the limit of compilations, which is for all cells together.
        torch.compiler.reset()
        # Not `cell.compile()`: Dynamo skips frames of torch.nn, and that runs the cell as it is without a word.
        # Full graphs, so that a step that cannot be compiled, once more than that limit included, raises.
        self.step = torch.compile(step, fullgraph=True, dynamic=False)
