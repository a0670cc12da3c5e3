"""fastrnn: LSTM, GRU and RNN layers for PyTorch, on fused Triton kernels.

    import fastrnn
    layer = fastrnn.LSTM(input_size, hidden_size)  # torch.nn.LSTM's arguments, parameters and results

Names are loaded on first use, so that `fastrnn.kernels`, which needs Triton alone, does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrnn.ahead import warmup
    from fastrnn.cell_modules import GRUCell, LSTMCell, RNNCell
    from fastrnn.checks import debug
    from fastrnn.conversion import convert, revert
    from fastrnn.dispatch import explain
    from fastrnn.modules import GRU, LSTM, RNN

__version__ = "0.1.0"
__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "convert", "debug", "explain", "revert", "warmup"]

_HOMES = {
    "GRU": "fastrnn.modules",
    "LSTM": "fastrnn.modules",
    "RNN": "fastrnn.modules",
    "GRUCell": "fastrnn.cell_modules",
    "LSTMCell": "fastrnn.cell_modules",
    "RNNCell": "fastrnn.cell_modules",
    "convert": "fastrnn.conversion",
    "debug": "fastrnn.checks",
    "explain": "fastrnn.dispatch",
    "revert": "fastrnn.conversion",
    "warmup": "fastrnn.ahead",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
