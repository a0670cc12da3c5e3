"""A rehearsal of the GPU tests where there is no GPU: what would go wrong there before any number is looked at.

    PYTHONPATH=.:tests python -m pytest -p rehearsal -m gpu tests/gpu/test_gpu.py

"cuda" is played by torch's meta device, whose tensors have no values: the tests, the layers, the choice of launches and
the launchers run as they are, and kernels are checked where they would be launched. That finds what is not on the GPU,
refused, misfitting between an operator and what stands for it under torch.compile, or first loaded while a graph is
captured. A test that asks for a value ends there, as far as it was rehearsed.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import support
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastrnn.backends import fused
from fastrnn.kernels.launch import kernel as which
from fastrnn.scan import operators

CUDA, CAPABILITY, SMS, REGISTERS = torch.device("cuda", 0), (9, 0), 132, 65536
UNREHEARSED = {
    "test_tf32": "is about how large an error is",
    "test_autocast_runs_in_its_dtype": "needs autocast, which knows the device",
    "test_compile_with_dynamic_sizes": "needs Inductor, which asks the driver",
}


class ValueAskedError(Exception):
    """A test looked at a number. There is none."""


class Stream:
    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def _nothing(self, *_: Any) -> None:
        pass

    wait_stream = synchronize = _nothing


class Event:
    def __init__(self, **_: Any) -> None:
        self.time = 0.0

    def record(self, *_: Any) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.time - self.time)


class Rehearsal:
    """What the pretence knows: whether a graph is captured, how waiting is dealt with, and what has been launched."""

    def __init__(self) -> None:
        self.capturing, self.sync_mode = False, 0
        self.launched: set[Any] = set()
        self.faults: list[str] = []

    @contextlib.contextmanager
    def capture(self, *_: Any, **__: Any) -> Iterator[None]:
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.sync_mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)  # type: ignore[arg-type]  # either
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)  # as torch 2.11 does

    def launch(self, kernel: Any, grid: tuple[int, int, int], given: dict[str, Any]) -> None:
        name = kernel.fn.__name__
        arguments = {p.name: given[p.name] for p in kernel.params if not p.is_constexpr}
        constants = {key: value for key, value in given.items() if key not in arguments}
        for pointer, argument in arguments.items():
            if isinstance(argument, Tensor):
                assert argument.is_meta, f"{name}: {pointer} is on {argument.device}, not on the GPU"
                assert argument.is_contiguous(), f"{name}: {pointer} has strides {argument.stride()}"
        programs = grid[0] * grid[1] * grid[2]
        room = SMS * max(1, REGISTERS // (256 * 32 * constants["num_warps"]))  # whatever a thread has of them
        if constants.get("launch_cooperative_grid") and programs > room:
            raise RuntimeError("Triton Error [CUDA]: too many blocks in cooperative launch")
        dtypes = tuple(a.dtype for a in arguments.values() if isinstance(a, Tensor))
        key = (name, dtypes, tuple((constant, str(constants[constant])) for constant in sorted(constants)))
        assert key in self.launched or not self.capturing, f"{name} is first loaded inside the capture of a graph"
        self.launched.add(key)


class Kernel:
    """Stands in for a kernel where it is launched."""

    def __init__(self, kernel: Any, rehearsal: Rehearsal) -> None:
        self.kernel, self.rehearsal = kernel, rehearsal

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        return lambda **given: self.rehearsal.launch(self.kernel, grid, given)

    def warmup(self, *_: Any, **__: Any) -> None:
        """Nothing is compiled."""


def _moved(value: Any) -> Any:
    """`value` with every mention of the GPU turned into one of the meta device."""
    if isinstance(value, torch.device):
        return torch.device("meta") if value.type == "cuda" else value
    if isinstance(value, str):
        return "meta" if value.partition(":")[0] == "cuda" else value
    if type(value) in (tuple, list):
        return type(value)(map(_moved, value))
    return value


_ASKING = (Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__)


class Pretence(TorchFunctionMode):
    """Tensors "on the GPU" are meta tensors; what is brought back from there is zero."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if func is Tensor.cuda:
            return args[0].to("meta")
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            back = func is Tensor.cpu or (func is Tensor.to and len(args) > 1 and str(args[1]) == "cpu")
            if back:
                return torch.zeros(args[0].shape, dtype=args[0].dtype)
            if func in _ASKING:
                raise ValueAskedError
            if func is torch.equal:
                assert args[1].is_meta
                assert args[0].shape == args[1].shape
                return True
        return func(*map(_moved, args), **{name: _moved(value) for name, value in kwargs.items()})


