"""Kernels with one line broken, and what gives each away: a test of the tests on the PTX machine.

    python tests/compiled.py mutation NAME

A mutation of the PTX changes one line of what the compiler made, one that was executed. A mutation of the source
changes one line of ours, in a copy of the project, and compiles that.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from compiled import Case, Outcome, Ran, named, run, scan_of, signs
from support import compiling_environment

ROOT = Path(__file__).resolve().parents[1]

# What is mutated: both exchanges, the inner gate, both kinds of masks, resident and streamed weights, 64 rows. Rows
# have a step or more, and few are cut, or much of what is computed would not matter.
_COMMON = "T=4 B=17 H=40 lengths resets inputs=mixed"
CASES = {
    "flag": named(f"lstm float16 grid flag {_COMMON}"),
    "barrier": named(f"gru_textbook float16 grid barrier {_COMMON}"),
    "float32": named(f"gru float32 grid flag {_COMMON}"),
    "gluon": named(f"lstm float16 gluon-grid barrier {_COMMON} block_h=8"),
    "parts": named(f"lstm float16 gluon-grid barrier {_COMMON} scatter"),
    "inner": named(f"gru_textbook bfloat16 gluon-grid barrier {_COMMON} block_h=8"),
    "gluon solo": named(f"gru float16 gluon-solo {_COMMON}"),
    "warpgroups": named("lstm float16 streamed flag T=3 B=17 H=24 block_b=64 block_k=256 warps=8"),
}

Change = str | Callable[["re.Match[str]"], str]


def _further(bytes_: int) -> Callable[[re.Match[str]], str]:
    """A register's address, `[%r1+16]`, some bytes on."""
    return lambda found: f"{found[1]}+{int(found[2] or 0) + bytes_}]"


# By name: the line, and what becomes of it.
PTX: dict[str, tuple[str, Change]] = {
    "a barrier removed": (r"bar\.sync\s+0;", ""),
    "an acquire made a plain load": (r"ld\.global\.gpu\.acquire", "ld.global"),
    "an acquire made relaxed": (r"ld\.global\.gpu\.acquire", "ld.global.gpu.relaxed"),
    "an arrival removed": (r"@%p\d+ atom\.global\.gpu\.release\.add[^;]*;", ""),
    "a release made relaxed": (r"atom\.global\.gpu\.release", "atom.global.gpu.relaxed"),
    "a release within the program": (r"atom\.global\.gpu\.release", "atom.global.cta.release"),
    "a lane's acquire made relaxed": (r"ld\.acquire\.gpu\.global", "ld.relaxed.gpu.global"),
    "a lane's arrival removed": (r"@chosen red[^;]*;", ""),
    "a lane's release made relaxed": (r"red\.release\.gpu", "red.relaxed.gpu"),
    "an operand 16 bytes further": (r"(ld\.global\.cg\.v4\.b32.*\[ %rd\d+) \+ 0", r"\1 + 16"),
    "a volatile load made plain": (r"ld\.volatile\.global", "ld.global"),
    "ldmatrix 16 bytes further": (r"(ldmatrix.*\[%r\d+)\+?(\d*)\]", _further(16)),
    "stmatrix 16 bytes further": (r"(stmatrix.*\[%r\d+)\+?(\d*)\]", _further(16)),
    "a shared store 4 bytes further": (r"(st\.shared\.b32 \[ %r\d+) \+ 0", r"\1 + 4"),
    "a store's mask removed": (r"@%p\d+ (st\.global)", r"\1"),
    "a load's mask removed": (r"@%p\d+ (ld\.(volatile\.)?global)", r"\1"),
    "a mask inverted": (r"(@)(%p\d+ st\.(shared|global))", r"\1!\2"),
    "lanes 1 apart, not 2": (r"(shfl\.sync\.bfly\.b32.*), 2, 31", r"\1, 1, 31"),
    "mma with two registers of A swapped": (
        r"(mma\.sync.*\}, \{ )(%r\d+), (%r\d+)(, %r\d+, %r\d+ \}, \{ %r\d+, %r\d+ \})", r"\1\3, \2\4",
    ),
    "mma with the registers of B swapped": (
        r"(mma\.sync.*\{ )(%r\d+), (%r\d+)( \}, \{ %r\d+, %r\d+, %r\d+, %r\d+ \};)", r"\1\3, \2\4",
    ),
    "a select's sides swapped": (r"(selp\.f32\s+%\w+), (%?\w+), (%?\w+)", r"\1, \3, \2"),
    "a comparison with the other sign": (r"setp\.lt\.s32", "setp.gt.s32"),
    "a product without its sum": (r"fma\.rn\.f32(\s+%\w+, %\w+, %\w+), (%?\w+);", r"mul.f32\1;"),
    "a proxy fence removed": (r"fence\.proxy\.async[^;]*;", ""),
    "wgmma.fence removed": (r"wgmma\.fence[^;]*;", ""),
    "wgmma's wait removed": (r"wgmma\.wait_group[^;]*;", ""),
    "a wgmma operand elsewhere": (
        r"(add\.s64\s+%rd\d+, %rd\d+, -?\d{15,})(\d);", lambda found: f"{found[1]}{(int(found[2]) + 2) % 10};",
    ),
}  # fmt: skip


