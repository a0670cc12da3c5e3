"""The steps of each cell as jit functions, pointwise over tuples of tiles: those of `kernels/derived/`, or of a source.

Forward:  `fwd(x, r, state, given) -> state, saved`
Backward: `bwd(dstate, saved, state_prev, state, given) -> dx, dr, dstate_prev, dvectors`
Start:    `start(zero) -> state`, where a sequence starts

A cell whose last gate multiplies something else than h (`Counts.inner`) says what, in two more functions:

Forward:  `inner_fwd(x, r, state, given) -> operand`, from the r of the outer gates; `fwd` then has the r of all of them
Backward: `inner_bwd(dstate, saved, state_prev, state, given) -> dr of that gate`; `bwd` then has one more argument,
          `through`, the gradient of the operand. What the two of a pass both compute, the compiler computes once.

`x` is the input part of the gates, `W_ih x_t` and whichever biases were folded into it; `r` is the recurrent part,
`W_hh h_{t-1}` plus the recurrent bias where that was not folded. `state[0]` is h. `given` are the vectors and then the
constants. `dx` and `dr` are the gradients of `x` and `r`; `dstate_prev` is only what reaches the previous state
directly: what goes through the recurrent matmul is the scan's business; `dvectors` are one step's, to be summed. All
but `start` have a last argument, `FAST`, which is for `pointwise.py`.
"""

import functools
import importlib
import linecache
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.runtime.jit import KernelInterface

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.triton import pointwise


class Steps(NamedTuple):
    """The jit functions of a cell; its counts are in `fastrnn.kernels.counts`."""

    fwd: KernelInterface
    bwd: KernelInterface
    start: KernelInterface
    inner_fwd: KernelInterface | None = None
    inner_bwd: KernelInterface | None = None


@functools.cache
def steps_of(counts: Counts) -> Steps:
    """The steps of a cell."""
    name = counts.name
    known = _defined(name, counts.source) if counts.source else vars(_committed(name))
    return Steps(*(known.get(f"{name}_{part}") for part in Steps._fields))


def _committed(name: str) -> Any:
    return importlib.import_module(f"fastrnn.kernels.derived.{name}")


def _defined(name: str, source: str) -> dict[str, Any]:
    """What a source text defines; Triton finds the text of its functions where Python looks for that of any."""
    file = f"<kernels of the cell {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    known = {**vars(pointwise), "triton": triton, "tl": tl, "__name__": f"fastrnn.kernels.derived.{name}"}
    exec(compile(source, file, "exec"), known)
    return known
