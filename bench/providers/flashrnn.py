"""FlashRNN: CUDA kernels as its own function chooses them, and Triton kernels."""

from __future__ import annotations

from importlib import metadata
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrnn.bench.providers.foreign import OneLayer, reordered
from fastrnn.bench.providers.provider import State
from fastrnn.bench.rows.cases import Case

_FUNCTIONS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "elman"}


class FlashRNN(OneLayer):
    """flashrnn's function with one head, after the input projection that it leaves to its caller."""

    needs, install = "flashrnn", "pip install flashrnn"
    project, cells, dtypes = "flashrnn", tuple(_FUNCTIONS), ("float16", "bfloat16", "float32")
    return_cells = True
    backend: ClassVar[str] = "cuda_fused"  # another, vanilla, is plain torch, for tests

    @classmethod
    def lacks(cls, case: Case) -> str | None:
        if case.cell in cls.cells and case.cell != "gru" and case.H % 16:
            # It solves for tiles that divide H, the smallest of which are 16 units. GRUs go to another of its backends.
            return "flashrnn's cuda_fused takes multiples of 16 hidden units"
        return super().lacks(case)

    def __init__(self, case: Case, state: State) -> None:
        super().__init__(case, state)
        from flashrnn import flashrnn

        self._flashrnn, self.dtype = flashrnn, case.dtype
        # flashrnn's own choice, written down: fused kernels of three gates do not fit its tiles.
        chosen = "cuda" if (self.backend, case.cell) == ("cuda_fused", "gru") else self.backend
        self.ran = "flashrnn", f"{chosen}, flashrnn {metadata.version('flashrnn')}"
        # The fused kernels read the gates of a unit side by side: projected so, x is not copied once more.
        self._side_by_side = chosen == "cuda_fused"

    def _projected(self, x: Tensor) -> Tensor:
        """`(B, T, gates, 1, H)`."""
        T, B, H = *x.shape[:2], self.hidden_size
        if not self._side_by_side:
            return F.linear(x, self.weight_ih_l0).view(T, B, -1, 1, H).transpose(0, 1)
        beside = self.weight_ih_l0.view(-1, H, x.shape[2]).transpose(0, 1).flatten(0, 1)
        return F.linear(x, beside).view(T, B, 1, H, -1).permute(1, 0, 4, 2, 3)

    def forward(self, x: Tensor, *, return_cells: bool = False) -> tuple[Any, ...]:
        H, recurrent = self.hidden_size, self.weight_hh_l0
        if self.cell == "gru":
            # Its recurrent gates are n r z, and of four biases n has two: the recurrent part's first, the input's last.
            recurrent = reordered(recurrent, (2, 0, 1))
            bias = torch.cat([self.bias_hh_l0[2 * H :], self.bias_ih_l0]) + F.pad(self.bias_hh_l0[: 2 * H], (H, H))
        else:
            bias = self.bias_ih_l0 + self.bias_hh_l0
        states, last = self._flashrnn(
            self._projected(x),
            recurrent.view(-1, 1, H, H),
            bias.view(-1, 1, H),
            function=_FUNCTIONS[self.cell],
            backend=self.backend,
            dtype=self.dtype,
        )  # (states, B, T, 1, H), (states, B, 1, 1, H)
        output, *cells = states.squeeze(3).transpose(1, 2)
        final = tuple(last.flatten(2).unsqueeze(1))
        results = output, final if self.cell == "lstm" else final[0]
        return (*results, cells[0]) if return_cells else results


class FlashRNNTriton(FlashRNN):
    """Its Triton kernels."""

    project, cells = "flashrnn's triton_fused", ("lstm",)
    backend = "triton_fused"

    @classmethod
    def lacks(cls, case: Case) -> str | None:
        reason = super(FlashRNN, cls).lacks(case)  # not what its CUDA kernels lack
        if reason is None and case.H not in (16, 32, 64):
            # A whole head is one tile: a power of 2, at least tl.dot's 16, and at most what its documentation allows.
            return "flashrnn's triton_fused takes 16, 32 or 64 hidden units"
        if reason is None and case.train and case.dtype != "float32":
            # Its backward kernel takes tl.exp of what it loads, which Triton has for float32 and float64 alone.
            return "flashrnn's triton_fused trains in float32 only"
        return reason
