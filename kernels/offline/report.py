"""Compile scan kernels for a GPU that is not there, and read what the compiler made of them.

Needs Triton alone: its package carries the assembler and disassembler.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.launch.kernel import constants_of, kernel_of
from fastrnn.kernels.offline.path import path_row
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.triton.constants import launch_options, phases

_POINTER_TYPES = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}
# What is in float32 where a cell keeps its states so.
_STATES = ("state_ptr", "carry_in_ptr", "carry_out_ptr", "cells0_ptr", "cells_ptr", "dcells_ptr", "saved_ptr")
_FLOAT_IN_BACKWARD = ("carry_in_ptr", "carry_out_ptr", "dvectors_ptr")
_STRAIGHT = ("solo", "grid", "gluon solo", "gluon grid")  # tiers whose time loop has no loop within it but waits
_INT_ARGUMENTS = ("T", "B", "step0", "step1", "batch0")


@dataclass(frozen=True)
class Report:
    """What one compiled kernel uses; of a step in two phases, the two kernels' larger or summed figure.

    Attributes:
        registers: per thread.
        spills: store and load instructions to local memory.
        shared: bytes of shared memory per program.
        mma, wgmma: matrix instructions in the code, of the warp and the warpgroup kind.
        resident: whether the recurrent weights are loaded before the time loop, not in it.
        barriers, instructions: block-wide barriers and instructions in the time loop. A program of eight warps issues
            each of them twice per step on every quarter of its SM, one a cycle: what a step takes at the least.
        path: how long a step takes, part by part (path.py), of a kernel whose loop has none within it but waits.
    """

    registers: int
    spills: int
    shared: int
    mma: int
    wgmma: int
    resident: bool
    barriers: int
    instructions: int
    path: dict[str, float] = field(default_factory=dict)


def _source(
    counts: Counts,
    backward: bool,
    dtype: str,
    hidden: int,
    directions: int,
    config: LaunchConfig,
    precision: str,
    phase: str,
    lengths: bool,
    resets: bool,
    dcells: bool,
    heads: int,
) -> ASTSource:
    kernel = kernel_of(config, backward)
    consts = constants_of(counts, config, hidden, directions, precision, dtype, heads, backward)
    consts |= {"PHASE": phase, "HAS_LENGTHS": lengths, "HAS_RESETS": resets}
    if backward:
        consts |= {"HAS_DOUT": True, "HAS_DCELLS": dcells and counts.states > 1, "STORE_DX": counts.splits_bias}
    else:
        consts |= {"HAS_BIAS": counts.splits_bias, "STORE_CELLS": True, "STORE_SAVED": True}
    signature: dict[str, str] = {}
    attrs: dict[tuple[int], list[list[Any]]] = {}
    for i, name in enumerate(kernel.arg_names):
        if name in consts:
            signature[name] = "constexpr"
        elif name in _INT_ARGUMENTS:
            signature[name] = "i32"
        else:
            if name in ("lengths_ptr", "counter_ptr"):
                signature[name] = "*i32"
            elif name == "resets_ptr":
                signature[name] = "*i8"
            elif (
                name in ("outer_ptr", "constants_ptr")
                or (backward and name in ("carry_in_ptr", "carry_out_ptr", "dvectors_ptr"))
                or (counts.float32_states and name in _STATES)
            ):
                signature[name] = "*fp32"
            else:
                signature[name] = _POINTER_TYPES[dtype]
            attrs[(i,)] = [["tt.divisibility", 16]]
    constexprs = {(kernel.arg_names.index(name),): value for name, value in consts.items()}
    if config.gluon:
        from fastrnn.kernels.gluon.language import GluonASTSource

        return GluonASTSource(kernel, signature, constexprs, attrs)
    return ASTSource(kernel, signature, constexprs, attrs)


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """Resource usage and SASS, from the cuobjdump in Triton's package."""
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def dump(flag: str) -> str:
            return subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout

        return dump("-res-usage"), dump("-sass")


