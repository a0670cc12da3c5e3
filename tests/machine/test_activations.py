"""The approximate activations of all but exact float32: how wrong they are, and which kernels have them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import compiling_environment

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
# Of numbers of every exponent, drawn a prime number of bit patterns apart.
STRIDE = 16411
# Absolute and relative, with approximate instructions as wrong as the PTX manual allows: docs/guide/precision.md has
# them over more numbers. Rounding to float16 or TF32 takes 4.9e-4 of a number, to bfloat16
# 3.9e-3.
ALLOWED = {"sigmoid": (4e-7, 1e-5), "tanh": (1e-6, 5e-5)}
# Of nan, inf, -inf, 0, -0, 200, -200, 1e-40, -1e-40, 3e38 and -3e38.
SPECIAL = {
    "sigmoid": (math.nan, 1.0, 0.0, 0.5, 0.5, 1.0, 0.0, 0.5, 0.5, 1.0, 0.0),
    "tanh": (math.nan, 1.0, -1.0, 0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 1.0, -1.0),
}
APPROXIMATE_IN = ("float16", "bfloat16", "float32")
APPROXIMATE = {"ex2.approx.ftz.f32", "rcp.approx.ftz.f32"}


def _bits(value: float) -> str:
    """Of the float32 nearest to it; a NaN's are those of any."""
    return "nan" if value != value else np.float32(value).tobytes().hex()


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, "tests/activations.py", str(STRIDE), *APPROXIMATE_IN, "float32-ieee"]
    done = subprocess.run(command, capture_output=True, text=True, env=compiling_environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", ALLOWED)
def test_errors_are_far_below_rounding_to_16_bits(found: dict[str, Any], name: str) -> None:
    """And not those of exact instructions, which are nowhere near."""
    for error, allowed in zip(found["errors"][name], ALLOWED[name], strict=True):
        assert allowed / 4 < error < allowed


@pytest.mark.parametrize("name", SPECIAL)
def test_no_number_overflow_and_zero(found: dict[str, Any], name: str) -> None:
    ours = [float(value) for value in found["special"][name]]
    assert [_bits(value) for value in ours] == [_bits(value) for value in SPECIAL[name]]


@pytest.mark.parametrize("dtype", [*APPROXIMATE_IN, "float32-ieee"])
def test_which_kernels_are_approximate(found: dict[str, Any], dtype: str) -> None:
    approximate = dtype in APPROXIMATE_IN
    opcodes = set(found["instructions"][dtype])
    assert (opcodes & APPROXIMATE == APPROXIMATE) == approximate
    assert any(opcode.startswith("div") for opcode in opcodes) != approximate
