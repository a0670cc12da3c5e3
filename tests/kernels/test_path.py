"""How long a step takes, by its instructions: small loops against times by hand, and the command's rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path as File
from typing import Any

import pytest
from support import compiling_environment

pytest.importorskip("triton")

from fastrnn.kernels.offline.path import CYCLES_PER_US, Path, _parsed, _Walk, critical_path, path_row

ROOT = File(__file__).resolve().parents[2]
POLL = ("LDG.E.STRONG.GPU R1, desc[UR8][R2.64] ", "ISETP.GE.AND P1, PT, R1, R30, PT ", "@!P1 BRA -2", "BPT.TRAP 0x1 ")
STEP = (
    "LDG.E.128.STRONG.GPU R4, desc[UR8][R2.64] ",
    "STS.128 [R8], R4 ",
    "BAR.SYNC.DEFER_BLOCKING 0x0 ",
    "LDSM.16.M88.4 R12, [R9] ",
    "HMMA.16816.F32.BF16 R16, R12.reuse, R20, RZ ",
    "STS [R8], R16 ",
    "BAR.SYNC.DEFER_BLOCKING 0x0 ",
    "LDS R24, [R9] ",
    "MUFU.EX2 R25, R24 ",
    "@P2 STG.E.U16 desc[UR8][R2.64], R25 ",
    "MEMBAR.ALL.GPU ",
    "REDG.E.ADD.STRONG.GPU desc[UR8][R2.64], R30 ",
    "FADD R1, R1, 1 ",
)


def times(*loop: str, warps: int = 4) -> list[int]:
    """When each instruction is issued."""
    walk = _Walk(warps)
    return [walk.step(_parsed(text))[0] for text in loop]


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        (("FADD R1, R2, R3 ", "FADD R4, R5, R6 "), [0, 1]),
        (("FADD R1, R2, R3 ", "FADD R4, R1, R6 "), [0, 4]),
        (("LDS R1, [R2] ", "FADD R4, R5, R6 ", "FADD R4, R1, R6 "), [0, 1, 29]),
        (("LDS.128 R4, [R2] ", "FADD R1, R7, R6 "), [0, 29]),  # the last of four
        (("LDS.64 R4, [R2] ", "FADD R1, R6, R6 "), [0, 1]),  # not of two
        (("MUFU.RCP R1, R2 ", "MUFU.RCP R3, R4 "), [0, 8]),  # the unit takes one warp's in eight cycles
        (("LDG.E R1, desc[UR8][R2.64] ", "BAR.SYNC.DEFER_BLOCKING 0x0 "), [0, 31]),  # which does not wait for loads
        (("FADD R2, R4, R5 ", "LDG.E R1, desc[UR8][R2.64] "), [0, 4]),
        (("FADD R3, R4, R5 ", "LDG.E R1, desc[UR8][R2.64] "), [0, 4]),  # an address is two registers
        (("STG.E desc[UR8][R2.64], R1 ", "MEMBAR.ALL.GPU "), [0, 261]),
        (("ISETP.GE.AND P1, PT, R1, R2, PT ", "@!P1 FADD R4, R5, R6 "), [0, 4]),
        (("LDS R1, [R9] ", "ISETP.EQ.U32.OR P1, PT, R1, -0x1, P2 "), [0, 29]),  # a comparison reads its first register
        (("HMMA.16816.F32.BF16 R16, R12, R20, RZ ", "FADD R1, R19, R2 "), [0, 33]),
        (("HMMA.16816.F32.BF16 R16, R12, R20, RZ ", "HMMA.16816.F32.BF16 R16, R12, R22, R16 "), [0, 33]),
        (("LDSM.16.M88.4 R12, [R9] ", "HMMA.16816.F32.BF16 R16, R12, R20, RZ "), [0, 33]),
        (("LDS R21, [R9] ", "HMMA.16816.F32.BF16 R16, R12, R20, RZ "), [0, 29]),
        (("LDS R22, [R9] ", "HMMA.16816.F32.BF16 R16, R12, R20, RZ "), [0, 1]),
        (("LDS R1, [R9] ", "STS [R8], R1 "), [0, 29]),
        (("LDS R7, [R9] ", "STS.128 [R8], R4 "), [0, 29]),
    ],
)  # fmt: skip
def test_an_instruction_waits_for_what_it_reads(loop: tuple[str, ...], expected: list[int]) -> None:
    assert times(*loop) == expected


def test_warps_take_turns() -> None:
    """Eight warps are two on each quarter of an SM; of what both compute, the later one's result counts."""
    assert times("FADD R1, R2, R3 ", "FADD R4, R5, R6 ", warps=8) == [0, 2]
    assert times("MUFU.RCP R1, R2 ", "MUFU.RCP R3, R4 ", warps=8) == [0, 16]
    assert times("MUFU.RCP R1, R2 ", "FADD R3, R1, R4 ", warps=8) == [0, 20 + 7]


def test_the_parts_of_a_step() -> None:
    path = critical_path([*POLL, *STEP], 4, False)
    assert path == Path(
        before=0,
        load=1 + 262 + 1 + 30 + 1 + 33,  # the trap, L2, a store, a barrier, and the operands
        matrix=33,
        sum=1 + 30 + 1 + 29,
        pointwise=20,
        hand_over=1 + 260 + 1,
        after=1,
    )
    alone = path.load + path.matrix + path.sum + path.pointwise + path.hand_over
    assert path.us(0) == pytest.approx((alone + 1) / CYCLES_PER_US)
    assert path.us(1000) == pytest.approx((alone + 1000) / CYCLES_PER_US)  # which hides the rest


