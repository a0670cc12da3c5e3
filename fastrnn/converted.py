"""What `convert` turns torch.nn's layers and cells into: fastrnn's, which are instances of torch.nn's classes as well.

Packages ask `isinstance(layer, torch.nn.LSTM)` to initialise, validate and call a layer. These classes keep the answer;
torch.compile, which breaks its graph at torch.nn's layers by the same question, then breaks it here too, unless
`torch._dynamo.config.allow_rnn` is set. fastrnn's own classes, as built by hand, do not derive from torch.nn's.

They are defined here by name, since pickle finds a class by its module and name; `repr` and code that looks at
`type(layer).__name__` see torch.nn's name. fastrnn's class comes first, and all methods are its own.
"""

from __future__ import annotations

from torch import nn

from fastrnn import cell_modules, modules


class LSTM(modules.LSTM, nn.LSTM):
    pass


class GRU(modules.GRU, nn.GRU):
    pass


class RNN(modules.RNN, nn.RNN):
    pass


class LSTMCell(cell_modules.LSTMCell, nn.LSTMCell):
    pass


class GRUCell(cell_modules.GRUCell, nn.GRUCell):
    pass


class RNNCell(cell_modules.RNNCell, nn.RNNCell):
    pass
