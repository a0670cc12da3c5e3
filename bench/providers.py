"""Who is measured: each provider builds the module of a case around given weights; and what each of them runs.

To add one, add a builder to PROVIDERS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

import fastrnn
from fastrnn.bench.cases import Case
from fastrnn.dispatch import select

State = dict[str, Tensor]
Builder = Callable[[Case, State, torch.device], nn.Module]

BASELINE = "torch.nn"
# PyTorch gives bfloat16 to cuDNN from this version on, and loops over time itself before.
_CUDNN_BFLOAT16 = 91300


def _layer(namespace: Any, case: Case, device: torch.device, dtype: torch.dtype, **options: Any) -> nn.Module:
    name = case.cell.upper()
    if case.cell.startswith("rnn_"):
        name, options["nonlinearity"] = "RNN", case.cell.removeprefix("rnn_")
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


def build_reference(case: Case, state: State, device: torch.device) -> nn.Module:
    """The equations in plain torch: what defines a right result."""
    return _build(fastrnn, case, state, device, backend="reference")


PROVIDERS: dict[str, Builder] = {
    "fastrnn": build_fastrnn,
    BASELINE: build_torch,
    "reference": build_reference,
}


def _peer_scan(case: Case, backward: bool) -> str:
    rnn = case.cell.startswith("rnn_")
    forward_limit, backward_limit = (384, 256) if rnn else (192, 128)
    if (backward_limit if backward else forward_limit) >= case.H:
        return "small-H persistent"
    fits = case.H <= 1024 and case.H % 128 == 0 and case.I % 128 == 0 and case.B <= 128 and case.B % 8 == 0
    wide = rnn and case.B >= 96 and case.H >= 896
    single = case.layers == 1 and not case.bidirectional
    if case.dtype == "float16" and case.cell != "gru" and single and fits and not wide:
        return "large persistent"
    return "per-step GEMM"


def peer_algorithm(case: Case, device: torch.device) -> str:
    """The class of cuDNN algorithm that PyTorch asks for in `case` (aten/src/ATen/native/cudnn/RNN.cpp, `get_algo`).

    Valid for GPUs of 98 multiprocessors and more, sm_86 apart: the large persistent kernel is not asked for elsewhere.
    """
    if device.type != "cuda":
        return "cpu"
    if case.dtype == "bfloat16" and (torch.backends.cudnn.version() or 0) < _CUDNN_BFLOAT16:
        return "PyTorch's own loop"
    forward, backward = _peer_scan(case, False), _peer_scan(case, True)
    if not case.train or forward == backward:
        return forward
    return f"forward: {forward}; backward: {backward}"


def what_runs(case: Case, module: nn.Module, x: Tensor) -> tuple[str, str]:
    """Backend and tier of `module(x)`, to be asked under the grad mode it runs in."""
    if hasattr(module, "_problem"):
        problem = cast(Any, module)._problem(x)
        backend = select(problem, str(module.backend))
        return backend.name, backend.describe(problem)
    algorithm = peer_algorithm(case, x.device)
    return ("cudnn" if x.is_cuda and algorithm != "PyTorch's own loop" else "aten"), algorithm
