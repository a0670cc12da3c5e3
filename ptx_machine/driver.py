"""Triton with the machine for a GPU: `kernel[grid](...)` on tensors of the CPU.

Everything up to the binary is Triton's own: binder, specialisation by value and by alignment, compiler, cache. The
assembler is left out, and the PTX is the binary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ptx_machine.errors import RefusedError
from ptx_machine.machine import Machine
from ptx_machine.report import Report
from ptx_machine.types import WARP

_SHARED_BYTES = {80: 166912, 86: 101376, 89: 101376, 90: 232448}


@dataclass
class Launch:
    """One launch that the machine ran.

    Attributes:
        kernel: its name in the PTX.
        ptx: what ran.
        grid: programs.
        cooperative: whether the launch asked that all of them be there at once.
        report: what happened.
    """

    kernel: str
    ptx: str
    grid: tuple[int, int, int]
    cooperative: bool
    report: Report


def _assemble(
    backend: Any = None, stages: Any = None, options: Any = None, language: Any = None, capability: Any = None
) -> tuple[str, str] | None:
    """Triton's hook for other stages of compilation; asked without any, for a part of the cache's key."""
    if stages is None:
        return "ptx machine", "ptx machine"
    stages["cubin"] = lambda ptx, metadata: ptx.encode()
    return None


def _driver(capability: int, launches: list[Launch], edit: Callable[[str], str] | None, options: dict[str, Any]) -> Any:
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class Utils:
        @staticmethod
        def get_device_properties(device: int) -> dict[str, int]:
            shared = _SHARED_BYTES[capability]
            return {"max_shared_mem": shared, "multiprocessor_count": 132, "warpSize": WARP}

        @staticmethod
        def load_binary(name: str, binary: bytes, shared: int, device: int) -> tuple[Any, Any, int, int, int]:
            return None, (name, binary.decode()), 0, 0, 1024

    class Launcher:
        def __init__(self, source: Any, metadata: Any) -> None:
            self.kinds, self.metadata = list(source.signature.values()), metadata

        def __call__(
            self, x: int, y: int, z: int, stream: int, function: Any, packed: Any, launch_metadata: Any, enter: Any,
            leave: Any, *args: Any,
        ) -> None:  # fmt: skip
            name, ptx = function
            ptx, meta = edit(ptx) if edit is not None else ptx, self.metadata
            if meta.global_scratch_size or meta.num_ctas > 1:
                raise RefusedError("scratch memory, or clusters")
            given = [arg for arg, kind in zip(args, self.kinds, strict=False) if kind != "constexpr"]
            machine = Machine(ptx, (x, y, z), meta.num_warps, meta.shared, given, **options)
            launches.append(Launch(name, ptx, (x, y, z), bool(meta.launch_cooperative_grid), machine.report))
            machine.run()

    class Driver(DriverBase):  # type: ignore[misc]  # Triton has no types
        utils, launcher_cls = Utils, Launcher

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, kind: str) -> str:
            return kind

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, WARP)

        def get_active_torch_device(self) -> Any:
            return torch.device("cpu")

        def get_benchmarker(self) -> Any:
            raise NotImplementedError("the machine has no time")

        def get_current_device(self) -> int:
            return capability  # kernels are cached by it

        def set_current_device(self, device: int) -> None:
            pass

        def get_current_stream(self, device: int = 0) -> int:
            return 0

    return Driver()


@contextlib.contextmanager
def on_machine(
    capability: int = 90, edit: Callable[[str], str] | None = None, **options: Any
) -> Iterator[list[Launch]]:
    """Let Triton launch on the machine, and yield the list of launches, which grows.

    Args:
        capability: the GPU to compile for: 80, 86, 89 or 90.
        edit: changes the PTX before it runs.
        options: `Machine`'s keyword arguments.

    Raises:
        ValueError: no such capability.
    """
    if capability not in _SHARED_BYTES:
        raise ValueError(f"capability {capability} is to be one of {[*_SHARED_BYTES]}")
    from triton import knobs, runtime

    launches: list[Launch] = []
    before = runtime.driver._active, knobs.runtime.add_stages_inspection_hook
    runtime.driver._active = _driver(capability, launches, edit, options)
    knobs.runtime.add_stages_inspection_hook = _assemble
    try:
        yield launches
    finally:
        runtime.driver._active, knobs.runtime.add_stages_inspection_hook = before
