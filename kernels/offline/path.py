"""How long one step of a compiled time loop takes, instruction by instruction, and where that time goes.

A count of instructions says what a step costs where others wait for the issue slots, not how long it is: a step is a
chain, from the load of h to the store of the next. Here a warp's instructions are walked in their order, as a GPU
issues them. Each waits for the registers it reads, for its turn among the warps of its quarter of an SM, and for the
unit it runs on; a barrier waits for the last warp to come, though not for loads that are on their way. What an
instruction takes are published figures of several GPUs, rounded (Luo et al., "Dissecting the NVIDIA Hopper Architecture
through Microbenchmarking", 2024; Jia et al., "Dissecting the NVIDIA Volta GPU Architecture", 2018; throughputs: CUDA
C++ Programming Guide): estimates, to compare two kernels by. Nothing here was measured.

What is not here: loads that hit nothing, conflicts of shared memory's banks, and warps that are not in step.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

CYCLES_PER_US = 1755.0
# From telling the others to their knowing, less the fence before it: published hops of 0.56 to 0.65 us between two SMs.
# Where the data is its own flag, the load that finds it is part of that.
_TRIP, _FLAGGED_TRIP = 790, 1050
_QUARTERS = 4  # of an SM, each with an issue slot and units of its own
# Cycles from issue until a result can be read, and until the unit takes the next warp's; by the opcode's first word.
_LATENCY: dict[str, tuple[int, int]] = {
    "LDG": (262, 4), "LD": (262, 4), "ATOMG": (262, 4), "ATOM": (262, 4), "LDS": (29, 2), "LDSM": (33, 4),
    "STS": (1, 2), "STG": (1, 4), "REDG": (1, 4), "SHFL": (23, 2), "MUFU": (20, 8), "HMMA": (33, 8),
    "IMAD": (4, 2), "LDC": (30, 1), "S2R": (20, 1), "S2UR": (20, 1), "POPC": (10, 4), "F2FP": (4, 2),
}  # fmt: skip
_OTHERS = (4, 1)
_BARRIER = 30  # after the last warp has come
_FENCE = 260  # until everybody can see what was stored: a trip to L2
# Registers that a result takes, by the words of an opcode; one where none of them is named.
_WIDTHS = {"64": 2, "128": 4, "WIDE": 2, "CS2R": 2}
_OPERAND = re.compile(r"\b(U?R\d+|U?P\d+)(\.64)?")


@dataclass(frozen=True)
class Path:
    """Cycles that a step of one program takes from where it stops waiting for the others, part by part.

    Attributes:
        before: from the loop's beginning to the first poll, which the others' steps hide.
        load: until the first product has its operands. Where the data is its own flag, the first load is in the wait.
        matrix: until the last product is there; of two contractions, of the second.
        sum: until the pointwise part begins: partial sums.
        pointwise: until h, or the gradients, are stored.
        hand_over: until the others are told; where the data is its own flag, nothing.
        after: to the loop's end, which the trip to the others hides.
    """

    before: int
    load: int
    matrix: int
    sum: int
    pointwise: int
    hand_over: int
    after: int

    def us(self, trip: int) -> float:
        """Of a whole step, where telling the others takes `trip` cycles, 0 where nobody is told; microseconds."""
        alone = self.load + self.matrix + self.sum + self.pointwise + self.hand_over
        return (alone + max(trip, self.after + self.before)) / CYCLES_PER_US


@dataclass(frozen=True)
class _Instruction:
    words: tuple[str, ...]
    writes: tuple[str, ...]
    reads: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.words[0]


def _registers(name: str, count: int) -> list[str]:
    kind, first = re.match(r"(U?[RP])(\d+)", name).groups()  # type: ignore[union-attr]  # `_OPERAND` matched it
    return [f"{kind}{int(first) + i}" for i in range(count)]


def _count(words: Sequence[str]) -> int:
    """How many registers a result has."""
    if words[0] == "HMMA":
        return 4 if "F32" in words else 2
    if words[0] == "LDSM":
        return int(words[-1]) if words[-1].isdigit() else 1
    return max((_WIDTHS.get(word, 1) for word in words), default=1)


def _parsed(text: str) -> _Instruction:
    guard, body = "", text.strip()
    if body.startswith("@"):
        guard, _, body = body.partition(" ")
    opcode, _, rest = body.partition(" ")
    words = tuple(opcode.split("."))
    operands = [part.strip() for part in rest.split(",")] if rest else []
    stores = words[0] in ("STS", "STG", "REDG", "BRA", "BAR", "BSSY", "BSYNC")
    compares = words[0].endswith("SETP")  # writes predicates alone
    writes: list[str] = []
    if not stores:
        while operands and re.fullmatch(r"U?P\d+|U?PT", operands[0]):  # predicates come before the result, or alone
            writes += [operands[0]] if operands[0][-1] != "T" else []
            operands.pop(0)
        if not compares and operands and re.fullmatch(r"U?R\d+", operands[0]):
            writes += _registers(operands.pop(0), _count(words))
    reads = [guard.lstrip("@!")] if guard else []
    for place, operand in enumerate(operands):
        for name, pair in _OPERAND.findall(operand):
            wide = {0: 4, 1: 2, 2: 4}.get(place, 1) if words[0] == "HMMA" else 2 if pair else 1
            if stores and place == 1:
                wide = max(wide, _count(words))
            reads += _registers(name, wide)
    return _Instruction(words, tuple(writes), tuple(reads))


class _Walk:
    """The time at which each instruction was issued, and its result there."""

    def __init__(self, warps: int) -> None:
        self.turns = max(1, warps // _QUARTERS)
        self.now, self.ready, self.free = 0, dict[str, int](), dict[str, int]()
        self.stored = 0  # when the last store to memory was issued

    def step(self, one: _Instruction) -> tuple[int, int]:
        """Issue it; when it was issued, and when its result is there."""
        start = max([self.now, *(self.ready.get(name, 0) for name in one.reads)])
        # The next warp's of the same kind come at once: the last of them is the one that a barrier waits for.
        latency, busy = _LATENCY.get(one.name, _OTHERS)
        start = max(start, self.free.get(one.name, 0))
        if one.name == "BAR":
            start += _BARRIER
        elif one.name == "MEMBAR":
            start = max(start, self.stored) + _FENCE
        elif one.name in ("STG", "REDG"):
            self.stored = start
        self.now = start + self.turns
        self.free[one.name] = start + busy * self.turns
        done = start + latency + (busy - 1) * (self.turns - 1)
        for name in one.writes:
            self.ready[name] = done
        return start, done


def _jump(text: str) -> int:
    """How many instructions on, or back, a jump leads; 0 of what is none."""
    found = re.search(r"\bBRA ([+-]\d+)", text)
    return int(found[1]) if found is not None else 0


def _wait(loop: Sequence[str]) -> tuple[int, int]:
    """The places of the first poll and of what comes after the last one, jump back and the trap that bounds it, before
    the first product; 0 and 0 where nobody waits."""
    product = next((place for place, text in enumerate(loop) if re.search(r"\b(HMMA|HGMMA|FFMA)\b", text)), len(loop))
    back = [place for place in range(product) if _jump(loop[place]) < 0]
    if not back:
        return 0, 0
    traps = [place for place in range(product) if "BPT" in loop[place]]
    return back[0] + _jump(loop[back[0]]), max(back[-1], *traps, 0) + 1


def _passed_over(loop: Sequence[str]) -> set[int]:
    """The places that most warps of most steps jump over: polling again, and upkeep with a fence."""
    found: set[int] = set()
    for place, text in enumerate(loop):
        over = range(place + 1, place + _jump(text))
        if text.startswith("@") and any(_jump(loop[p]) < 0 or "MEMBAR" in loop[p] for p in over if p < len(loop) - 1):
            found |= {*over}
    return found


def critical_path(loop: Sequence[str], warps: int, flag: bool) -> Path:
    """The path through one step of `loop`, the SASS of a time loop in order, by a program of `warps` warps.

    Args:
        loop: instructions, jumps by how many of them; loops within it are walked once.
        warps: of the program.
        flag: whether the data is its own flag: there is then no telling besides.
    """
    parsed = [_parsed(text) for text in loop]
    poll, wait = _wait(loop)
    passed_over = _passed_over(loop) if flag else set()
    walk = _Walk(warps)
    times = [(walk.now, walk.now) if place in passed_over else walk.step(one) for place, one in enumerate(parsed)]
    before, begin = (times[poll][0], times[wait - 1][0]) if wait else (0, 0)

    def places(*names: str) -> list[int]:
        return [place for place, one in enumerate(parsed) if one.name in names and place >= wait]

    products = places("HMMA", "HGMMA", "FFMA")[:1] + places("HMMA", "HGMMA")
    first, last = products[0], products[-1]
    stored = next((place for place in places("STG") if place > last), len(parsed) - 1)
    pointwise = next((p for p in places("MUFU", "FMUL") if last < p < stored), last)
    told = next((place for place in places("REDG", "ATOMG") if place > stored), stored)
    if flag:
        told = stored
    marks = [begin, times[first][0], times[last][1], times[pointwise][0], times[stored][0], times[told][0]]
    for place in range(1, len(marks)):
        marks[place] = max(marks[place], marks[place - 1])
    load, matrix, summed, step, hand_over = (later - earlier for earlier, later in itertools.pairwise(marks))
    return Path(before, load, matrix, summed, step, hand_over, max(0, times[-1][0] - marks[-1]))


def path_row(loop: Sequence[str], warps: int, exchange: str, waits: int) -> dict[str, float]:
    """`critical_path` in numbers: cycles of each part, and `path_us` of a step with `waits` trips to the others; empty
    where there is no matrix instruction in the loop."""
    if not any("HMMA" in text for text in loop):
        return {}
    path = critical_path(loop, warps, exchange == "flag")
    trip = {"none": 0, "barrier": _TRIP, "flag": _FLAGGED_TRIP}[exchange]
    return {**dataclasses.asdict(path), "path_us": round(path.us(trip) + (waits - 1) * trip / CYCLES_PER_US, 3)}
