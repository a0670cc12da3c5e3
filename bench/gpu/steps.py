"""`steps`: how long a step takes on this GPU under each kind of launch: what is chosen, plain Triton's, flags in Gluon.

All launches of a scan have the same data. Each is checked before it is timed: against float64, and against itself, bit
by bit. What a step takes is what a longer sequence takes more than a shorter one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import reference
from fastrnn.bench.gpu import ahead, machine, workers
from fastrnn.bench.gpu.kernels import KINDS, Job
from fastrnn.bench.measuring.timing import stop_if_lost
from fastrnn.bench.providers.own import cell_of
from fastrnn.bench.rows.errors import BenchError, said
from fastrnn.bench.showing.table import columns, emit, heading, line
from fastrnn.kernels.launch.scan import scan_bwd, scan_fwd
from fastrnn.kernels.plan.choice import choose
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.plan.cost import launch_cost
from fastrnn.kernels.plan.devices import Device
from fastrnn.kernels.tensors import Inputs, Kept, Upstream

CHECKED, FEW, MANY = 24, 200, 1200  # steps: more than there are slots that are used again
ALLOWED = {"float16": 1e-2, "bfloat16": 6e-2, "float32": 5e-3}  # relative errors; float32's products are in TF32

COLUMNS = columns(
    "cell<12 | pass<8 | dtype<8 | H>5 | B>4 | dirs>4 | kind<5 | launch<52 | error>8 | us a step>9 | model>6"
)


class Scan:
    """The data of one scan, long enough for all that is run, and what is right for its first CHECKED steps."""

    def __init__(self, job: Job, limits: Device, device: torch.device) -> None:
        """`limits`: of the GPU; backward's data are what plain Triton's forward left."""
        self.job, self.cell = job, cell_of(job.cell)
        cell, dtype, T, B, D, H = self.cell, getattr(torch, job.dtype), MANY, job.B, job.directions, job.H
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        bias = draw(D, cell.gates, H) if cell.splits_bias else None
        weight = draw(D, cell.gates, H, H) * H**-0.5
        self.inputs = Inputs(draw(T, B, D, cell.gates, H), weight, bias, draw(cell.states, D, B, H), None, None)
        self.dout, self.dfinal = draw(T, B, D, H), draw(cell.states, D, B, H)
        self.right = self._by_reference()
        self.left = None
        if job.backward:
            plain = dataclasses.replace(limits, **KINDS["plain"])
            config = choose(dataclasses.replace(job, backward=False).shape(), plain, "persistent")
            if config is None:
                raise BenchError(f"no launch of plain Triton's for {job.cell}, H={job.H}, forward")
            self.left = scan_fwd(self.inputs, cell, config, "tf32", save=True, cells=True)

    def _by_reference(self) -> list[Tensor]:
        given = self.inputs
        x, weight, state = (t.double().requires_grad_() for t in (given.x[:CHECKED], given.weight, given.state))
        bias = None if given.bias is None else given.bias.double()
        found = reference.scan(Inputs(x, weight, bias, state, None, None), self.cell)
        if not self.job.backward:
            return [found.output.detach(), found.final.detach()]
        upstream = [self.dout[:CHECKED].double(), self.dfinal.double()]
        return list(torch.autograd.grad([found.output, found.final], [x, state], upstream))

    def run(self, config: LaunchConfig, T: int) -> list[Tensor]:
        """The first T steps: output and final state, or the gradients of x and of the initial state."""
        if self.left is None:
            inputs = self.inputs._replace(x=self.inputs.x[:T])
            results = scan_fwd(inputs, self.cell, config, "tf32", save=True, cells=True)
            return [results.output, results.final]
        weight, state = self.inputs.weight, self.inputs.state
        kept = Kept(weight, state, None, None, self.left.output[:T], self.left.cells[:T], self.left.saved[:T])
        grads = scan_bwd(Upstream(self.dout[:T], self.dfinal, None), kept, self.cell, config, "tf32")
        return [grads.x, grads.state]

    def error(self, config: LaunchConfig) -> float:
        """Of the first CHECKED steps, the worst relative one.

        Raises:
            BenchError: it is more than ALLOWED, or another run has other bits.
        """
        found, again = self.run(config, CHECKED), self.run(config, CHECKED)
        if not all(torch.equal(a, b) for a, b in zip(found, again, strict=True)):
            raise BenchError("two runs on the same data differ")
        of = [(a.double() - b).norm().item() / b.norm().item() for a, b in zip(found, self.right, strict=True)]
        worst = max(of) if all(map(math.isfinite, of)) else math.inf
        if worst > ALLOWED[self.job.dtype]:
            raise BenchError(f"an error of {worst:.2g}, where {ALLOWED[self.job.dtype]:.2g} is allowed")
        return worst


def launches(job: Job, limits: Device) -> dict[str, LaunchConfig]:
    """What each kind comes to, where it is another launch than those before."""
    found: dict[str, LaunchConfig] = {}
    for kind, change in KINDS.items():
        config = choose(job.shape(), dataclasses.replace(limits, **change), "persistent")
        if config is not None and config not in found.values():
            found[kind] = config
    return found


def compile_all(todo: Iterable[Job], limits: Device, device: torch.device) -> None:
    """What `measure` will launch, on all cores."""
    with ahead.recording() as found:
        for job in todo:
            scan = Scan(job, limits, device)
            for config in launches(job, limits).values():
                scan.run(config, 2)
    ahead.compile_all(list(found), workers.cores())


def _rows(
    job: Job, limits: Device, device: torch.device, slope: Callable[[Callable[[int], object], int, int], float]
) -> Iterator[dict[str, Any]]:
    scan = Scan(job, limits, device)
    for kind, config in launches(job, limits).items():
        row = {**job.as_row(), "arch": limits.name, "kind": kind, **dataclasses.asdict(config)}
        row["model_us"] = round(launch_cost(job.shape(), config, limits), 3)
        try:
            error = scan.error(config)
            us = slope(lambda T, c=config: scan.run(c, T), FEW, MANY)  # type: ignore[misc]  # a default of a lambda
            yield {**row, "error": error, "us": round(us, 3), "reason": None}
        except Exception as failure:
            yield {**row, "error": None, "us": None, "reason": said(failure)}


def measure(
    todo: Iterable[Job],
    limits: Device,
    device: torch.device,
    keep: Callable[[Mapping[str, Any]], None],
    slope: Callable[[Callable[[int], object], int, int], float] = machine.slope_us,
) -> bool:
    """Check and time one launch after another, printing each and handing it to `keep` before the next begins.

    Args:
        slope: of a call of so many steps, microseconds that one more takes.

    Returns:
        whether all were right and timed.

    Raises:
        LostGPUError: an error left this process no GPU.
    """
    emit(heading(COLUMNS))
    complete = True
    for job in todo:
        for row in _rows(job, limits, device, slope):
            keep(row)
            emit(_show(row))
            if row["reason"] is not None:
                complete = False
                emit(f"  FAILED: {row['reason']}")
                if device.type == "cuda":
                    stop_if_lost(device, f"{job.cell}, H={job.H}, {row['kind']}")
    return complete


def _show(row: Mapping[str, Any]) -> str:
    fields = {field.name for field in dataclasses.fields(LaunchConfig)}
    launch = LaunchConfig(**{name: value for name, value in row.items() if name in fields}).describe()
    name = "backward" if row["backward"] else "forward"
    found = ("FAILED", "") if row["us"] is None else (f"{row['error']:.1g}", f"{row['us']:.2f}")
    sizes = [row["cell"], name, row["dtype"], row["H"], row["B"], row["directions"], row["kind"]]
    return line(COLUMNS, [*sizes, launch, *found, f"{row['model_us']:.2f}"])
