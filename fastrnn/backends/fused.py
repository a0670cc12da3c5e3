"""What the two kernel backends share: what they need of a machine, how they choose a launch, and the launch itself.

Triton is imported inside the functions that need it: a machine without it must still import fastrnn.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from fastrnn.kernels.plan import choice, devices
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.devices import Device
from fastrnn.kernels.tensors import Gradients, Inputs, Kept, Results, Upstream

if TYPE_CHECKING:
    from fastrnn.cells import Cell
    from fastrnn.dispatch import Problem

_MIN_CAPABILITY = (8, 0)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_Result = TypeVar("_Result")

# The launches that run, by all that a launch is chosen for, and then by the variant of the kernel: its flags, the first
# two of which are whether rows have lengths and resets.
_SETTLED: dict[tuple[Any, ...], dict[tuple[bool, ...], LaunchConfig]] = {}
_SETTLED_LIMIT = 4096  # batch sizes, in the main; what is forgotten is found again, from kernels that Triton still has
# How many launches are compiled, seconds each, before the one that spills least will do.
_TRIALS = 6


@functools.cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def interpreting() -> bool:
    """Whether Triton runs its kernels in its interpreter, on the CPU: how tests run them without a GPU."""
    if not _triton_installed():
        return False
    from fastrnn.kernels.triton.constants import interpreted

    return interpreted()


@functools.cache
def _cuda_limits(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    return Device(
        name=properties.name,
        capability=capability,
        sms=properties.multi_processor_count,
        shared_bytes=devices.shared_bytes(capability),
    )


def device_limits(device: torch.device) -> Device:
    """The limits that launches on `device` are chosen by; the interpreter plays an H100."""
    if device.type == "cuda":
        return _cuda_limits(torch.cuda.current_device() if device.index is None else device.index)
    return devices.DEVICES["sm_90"]


def unmet_requirement(problem: Problem) -> str | None:
    """Why no kernel can run `problem`, or None."""
    if problem.transformed:
        return "torch.func transforms and forward-mode derivatives need plain operators"
    if not _triton_installed():
        return "triton is not installed"
    if problem.device.type == "cuda":
        if torch.version.hip is not None:
            return "the kernels are written for NVIDIA GPUs"
        capability = torch.cuda.get_device_capability(problem.device)
        if capability < _MIN_CAPABILITY:
            return "the kernels need compute capability 8.0 or newer, this GPU has {}.{}".format(*capability)
    elif problem.device.type != "cpu" or not interpreting():
        return f"the kernels need a CUDA GPU, the tensors are on {problem.device.type}"
    if problem.dtype not in _DTYPES and not (problem.dtype == torch.float64 and interpreting()):
        return (
            f"the kernels compute in float16, bfloat16 and float32, not in {str(problem.dtype).removeprefix('torch.')}"
        )
    return None


def declined() -> str | None:
    """Why `"auto"` passes over the kernels although they could run, or None."""
    return "Triton's interpreter is for tests" if interpreting() else None


@functools.lru_cache(maxsize=4096)
def choose(shape: ScanShape, device: Device, schedule: str) -> LaunchConfig | None:
    """`choice.choose`, remembered: a call's overhead is counted in microseconds."""
    chosen = choice.choose(shape, device, schedule)
    if chosen is None or chosen.exchange == "none" or not interpreting():
        return chosen
    # The interpreter runs programs one after another, and whether the best launch waits depends on the batch, which the
    # choice of a backend leaves open: of the launches that fit, it takes the one without an exchange.
    return next((c for c in choice.candidates(shape, device, schedule) if c.exchange == "none"), chosen)


def tf32_allowed() -> bool:
    """Whether torch lets cuDNN's RNNs use TF32: the switch that these kernels honour too."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        # The switches were set per operator through the newer API; the old one then refuses to answer.
        return bool(torch.backends.cudnn.rnn.fp32_precision == "tf32")  # type: ignore[attr-defined]  # torch >= 2.9


def scan_shape(
    cell: Cell, backward: bool, dtype: torch.dtype, batch: int, hidden: int, directions: int, save: bool = True
) -> ScanShape:
    """What the launch of one scan is chosen by, under torch's present TF32 switch; `save`: for a backward scan."""
    ieee = dtype == torch.float32 and not tf32_allowed()
    moved = cell.moved(backward, save)
    return ScanShape(cell.gates, backward, dtype.itemsize, batch, hidden, directions, ieee, cell.inner, moved)


def passes(problem: Problem) -> list[ScanShape]:
    """The scans of one layer of `problem`: forward, and backward where gradients are needed."""
    sizes = (problem.dtype, problem.batch, problem.hidden, problem.directions)
    return [
        scan_shape(problem.cell, backward, *sizes, problem.grad)
        for backward in ((False, True) if problem.grad else (False,))
    ]


def planned(problem: Problem, schedule: str) -> list[LaunchConfig | None]:
    """Their launches."""
    device = device_limits(problem.device)
    return [choose(shape, device, schedule) for shape in passes(problem)]


