"""The approximate activations as compiled, run on the PTX machine and compared with float64.

    python tests/activations.py 256

prints the largest errors over every 256th number of float32. Tests interpret the kernels in their own process, so they
run this in another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np
import torch
import triton
import triton.language as tl

from fastrnn.kernels.triton import pointwise
from ptx_machine.types import Array

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda x: np.where(x < 0, np.exp(x), 1.0) / (1.0 + np.exp(-np.abs(x))),
    "tanh": np.tanh,
}
# What a formula may get wrong: no number, signs of zero and infinity, overflow, subnormal numbers.
SPECIAL = ("nan", "inf", "-inf", "0.0", "-0.0", "200.0", "-200.0", "1e-40", "-1e-40", "3e38", "-3e38")
# Of approximate instructions: what they are off by, as a part of what the manual allows.
NOISES = (-1.0, 0.0, 1.0)
SMALLEST = 2.0**-125  # of those that stay normal whatever the error
_BLOCK = 1024


@triton.jit
def activation_kernel(x_ptr, out_ptr, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, FUNCTION(tl.load(x_ptr + at), True))


def by_kernel(name: str, x: Array, noise: float) -> Array:
    """The activation of each number of `x`, a multiple of 1024 of them."""
    from ptx_machine import on_machine

    given, out = torch.from_numpy(x.copy()), torch.empty(len(x))
    with on_machine(noise=noise):
        activation_kernel[(len(x) // _BLOCK,)](given, out, getattr(pointwise, name), BLOCK=_BLOCK)
    return out.numpy()


def numbers(stride: int) -> Array:
    """Every `stride`-th pattern of float32's bits that is a finite number, and a few that fill up a block."""
    patterns = np.arange(0, 2**32, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)
    finite = patterns[np.isfinite(patterns)]
    return np.concatenate((finite, np.ones(-len(finite) % _BLOCK, np.float32)))


@np.errstate(all="ignore")
def errors(name: str, stride: int) -> tuple[float, float]:
    """The largest absolute error, and the largest relative one, of values that are no subnormal numbers."""
    absolute = relative = 0.0
    x = numbers(stride)
    for part in np.split(x, range(2**20, len(x), 2**20)):
        truth = FUNCTIONS[name](part.astype(np.float64))
        size = np.abs(truth)
        for noise in NOISES:
            off = np.abs(by_kernel(name, part, noise).astype(np.float64) - truth)
            absolute = max(absolute, float(off.max()))
            relative = max(relative, float(np.max(off / size, where=size > SMALLEST, initial=0.0)))
    return absolute, relative


def special(name: str) -> list[str]:
    """The activation of each of `SPECIAL`, as text."""
    x = np.array([float(v) for v in SPECIAL] + [0.0] * (_BLOCK - len(SPECIAL)), np.float32)
    return [repr(float(v)) for v in by_kernel(name, x, 0.0)[: len(SPECIAL)]]


def instructions(dtype: str) -> list[str]:
    """The opcodes of an LSTM's kernels in `dtype`; of float32 with exact products as "float32-ieee"."""
    from compiled import Case, run, scan_of

    name, _, precision = dtype.partition("-")
    case = Case(dtype=name, ieee=precision == "ieee", T=1, B=1, H=16)
    return sorted({opcode for one in run(scan_of(case), case).launches for opcode in one.report.opcodes})


def main(stride: int, dtypes: Sequence[str]) -> dict[str, Any]:
    return {
        "errors": {name: errors(name, stride) for name in FUNCTIONS},
        "special": {name: special(name) for name in FUNCTIONS},
        "instructions": {dtype: instructions(dtype) for dtype in dtypes},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2:])))
