"""Who is measured: each provider builds the module of a case around given weights; and what each of them runs.

To add one, add a builder to PROVIDERS, with what it cannot do and what has to be installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

import fastrnn
from fastrnn.bench import others, peers
from fastrnn.bench.cases import Case
from fastrnn.dispatch import select
from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan import peer
from fastrnn.kernels.plan.devices import DEVICES

State = dict[str, Tensor]
Builder = Callable[[Case, State, torch.device], nn.Module]

_PACKED = SimpleNamespace(LSTM=peers.PackedLSTM, GRU=peers.PackedGRU, RNN=peers.PackedRNN)
_STANDARD = "per-step GEMM"
_LOOP = "cells in a Python loop"


def _layer(namespace: Any, case: Case, device: torch.device, dtype: torch.dtype, **options: Any) -> nn.Module:
    name = case.cell.upper()
    if case.cell.startswith("rnn_"):
        name, options["nonlinearity"] = "RNN", case.cell.removeprefix("rnn_")
    elif case.cell == "gru_textbook":
        name = "GRU"
        if namespace is fastrnn:
            options["reset_after"] = False
    layer: nn.Module = getattr(namespace, name)(
        case.I, case.H, case.layers, bidirectional=case.bidirectional, device=device, dtype=dtype, **options
    )
    return layer


def _build(namespace: Any, case: Case, state: State, device: torch.device, **options: Any) -> nn.Module:
    layer = _layer(namespace, case, device, state["weight_ih_l0"].dtype, **options)
    layer.load_state_dict(state)
    return layer


def weight_shapes(case: Case) -> dict[str, torch.Size]:
    """The names and shapes of the weights of `case`."""
    layer = _layer(nn, case, torch.device("meta"), torch.float32)
    return {name: weight.shape for name, weight in layer.state_dict().items()}


def build_fastrnn(case: Case, state: State, device: torch.device) -> nn.Module:
    """fastrnn's layer, as a user gets it."""
    return _build(fastrnn, case, state, device)


def build_torch(case: Case, state: State, device: torch.device) -> nn.Module:
    """torch.nn's layer: cuDNN on a GPU."""
    return _build(nn, case, state, device)


def build_packed(case: Case, state: State, device: torch.device) -> nn.Module:
    """torch.nn's layer over packed rows: how torch has lengths."""
    return _build(_PACKED, case, state, device)


def _build_loop(loop: type[peers.Loop], case: Case, state: State, device: torch.device) -> nn.Module:
    options: dict[str, Any] = {"device": device, "dtype": state["weight_ih_l0"].dtype}
    kind: type[nn.RNNCellBase]
    if case.cell.startswith("rnn_"):
        kind, options["nonlinearity"] = nn.RNNCell, case.cell.removeprefix("rnn_")
    else:
        kind = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "gru_textbook": peers.TextbookGRUCell}[case.cell]
    module = loop(kind, case.I, case.H, case.layers, case.bidirectional, **options)
    named = (name.rpartition("_l") for name in state)
    module.load_state_dict({f"l{suffix}.{name}": state[f"{name}_l{suffix}"] for name, _, suffix in named})
    return module


def build_loop(case: Case, state: State, device: torch.device) -> nn.Module:
    """torch.nn's cells in a Python loop: how torch has everything else."""
    return _build_loop(peers.Loop, case, state, device)


def build_compiled(case: Case, state: State, device: torch.device) -> nn.Module:
    """The same loop, its cells compiled by torch.compile."""
    return _build_loop(others.CompiledLoop, case, state, device)


def build_haste(case: Case, state: State, device: torch.device) -> nn.Module:
    """haste's layer."""
    return others.Haste(case, state)


def build_flashrnn(case: Case, state: State, device: torch.device) -> nn.Module:
    """flashrnn's CUDA kernels, as its function chooses them."""
    return others.FlashRNN(case, state)


def build_flashrnn_triton(case: Case, state: State, device: torch.device) -> nn.Module:
    """flashrnn's Triton kernels."""
    return others.FlashRNN(case, state, "triton_fused")


def build_torchrl(case: Case, state: State, device: torch.device) -> nn.Module:
    """torchrl's Triton kernels."""
    return others.TorchRL(case, state)


def build_reference(case: Case, state: State, device: torch.device) -> nn.Module:
    """The equations in plain torch: what defines a right result."""
    return _build(fastrnn, case, state, device, backend="reference")


def _packed_lacks(case: Case) -> str | None:
    if case.cell == "gru_textbook":
        return "torch.nn has no textbook GRU"
    if case.reset_rate:
        return "torch.nn's layers take no resets"
    return "torch.nn's layers return no cells" if case.return_cells else None


def _torch_lacks(case: Case) -> str | None:
    return _packed_lacks(case) or ("torch.nn's layers take no lengths" if case.lengths != "full" else None)


def _nothing(case: Case) -> str | None:
    return None


