"""torch.nn's layers, and how torch has lengths: the same layers over packed rows. On a GPU both are cuDNN's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fastrnn.bench.providers.own import is_own
from fastrnn.bench.providers.provider import Provider, State, build_layer
from fastrnn.bench.rows.cases import Case
from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan import peer
from fastrnn.kernels.plan.devices import DEVICES

_STANDARD, _OWN_LOOP = "per-step GEMM", "PyTorch's own loop"


class TorchNN(Provider):
    """torch.nn's layer."""

    layers: ClassVar[Any] = nn
    packs: ClassVar[bool] = False

    @classmethod
    def build(cls, case: Case, state: State) -> nn.Module:
        return build_layer(cls.layers, case, state)

    @classmethod
    def lacks(cls, case: Case) -> str | None:
        if case.cell == "gru_textbook":
            return "torch.nn has no textbook GRU"
        if is_own(case):
            return f"torch.nn has no {case.cell}"
        if case.reset_rate:
            return "torch.nn's layers take no resets"
        if case.return_cells:
            return "torch.nn's layers return no cells"
        return None if cls.packs or case.lengths == "full" else "torch.nn's layers take no lengths"

    @classmethod
    def runs(cls, case: Case, module: nn.Module, x: Tensor, options: dict[str, Any]) -> tuple[str, str]:
        algorithm = cls.algorithm(case, x.device)
        return ("cudnn" if x.is_cuda and algorithm != _OWN_LOOP else "aten"), algorithm

    @classmethod
    def algorithm(cls, case: Case, device: torch.device) -> str:
        """What it runs: the class of cuDNN algorithm that PyTorch asks for.

        From `get_algo` in aten/src/ATen/native/cudnn/RNN.cpp, which asks for no persistent kernel where rows are
        packed. Valid for GPUs of 98 multiprocessors and more, sm_86 apart: elsewhere none asks for the large one.
        """
        if device.type != "cuda":
            return "cpu"
        if case.dtype == "bfloat16" and (torch.backends.cudnn.version() or 0) < peer.BFLOAT16_CUDNN:
            return _OWN_LOOP
        # `flatten_parameters` lays the weights out as cuDNN wants them, once, for the dtypes that this list of torch's
        # has; of others cuDNN gets a fresh copy at each call.
        listed = getattr(torch, case.dtype) in torch.backends.cudnn.CUDNN_TENSOR_DTYPES
        copied = "" if listed else ", weights copied at each call"
        forward, backward = (cls._asked_for(case, backward) for backward in (False, True))
        if not case.train or forward == backward:
            return forward + copied
        return f"forward: {forward}; backward: {backward}{copied}"

    @classmethod
    def _asked_for(cls, case: Case, backward: bool) -> str:
        if cls.packs:
            return _STANDARD
        directions = 2 if case.bidirectional else 1
        layer = peer.Layer(COUNTS[case.cell], case.dtype, case.B, case.H, directions, case.layers)
        asked = peer.algorithm(layer, backward, DEVICES["sm_90"])
        if asked == "small":
            return "small-H persistent"
        fits = case.I % 128 == 0 and case.B % 8 == 0
        return "large persistent" if asked == "persistent" and fits else _STANDARD


class _Packing(nn.RNNBase):
    """Packs the padded input, and pads the output again."""

    def forward(self, input: Tensor, hx: Any = None, *, lengths: Tensor | None = None) -> Any:
        time, batch = input.shape[:2]
        if lengths is None:
            lengths = torch.full((batch,), time)
        packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
        output, final = super().forward(packed, hx)
        return pad_packed_sequence(output, total_length=time)[0], final


class Packed(TorchNN):
    """torch.nn's layer over packed rows."""

    layers: ClassVar[Any] = SimpleNamespace(
        **{name: type(name, (_Packing, getattr(nn, name)), {}) for name in ("LSTM", "GRU", "RNN")}
    )
    packs = True
