"""What the tests share: how errors are measured, how large they may be, and launches that reach every tier."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastrnn
from fastrnn.backends import fused
from fastrnn.kernels.plan import gluon
from fastrnn.kernels.plan.choice import Launches
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.devices import Device

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")  # those that torch.nn has, too
EVERY_CELL = (*CELLS, "gru_textbook")

# Allowed error, as a multiple of the error of torch.nn's own CPU layers at the same dtype on the same values (both
# against float64). Torch rounds the cell state and every gate to a 16-bit dtype and we do not, so ours should be the
# smaller one; 2 leaves room for a lucky draw of torch's. Float32 sums in another order than torch does, and activations
# differ by a few units in the last place.
TORCH_ERROR_FACTOR = {torch.float16: 2.0, torch.bfloat16: 2.0, torch.float32: 4.0}
# Where torch's own error happens to be tiny (one step, one unit), a few roundings of the dtype are allowed.
ERROR_FLOOR = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-6}
# The kernels' tanh is a series below 0.2 that stops at 1e-9 relative: invisible in float32, the limit in float64.
FLOAT64_ERROR = 1e-8


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """||ours - reference|| / ||reference||, in float64; NaN where either holds one that the other does not."""
    ours, reference = ours.detach().double(), reference.detach().double()
    norm = reference.norm()
    difference = (ours - reference).norm()
    return float(difference if norm == 0 else difference / norm)


def worst_error(ours: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    errors = [relative_error(a, b) for a, b in zip(ours, reference, strict=True)]
    return float("nan") if any(e != e for e in errors) else max(errors)


def assert_as_good_as_torch(
    ours: list[Tensor], torchs: list[Tensor], reference: list[Tensor], dtype: torch.dtype, names: list[str]
) -> None:
    """Every tensor's error is at most a small multiple of torch's own."""
    for name, a, b, truth in zip(names, ours, torchs, reference, strict=True):
        error = relative_error(a, truth)
        allowed = max(TORCH_ERROR_FACTOR[dtype] * relative_error(b, truth), ERROR_FLOOR[dtype])
        assert error <= allowed, f"{name}: error {error:.2e}, torch's allows {allowed:.2e}"


def as_tuple(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def layer_pair(
    cell: str, input_size: int, hidden: int, dtype: torch.dtype, backend: str, device: str = "cpu", **options: object
) -> tuple[nn.Module, nn.Module]:
    """torch.nn's layer and ours, with the same parameters."""
    name = {"lstm": "LSTM", "gru": "GRU"}.get(cell, "RNN")
    if name == "RNN":
        options["nonlinearity"] = cell.removeprefix("rnn_")
    theirs = getattr(nn, name)(input_size, hidden, dtype=dtype, device=device, **options)
    ours = getattr(fastrnn, name)(input_size, hidden, dtype=dtype, device=device, backend=backend, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def initial_state(layer: nn.Module, batch: int) -> tuple[Tensor, ...]:
    """Random states for `layer`, in its dtype and on its device."""
    assert isinstance(layer, nn.RNNBase)
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    weight = layer.weight_hh_l0
    assert isinstance(weight, Tensor)
    h = torch.randn(count, batch, layer.proj_size or layer.hidden_size, dtype=weight.dtype, device=weight.device)
    if layer.mode != "LSTM":
        return (h,)
    return h, torch.randn(count, batch, layer.hidden_size, dtype=weight.dtype, device=weight.device)


def run_layer(layer: nn.Module, input: Tensor, hx: tuple[Tensor, ...] | None) -> tuple[list[str], list[Tensor]]:
    """Outputs, final states, and the gradients of input, states and parameters, under fixed upstream gradients."""
    input = input.detach().clone().requires_grad_()
    states = None if hx is None else tuple(h.detach().clone().requires_grad_() for h in hx)
    layer.zero_grad()
    given = None if states is None else states if len(states) > 1 else states[0]
    output, final = layer(input, given)
    results = [output, *as_tuple(final)]
    generator = torch.Generator().manual_seed(7)
    upstream = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r) for r in results]
    torch.autograd.backward(results, upstream)
    gradients: list[Tensor | None] = [
        input.grad,
        *(h.grad for h in states or ()),
        *(p.grad for p in layer.parameters()),
    ]
    names = ["output", "h_n", "c_n"][: len(results)] + ["d input", "d h0", "d c0"][: 1 + len(states or ())]
    names += [f"d {name}" for name, _ in layer.named_parameters()]
    tensors = results + [g for g in gradients if g is not None]
    assert len(names) == len(tensors), "a gradient is missing"
    return names, [t.detach() for t in tensors]


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Make whatever waits for the GPU an error inside, and nothing one afterwards."""

    def set_mode(mode: int | str) -> None:
        with warnings.catch_warnings():
            # Some versions of torch warn that the mode is a prototype after they have set it: as an error, that would
            # leave it on for every test that follows.
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode(mode)

    before = torch.cuda.get_sync_debug_mode()
    try:
        set_mode("error")
        yield
    finally:
        set_mode(before)


# Small launches that reach every path of the kernels: tier, block_b, block_h, block_k, group, split.
LAUNCHES = {
    "solo": ("solo", 16, 64, 64, 1, 1),
    "split contraction": ("grid", 16, 16, 32, 1, 2),
    "grouped chunks": ("grid", 16, 16, 16, 3, 1),
    "streamed": ("streamed", 16, 32, 32, 1, 2),
}


# What a diagonal takes, and nothing else does.
DIAGONAL = {"diagonal": ("diagonal", 4, 32, 1, 1, 1)}


def launch(
    name: str, hidden: int, schedule: str = "stepwise", batch_tiles: int = 65535, exchange: str = "none"
) -> LaunchConfig:
    """The launch of that name for `hidden` units, at most 64 of them where it is "solo"."""
    tier, block_b, block_h, block_k, group, split = (LAUNCHES | DIAGONAL)[name]
    num_k = 1 if tier == "diagonal" else -(-hidden // (block_k * group)) * group
    return LaunchConfig(schedule, tier, exchange, block_b, block_h, block_k, num_k, group, split, 4, batch_tiles)


def gluon_launch(
    hidden: int, warps: int = 4, units: int = 0, rows: int = 16, scatter: bool = False, exchange: str = "barrier"
) -> LaunchConfig:
    """A launch of Gluon's kernels for `hidden` units, `units` of them a program; of all of them without `units`."""
    return gluon.grid(hidden, rows, units, warps, scatter, exchange) if units else gluon.solo(hidden)


