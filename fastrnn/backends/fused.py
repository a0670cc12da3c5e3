"""What the two kernel backends share: what they need of a machine, how they choose a launch, and the launch itself.

Triton is imported inside the functions that need it: a machine without it must still import fastrnn.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from typing import TYPE_CHECKING

import torch

from fastrnn.kernels.plan import configs, devices
from fastrnn.kernels.plan.choice import Launches
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.devices import Device
from fastrnn.kernels.tensors import Gradients, Inputs, Kept, Results, Upstream

if TYPE_CHECKING:
    from torch import Tensor

    from fastrnn.cells import Cell
    from fastrnn.scan.problem import Problem

_MIN_CAPABILITY = (8, 0)
_INTERPRETER = dataclasses.replace(devices.DEVICES["sm_90"], gluon=False)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@functools.cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _gluon_installed() -> bool:
    try:
        return importlib.util.find_spec("triton.experimental.gluon.language") is not None
    except ImportError:  # of a parent
        return False


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
        gluon=_gluon_installed(),
    )


def device_limits(device: torch.device) -> Device:
    """The limits that launches on `device` are chosen by; the interpreter plays an H100."""
    if device.type == "cuda":
        return _cuda_limits(torch.cuda.current_device() if device.index is None else device.index)
    return _INTERPRETER


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


@functools.lru_cache(maxsize=4096)  # batch sizes, in the main; what is forgotten is found again, of kernels Triton has
def launches(shape: ScanShape, device: Device, schedule: str) -> Launches:
    """What a scan has to choose from, and what its kernels run with: kept, since a call's overhead is counted in
    microseconds."""
    return Launches(shape, device, schedule, waiting=not interpreting())


def tf32_allowed() -> bool:
    """Whether torch lets cuDNN's RNNs use TF32: the switch that these kernels honour too."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        # The switches were set per operator through the newer API; the old one then refuses to answer.
        return bool(torch.backends.cudnn.rnn.fp32_precision == "tf32")  # type: ignore[attr-defined]  # torch >= 2.9


def scan_shape(
    cell: Cell, backward: bool, dtype: torch.dtype, batch: int, hidden: int, directions: int, save: bool = True,
    heads: int = 1, diagonal: bool = False,
) -> ScanShape:  # fmt: skip
    """What the launch of one scan is chosen by, under torch's present TF32 switch; `save`: for a backward scan;
    the rest as `ScanShape` has it."""
    ieee = dtype == torch.float32 and not tf32_allowed()
    moved, sizes = cell.moved(backward, save), (batch, hidden, directions)
    more = {"moved": moved, "heads": heads, "diagonal": diagonal, **cell.tiles(backward)}
    return ScanShape(cell.gates, backward, dtype.itemsize, *sizes, ieee, **more)


def passes(problem: Problem) -> list[ScanShape]:
    """The scans of one layer of `problem`: forward, and backward where gradients are needed."""
    diagonal = problem.heads == problem.hidden > 1
    heads = 1 if diagonal else problem.heads
    sizes = (problem.dtype, problem.batch, problem.hidden // heads, problem.directions)
    return [
        scan_shape(problem.cell, backward, *sizes, problem.grad, heads, diagonal)
        for backward in ((False, True) if problem.grad else (False,))
    ]


def planned(problem: Problem, schedule: str) -> list[LaunchConfig | None]:
    """Their launches."""
    device = device_limits(problem.device)
    return [launches(shape, device, schedule).best for shape in passes(problem)]


def _variant(cell: Cell, dtype: torch.dtype, lengths: bool, resets: bool, *flags: bool) -> tuple[object, ...]:
    """What else a kernel is compiled by than the shape that its launch is chosen for."""
    return (cell.name, dtype, lengths, resets, *flags)


def _running(problem: Problem, schedule: str) -> list[LaunchConfig | None]:
    """`planned`, less what gave way when it was compiled."""
    device = device_limits(problem.device)
    variant = _variant(problem.cell, problem.dtype, problem.lengths or problem.packed, problem.resets)
    plans = []
    for shape in passes(problem):
        found = launches(shape, device, schedule)
        alike = [config for settled, config in found.settled.items() if settled[: len(variant)] == variant]
        plans.append(alike[-1] if alike else found.best)
    return plans


def describe(problem: Problem, schedule: str) -> str:
    """The launches that were chosen, in words."""
    return configs.describe([plan for plan in _running(problem, schedule) if plan is not None])


def _precision() -> str:
    return "tf32" if tf32_allowed() else "ieee"


def _launches_of(cell: Cell, backward: bool, output: Tensor, weight: Tensor, heads: int, schedule: str) -> Launches:
    """The launches for tensors shaped `(T, B, P, ..., H)` like `output`."""
    B, P, H = output.shape[1], output.shape[2], output.shape[-1]
    diagonal = weight.shape[-1] < H
    shape = scan_shape(cell, backward, output.dtype, B, H, P // heads, heads=heads, diagonal=diagonal)
    return launches(shape, device_limits(output.device), schedule)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _besides(vectors: Tensor | None, constants: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What a cell takes besides, as the kernels read it: constants, times say, not rounded to 16 bits."""
    if constants is not None:
        constants = constants.to(torch.promote_types(constants.dtype, torch.float32)).contiguous()
    return _contiguous(vectors), constants


def scan(inputs: Inputs, cell: Cell, schedule: str, save: bool, cells: bool) -> Results:
    """`kernels.launch.scan.scan_fwd` under the launch chosen for these sizes."""
    from fastrnn.kernels.launch.scan import scan_fwd

    x, weight, bias, state, lengths, resets, vectors, constants, heads = inputs
    _, B, P, G, H = x.shape
    matrices = weight.shape == (P, G, H, H) or (weight.shape == (P, G, H, 1) and heads == 1)
    if state.shape != (cell.states, P, B, H) or not matrices or P % heads:
        # The kernels address memory by the sizes of x alone.
        raise RuntimeError(f"state {tuple(state.shape)} and weight {tuple(weight.shape)} do not fit x {tuple(x.shape)}")
    bias, resets = _contiguous(bias), _contiguous(resets)
    besides = (*_besides(vectors, constants), heads)
    inputs = Inputs(x.contiguous(), weight.contiguous(), bias, state.contiguous(), lengths, resets, *besides)
    variant = _variant(cell, x.dtype, lengths is not None, resets is not None, bias is not None, save, cells)
    call = functools.partial(scan_fwd, inputs, cell, precision=_precision(), save=save, cells=cells)
    return _launches_of(cell, False, x, weight, heads, schedule).run(call, variant)


def scan_backward(upstream: Upstream, kept: Kept, cell: Cell, schedule: str) -> Gradients:
    """`kernels.launch.scan.scan_bwd` under the launch chosen for these sizes."""
    from fastrnn.kernels.launch.scan import scan_bwd

    weight, state, lengths, resets, output, others, saved, vectors, constants, heads = kept
    of_results = (output, others, saved, *_besides(vectors, constants), heads)
    kept = Kept(weight.contiguous(), state.contiguous(), lengths, _contiguous(resets), *of_results)
    upstream = Upstream(*map(_contiguous, upstream))
    flags = upstream.output is not None, upstream.cells is not None
    variant = _variant(cell, output.dtype, lengths is not None, resets is not None, *flags)
    call = functools.partial(scan_bwd, upstream, kept, cell, precision=_precision())
    return _launches_of(cell, True, output, weight, heads, schedule).run(call, variant)
