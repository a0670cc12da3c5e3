"""What the compiler makes of the launches that are chosen: no spills, and no more shared memory than there is.

Compiled for GPUs that are not there, in a process of its own, since this one interprets its kernels.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from support import compiling_environment

pytest.importorskip("triton")

PROGRAM = """
    import json, sys
    from fastrnn.kernels.counts import COUNTS
    from fastrnn.kernels.offline.report import compile_scan
    from fastrnn.kernels.plan.choice import choose
    from fastrnn.kernels.plan.configs import ScanShape
    from fastrnn.kernels.plan.cost import shared_estimate
    from fastrnn.kernels.plan.devices import DEVICES

    for arch, cell, backward, dtype, H, B, D, options, schedule, exchange, *more in json.loads(sys.argv[1]):
        device, counts, of = DEVICES[arch], COUNTS[cell], more[0] if more else {}
        sizes = counts.gates, backward, 4 if dtype == "float32" else 2, B, H, D
        shape = ScanShape(*sizes, **counts.tiles(backward), **of)
        config = choose(shape, device, schedule, exchange) or choose(shape, device, "stepwise")
        kept = dict.fromkeys(("lengths", "resets", "dcells"), options) | {"heads": shape.heads}
        report = compile_scan(counts, backward, dtype, H, D, config, device.capability, **kept)
        print(json.dumps(dict(
            arch=arch, cell=cell, backward=backward, dtype=dtype, H=H, B=B, config=vars(config),
            limit=device.shared_bytes, estimate=shared_estimate(shape, config), **vars(report),
        )))
"""


def compile_all(cases: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), json.dumps(cases)],
        capture_output=True, text=True, cwd=".", env=compiling_environment(),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


# Triton's first two numbers, architecture, cell, pass and H of the launches that spill all the same: they give way when
# they are first compiled, but for the LSTM's on sm_80, which is the only one that there is room for.
KNOWN_SPILLS = {
    ("3.8", "sm_80", "lstm", "backward", 2048),
    ("3.9", "sm_80", "lstm", "backward", 2048),
    ("3.8", "sm_100", "lstm", "backward", 1024),
    ("3.9", "sm_100", "gru_textbook", "backward", 768),
}


def check(reports: list[dict[str, Any]], count: int) -> None:
    assert len(reports) == count
    version = ".".join(importlib.metadata.version("triton").split(".")[:2])
    for report in reports:
        where = (version, report["arch"], report["cell"], "backward" if report["backward"] else "forward", report["H"])
        assert (report["spills"] > 0) == (where in KNOWN_SPILLS), report
        assert report["shared"] <= report["estimate"] <= report["limit"], report
        assert report["resident"] == ("streamed" not in report["config"]["tier"]), report
        assert (report["mma"] + report["wgmma"] > 0) == (report["config"]["tier"] != "diagonal"), report


# H, B and dtype: of other architectures than sm_90 the last two, which need the most room. The slow test has more.
SHAPES = ((32, 16, "bfloat16"), (128, 64, "float32"), (768, 256, "float16"), (2048, 16, "bfloat16"))


@pytest.mark.parametrize(
    ("cell", "arch"),
    # Those that need the most room: the others are compiled below, by a slow test.
    [("lstm", "sm_90"), pytest.param("gru", "sm_90", marks=pytest.mark.slow), ("gru_textbook", "sm_80")],
)  # fmt: skip
def test_shipped_launches_do_not_spill(cell: str, arch: str) -> None:
    """A sample over tiers, sizes and dtypes; `python -m bench kernels` compiles them all."""
    cases = [
        (arch, cell, backward, dtype, H, B, 1, False, "persistent", None)
        for H, B, dtype in (SHAPES if arch == "sm_90" else SHAPES[2:])
        for backward in (False, True)
    ]
    check(compile_all(cases), len(cases))


@pytest.mark.slow
def test_variants_do_not_spill() -> None:
    """Both directions, unequal lengths with resets and a gradient of the cells, each exchange, stepwise."""
    cases = [
        ("sm_90", cell, backward, "bfloat16", 512, 16, D, options, schedule, exchange)
        for cell in ("lstm", "gru", "gru_textbook")
        for backward in (False, True)
        for D, options, schedule, exchange in (
            (2, True, "persistent", "flag"), (1, False, "persistent", "barrier"), (1, True, "stepwise", "none"),
        )
    ]  # fmt: skip
    check(compile_all(cases), len(cases))


def _of_heads(arch: str, cells: tuple[str, ...], dtypes: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Small and large tiles of a diagonal, and two heads in two directions; with every option in 16 bits.

    Of float32 the LSTM's heads backward on sm_100, then at 255 registers, are 6 instructions over: they give way.
    """
    return [
        (arch, cell, backward, dtype, H, B, D, dtype != "float32", "persistent", None, of)
        for cell in cells
        for dtype in dtypes
        for backward in (False, True)
        for H, B, D, of in (
            (512, 16, 1, {"diagonal": True}), (1024, 256, 2, {"diagonal": True}), (256, 16, 2, {"heads": 2}),
        )
    ]  # fmt: skip


@pytest.mark.slow
def test_heads_do_not_spill() -> None:
    cases = _of_heads("sm_90", ("lstm",), ("bfloat16",))
    check(compile_all(cases), len(cases))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_no_launch_of_heads_spills(arch: str) -> None:
    cases = _of_heads(arch, ("lstm", "gru", "gru_textbook", "rnn_tanh"), ("bfloat16", "float32"))
    check(compile_all(cases), len(cases))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_textbook", "rnn_tanh"])
def test_no_shipped_launch_spills(cell: str, arch: str) -> None:
    cases = [
        (arch, cell, backward, dtype, H, B, D, False, "persistent", None)
        for H in (8, 32, 64, 100, 128, 192, 256, 384, 512, 640, 768, 1000, 1024, 1280, 1536, 2048)
        for B, D in ((1, 1), (16, 1), (64, 1), (256, 1), (32, 2))
        for dtype in ("bfloat16", "float32")
        for backward in (False, True)
        if H * D <= 2112
    ]
    check(compile_all(cases), len(cases))


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [64, 128, 256, 512, 768, 1024])
@pytest.mark.parametrize("cell", ["nas", "slstm"])
def test_no_launch_of_a_wide_cell_spills(cell: str, hidden: int) -> None:
    """Of more gates, states or saved tensors than the shipped ones have."""
    cases = [
        ("sm_90", cell, backward, dtype, hidden, B, 1, False, "persistent", None)
        for B in (16, 64)
        for dtype in ("bfloat16", "float32")
        for backward in (False, True)
    ]
    check(compile_all(cases), len(cases))