def combinations(*axes: Iterable[Any], fast: Callable[..., bool]) -> list[Any]:
    """Every combination of the axes' values, for `parametrize`: slow where `fast` says no."""
    found = itertools.product(*axes)
    return [pytest.param(*values, marks=[] if fast(*values) else pytest.mark.slow) for values in found]


def load_example(name: str) -> ModuleType:
    """`examples/NAME.py`, by its path: the folder is no package."""
    path = Path(__file__).resolve().parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"fastrnn_example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def compiling_environment() -> dict[str, str]:
    """The environment of a process that compiles the kernels, where this one interprets them."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


class _Forced(Launches):
    """Of one launch alone, which nothing follows where it is refused."""

    def __init__(self, config: LaunchConfig | None, *of: Any) -> None:
        self.config = config
        super().__init__(*of)

    def _found(self) -> list[LaunchConfig]:
        return [] if self.config is None else [self.config]


def choose_launches(choose: Callable[..., LaunchConfig | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `choose` choose every launch from here on, those that have been settled in this process included."""

    @functools.cache
    def launches(shape: ScanShape, device: Device, schedule: str) -> Launches:
        return _Forced(choose(shape, device, schedule), shape, device, schedule)

    monkeypatch.setattr(fused, "launches", launches)


@contextlib.contextmanager
def forced_launch(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make every kernel launch the one called `name`."""
    with monkeypatch.context() as patch:
        choose_launches(lambda shape, device, schedule: launch(name, shape.hidden, schedule), patch)
        yield