def _time_loop(sass: str) -> list[str]:
    """The instructions of the outermost loop, which is the one that jumps back furthest; jumps by how many of them."""
    code = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)]
    first, last = 0, -1
    for at, text in code:
        jump = re.search(r"\bBRA\b.*0x([0-9a-f]+)", text)
        if jump is not None and last - first < at - int(jump[1], 16):
            first, last = int(jump[1], 16), at
    places = {at: place for place, (at, _) in enumerate(code)}

    def relative(at: int, text: str) -> str:
        jump = re.search(r"(.*\bBRA\b.*?)0x([0-9a-f]+)", text)
        return text if jump is None else f"{jump[1]}{places[int(jump[2], 16)] - places[at]:+d}"

    return [relative(at, text) for at, text in code if first <= at <= last]


def _weights_stay(ttgir: str, config: LaunchConfig, gates: int) -> bool:
    """Whether the weight tiles are loaded before the time loop, which is the first loop where they should stay.

    Either every one of them is in shared memory by then, or, the small ones that the compiler keeps in registers, no
    load in the loop has their shape.
    """
    before, _, loop = ttgir.partition("scf.for")
    if before.count("ttg.local_alloc") >= (1 if config.wide else gates) * config.num_k:
        return True
    split = [str(config.split)] if config.split > 1 else []
    shape = "x".join([*split, str(config.block_k // config.split), str(config.block_h)])
    return not re.search(rf"tt\.load .*tensor<{shape}x!tt\.ptr", loop)


def compile_scan(
    counts: Counts,
    backward: bool,
    dtype: str,
    hidden: int,
    directions: int,
    config: LaunchConfig,
    capability: tuple[int, int],
    precision: str = "tf32",
    lengths: bool = False,
    resets: bool = False,
    dcells: bool = False,
    heads: int = 1,
) -> Report:
    """Compile one scan's kernel, or kernels, for `capability` and report on it.

    Args:
        counts, backward: which kernel.
        dtype: `"float16"`, `"bfloat16"` or `"float32"`.
        hidden, directions, config: what it is compiled for.
        capability: the GPU's compute capability.
        precision: of float32 products: `"tf32"`, or `"ieee"`.
        lengths: whether rows differ in length.
        resets: whether rows start anew.
        dcells: whether the cells have a gradient, backward.
        heads: the independent blocks of R, of `hidden` units each.
    """
    reports = []
    for phase in phases(counts, config):
        given = (config, precision, phase, lengths, resets, dcells, heads)
        source = _source(counts, backward, dtype, hidden, directions, *given)
        reports.append(_compile(source, config, capability, counts))
    return Report(
        registers=max(r.registers for r in reports),
        spills=sum(r.spills for r in reports),
        shared=max(r.shared for r in reports),
        mma=sum(r.mma for r in reports),
        wgmma=sum(r.wgmma for r in reports),
        resident=all(r.resident for r in reports),
        barriers=sum(r.barriers for r in reports),
        instructions=sum(r.instructions for r in reports),
        path=reports[0].path if len(reports) == 1 else {},
    )


def _compile(source: ASTSource, config: LaunchConfig, capability: tuple[int, int], counts: Counts) -> Report:
    target = GPUTarget("cuda", capability[0] * 10 + capability[1], 32)
    compiled = triton.compile(source, target=target, options=launch_options(config))
    usage, sass = _disassemble(compiled.asm["cubin"])
    loop = _time_loop(sass)
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if match is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {usage!r}")
    return Report(
        registers=int(match[1]),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        shared=compiled.metadata.shared,
        mma=len(re.findall(r"\bHMMA\b", sass)),
        wgmma=len(re.findall(r"\bHGMMA\b|\bUTCHMMA\b", sass)),
        resident=config.gluon or (config.resident and _weights_stay(compiled.asm["ttgir"], config, counts.gates)),
        barriers=sum("BAR.SYNC" in instruction for instruction in loop),
        instructions=len(loop),
        path=path_row(loop, config.num_warps, config.exchange, 1 + counts.inner) if config.tier in _STRAIGHT else {},
    )