def test_where_the_data_is_its_own_flag_nobody_is_told() -> None:
    path = critical_path([*POLL, *STEP], 4, True)
    assert path.hand_over == 0
    assert path.after == 1 + 260 + 1 + 1


def test_upkeep_is_passed_over_where_the_data_is_its_own_flag() -> None:
    """A fence, or a poll, that most warps of most steps jump over; and the poll's second turn."""
    data = ("LDG.E.128.STRONG.GPU R4, desc[UR8][R2.64] ", "ISETP.EQ.U32.OR P1, PT, R4, -0x1, !PT ")
    again = ("@!P1 BRA +4", "VIADD R9, R9, 0x1 ", "@!P2 BRA -4", "BPT.TRAP 0x1 ")
    told = ("@P3 BRA +3", "MEMBAR.ALL.GPU ", "REDG.E.ADD.STRONG.GPU desc[UR8][R2.64], R30 ", "FADD R1, R1, 1 ")
    product = ("HMMA.16816.F32.BF16 R16, R4, R20, RZ ", "STG.E.U16 desc[UR8][R2.64], R16 ")
    path = critical_path([*data, *again, *product, *told], 4, True)
    assert (path.before, path.load, path.matrix, path.pointwise) == (0, 0, 33, 0)
    assert path.after == 2  # a jump, an addition
    path = critical_path([*data, *again, *product, *told], 4, False)
    assert path.hand_over > 260


def test_without_a_wait_all_of_the_loop_counts() -> None:
    path = critical_path(STEP[:-3], 4, False)
    assert (path.before, path.hand_over) == (0, 0)
    assert path.us(0) == pytest.approx((262 + 1 + 30 + 1 + 33 + 33 + 1 + 30 + 1 + 29 + 20) / CYCLES_PER_US)


def test_a_row() -> None:
    row = path_row([*POLL, *STEP], 4, "barrier", 1)
    assert [*row] == ["before", "load", "matrix", "sum", "pointwise", "hand_over", "after", "path_us"]
    twice = path_row([*POLL, *STEP], 4, "barrier", 2)
    assert twice["path_us"] - row["path_us"] == pytest.approx(790 / CYCLES_PER_US, abs=2e-3)
    flagged = path_row([*POLL, *STEP], 4, "flag", 1)
    assert row["path_us"] - flagged["path_us"] == pytest.approx((262 + 790 - 1050) / CYCLES_PER_US, abs=2e-3)
    assert path_row(["FFMA R1, R2, R3, R1 "], 4, "none", 1) == {}


def _kept(name: str) -> list[dict[str, Any]]:
    table = ROOT / "bench" / "compiled" / f"{name}-sm_90-triton-3.7.1.jsonl"
    return [json.loads(line) for line in table.read_text().splitlines()]


def _printed(file: File, *options: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of the command, and what it prints."""
    command = [sys.executable, "-m", "bench", "kernels", "--path", *options, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=compiling_environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in file.read_text().splitlines()], done.stdout


LSTM = ("--cell", "lstm", "--dtype", "bfloat16", "--batch", "16", "--hidden")


def test_the_command(tmp_path: File) -> None:
    """A step's path is longer than its longest load, and of the order of the model's."""
    rows, printed = _printed(tmp_path / "rows.jsonl", *LSTM, "64", "--hidden", "512")
    assert len(rows) == 4
    if rows[0]["triton"] == "3.7.1":
        assert all(row in _kept("path") for row in rows)
    for row in rows:
        path = row["path"]
        assert (path["hand_over"] > 0) == (row["exchange"] == "barrier")
        assert path["load"] > (262 if row["exchange"] == "barrier" else 29) or row["exchange"] == "flag"
        assert 0.3 < path["path_us"] / row["model_us"] < 2
        assert f"{path['path_us']:.2f}" in printed


@pytest.mark.parametrize(("kind", "name"), [("flag", "path-flag"), ("plain", "path-plain")])
def test_other_kinds_of_launches(kind: str, name: str, tmp_path: File) -> None:
    """Those that are not chosen: what the table of them says."""
    rows, _ = _printed(tmp_path / "rows.jsonl", *LSTM, "256", "--kind", kind)
    assert {row["tier"] for row in rows} == {"gluon grid" if kind == "flag" else "grid"}
    if rows[0]["triton"] == "3.7.1":
        assert all(row in _kept(name) for row in rows)


def test_flags_have_no_fence_on_the_way() -> None:
    """Forward in 16 bits each size's path is a tenth shorter, with the same tile; nothing spills."""
    counted = {(row["cell"], row["dtype"], row["H"], row["backward"]): row for row in _kept("path")}
    shorter = 0
    for row in _kept("path-flag"):
        other = counted[row["cell"], row["dtype"], row["H"], row["backward"]]
        assert row["status"] == "ok", row
        if row["exchange"] == "none":
            continue
        assert row["exchange"] == "flag"
        assert row["barriers"] <= 3
        if not row["backward"] and row["dtype"] == "bfloat16" and row["block_h"] == other["block_h"]:
            assert row["path"]["path_us"] < 0.91 * other["path"]["path_us"]
            shorter += 1
    assert shorter >= 6
