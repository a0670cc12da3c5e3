"""`kernels --executed`: what one step of a chosen launch executes, counted by the PTX machine, which needs no GPU.

The compile report reads code: it takes an inner loop once, and cannot say what an access touches. Here the launch is
run, `ptx_machine` counts, and a step is half of what four steps do more than two: what comes before the time loop, and
the first and the last step, which differ, drop out. Needs torch, and a checkout.
"""

from __future__ import annotations

import collections
import importlib.util
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastrnn.bench.rows.cells import counts_of
from fastrnn.kernels.plan.configs import LaunchConfig, ceil_div
from fastrnn.kernels.plan.devices import DEVICES

if TYPE_CHECKING:
    from ptx_machine import Launch

LENGTHS = (2, 4)
_BYTES = {
    "global_loaded": "global load",
    "global_stored": "global store",
    "global_atomic": "global atomic",
    "shared_loaded": "shared load",
    "shared_stored": "shared store",
}


def unavailable(archs: Iterable[str]) -> str | None:
    """Why nothing can be executed here for these GPUs, or None."""
    for name in ("torch", "numpy"):
        if importlib.util.find_spec(name) is None:
            return f"--executed runs the kernels on torch's tensors, in NumPy, and {name} is not installed"
    if importlib.util.find_spec("ptx_machine") is None:
        return "--executed needs ptx_machine, a folder of the checkout that is not installed: run this at its root"
    from ptx_machine import on_machine

    for arch in archs:
        try:
            with on_machine(_capability(arch)):
                pass
        except ValueError as error:
            return f"--executed: the PTX machine is no {arch}: {error}"
    return None


def _capability(arch: str) -> int:
    major, minor = DEVICES[arch].capability
    return 10 * major + minor


def execute(
    cell: str, backward: bool, dtype: str, T: int, batch: int, hidden: int, directions: int, config: LaunchConfig
) -> None:
    """One scan, as a layer launches it in training, on tensors of the CPU; what is in them changes no count."""
    import torch

    from fastrnn.kernels.launch.scan import scan_bwd, scan_fwd
    from fastrnn.kernels.tensors import Inputs, Kept, Upstream

    counts, D = counts_of(cell), directions

    def made(*shape: int) -> torch.Tensor:
        return torch.rand(shape).to(getattr(torch, dtype))

    weight, state = made(D, counts.gates, hidden, hidden), made(counts.states, D, batch, hidden)
    vectors = made(D, counts.vectors, hidden) if counts.vectors else None
    constants = torch.rand(T, batch, counts.constants) if counts.constants else None  # float32, whatever the cell
    if backward:
        cells, saved = made(T, batch, D, counts.states - 1, hidden), made(T, batch, D, counts.saved, hidden)
        kept = Kept(weight, state, None, None, made(T, batch, D, hidden), cells, saved, vectors, constants)
        scan_bwd(Upstream(made(T, batch, D, hidden), None, None), kept, counts, config, "tf32")
    else:
        bias = made(D, counts.gates, hidden) if counts.splits_bias else None
        inputs = Inputs(made(T, batch, D, counts.gates, hidden), weight, bias, state, None, None, vectors, constants)
        scan_fwd(inputs, counts, config, "tf32", save=True, cells=True)


def _waited(launch: Launch) -> int:
    """How often a warp looked for what it waits for, and found it missing: it came to the branch past a `trap`. Where
    one lane polls, the trap has a predicate: its warp comes there once a look, all warps to the branch before."""
    code = launch.ptx.splitlines()
    traps = [number for number, text in enumerate(code, 1) if re.search(r"\btrap;", text)]
    branches = [number for number, text in enumerate(code, 1) if re.match(r"\s*@.*\bbra\b", text)]
    (threads,) = re.findall(r"\.(?:reqntid|maxntid) (\d+)", launch.ptx)
    found = 0
    for trap in traps:
        past = launch.report.lines[max(b for b in branches if b < trap)]
        line = code[trap - 1]
        looks = launch.report.lines[trap] // line.count(";")  # several instructions stand on the line
        found += looks - past // (int(threads) // 32) if "@" in line else past
    return found


def _totals(launches: Sequence[Launch]) -> collections.Counter[Any]:
    """What all of them did, over all programs: by name, and of each instruction by kernel and line."""
    total: collections.Counter[Any] = collections.Counter()
    for launch in launches:
        report = launch.report
        total["waited"] += _waited(launch)
        total["barriers"] += report.barriers
        total["conflicts"] += report.conflicts
        total.update({name: report.bytes[kind] for name, kind in _BYTES.items()})
        total.update({(launch.ptx, line): count for line, count in report.lines.items()})
    return total


def count(
    cell: str,
    backward: bool,
    dtype: str,
    batch: int,
    hidden: int,
    directions: int,
    config: LaunchConfig,
    arch: str,
    lengths: tuple[int, int] = LENGTHS,
) -> dict[str, int | float]:
    """What a step in the middle of the sequence executes, on average over the programs.

    Returns:
        programs: that take part in a step.
        code: instructions of PTX that a step executes, each taken once.
        instructions: the same each time, by a warp; those that a predicate turns off, too.
        barriers: block-wide ones, of a program.
        waited: looks of a program for what another has not written yet. All programs go in lock-step, so there are
            none unless the kernel itself makes some wait for others.
        global_loaded, global_stored, global_atomic, shared_loaded, shared_stored: bytes, of a program.
        conflicts: of a program's accesses to shared memory, passes over its banks beyond those for that many bytes.

    Raises:
        ptx_machine.RefusedError, ptx_machine.FaultError: the machine lacks something, or the kernel is wrong.
    """
    from ptx_machine import on_machine

    found = []
    for T in lengths:
        with on_machine(_capability(arch), banks=True, unwritten="ignore") as launches:
            execute(cell, backward, dtype, T, batch, hidden, directions, config)
        found.append(_totals(launches))
    less, more = found
    more.subtract(less)
    programs = ceil_div(hidden, config.block_h) * ceil_div(batch, config.block_b) * directions
    steps, warps = (lengths[1] - lengths[0]) * programs, config.num_warps
    lines = [number for name, number in more.items() if isinstance(name, tuple) and number]

    def mean(number: int, of: int) -> int | float:
        return number // of if number % of == 0 else round(number / of, 2)

    return {
        "programs": programs,
        "code": len(lines),
        "instructions": mean(sum(lines), steps * warps),
        "barriers": mean(more["barriers"], steps),
        "waited": mean(more["waited"], steps * warps),
        **{name: mean(more[name], steps) for name in _BYTES},
        "conflicts": mean(more["conflicts"], steps),
    }
