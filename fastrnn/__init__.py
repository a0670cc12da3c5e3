"""fastrnn: LSTM, GRU and RNN layers for PyTorch, on fused Triton kernels.

    import fastrnn
    layer = fastrnn.LSTM(input_size, hidden_size)  # torch.nn.LSTM's arguments, parameters and results

Names are loaded on first use, so that `fastrnn.kernels`, which needs Triton alone, does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrnn.cells.define import cell
    from fastrnn.interop.conversion import convert, revert
    from fastrnn.interop.warmup import warmup
    from fastrnn.layers.cells import GRUCell, LSTMCell, RNNCell
    from fastrnn.layers.checks import debug
    from fastrnn.layers.recurrent import SLSTM, Recurrent
    from fastrnn.layers.rnn import GRU, LSTM, RNN
    from fastrnn.scan.choice import explain

__version__ = "0.1.0"
__all__ = [
    "GRU", "LSTM", "RNN", "SLSTM", "GRUCell", "LSTMCell", "RNNCell", "Recurrent", "cell", "convert", "debug", "explain",
    "revert", "warmup",
]  # fmt: skip

_HOMES = {
    "GRU": "fastrnn.layers.rnn",
    "LSTM": "fastrnn.layers.rnn",
    "RNN": "fastrnn.layers.rnn",
    "GRUCell": "fastrnn.layers.cells",
    "LSTMCell": "fastrnn.layers.cells",
    "RNNCell": "fastrnn.layers.cells",
    "Recurrent": "fastrnn.layers.recurrent",
    "SLSTM": "fastrnn.layers.recurrent",
    "cell": "fastrnn.cells.define",
    "convert": "fastrnn.interop.conversion",
    "debug": "fastrnn.layers.checks",
    "explain": "fastrnn.scan.choice",
    "revert": "fastrnn.interop.conversion",
    "warmup": "fastrnn.interop.warmup",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
