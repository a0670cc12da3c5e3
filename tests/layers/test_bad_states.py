"""States that do not fit raise, with words, whatever is wrong with them: no nonsense, and no end of the process."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import fastrnn

BACKENDS = ("auto", "reference", "stepwise")
SHAPES = [shape for rank in range(5) for shape in itertools.product((1, 2, 3), repeat=rank) if rank < 4]
SHAPES += [(1, 1, 2, 3), (2, 1, 2, 3), (2, 2, 3, 3)]
EXPECTED = (RuntimeError, ValueError, TypeError, IndexError)


def _odd(good: tuple[int, ...]) -> Iterator[Any]:
    """What no layer takes for a state."""
    for dtype in (torch.float64, torch.float16, torch.long, torch.complex64):
        yield torch.zeros(good, dtype=dtype)
    yield from (torch.zeros(good, device="meta"), torch.zeros(good).numpy(), None, [0.0, 0.0, 0.0], 3, "ab")


def _wrong(good: tuple[int, ...], several: bool) -> Iterator[Any]:
    """Every state that does not fit; `several` if there are two."""
    shapes = [torch.zeros(s) for s in SHAPES if s != good]
    right = torch.zeros(good)
    if not several:
        yield from shapes
        yield from ((s,) for s in (right, *shapes[:5]))
        yield from (o for o in _odd(good) if o is not None)
        return
    yield from (s for s in shapes if tuple(s.shape) != (2, *good))
    for bad in (*shapes, *_odd(good)):
        yield from ((bad, right), (right, bad), (bad, bad))
    yield from ((), (right,), (right,) * 3, 3, "ab")


def _survivors(name: str, backend: str) -> list[str]:
    """What a layer or cell of that name takes although it does not fit."""
    taken = []
    is_cell, several = name.endswith("Cell"), name.startswith("LSTM")
    module = getattr(fastrnn, name)(3, 3, backend=backend)
    for how in ("batched", "unbatched") if is_cell else ("batched", "unbatched", "packed"):
        x: Any = torch.zeros((2, 3) if is_cell else (4, 2, 3))
        if how == "unbatched":
            x = x[0] if is_cell else x[:, 0]
        elif how == "packed":
            x = pack_sequence([torch.zeros(4, 3), torch.zeros(2, 3)])
        good = {"batched": (2, 3), "packed": (2, 3), "unbatched": (3,)}[how]
        good = good if is_cell else (1, *good)
        for hx in _wrong(good, several):
            for grad in (True, False):
                try:
                    with torch.set_grad_enabled(grad):
                        module(x, hx)
                except EXPECTED:
                    continue
                taken.append(f"{name}, {how}: {_described(hx)}")
    return taken


def _described(hx: Any) -> str:
    if isinstance(hx, Tensor):
        return f"{tuple(hx.shape)} {hx.dtype} {hx.device}"
    return f"({', '.join(map(_described, hx))})" if isinstance(hx, tuple) else repr(hx)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_state_that_does_not_fit_is_refused(backend: str) -> None:
    """In a process of its own, which torch's kernels would end."""
    if backend == "stepwise":
        pytest.importorskip("triton")
    folder = Path(__file__).parent
    program = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder.parent)!r}]\n"
        "from test_bad_states import _survivors\n"
        "for name in ('LSTMCell', 'GRUCell', 'RNNCell', 'LSTM', 'GRU', 'RNN'):\n"
        f"    for taken in _survivors(name, {backend!r}): print(taken)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parents[1])
    assert result.returncode == 0, result.stderr
    assert not result.stdout.strip(), "was taken"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "hx", "error", "message"),
    [
        ("LSTMCell", torch.zeros(2, 3, 3), RuntimeError, "Expected hx[0] to be 1D like the input, got 2D"),
        ("LSTMCell", (torch.zeros(3), None), TypeError, "Expected hx[1] to be a tensor, got NoneType"),
        ("LSTMCell", 3, TypeError, "Expected hx to be 2 tensors, got int"),
        ("LSTMCell", (torch.zeros(3), torch.zeros(3).double()), RuntimeError, "are not the same dtype"),
        ("GRUCell", (torch.zeros(3),), TypeError, "Expected hidden to be a tensor, got tuple"),
        ("LSTM", (torch.zeros(1, 3), 3), TypeError, "two tensors, (h_0, c_0), got (Tensor, int)"),
        ("GRU", (torch.zeros(1, 3),), TypeError, "GRU: Expected hx to be a tensor, got tuple"),
    ],
)
def test_in_words(name: str, hx: Any, error: type[Exception], message: str, backend: str) -> None:
    if backend == "stepwise":
        pytest.importorskip("triton")
    x = torch.zeros(3) if name.endswith("Cell") else torch.zeros(4, 3)
    with pytest.raises(error, match=re.escape(message)):
        getattr(fastrnn, name)(3, 3, backend=backend)(x, hx)
