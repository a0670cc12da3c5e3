"""Which kernel a launch runs, and its compile-time arguments."""

from __future__ import annotations

import importlib
from typing import Any

import triton.language as tl

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.triton.constants import scan_constants, starts_elsewhere, steps, wide_constants

_MODULES = {
    "scan_fwd_kernel": "fastrnn.kernels.triton.forward",
    "scan_bwd_kernel": "fastrnn.kernels.triton.backward",
    "wide_fwd_kernel": "fastrnn.kernels.triton.wide_forward",
    "wide_bwd_kernel": "fastrnn.kernels.triton.wide_backward",
    "gluon_fwd_kernel": "fastrnn.kernels.gluon.forward",
    "gluon_bwd_kernel": "fastrnn.kernels.gluon.backward",
}


def kernel_named(name: str) -> Any:
    """The jit function. Its module is imported when it is asked for: a Triton without Gluon has the others."""
    return getattr(importlib.import_module(_MODULES[name]), name)


def kernel_of(config: LaunchConfig, backward: bool) -> Any:
    """The jit function of a launch."""
    family = "gluon" if config.gluon else "wide" if config.wide else "scan"
    return kernel_named(f"{family}_{'bwd' if backward else 'fwd'}_kernel")


def constants_of(
    counts: Counts,
    config: LaunchConfig,
    hidden: int,
    directions: int,
    precision: str,
    dtype: str,
    heads: int,
    backward: bool,
) -> dict[str, Any]:
    """Its compile-time arguments, but for those that say which tensors there are; arguments as of `scan_constants`."""
    found = scan_constants(counts, config, hidden, directions, precision, dtype, heads) | steps(counts, backward)
    if config.gluon:
        from fastrnn.kernels.gluon.layouts import gluon_constants

        found |= gluon_constants(counts.gates, getattr(tl, dtype).primitive_bitwidth // 8, config)
        return found | {"SCATTER": config.scatter} if backward else found
    if not backward:
        found["HAS_START"] = starts_elsewhere(counts)
    return found | wide_constants(counts, config, backward) if config.wide else found
