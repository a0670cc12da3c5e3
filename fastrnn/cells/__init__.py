"""Recurrent cells, each a function of plain torch: torch.nn's, a catalogue of others, and how to make one's own."""

from __future__ import annotations

from fastrnn.cells.builtin import BY_MODE, CELLS, gru, gru_textbook, lstm, rnn_relu, rnn_tanh
from fastrnn.cells.catalogue import (
    CATALOGUE,
    cfc,
    cifg,
    indrnn,
    janet,
    ligru,
    lstm_decay,
    mgu,
    nas,
    peephole_lstm,
    slstm,
)
from fastrnn.cells.cell import Cell, Coefficients, Inner, State, Upstream
from fastrnn.cells.registry import named, register

__all__ = [
    "BY_MODE", "CATALOGUE", "CELLS", "Cell", "Coefficients", "Inner", "State", "Upstream", "cfc", "cifg", "gru",
    "gru_textbook", "indrnn", "janet", "ligru", "lstm", "lstm_decay", "mgu", "named", "nas", "peephole_lstm",
    "register", "rnn_relu", "rnn_tanh", "slstm",
]  # fmt: skip