# Those that change something wherever they are made. Others may not: a value that a mask left out is left out again, a
# polynomial's last term is below what is asked for, a fence is followed by another, a store is of what nobody needs.
EVERYWHERE = (
    "a barrier removed", "an acquire made a plain load", "an acquire made relaxed", "an arrival removed",
    "a release made relaxed", "a release within the program", "a store's mask removed", "stmatrix 16 bytes further",
    "mma with two registers of A swapped", "mma with the registers of B swapped", "a select's sides swapped",
    "wgmma's wait removed", "a lane's acquire made relaxed", "a lane's arrival removed",
    "a lane's release made relaxed", "an operand 16 bytes further",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a mutation of the PTX is made: in a case's forward or backward launch, at which of the lines it fits."""

    mutation: str
    case: str
    backward: bool
    number: int

    @property
    def name(self) -> str:
        return f"{self.mutation} | {self.case} | {'backward' if self.backward else 'forward'} | {self.number}"


def place_of(name: str) -> Place:
    mutation, case, part, number = name.split(" | ")
    return Place(mutation, case, part == "backward", int(number))


@functools.cache
def _original(case: str) -> Ran:
    scan = scan_of(CASES[case])
    ran = run(scan, CASES[case])
    assert signs(scan, CASES[case], ran) == [], case
    return ran


def _fitting(mutation: str, case: str, backward: bool) -> list[int]:
    """The lines, from 0, that a mutation fits and that were executed."""
    launch = _original(case).launches[int(backward)]
    pattern = re.compile(PTX[mutation][0])
    lines = enumerate(launch.ptx.split("\n"))
    return [n for n, line in lines if pattern.search(line) and (launch.report.lines[n + 1] or ";" not in line)]


def places(mutation: str, case: str, most: int) -> Iterator[Place]:
    """Everywhere that it fits in a case's launches, but at most so many a launch, evenly."""
    for backward in (False, True):
        count = len(_fitting(mutation, case, backward))
        for number in range(0, count, max(1, -(-count // most))):
            yield Place(mutation, case, backward, number)


def of_ptx(place: Place) -> tuple[list[str], str]:
    """What gives it away, and the line."""
    from ptx_machine import FaultError

    case, original = CASES[place.case], _original(place.case)
    pattern, to = PTX[place.mutation]
    lines = original.launches[int(place.backward)].ptx.split("\n")
    n = _fitting(place.mutation, place.case, place.backward)[place.number]
    changed = "\n".join([*lines[:n], re.sub(pattern, to, lines[n]), *lines[n + 1 :]])
    scan = scan_of(case)
    try:
        ran = run(
            scan, case, not place.backward, original.forward, place.backward, edit=lambda ptx: changed, patience=200
        )
    except FaultError as fault:
        return ["deadlock" if str(fault).startswith("deadlock") else "fault"], lines[n].strip()
    return signs(scan, case, ran), lines[n].strip()


@dataclass(frozen=True)
class Source:
    """A line of the kernels or of their launcher, what becomes of it, and a case that shows it.

    Attributes:
        file, line, to: one line that is in the file once, or several after another.
        case: as `compiled.named` takes it.
        signs: what gives it away, any of them.
    """

    file: str
    line: str
    to: str
    case: str
    signs: tuple[str, ...]


SOURCE: dict[str, Source] = {
    "no barrier before the arrival": Source(
        "triton/sync.py", '        tl.debug_barrier()\n        tl.atomic_add(counter_ptr, 1',
        "        tl.atomic_add(counter_ptr, 1", "lstm float16 grid barrier T=3", ("race",),
    ),
    "an arrival that is not a release": Source(
        "triton/sync.py", 'tl.atomic_add(counter_ptr, 1, sem="release"', 'tl.atomic_add(counter_ptr, 1, sem="relaxed"',
        "gru bfloat16 streamed barrier T=3", ("race",),
    ),
    "a poll that is not an acquire": Source(
        "triton/sync.py", 'tl.atomic_add(counter_ptr, 0, sem="acquire"', 'tl.atomic_add(counter_ptr, 0, sem="relaxed"',
        "gru bfloat16 streamed barrier T=3", ("race",),
    ),
    "one arrival too few waited for": Source(
        "triton/forward.py", "            wait(counter_ptr, arrivals, EXCHANGE)\n            r = contract(",
        "            wait(counter_ptr, arrivals - 1, EXCHANGE)\n            r = contract(",
        "lstm float16 grid barrier T=3 order=programs", ("race", "wrong", "unwritten"),
    ),
    "one arrival too many waited for": Source(
        "triton/backward.py", "                wait(counter_ptr, arrivals, EXCHANGE)",
        "                wait(counter_ptr, arrivals + 1, EXCHANGE)", "lstm float16 grid barrier T=3", ("deadlock",),
    ),
    "slots that nobody filled": Source(
        "launch/buffers.py",
        '    if config.exchange == "flag" and not config.gluon:\n        buffer.view',
        "    if False:\n        buffer.view",
        "lstm float16 grid flag T=3 order=programs", ("unwritten", "wrong", "race"),
    ),
    "counters that are not zero": Source(
        "launch/buffers.py", "return torch.zeros(waves, size, dtype", "return torch.ones(waves, size, dtype",
        "lstm float16 grid barrier T=3 order=programs", ("race", "wrong", "unwritten"),
    ),
    "a user's NaN stored as it is": Source(
        "triton/tiles.py", '        return tl.where(value == value, value, float("nan"))', "        return value",
        "lstm float32 grid flag T=3 inputs=nan", ("deadlock",),
    ),
    "input loaded past the last step": Source(
        "triton/forward.py", "x_next = load_packed(x_rows[:, None] + own, H, only_if(step + 1 < end, mask), GATES)",
        "x_next = load_packed(x_rows[:, None] + own, H, mask, GATES)", "lstm float16 grid flag T=3", ("fault",),
    ),
    "a step too many for a row": Source(
        "triton/forward.py",
        "            active = (t < length)[:, None]", "            active = (t <= length)[:, None]",
        "gru float32 solo T=4 B=9 lengths", ("wrong",),
    ),
    "idle steps left as they are": Source(
        "triton/rows.py", "    for step in range(first, last):", "    for step in range(last, last):",
        "lstm float16 grid flag T=5 B=17 H=24 inputs=short lengths", ("wrong", "unwritten"),
    ),
    "a mask that lets units past H through": Source(
        "triton/forward.py", "    mask_h = offs_h < H\n", "    mask_h = offs_h < H + 8\n",
        "lstm float16 grid flag T=3", ("fault", "race", "wrong", "unwritten"),
    ),
    "a chunk of the contraction left out": Source(
        "triton/matmul.py", "        for chunk in range(NUM_K):", "        for chunk in range(NUM_K - 1):",
        "gru float16 streamed barrier T=2 H=136", ("wrong",),
    ),
    "the inner gate's operand not waited for": Source(
        "triton/forward.py", "                    wait(counter_ptr, arrivals + tl.num_programs(0), EXCHANGE)\n",
        "                    pass\n", "gru_textbook float16 grid barrier T=3 order=programs",
        ("race", "unwritten", "wrong"),
    ),
    "no barrier before a lane's arrival": Source(
        "gluon/wire.py", "    barrier()\n    gl.inline_asm_elementwise(", "    gl.inline_asm_elementwise(",
        "lstm float16 gluon-grid barrier T=3 block_h=8", ("race",),
    ),
    "no barrier after a lane's poll": Source(
        "gluon/wire.py",
        "    poll(counter_ptr, count, 0)\n    barrier()\n", "    poll(counter_ptr, count, 0)\n",
        "lstm float16 gluon-grid barrier T=3 block_h=8 order=warps", ("race", "unwritten", "wrong"),
    ),
    "a row's place on the wire": Source(
        "gluon/wire.py",
        "(in_block & 7) * (2 * LOAD)",
        "(in_block & 7) * LOAD",
        "lstm float16 gluon-grid barrier T=3 block_h=8",
        ("wrong", "race"),
    ),
    "weights in another order than the operand": Source(
        "gluon/wire.py", "lane * (2 * PACKED) | register * PACKED", "lane * PACKED | register * (4 * PACKED)",
        "gru bfloat16 gluon-grid barrier T=3 block_h=8", ("wrong",),
    ),
    "one slot for all steps": Source(
        "gluon/forward.py", "            slot = after(slot, SLOT, 1) if FLAG else SLOT - slot\n", "",
        "lstm float16 gluon-grid barrier T=4 block_h=8",
        ("wrong", "race"),
    ),
    "a state handed over uncut": Source(
        "gluon/forward.py",
        "            state = select(cut[:, None], START(nothing), state, STATES)\n        if not SOLO:",
        "            pass\n        if not SOLO:", "lstm float16 gluon-grid barrier T=4 block_h=8 resets", ("wrong",),
    ),
    "a gradient handed over from a row's first step": Source(
        "gluon/backward.py", "                handed = gl.where((first != t)[:, None], handed, 0.0)\n",
        "                pass\n", "lstm float16 gluon-grid barrier T=4 D=2 block_h=8 lengths", ("wrong",),
    ),
    "units past H handed over": Source(
        "gluon/backward.py",
        "            handed = operand(within(dr[g], mask_h, H, RESTS), DTYPE)\n", "            handed = dr[g] + 1\n",
        "slstm bfloat16 gluon-grid barrier T=3 H=36 inputs=positive", ("wrong",),
    ),
    "another's parts": Source(
        "gluon/backward.py", "wire_in = wire_ptr + me * (READERS", "wire_in = wire_ptr + (me ^ 1) * (READERS",
        "lstm float16 gluon-grid barrier T=3 H=64 scatter", ("wrong", "race", "unwritten"),
    ),
    "a NaN that is 0 times what is infinite": Source(
        "gluon/parts.py", "mov.f32 sum, $1; setp.num.f32 good, sum, sum; @good bra SUMMED;",
        "mov.f32 sum, $1; bra SUMMED; setp.num.f32 good, sum, sum;",
        "lstm bfloat16 gluon-grid barrier T=2 H=40 inputs=infinite scatter", ("wrong",),
    ),
    "kept weights in another order": Source(
        "gluon/products.py", "UNITS // 8, 2, PACKED]).permute(0, 1, 5, 3, 6, 4, 2)",
        "UNITS // 8, 2, PACKED]).permute(0, 1, 6, 3, 5, 4, 2)",
        "lstm float16 gluon-grid barrier T=2 B=3 H=1100 warps=8", ("wrong",),
    ),
    "a factor cut off, not rounded": Source(
        "gluon/products.py", "cvt.rna.tf32.f32 rounded, $1;", "mov.b32 rounded, $1;",
        "lstm float32 gluon-grid barrier T=1 block_h=8 inputs=near", ("wrong",),
    ),
    "both loads of a part from one place": Source(
        "gluon/parts.py", "along(1, 2 // packed(DTYPE), 4, PART) * 32", "along(1, 2 // packed(DTYPE), 4, PART) * 0",
        "gru float32 gluon-grid barrier T=3 scatter", ("wrong", "race"),
    ),
    "both loads of an operand from one place": Source(
        "gluon/products.py", "along(2, LOADS, 5, WIRE) * 32", "along(2, LOADS, 5, WIRE) * 0",
        "gru float32 gluon-grid barrier T=3", ("wrong", "race"),
    ),
    "16 bytes that are not looked at": Source(
        "gluon/flags.py", "setp.eq.or.u32 more, one, 0xffffffff, more;", "setp.ne.u32 more, one, one;",
        "lstm float16 gluon-grid flag T=3 block_h=8 order=programs", ("wrong",),
    ),
    "16 bytes stored in two": Source(
        "gluon/flags.py", "st.relaxed.gpu.global.b128 [$2], q; mov.b32 $0, 0; }\"\n    )\n\n\n@gluon.jit\ndef firsts",
        "st.relaxed.gpu.global.v2.b64 [$2], {low, high}; mov.b32 $0, 0; }\"\n    )\n\n\n@gluon.jit\ndef firsts",
        "lstm float16 gluon-grid flag T=3 weak", ("wrong",),
    ),
    "slots that are not cleared": Source(
        "gluon/flags.py", "        _clear(ptrs + (old + operand * OPERAND), first)", "        pass",
        "lstm float16 gluon-grid flag T=24 block_h=8 order=programs", ("wrong",),
    ),
    "a slot cleared while it is read": Source(
        "gluon/flags.py", "old = after(slot, SLOT, SLOTS - 2 * PERIOD)", "old = slot",
        "lstm float16 gluon-grid flag T=5 block_h=8 order=programs", ("deadlock", "fault"),
    ),
    "slots used again before all see them cleared": Source(
        "plan/gluon.py", "PERIOD, SLOTS = 4, 17", "PERIOD, SLOTS = 4, 10",
        "lstm float16 gluon-grid flag T=40 block_h=8 weak order=warps", ("wrong",),
    ),
    "a NaN handed over as it is": Source(
        "gluon/flags.py", "selp.b32 w0, {nan}, w0, ones;", "", "lstm float16 gluon-grid flag T=3 inputs=nan",
        ("deadlock", "fault"),
    ),
    "16 bytes of other rows": Source(
        "gluon/flags.py", "(1, below), (2, packed), (3, below", "(2, below), (1, packed), (3, below",
        "gru bfloat16 gluon-grid flag T=3", ("wrong",),
    ),
    "units that nobody has waited for": Source(
        "launch/buffers.py", "    quarters[:, block + 1 :] = 0", "    pass",
        "lstm float16 gluon-grid flag T=2 block_h=8", ("deadlock", "fault"),
    ),
    "a reset that lets the gradient through": Source(
        "triton/backward.py", "            followed = followed & ~cut_next\n", "", "lstm float32 grid flag T=4 resets",
        ("wrong",),
    ),
}  # fmt: skip


def of_source(mutation: Source) -> list[str]:
    """What gives it away, in a copy of the project."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        for name in ("fastrnn", "ptx_machine", "tests"):
            # fastrnn/kernels is a link to the kernels: the copy is files.
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / "fastrnn" / "kernels" / mutation.file
        text = path.read_text()
        assert text.count(mutation.line) == 1, f"{mutation.line!r} is {text.count(mutation.line)} times in {path.name}"
        path.write_text(text.replace(mutation.line, mutation.to))
        command = [sys.executable, str(copy / "tests" / "compiled.py"), "signs", *mutation.case.split()]
        done = subprocess.run(command, capture_output=True, text=True, env=compiling_environment(), cwd=copy)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def outcome(name: str) -> Outcome:
    """Of a mutation; good if something gives it away."""
    start = time.perf_counter()
    if name in SOURCE:
        found = of_source(SOURCE[name])
        good, said = bool({*found} & {*SOURCE[name].signs}), f"signs {found}, of {SOURCE[name].signs}"
    else:
        found, line = of_ptx(place_of(name))
        good, said = bool(found), f"signs {found}: {line}"
    return Outcome(good, said, seconds=time.perf_counter() - start)


def case_signs(case: Case) -> list[str]:
    """What a case gives away, faults included."""
    from ptx_machine import FaultError

    scan = scan_of(case)
    try:
        return signs(scan, case, run(scan, case, patience=200))
    except FaultError as fault:
        return ["deadlock" if str(fault).startswith("deadlock") else "fault"]
