"""Bad input raises torch.nn's own error, whichever backend was chosen: same type, same words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import fastrnn


def z(*shape: int, **options: Any) -> Tensor:
    return torch.zeros(shape, **options)


CONSTRUCTORS: dict[str, Callable[[Any], object]] = {
    "dropout above one": lambda m: m.LSTM(2, 3, dropout=1.5),
    "dropout of a bool": lambda m: m.LSTM(2, 3, dropout=True),
    "hidden size zero": lambda m: m.GRU(2, 0),
    "input size zero": lambda m: m.RNN(0, 2),
    "float hidden size": lambda m: m.GRU(2, 3.0),
    "no layers": lambda m: m.LSTM(2, 3, 0),
    "negative projection": lambda m: m.LSTM(2, 3, proj_size=-1),
    "projection too large": lambda m: m.LSTM(2, 3, proj_size=3),
    "projected GRU": lambda m: m.GRU(2, 3, proj_size=1),
    "projected RNN": lambda m: m.RNN(2, 3, proj_size=1),
    "unknown nonlinearity": lambda m: m.RNN(2, 3, nonlinearity="gelu"),
    "positional nonlinearity": lambda m: m.RNN(2, 3, 1, "gelu"),
    "bias of an int": lambda m: m.LSTM(2, 3, bias=1),
    "batch_first of an int": lambda m: m.LSTM(2, 3, batch_first=1),
}
CALLS: dict[str, Callable[[Any], object]] = {
    "rank 4": lambda m: m.LSTM(2, 3)(z(1, 1, 1, 2)),
    "rank 1": lambda m: m.GRU(2, 3)(z(2)),
    "rank 1 RNN": lambda m: m.RNN(2, 3)(z(2)),
    "wrong features": lambda m: m.LSTM(2, 3)(z(4, 5, 7)),
    "wrong dtype": lambda m: m.GRU(2, 3)(z(4, 5, 2, dtype=torch.float64)),
    "hx of wrong rank": lambda m: m.GRU(2, 3)(z(4, 5, 2), z(5, 3)),
    "hx of wrong rank, LSTM": lambda m: m.LSTM(2, 3)(z(4, 5, 2), (z(5, 3), z(5, 3))),
    "hx of wrong rank, unbatched": lambda m: m.GRU(2, 3)(z(4, 2), z(1, 1, 3)),
    "hx of wrong rank, unbatched LSTM": lambda m: m.LSTM(2, 3)(z(4, 2), (z(1, 1, 3), z(1, 1, 3))),
    "hx of wrong size": lambda m: m.RNN(2, 3)(z(4, 5, 2), z(1, 4, 3)),
    "h of wrong size": lambda m: m.LSTM(2, 3)(z(4, 5, 2), (z(1, 4, 3), z(1, 5, 3))),
    "c of wrong size": lambda m: m.LSTM(2, 3, proj_size=2)(z(4, 5, 2), (z(1, 5, 2), z(1, 5, 2))),
    "a tensor for LSTM's pair": lambda m: m.LSTM(2, 3)(z(4, 5, 2), z(1, 5, 3)),
    "empty sequence": lambda m: m.LSTM(2, 3)(z(0, 5, 2)),
    "empty sequence, GRU": lambda m: m.GRU(2, 3)(z(0, 5, 2)),
    "packed hx of wrong size": lambda m: m.GRU(2, 3)(pack_sequence([z(4, 2), z(3, 2)]), z(1, 3, 3)),
    "packed with wrong features": lambda m: m.GRU(2, 3)(pack_sequence([z(4, 7), z(3, 7)])),
    "hx elsewhere": lambda m: m.LSTM(2, 3)(z(4, 5, 2), (z(1, 5, 3, device="meta"), z(1, 5, 3))),
    "parameters elsewhere": lambda m: m.GRU(2, 3, device="meta")(z(4, 5, 2)),
    "cell of rank 3": lambda m: m.LSTMCell(2, 3)(z(1, 1, 2)),
    "cell's hx of rank 3": lambda m: m.LSTMCell(2, 3)(z(1, 2), (z(1, 1, 3), z(1, 3))),
    "GRU cell of rank 3": lambda m: m.GRUCell(2, 3)(z(1, 1, 2)),
    "GRU cell's hx of rank 3": lambda m: m.GRUCell(2, 3)(z(1, 2), z(1, 1, 3)),
    "RNN cell of rank 3": lambda m: m.RNNCell(2, 3)(z(1, 1, 2)),
    "RNN cell's nonlinearity": lambda m: m.RNNCell(2, 3, nonlinearity="gelu")(z(1, 2)),
    "cell's input of wrong size": lambda m: m.GRUCell(2, 3)(z(5, 7)),
    "cell's hx of wrong batch": lambda m: m.LSTMCell(2, 3)(z(5, 2), (z(4, 3), z(4, 3))),
    "cell's hx of wrong size": lambda m: m.RNNCell(2, 3)(z(5, 2), z(5, 4)),
}


class _Insisting:
    """fastrnn, with every class insisting on one backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *args, **kwargs: getattr(fastrnn, name)(*args, backend=self.backend, **kwargs)


def _error(call: Callable[[Any], object], module: Any) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what the test compares
        call(module)
    return caught.value


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors(name: str) -> None:
    expected, ours = _error(CONSTRUCTORS[name], nn), _error(CONSTRUCTORS[name], fastrnn)
    assert (type(ours), str(ours)) == (type(expected), str(expected))


@pytest.mark.parametrize("backend", ["auto", "stepwise", "reference"])
@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str, backend: str) -> None:
    if backend == "stepwise":
        pytest.importorskip("triton")
    expected, ours = _error(CALLS[name], nn), _error(CALLS[name], _Insisting(backend))
    assert (type(ours), str(ours)) == (type(expected), str(expected))


@pytest.mark.parametrize("backend", ["stepwise", "reference"])
def test_a_state_of_another_dtype(backend: str) -> None:
    """torch's message depends on the kernel it took; ours says what differs."""
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match=re.escape("Input and hidden tensors are not the same dtype")):
        fastrnn.GRU(2, 3, backend=backend)(z(4, 5, 2), z(1, 5, 3, dtype=torch.float64))


def test_packed_state_of_wrong_size_is_refused_by_lstm_too() -> None:
    """torch.nn.LSTM fails below Python here, or not at all, when the batch is permuted; GRU's wording is clear."""
    packed = pack_sequence([z(2, 2), z(4, 2)], enforce_sorted=False)
    with pytest.raises(RuntimeError, match=re.escape("Expected hidden[0] size (1, 2, 3), got [1, 3, 3]")):
        fastrnn.LSTM(2, 3)(packed, (z(1, 3, 3), z(1, 3, 3)))


def test_dropout_on_one_layer_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1"):
        fastrnn.GRU(2, 3, dropout=0.5)
