"""haste: CUDA kernels for LSTMs and GRUs, built from github.com/lmnt-com/haste."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastrnn.bench.providers.foreign import OneLayer, reordered
from fastrnn.bench.providers.provider import State
from fastrnn.bench.rows.cases import Case


class Haste(OneLayer):
    """haste_pytorch's layer: weights transposed, gates `i g f o` and `z r n`, one bias of an LSTM."""

    needs, install = "haste_pytorch", "build it from github.com/lmnt-com/haste"
    project, cells, dtypes = "haste", ("lstm", "gru"), ("float32", "float64")

    def __init__(self, case: Case, state: State) -> None:
        super().__init__(case, state)
        import haste_pytorch

        with torch.device("meta"):  # its own weights are never used
            layer = getattr(haste_pytorch, case.cell.upper())(case.I, case.H)
        self.ran = "haste", f"haste_pytorch {haste_pytorch.__version__}"
        self._layer: tuple[nn.Module, ...] = (layer,)  # in a tuple, which keeps its weights from being this module's

    def forward(self, x: Tensor) -> Any:
        order = (0, 2, 1, 3) if self.cell == "lstm" else (1, 0, 2)
        kernel, recurrent = (reordered(weight, order).t() for weight in (self.weight_ih_l0, self.weight_hh_l0))
        weights = {"kernel": kernel, "recurrent_kernel": recurrent}
        if self.cell == "lstm":
            weights["bias"] = reordered(self.bias_ih_l0 + self.bias_hh_l0, order)
        else:
            weights["bias"] = reordered(self.bias_ih_l0, order)
            weights["recurrent_bias"] = reordered(self.bias_hh_l0, order)
        return torch.func.functional_call(self._layer[0].train(self.training), weights, (x,))
