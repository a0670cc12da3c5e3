"""Gluon's kernels as far as Python has them: layouts, the wire before a launch, and what is found of clusters."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from support import compiling_environment, gluon_launch

pytest.importorskip("triton.experimental.gluon.language")

from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.gluon.layouts import gluon_constants
from fastrnn.kernels.launch.buffers import reset_wire, wires
from fastrnn.kernels.plan.configs import ScanShape
from fastrnn.kernels.plan.gluon import SLOTS, held, shared_estimate

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = """
    import triton
    from triton.backends.compiler import GPUTarget
    from fastrnn.kernels.gluon.language import GluonASTSource, gl, gluon

    @gluon.jit
    def neighbours(out_ptr, LAYOUT: gl.constexpr, SHARED: gl.constexpr):
        i = gl.arange(0, 128, layout=LAYOUT)
        mine = gl.allocate_shared_memory(gl.float32, [128], SHARED)
        mine.store(i.to(gl.float32))
        theirs = gl.inline_asm_elementwise(
            "{ .reg .b32 at, there, rank; .reg .f32 found;"
            "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
            "mov.u32 at, global_smem; mov.u32 rank, %cluster_ctarank; xor.b32 rank, rank, 1;"
            "mapa.shared::cluster.u32 there, at, rank; ld.shared::cluster.f32 found, [there]; mov.f32 $0, found; }",
            "=f,r", [i], dtype=gl.float32, is_pure=False, pack=1,
        )
        gl.store(out_ptr + i, theirs + mine.load(LAYOUT))

    for bits in (1, 4):
        cluster = [[0]] * bits
        layout = gl.BlockedLayout([1], [32], [4], [0], cga_layout=cluster)
        shared = gl.SwizzledSharedLayout(1, 1, 1, order=[0], cga_layout=cluster)
        types = {"out_ptr": "*fp32", "LAYOUT": "constexpr", "SHARED": "constexpr"}
        source = GluonASTSource(neighbours, types, {(1,): layout, (2,): shared})
        options = {"num_warps": 4, "num_ctas": 2**bits}
        ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
        print(2**bits, f".reqnctapercluster {2**bits}" in ptx, "ld.shared::cluster" in ptx)
"""


def _bits(layout: object) -> int:
    """How many places a thread, lane and warp have between them."""
    return sum(len(getattr(layout, name)) for name in ("reg_bases", "lane_bases", "warp_bases"))


@pytest.mark.parametrize("warps", [4, 8])
@pytest.mark.parametrize("units", [8, 16, 32])
@pytest.mark.parametrize("rows", [16, 32])
@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize("exchange", ["barrier", "flag"])
def test_a_layout_has_every_number(exchange: str, element_bytes: int, rows: int, units: int, warps: int) -> None:
    """Once, or where there are more threads than numbers, as often as that."""
    found = gluon_constants(4, element_bytes, gluon_launch(96, warps, units, rows, exchange=exchange))
    threads = 32 * warps
    wire, kept = (warps * 16 * n for n in (rows, units))  # 16 of K to a warp
    for name, numbers in (("OWN", rows * units), ("SUM", warps * rows * units), ("WIRE", wire), ("KEPT", kept)):
        layout = found[name]
        reached = {
            tuple(basis) for bases in (layout.reg_bases, layout.lane_bases, layout.warp_bases) for basis in bases
        }
        assert 2 ** len({basis for basis in reached if any(basis)}) == numbers, name
        assert 2 ** _bits(layout) == max(numbers, threads * (warps if name == "SUM" else 1)), name


@pytest.mark.parametrize("units", [8, 16, 32])
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_one_warp_has_what_is_handed_over_as_one(element_bytes: int, units: int) -> None:
    """Rows r and r + 8 of neighbouring units: in 8, or 4, lanes of a warp, and no bit of a row below one of a unit."""
    own = gluon_constants(4, element_bytes, gluon_launch(96, 8, units, exchange="flag"))["OWN"]
    lanes = [tuple(basis) for basis in own.lane_bases]
    assert {(8, 0), (0, 1), (0, 2)} <= {*lanes}
    assert [row > 0 for row, _ in lanes] == sorted(row > 0 for row, _ in lanes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("hidden", "units"), [(40, 8), (48, 16), (64, 16), (1, 8)])
def test_nobody_waits_for_units_that_nobody_has(hidden: int, units: int, dtype: torch.dtype) -> None:
    """Where data are their own flag the wire is ones where a program has units, and zeros past the last one's."""
    config = gluon_launch(hidden, 4, units, exchange="flag")
    like = torch.zeros(1, 3, 2, hidden, dtype=dtype)
    wire = wires(COUNTS["lstm"], config, True, 3, 2, like)
    assert wire is not None
    width, load = config.num_k * config.block_k, 32 // dtype.itemsize
    words = wire.view(torch.int32).view(2, SLOTS, 4, width // load, 8, 4, 4)
    there = torch.arange(0, width, load // 4).view(-1, 1, 4, 1) < -(-hidden // units) * units
    assert torch.equal(words, torch.where(there, -1, 0).int().expand(words.shape))
    wire.fill_(1.0)
    reset_wire(wire, config, hidden)
    assert torch.equal(wire.view(torch.int32), words.flatten())


def test_what_registers_hold_and_shared_memory_keeps() -> None:
    """All of R is in one or the other, and registers come first."""
    for element_bytes, hidden, chunks in (
        (2, 256, 2),
        (2, 768, 6),
        (2, 1024, 6),
        (2, 2048, 5),
        (4, 256, 2),
        (4, 768, 2),
    ):
        config = gluon_launch(hidden, 8, 16)
        assert held(4, element_bytes, config) == chunks
        kept = shared_estimate(ScanShape(4, True, element_bytes, 16, hidden, 1), config) - 4 * 8 * 16 * 16
        assert kept == (config.num_k - chunks) * 4 * 16 * config.block_k * element_bytes


def test_clusters_compile(tmp_path: Path) -> None:
    """What bench/NOTES.md says of them: programs of several SMs, one of which reads the other's shared memory."""
    file = tmp_path / "clusters.py"  # where Triton reads what jit functions are
    file.write_text(textwrap.dedent(CLUSTERS))
    environment = compiling_environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["2", "True", "True", "16", "True", "True"]