@dataclass(frozen=True)
class Provider:
    """Someone to measure.

    Attributes:
        build: the module of a case, called as fastrnn's layers are.
        lacks: why there is no such module for a case, or None.
        needs: the module that has to be installed, if any.
        install: how.
        cuda_only: whether it is measured on CUDA GPUs alone: elsewhere it has no kernels of its own.
    """

    build: Builder
    lacks: Callable[[Case], str | None] = _nothing
    needs: str | None = None
    install: str = ""
    cuda_only: bool = False

    def missing(self) -> str | None:
        """What is not installed, or None."""
        if self.needs is None or importlib.util.find_spec(self.needs) is not None:
            return None
        return f"{self.needs} is not installed; {self.install}"

    def unable(self, case: Case, device: torch.device) -> str | None:
        """Why `case` cannot be measured on `device`, or None."""
        if self.cuda_only and device.type != "cuda":
            return f"{self.needs} is measured on CUDA GPUs only"
        return self.missing() or self.lacks(case)


PROVIDERS: dict[str, Provider] = {
    "fastrnn": Provider(build_fastrnn),
    "torch.nn": Provider(build_torch, _torch_lacks),
    "torch.nn-packed": Provider(build_packed, _packed_lacks),
    "torch.nn-loop": Provider(build_loop),
    "torch.compile": Provider(build_compiled),
    "haste": Provider(
        build_haste,
        others.HASTE.lacks,
        needs="haste_pytorch",
        install="build it from github.com/lmnt-com/haste",
        cuda_only=True,
    ),
    "flashrnn": Provider(
        build_flashrnn, others.flashrnn_lacks, needs="flashrnn", install="pip install flashrnn", cuda_only=True
    ),
    "flashrnn-triton": Provider(
        build_flashrnn_triton,
        others.flashrnn_triton_lacks,
        needs="flashrnn",
        install="pip install flashrnn",
        cuda_only=True,
    ),
    "torchrl": Provider(
        build_torchrl, others.TORCHRL.lacks, needs="torchrl", install="pip install torchrl", cuda_only=True
    ),
    "reference": Provider(build_reference),
}
_PEERS = ("torch.nn", "torch.nn-packed", "torch.nn-loop")


def installed() -> list[str]:
    """Everyone there is to measure; the reference is there to check them."""
    return [name for name, provider in PROVIDERS.items() if name != "reference" and provider.missing() is None]


def peer_of(case: Case) -> str:
    """Whom `case` is compared with: the least that torch.nn's users have to write for it."""
    return next(name for name in _PEERS if PROVIDERS[name].lacks(case) is None)


def _peer_scan(case: Case, backward: bool) -> str:
    directions = 2 if case.bidirectional else 1
    layer = peer.Layer(COUNTS[case.cell], case.dtype, case.B, case.H, directions, case.layers)
    asked = peer.algorithm(layer, backward, DEVICES["sm_90"])
    if asked == "small":
        return "small-H persistent"
    fits = case.I % 128 == 0 and case.B % 8 == 0
    return "large persistent" if asked == "persistent" and fits else _STANDARD


def _copied(case: Case) -> str:
    """A note where the peer hands cuDNN a fresh copy of its weights at each call.

    `flatten_parameters` lays the weights out as cuDNN wants them, once, for the dtypes that this list of torch's has.
    """
    listed = getattr(torch, case.dtype) in torch.backends.cudnn.CUDNN_TENSOR_DTYPES
    return "" if listed else ", weights copied at each call"


def peer_algorithm(case: Case, device: torch.device) -> str:
    """What the peer of `case` runs: the class of cuDNN algorithm that PyTorch asks for, or a loop.

    From `get_algo` in aten/src/ATen/native/cudnn/RNN.cpp, which asks for no persistent kernel where rows are packed.
    Valid for GPUs of 98 multiprocessors and more, sm_86 apart: the large persistent kernel is not asked for elsewhere.
    """
    whom = peer_of(case)
    if whom == "torch.nn-loop":
        return _LOOP
    if device.type != "cuda":
        return "cpu"
    if case.dtype == "bfloat16" and (torch.backends.cudnn.version() or 0) < peer.BFLOAT16_CUDNN:
        return "PyTorch's own loop"
    if whom == "torch.nn-packed":
        return _STANDARD + _copied(case)
    forward, backward = _peer_scan(case, False), _peer_scan(case, True)
    if not case.train or forward == backward:
        return forward + _copied(case)
    return f"forward: {forward}; backward: {backward}{_copied(case)}"


def is_fastrnns(module: nn.Module) -> bool:
    """Whether it is one of fastrnn's layers, which can say what they run."""
    return hasattr(module, "_problem")


def what_runs(case: Case, module: nn.Module, x: Tensor, options: dict[str, Any]) -> tuple[str, str]:
    """Backend and tier of `module(x, **options)`, to be asked under the grad mode it runs in."""
    if hasattr(module, "runs"):
        backend, tier = cast(Any, module).runs
        return str(backend), str(tier)
    if isinstance(module, peers.Loop):
        return "loop", _LOOP
    if is_fastrnns(module):
        problem = cast(Any, module)._problem(x, **options)
        backend = select(problem, str(module.backend))
        return backend.name, backend.describe(problem)
    algorithm = peer_algorithm(case, x.device)
    return ("cudnn" if x.is_cuda and algorithm != "PyTorch's own loop" else "aten"), algorithm
