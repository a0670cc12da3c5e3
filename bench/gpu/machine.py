"""`machine`: the constants of kernels/plan/devices.py as they are on the GPU at hand, beside those of the cost model.

Each is the slope of a kernel's time over how often it does the thing, so that launches and start-up drop out.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fastrnn.bench.measuring.timing import stop_if_lost
from fastrnn.bench.rows.errors import BenchError, said
from fastrnn.bench.showing.table import columns, emit, heading, line
from fastrnn.kernels.plan.devices import Device

_WARPS = 8
_WIDTH = 2  # elements per program and step: so few that the hop is all there is to wait for
_L2_ELEMENTS = 2**21  # 8 MiB, in any L2
_MEMORY_ELEMENTS = 2**22  # of each program: together far past any L2
# The rows, depth (of each of 8 parts) and columns of a product. The first waits for shared memory, the second for the
# matrix units, at the rates the model takes.
_SHARED_PRODUCT = {"ROWS": 16, "DEPTH": 64, "COLUMNS": 128, "SPLIT": 8, "HALVE": True}
_MATRIX_PRODUCT = {"ROWS": 64, "DEPTH": 32, "COLUMNS": 64, "SPLIT": 8, "HALVE": False}

COLUMNS = columns("constant<20 | model>12 | measured>12 | measured/model>14 | unit<30")


@dataclass(frozen=True)
class Probe:
    """How one kernel of `probes` is compiled and launched.

    Attributes:
        kernel: its name there.
        types: Triton's names of the types of what it is called with, by name.
        constants: its constexpr arguments.
        warps, cooperative: launch options; a kernel whose programs wait for each other is launched cooperatively.
    """

    kernel: str
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    warps: int = _WARPS
    cooperative: bool = False

    def options(self) -> dict[str, Any]:
        limits = {"num_stages": 1, "maxnreg": 255, "enable_fp_fusion": True}
        return {"num_warps": self.warps, "launch_cooperative_grid": self.cooperative, **limits}

    def launch(self, grid: int, *arguments: Any) -> None:
        from fastrnn.bench.gpu import probes

        getattr(probes, self.kernel)[(grid,)](*arguments, **self.constants, **self.options())


def exchange_probe(programs: int, kind: str) -> Probe:
    block = 1 << (programs * _WIDTH - 1).bit_length()
    constants = {"PROGRAMS": programs, "WIDTH": _WIDTH, "BLOCK": block, "EXCHANGE": kind}
    types = {"rows_ptr": "*fp32", "counter_ptr": "*i32", "steps": "i32"}
    return Probe("exchange_kernel", types, constants, cooperative=True)


def read_probe(own: bool) -> Probe:
    types = {"source_ptr": "*fp32", "sums_ptr": "*fp32", "rounds": "i32", "size": "i32"}
    return Probe("read_kernel", types, {"OWN": int(own), "BLOCK": 16384})


def all_probes(sms: int) -> dict[str, Probe]:
    """Every kernel that `measurements` launch on a GPU of so many multiprocessors."""
    types = {"left_ptr": "*fp16", "right_ptr": "*fp16", "out_ptr": "*fp32", "steps": "i32"}
    return {
        "flag": exchange_probe(sms, "flag"),
        "barrier": exchange_probe(sms, "barrier"),
        "l2": read_probe(own=False),
        "memory": read_probe(own=True),
        "shared": Probe("product_kernel", types, _SHARED_PRODUCT),
        "matrix": Probe("product_kernel", types, _MATRIX_PRODUCT),
        "launch": Probe("empty_kernel", {"value_ptr": "*i32"}, warps=1),
    }


def _seconds(call: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> float:
    """The median time of a call on the GPU, by events; `prepare`, before each, is not in it."""
    prepare()
    call()
    times: list[float] = []
    for _ in range(7):
        prepare()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def slope_us(call: Callable[[int], object], few: int, many: int) -> float:
    """Microseconds that one more of something takes."""
    return 1e6 * (_seconds(lambda: call(many)) - _seconds(lambda: call(few))) / (many - few)


class Exchange:
    """One run of the exchange: rows `(steps + 1, programs * WIDTH)`, of which row t becomes full of t."""

    def __init__(self, probe: Probe, programs: int, steps: int, device: torch.device) -> None:
        self.probe, self.programs, self.steps = probe, programs, steps
        self.rows = torch.zeros(steps + 1, programs * _WIDTH, device=device)
        self.counter = torch.zeros(1, dtype=torch.int32, device=device)

    def prepare(self) -> None:
        self.rows[1:].view(torch.int32).fill_(-1)
        self.counter.zero_()

    def call(self) -> None:
        self.probe.launch(self.programs, self.rows, self.counter, self.steps)

    def check(self) -> None:
        right = torch.arange(self.steps + 1, device=self.rows.device).unsqueeze(1).to(self.rows.dtype)
        if not torch.allclose(self.rows, right.expand_as(self.rows), rtol=1e-3):
            raise BenchError("the exchange went wrong: what was read is not what was written")


def _hop_us(probe: Probe, sms: int, device: torch.device) -> float:
    few, many = (Exchange(probe, sms, steps, device) for steps in (500, 4500))
    seconds = [_seconds(each.call, each.prepare) for each in (few, many)]
    few.check()
    many.check()
    return 1e6 * (seconds[1] - seconds[0]) / (many.steps - few.steps)


def _read_rate(probe: Probe, programs: int, elements: int, device: torch.device) -> float:
    """Bytes per microsecond that so many programs read, all of them the same elements or each its own."""
    own = probe.constants["OWN"]
    sums = torch.empty(programs, device=device)
    source = torch.zeros(elements * (programs if own else 1), device=device)
    few, many = (1, 5) if own else (5, 25)
    slope = slope_us(lambda rounds: probe.launch(programs, source, sums, rounds, elements), few, many)
    return programs * 4 * elements / slope


def _launch_us(probe: Probe, device: torch.device) -> float:
    value = torch.empty(1, dtype=torch.int32, device=device)

    def launches(count: int) -> None:
        for _ in range(count):
            probe.launch(1, value)

    return slope_us(launches, 200, 1200)


def _product_us(probe: Probe, sms: int, device: torch.device) -> float:
    sizes = probe.constants
    parts, rows, depth, columns = (sizes[name] for name in ("SPLIT", "ROWS", "DEPTH", "COLUMNS"))
    left = torch.zeros(parts, rows, depth, dtype=torch.float16, device=device)
    right = torch.zeros(parts, depth, columns, dtype=torch.float16, device=device)
    out = torch.empty(sms, parts, rows, columns, device=device)
    return slope_us(lambda steps: probe.launch(sms, left, right, out, steps), 1000, 11000)


def shared_traffic(sizes: Mapping[str, Any]) -> int:
    """Bytes a product moves to and from shared memory: the right matrix, and the left one there and back."""
    halved = 2 if sizes["HALVE"] else 1
    return int(2 * sizes["SPLIT"] * sizes["DEPTH"] * (sizes["COLUMNS"] + halved * sizes["ROWS"]))


def macs(sizes: Mapping[str, Any]) -> int:
    """Multiply-adds of a product."""
    return int(sizes["SPLIT"] * sizes["DEPTH"] * sizes["COLUMNS"] * sizes["ROWS"])


def measurements(sms: int, device: torch.device) -> dict[str, Callable[[], float]]:
    """How each constant is measured, by the names of `devices.Device`; each needs none of the others."""
    probes = all_probes(sms)
    return {
        "hop_us": lambda: _hop_us(probes["flag"], sms, device),
        "barrier_us": lambda: _hop_us(probes["barrier"], sms, device),
        "launch_us": lambda: _launch_us(probes["launch"], device),
        "l2_rate": lambda: _read_rate(probes["l2"], sms, _L2_ELEMENTS, device),
        "sm_l2_rate": lambda: _read_rate(probes["l2"], 1, _L2_ELEMENTS, device),
        "memory_rate": lambda: _read_rate(probes["memory"], sms, _MEMORY_ELEMENTS, device),
        "sm_shared_rate": lambda: shared_traffic(_SHARED_PRODUCT) / _product_us(probes["shared"], sms, device),
        "sm_mac_rate": lambda: macs(_MATRIX_PRODUCT) / _product_us(probes["matrix"], sms, device),
        "l2_bytes": lambda: float(torch.cuda.get_device_properties(device).L2_cache_size),
    }


_UNITS = {"us": "microseconds", "rate": "bytes per microsecond", "bytes": "bytes"}
_UNITS |= {"sm_mac_rate": "multiply-adds per microsecond"}


def _measured(name: str, call: Callable[[], float]) -> tuple[float | None, str | None]:
    """A constant, or why there is none: the others do not need it."""
    try:
        value = call()
    except Exception as error:
        return None, said(error)
    # Noise can make of a slope what is no rate, and JSON has no infinity.
    return (value, None) if math.isfinite(value) else (None, f"{name} came out as {value}")


def measure(
    todo: Mapping[str, Callable[[], float]],
    model: Device,
    device: torch.device,
    keep: Callable[[Mapping[str, Any]], None],
) -> bool:
    """Measure one constant after another, printing each and handing it to `keep` before the next begins.

    Returns:
        whether all were measured.

    Raises:
        LostGPUError: an error left this process no GPU.
    """
    emit(heading(COLUMNS))
    complete = True
    for name, call in todo.items():
        value, reason = _measured(name, call)
        assumed, unit = float(getattr(model, name)), _UNITS.get(name) or _UNITS[name.rpartition("_")[2]]
        keep({"constant": name, "measured": value, "model": assumed, "unit": unit, "reason": reason})
        shown = ("FAILED", "") if value is None else (f"{value:.3g}", f"{value / assumed:.2f}")
        emit(line(COLUMNS, [name, f"{assumed:.3g}", *shown, unit]))
        if value is None:
            complete = False
            emit(f"  FAILED: {reason}")
            stop_if_lost(device, name)
    return complete


def unavailable() -> str | None:
    """Why nothing can be measured here, or None."""
    if not torch.cuda.is_available():
        return "no CUDA GPU here: there is nothing to measure"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the kernels need compute capability 8.0 or newer"
    return None