def _like(error: Tensor, expected: Tensor) -> float:
    """In place of a relative error: shapes and devices are all there is to compare."""
    assert error.shape == expected.shape
    assert error.device.type == expected.device.type
    return 0.0


def _play_cuda(rehearsal: Rehearsal) -> None:
    """torch.cuda as of a machine with one H100."""
    properties = SimpleNamespace(
        name="NVIDIA H100", major=9, minor=0, multi_processor_count=SMS, total_memory=80 << 30, L2_cache_size=50 << 20
    )

    def always(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "_lazy_init": None, "_exchange_device": 0,
        "_maybe_exchange_device": 0, "get_device_capability": CAPABILITY, "get_device_properties": properties,
        "get_device_name": properties.name, "synchronize": None, "current_stream": Stream(), "_sleep": None,
        "manual_seed_all": None, "stream": contextlib.nullcontext(),
    }  # fmt: skip
    for name, value in answers.items():
        setattr(torch.cuda, name, always(value))
    graph = type("CUDAGraph", (), {"replay": lambda self: None})
    changed = {
        "Stream": Stream, "Event": Event, "CUDAGraph": graph, "graph": rehearsal.capture,
        "set_sync_debug_mode": rehearsal.set_sync_debug_mode, "get_sync_debug_mode": lambda: rehearsal.sync_mode,
    }  # fmt: skip
    for name, value in changed.items():
        setattr(torch.cuda, name, value)
    tensor, generator = torch.tensor, torch.Generator
    torch.tensor = lambda *a, **k: tensor(*a, **{n: _moved(v) for n, v in k.items()})
    # One of the CPU's: meta tensors draw nothing.
    torch.Generator = type("Generator", (generator,), {"__new__": lambda cls, device="cpu": generator("cpu")})  # type: ignore[misc]


def _play_fastrnn(rehearsal: Rehearsal) -> None:
    """The kernels take meta tensors for ones on the GPU; the operators are compared with what stands for them."""
    import dataclasses

    kernel_of = which.kernel_of
    which.kernel_of = lambda config, backward: Kernel(kernel_of(config, backward), rehearsal)
    unmet, limits = fused.unmet_requirement, fused.device_limits
    fused.unmet_requirement = lambda problem: unmet(
        dataclasses.replace(problem, device=CUDA) if problem.device.type == "meta" else problem
    )
    fused.device_limits = lambda device: limits(CUDA if device.type == "meta" else device)

    def compared(real: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with torch._C.DisableTorchFunction():
                found, expected = real(*args), fake(*args)
            for number, (a, b) in enumerate(zip(found, expected, strict=True)):
                known = (a.shape, a.dtype, a.stride(), a.device), (b.shape, b.dtype, b.stride(), b.device)
                assert known[0] == known[1], f"{real.__name__}, result {number}: {known[0]}, declared {known[1]}"
            return found

        return run

    scans = [name for name in vars(operators) if name.startswith("_scan") and name.endswith("_fake")]
    assert len(scans) >= 2, "forward and backward"
    for name in scans:
        real = name.removesuffix("_fake")
        pair = getattr(operators, real), getattr(operators, name)
        torch.library.register_fake(f"fastrnn::{real[1:]}", compared(*pair), allow_override=True)


_REHEARSAL = Rehearsal()


def pytest_configure() -> None:
    torch.zeros(
        1, requires_grad=True
    ).sum().backward()  # torch looks for a GPU at its first backward: before there is one
    _play_cuda(_REHEARSAL)
    _play_fastrnn(_REHEARSAL)
    support.relative_error = _like


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = UNREHEARSED.get(getattr(item, "originalname", item.name))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"not rehearsed: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """The test, on the pretended GPU, as far as it goes without numbers."""
    try:
        with Pretence():
            return (yield)
    except ValueAskedError:
        return True
    finally:
        assert _REHEARSAL.sync_mode == 0, "waiting is still an error after the test"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"rehearsed: {len(_REHEARSAL.launched)} kernels")
