"""What `convert` turns torch.nn's layers and cells into: fastrnn's, which are instances of torch.nn's classes as well.

Packages ask `isinstance(layer, torch.nn.LSTM)` to initialise, validate and call a layer. These classes keep the answer;
torch.compile, which breaks its graph at torch.nn's layers by the same question, then breaks it here too, unless
`torch._dynamo.config.allow_rnn` is set. fastrnn's own classes, as built by hand, do not derive from torch.nn's.

They are defined here by name, since pickle finds a class by its module and name; `repr` and code that looks at
`type(layer).__name__` see torch.nn's name. fastrnn's class comes first, and all methods are its own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from fastrnn.layers import cells, rnn

_F = TypeVar("_F", bound=Callable[..., Any])


def _whole(forward: _F) -> _F:
    """`forward`, which Dynamo compiles on its way from elsewhere (allow_rnn, strict export), or not at all.

    Dynamo refuses the layer, but not the functions that the layer calls: it would compile each that it meets, for
    seconds, or fail at them (torch 2.15). `torch.compiler.disable` would keep it out on its way from elsewhere too.
    """

    def whole(*args: Any, **options: Any) -> Any:
        return forward(*args, **options)

    with contextlib.suppress(AttributeError):  # without these compiling takes longer, and that is all
        frames = torch._C._dynamo.eval_frame
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(whole.__code__, frames._FrameExecStrategy(skip, skip))
    return functools.update_wrapper(whole, forward)  # type: ignore[return-value]


class LSTM(rnn.LSTM, nn.LSTM):
    forward = _whole(rnn.LSTM.forward)


class GRU(rnn.GRU, nn.GRU):
    forward = _whole(rnn.GRU.forward)


class RNN(rnn.RNN, nn.RNN):
    forward = _whole(rnn.RNN.forward)


class LSTMCell(cells.LSTMCell, nn.LSTMCell):  # Dynamo takes cells
    pass


class GRUCell(cells.GRUCell, nn.GRUCell):
    pass


class RNNCell(cells.RNNCell, nn.RNNCell):
    pass
