"""The compile-time arguments of the two scan kernels, and the options they are compiled and launched with.

* HEADS: the groups of a direction, of H units each, see `fastrnn.kernels.tensors`; the kernels' P is D * HEADS.
* SOLO: the program owns all H units, and what the next step's matmul needs stays in registers. Else it reads what the
  other programs of its batch tile wrote, by `sync.load_exchanged`.
* DIAGONAL: R is diagonal, so that a program has what its units need, however few they are: SOLO too, and its products
  are elementwise.
* RESIDENT, SPLIT, NUM_K, GROUP: how the matmul is done, see `matmul.py`.
* HAS_LENGTHS: a row at or past its length keeps its state, outputs zero and gets no gradient. A tile whose rows have
  all ended takes no part in a step, which then costs it a store of zeros.
* HAS_RESETS: a row that is cut at t starts step t from the cell's initial values, and passes no gradient back across.
* HAS_START: where it does, h is something else than zero.
* FAST: sigmoid and tanh are approximate, see `pointwise.py` and `approximate`.
* INNER: the last gate multiplies not h but INNER_FWD(x, r, state), which takes the outer gates' r:

      r_inner = R_inner INNER_FWD(x, r, state);    through = R_inner^T INNER_BWD(dstate, saved, ...)

  Within each step the programs hand over the operand, or its gradient, and contract again. Where they do not wait for
  each other (stepwise), a step takes two launches: PHASE is "outer", up to what is handed over, then "inner". Else it
  is "whole".
"""

from __future__ import annotations

from typing import Any

import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.plan.configs import LaunchConfig, power_of_two
from fastrnn.kernels.triton import pointwise
from fastrnn.kernels.triton.cells import steps_of


def interpreted() -> bool:
    """Whether Triton runs the kernels in its interpreter, on the CPU."""
    return isinstance(pointwise.sigmoid, InterpretedFunction)


def approximate(dtype: str, precision: str) -> bool:
    """Whether kernels of `dtype` take the GPU's approximate instructions for their activations.

    Their errors are far below what rounding to 16 bits takes, or to TF32 where that is the `precision` of float32
    products; and not below float32's. They are inline assembly, which Triton's interpreter does not run.
    """
    return (dtype in ("float16", "bfloat16") or (dtype, precision) == ("float32", "tf32")) and not interpreted()


def scan_constants(
    counts: Counts, config: LaunchConfig, hidden: int, directions: int, precision: str, dtype: str, heads: int = 1
) -> dict[str, Any]:
    """The compile-time arguments that forward's and backward's kernel share, by name.

    `hidden` is the units of one head; `dtype` that of the tensors, by torch's name for it, which is Triton's too.
    """
    # Triton's interpreter multiplies the bit patterns of bfloat16 operands; in float32 their products are exact.
    operand = tl.float32 if dtype == "bfloat16" and interpreted() else getattr(tl, dtype)
    found: dict[str, Any] = {
        "H": hidden,
        "D": directions,
        "HEADS": heads,
        "GATES": counts.gates,
        "STATES": counts.states,
        "SAVED": counts.saved,
        "INNER": counts.inner,
        "VECTORS": counts.vectors,
        "CONSTANTS": counts.constants,
        "BLOCK_B": config.block_b,
        "BLOCK_H": config.block_h,
        "FAST": approximate(dtype, precision),
    }
    if config.gluon:
        return found | {"RESTS": counts.rests, "SOLO": config.alone, "NUM_K": config.num_k}
    found |= {
        "RESIDENT": config.resident,
        "EXCHANGE": config.exchange,
        "BLOCK_K": config.block_k,
        "PRECISION": precision,
        "OPERAND": operand,
        "ACC": tl.float64 if dtype == "float64" else tl.float32,
    }
    if config.wide:
        return found | {"STAGES": config.stages}
    return found | {
        "RESTS": counts.rests,
        "SOLO": config.alone,
        "DIAGONAL": config.tier == "diagonal",
        "NUM_K": config.num_k,
        "GROUP": config.group,
        "SPLIT": config.split,
    }


def wide_constants(counts: Counts, config: LaunchConfig, backward: bool) -> dict[str, Any]:
    """What a kernel for many rows has besides."""
    ahead = not interpreted()
    if backward:
        return {"SCATTER": config.scatter, "RESTS": counts.rests, "AHEAD": ahead}
    slots = power_of_two(counts.gates - counts.inner)
    return {"AHEAD": ahead, "SPLIT_GATES": sum(1 << g for g in counts.split_gates), "SLOTS": slots}


def steps(counts: Counts, backward: bool) -> dict[str, Any]:
    """The cell's jit functions, by the kernel's names for them."""
    cell = steps_of(counts)
    if backward:
        return {"BWD": cell.bwd, "INNER_BWD": cell.inner_bwd, "START": cell.start}
    return {"FWD": cell.fwd, "INNER_FWD": cell.inner_fwd, "START": cell.start}


def starts_elsewhere(counts: Counts) -> bool:
    """Whether h is something else than zero where a sequence starts."""
    return bool(counts.initial) and counts.initial[0] != 0


def phases(counts: Counts, config: LaunchConfig) -> tuple[str, ...]:
    """The launches that one step takes, where each step is launched for itself; else one for all steps."""
    apart = counts.inner > 0 and config.schedule == "stepwise" and not config.alone
    return ("outer", "inner") if apart else ("whole",)


def launch_options(config: LaunchConfig) -> dict[str, Any]:
    """The compile and launch options that go with `config`."""
    return {
        "num_warps": config.num_warps,
        "num_stages": 1,
        # One program has an SM to itself. Without the cap ptxas stops at the register count that would let two share
        # it, and spills a few registers to get there.
        "maxnreg": 255,
        "launch_cooperative_grid": config.exchange != "none",
        # Said because Triton means to change its default: a product and its sum are one instruction, rounded once.
        "enable_fp_fusion": True,
    }
