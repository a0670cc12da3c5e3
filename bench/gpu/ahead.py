"""`compile`: the scan kernels that rows or tests will launch, compiled into Triton's cache on all cores beforehand.

One after another, at the first call of each, a thousand kernels take an hour; a process for each core takes minutes.
Which there are is found by making the calls themselves with launching left out (`recording`): dtypes, alignment and
constants are then those of the call, and so is the key under which Triton keeps the kernel.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fastrnn.bench.gpu import workers
from fastrnn.bench.measuring.data import make_inputs, make_weights
from fastrnn.bench.measuring.measure import call_once
from fastrnn.bench.providers.fastrnns import Fastrnn
from fastrnn.bench.rows import journal
from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.errors import BenchError, said
from fastrnn.bench.showing.table import emit
from fastrnn.kernels.launch import kernel as which


@dataclass(frozen=True)
class Launch:
    """What Triton compiles a kernel by.

    Attributes:
        kernel: its name.
        arguments: of each pointer torch's name of its dtype, with a `?` where it is not a multiple of 16 bytes; of each
            number a number that Triton treats like it.
        constants: compile-time arguments and options by name, in pairs; what JSON lacks as `type:name` (`_encoded`).
        capability: of the GPU.
    """

    kernel: str
    arguments: tuple[str | int, ...]
    constants: tuple[tuple[str, Any], ...]
    capability: tuple[int, int]

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self)) + "\n"


def parse(line: str) -> Launch:
    """What `Launch.line` wrote."""
    found = json.loads(line)
    constants = tuple((str(name), value) for name, value in found["constants"])
    return Launch(found["kernel"], tuple(found["arguments"]), constants, tuple(found["capability"]))


def read(path: journal.PathLike) -> list[Launch]:
    """The launches of a file, each once; a last line that was cut short is left out.

    Raises:
        BenchError: there is no such file, or a line is no launch.
    """
    lines = journal.lines(path)
    try:
        return list(dict.fromkeys(map(parse, lines)))
    except (ValueError, KeyError, TypeError):
        name = Path(path).name
        raise BenchError(f"{name}: a line is no launch; `pytest --record-launches` and `compile` write them") from None


def _encoded(value: Any) -> Any:
    """A compile-time argument as JSON has it: jit functions and Triton's dtypes by name, Gluon's layouts by name and
    fields."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return f"str:{value}"
    if hasattr(value, "fn"):
        return f"jit:{value.fn.__module__}:{value.fn.__name__}"
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return f"layout:{json.dumps([type(value).__name__, fields])}"
    return f"dtype:{value}"


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    kind, _, rest = value.partition(":")
    if kind == "str":
        return rest
    if kind == "jit":
        module, _, name = rest.partition(":")
        return getattr(importlib.import_module(module), name)
    if kind == "layout":
        from fastrnn.kernels.gluon.language import gl

        name, fields = json.loads(rest)
        return getattr(gl, name)(**fields)
    import triton.language as tl

    return tl.dtype(rest)


class Recorder:
    """Stands in for a kernel where it is launched, and notes what it would be compiled by."""

    def __init__(self, kernel: Any, found: dict[Launch, None]) -> None:
        self.kernel, self.found = kernel, found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def __getitem__(self, grid: object) -> Any:
        return self._note

    def warmup(self, *, grid: object, **constants: Any) -> None:
        """In place of the kernel's, which would compile here and now."""
        self._note(**constants)

    def _note(self, **constants: Any) -> None:
        params = [p for p in self.kernel.params if not p.is_constexpr]
        arguments = [constants.pop(p.name) for p in params]
        device = next(a.device for a in arguments if isinstance(a, torch.Tensor))
        kinds = tuple(_kind(a, p.do_not_specialize) for a, p in zip(arguments, params, strict=True))
        pairs = tuple(sorted((name, _encoded(value)) for name, value in constants.items()))
        capability = torch.cuda.get_device_capability(device)
        self.found[Launch(self.kernel.fn.__name__, kinds, pairs, capability)] = None


def _kind(argument: Any, unspecialised: bool) -> str | int:
    if isinstance(argument, torch.Tensor):
        return str(argument.dtype).removeprefix("torch.") + ("" if argument.data_ptr() % 16 == 0 else "?")
    # Of a number that is not compiled in, only its width is.
    return (3 if argument < 2**31 else 2**31 + 3) if unspecialised else int(argument)


@contextlib.contextmanager
def recording() -> Iterator[dict[Launch, None]]:
    """Launch no scan kernel inside; the launches there would have been are the keys, once each. Results are garbage."""
    found: dict[Launch, None] = {}
    kernel_of = which.kernel_of
    which.kernel_of = lambda config, backward: Recorder(kernel_of(config, backward), found)
    try:
        yield found
    finally:
        which.kernel_of = kernel_of


def of_cases(cases: Iterable[Case], device: torch.device) -> list[Launch]:
    """What fastrnn launches in the rows of a benchmark. Sequences are cut: no kernel is compiled for their length."""
    with recording() as found:
        for case in cases:
            short = dataclasses.replace(case, T=min(case.T, 2))
            module = Fastrnn.build(short, make_weights(short, device))
            call_once(short, module, make_inputs(short, device, seed=0))
    return list(found)


class _Pointer:
    """Of a tensor what Triton's compiler looks at."""

    def __init__(self, kind: str) -> None:
        self.dtype = getattr(torch, kind.rstrip("?"))
        self.address = 8 if kind.endswith("?") else 0

    def data_ptr(self) -> int:
        return self.address

    def ptr_range(self) -> int:
        return 0


def _compile(launch: Launch) -> str | None:
    """In a worker process: compile through Triton's own launcher, without asking for the GPU; what went wrong, or None.

    A worker that asked the driver would hold a share of the GPU's memory, and could not run where there is no GPU.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", 10 * launch.capability[0] + launch.capability[1], 32)
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target
        )
    )
    try:
        kernel = which.kernel_named(launch.kernel)
        arguments = [_Pointer(a) if isinstance(a, str) else a for a in launch.arguments]
        kernel.warmup(*arguments, grid=(1, 1, 1), **{name: _decoded(value) for name, value in launch.constants})
    except Exception as error:
        return f"{launch.kernel}: {said(error)}"
    return None


def compile_all(launches: Sequence[Launch], processes: int) -> int:
    """Compile each, saying how far it is; the number that failed. What was compiled before Triton finds on disk."""
    start, failures, told = time.monotonic(), 0, 0.0
    emit(f"{len(launches)} kernels, {processes} processes")
    with workers.pool(processes) as pool:
        futures = [pool.submit(_compile, launch) for launch in launches]
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            wrong, seconds = future.result(), time.monotonic() - start
            if wrong is not None:
                failures += 1
                emit(f"  {wrong}")
            if seconds - told >= 5 or done == len(futures):
                told = seconds
                emit(f"{done} of {len(futures)} after {seconds:.0f} s")
    emit(f"{len(launches) - failures} compiled, {failures} failed.")
    return failures