def _running(problem: Problem, schedule: str) -> list[LaunchConfig | None]:
    """`planned`, less what gave way when it was compiled."""
    plans = planned(problem, schedule)
    flags = (problem.lengths or problem.packed, problem.resets)
    sizes = (problem.dtype, problem.batch, problem.hidden, problem.directions)
    for backward in range(len(plans)):
        shape = scan_shape(problem.cell, bool(backward), *sizes)
        key = (problem.cell.name, problem.dtype, shape, device_limits(problem.device), schedule)
        for variant, config in _SETTLED.get(key, {}).items():
            if variant[:2] == flags:
                plans[backward] = config
    return plans


def describe(problem: Problem, schedule: str) -> str:
    """The launches that were chosen, in words."""
    plans = [plan.describe() for plan in _running(problem, schedule) if plan is not None]
    if len(plans) == 2 and plans[0] != plans[1]:
        return f"forward: {plans[0]}; backward: {plans[1]}"
    return plans[0]


def _ranked(shape: ScanShape, device: Device, schedule: str) -> Iterator[LaunchConfig]:
    """The launch that `choose` takes, then the others of its kind, best first."""
    first = choose(shape, device, schedule)
    if first is None:
        raise RuntimeError(f"no {schedule} launch fits this device for {shape}; pass backend='aten'")
    yield first
    for config in choice.ranked(shape, device, schedule):
        # What the interpreter cannot run comes first or not at all.
        if config != first and not (interpreting() and config.exchange != "none"):
            yield config


def _settled(
    run: Callable[[LaunchConfig, int | None], _Result],
    cell: Cell,
    backward: bool,
    output: Tensor,
    schedule: str,
    variant: tuple[bool, ...],
) -> _Result:
    """`run(config, spill_limit)` under the best launch, for tensors shaped `(T, B, D, ..., H)` like `output`, whose
    kernel spills no registers; or under the one that spills least, where all that were tried do.

    That is settled before the first launch, not by it: so every call of a process computes with the same launch, and
    what a CUDA graph captures is what ran before. A variant is settled for itself, whatever others were called before.
    """
    from fastrnn.kernels.triton.launch import SpillsError

    shape = scan_shape(cell, backward, output.dtype, output.shape[1], output.shape[-1], output.shape[2])
    device = device_limits(output.device)
    key = (cell.name, output.dtype, shape, device, schedule)
    known = _SETTLED.get(key, {}).get(variant)
    if known is not None:
        return run(known, None)
    if len(_SETTLED) > _SETTLED_LIMIT:
        _SETTLED.clear()
    variants = _SETTLED.setdefault(key, {})
    spilled: list[tuple[int, LaunchConfig]] = []
    for config in itertools.islice(_ranked(shape, device, schedule), _TRIALS):
        try:
            result = run(config, 0)
        except SpillsError as error:
            spilled.append((error.words, config))
        else:
            variants[variant] = config
            return result
    variants[variant] = min(spilled, key=lambda found: found[0])[1]
    return run(variants[variant], None)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def scan(inputs: Inputs, cell: Cell, schedule: str, save: bool, cells: bool) -> Results:
    """`kernels.triton.launch.scan_fwd` under the launch chosen for these sizes."""
    from fastrnn.kernels.triton.launch import scan_fwd

    x, weight, bias, state, lengths, resets = inputs
    _, B, D, G, H = x.shape
    if state.shape != (cell.states, D, B, H) or weight.shape != (D, G, H, H):
        # The kernels address memory by the sizes of x alone.
        raise RuntimeError(f"state {tuple(state.shape)} and weight {tuple(weight.shape)} do not fit x {tuple(x.shape)}")
    inputs = Inputs(
        x.contiguous(), weight.contiguous(), _contiguous(bias), state.contiguous(), lengths, _contiguous(resets)
    )
    precision = "tf32" if tf32_allowed() else "ieee"
    return _settled(
        lambda config, spill_limit: scan_fwd(inputs, cell, config, precision, save, cells, spill_limit),
        cell,
        False,
        x,
        schedule,
        (lengths is not None, resets is not None, bias is not None, save, cells),
    )


def scan_backward(upstream: Upstream, kept: Kept, cell: Cell, schedule: str) -> Gradients:
    """`kernels.triton.launch.scan_bwd` under the launch chosen for these sizes."""
    from fastrnn.kernels.triton.launch import scan_bwd

    weight, state, lengths, resets, output, others, saved = kept
    kept = Kept(weight.contiguous(), state.contiguous(), lengths, _contiguous(resets), output, others, saved)
    upstream = Upstream(*map(_contiguous, upstream))
    precision = "tf32" if tf32_allowed() else "ieee"
    return _settled(
        lambda config, spill_limit: scan_bwd(upstream, kept, cell, config, precision, spill_limit),
        cell,
        True,
        output,
        schedule,
        (lengths is not None, resets is not None, upstream.output is not None, upstream.cells is not None),
    )
