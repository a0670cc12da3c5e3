"""TorchRL: Triton kernels for LSTMs and GRUs."""

from __future__ import annotations

from importlib import metadata
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastrnn.bench.providers.foreign import Foreign
from fastrnn.bench.providers.provider import State
from fastrnn.bench.rows.cases import Case


class TorchRL(Foreign):
    """torchrl's layer in its recurrent mode. It has torch.nn's layout, batch first."""

    needs, install = "torchrl", "pip install torchrl"
    project, cells, dtypes = "torchrl's triton", ("lstm", "gru"), ("float32",)
    layers = resets = True
    backend: ClassVar[str] = "triton"  # another, pad, is torch.nn's layer on padded rows, for tests

    def __init__(self, case: Case, state: State) -> None:
        super().__init__()
        from torchrl.modules import GRUModule, LSTMModule

        kind, inner = (LSTMModule, "lstm") if case.cell == "lstm" else (GRUModule, "gru")
        self._states = ("h", "c") if case.cell == "lstm" else ("h",)
        # As cuDNN and fastrnn do: torch has another switch for matmuls, which torchrl would follow.
        precision = "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
        module = kind(
            case.I,
            case.H,
            case.layers,
            in_keys=["x", *self._states],
            out_keys=["y", *(("next", name) for name in self._states)],
            recurrent_backend=self.backend,
            recurrent_matmul_precision=precision,
            default_recurrent_mode=True,
        ).to(state["weight_ih_l0"])
        module.get_submodule(inner).load_state_dict(state)
        # Its parameters under torch.nn's names: the first name that a parameter is found by is the one it has.
        for name, weight in module.get_submodule(inner).named_parameters():
            self.register_parameter(name, weight)
        self.module = module
        self.ran = "torchrl", f"{self.backend}, torchrl {metadata.version('torchrl')}"

    def forward(self, x: Tensor, *, resets: Tensor | None = None) -> tuple[Any, ...]:
        from tensordict import TensorDict

        if resets is None:
            resets = x.new_zeros(x.shape[:2], dtype=torch.bool)
        inputs = {"x": x.transpose(0, 1), "is_init": resets.t().unsqueeze(-1)}
        found = self.module(TensorDict(inputs, batch_size=[x.shape[1], x.shape[0]]))
        final = tuple(found["next", name][:, -1].transpose(0, 1) for name in self._states)
        return found["y"].transpose(0, 1), final if len(final) > 1 else final[0]
