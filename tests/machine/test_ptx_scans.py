"""Every kernel as compiled: each cell, dtype, tier, schedule, exchange, mask and direction, forward and backward.

Results are compared with float64 by the tables of `support`; what kernels allocate is poisoned, and counts as written
by nobody; nothing may race. The fast cases have each pair of values at least once, the slow ones all that are launched.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from compiled import Case, Worker

pytest.importorskip("triton")

from fastrnn.cells import CATALOGUE

MODES = (
    ("solo", "persistent", "none"),
    ("solo", "stepwise", "none"),
    ("grid", "persistent", "flag"),
    ("grid", "persistent", "barrier"),
    ("streamed", "persistent", "flag"),
    ("streamed", "persistent", "barrier"),
    ("streamed", "stepwise", "none"),
    ("warpgroups", "persistent", "flag"),  # streamed too, 64 rows
)
PRECISIONS = (("float16", False), ("bfloat16", False), ("float32", False), ("float32", True))
# The values of each parameter that a case is made of, in `_case`'s order.
VALUES: tuple[tuple[Any, ...], ...] = (
    ("lstm", "gru", "gru_textbook", "rnn_tanh", "rnn_relu"),
    PRECISIONS,
    MODES,
    (1, 2),  # directions
    ((False, False), (True, False), (False, True), (True, True)),  # lengths, resets
    ((3, 5, 40), (2, 17, 24), (2, 3, 37), (1, 1, 1)),  # T, B, H
    ("grid", "programs", "warps"),  # order
    (False, True),  # weak
    (90, 80),  # cc
)


def _launched(values: tuple[Any, ...]) -> bool:
    """Whether there is such a launch: see `plan/limits.py`. Going warp by warp takes long where there is much to do."""
    cell, (dtype, ieee), (tier, _, _), directions, _, (T, B, H), order, _, cc = values
    if ieee and (tier == "grid" or (tier == "solo" and (16 if cell == "lstm" else 32) < H)):
        return False
    if tier == "warpgroups" and (dtype == "float32" or cc != 90 or order == "warps"):
        return False
    return directions * T * B * H <= {"grid": sys.maxsize, "programs": 444, "warps": 222}[order]


def _case(values: tuple[Any, ...]) -> Case:
    cell, (dtype, ieee), (tier, schedule, exchange), D, (lengths, resets), (T, B, H), order, weak, cc = values
    case = Case(cell, dtype, tier, schedule, exchange, T, B, H, D, ieee, lengths, resets, order=order, weak=weak, cc=cc)
    if tier == "warpgroups":
        case = replace(case, tier="streamed", block_b=64, block_k=256, warps=8)
    return replace(case, seed=T + D)


def _pairs(values: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    return {(i, a, j, b) for (i, a), (j, b) in itertools.combinations(enumerate(values), 2)}


def _every_pair() -> Iterator[Case]:
    """Few cases that have every pair of values that a launch has, drawn with a fixed seed."""
    rng = random.Random(0)
    drawn = [tuple(rng.choice(of) for of in VALUES) for _ in range(20000)]
    launched = [(values, _pairs(values)) for values in drawn if _launched(values)]
    left = set().union(*(pairs for _, pairs in launched))
    while left:
        values, pairs = max(launched[rng.randrange(100) :: 100], key=lambda drawn: len(drawn[1] & left))
        if pairs & left:
            left -= pairs
            yield _case(values)


PAIRS = tuple(_every_pair())
SOLO, GRID, STREAMED, STEPWISE = MODES[0], MODES[2], MODES[5], MODES[6]


def _at(mode: tuple[str, str, str], **values: Any) -> Case:
    return Case(tier=mode[0], schedule=mode[1], exchange=mode[2], **values)


# Odd addresses, NaN, tiles that end early, waves, chunks fetched in groups.
CORNERS = (
    _at(GRID, cell="lstm", dtype="float32", inputs="nan"),
    _at(GRID, cell="gru_textbook", dtype="bfloat16", inputs="nan", order="programs"),
    _at(GRID, cell="gru", dtype="float16", inputs="nan"),
    _at(MODES[3], cell="lstm", dtype="bfloat16", inputs="shifted", T=2),
    _at(GRID, cell="gru_textbook", dtype="float32", inputs="shifted", resets=True, T=2),
    _at(STREAMED, cell="lstm", dtype="bfloat16", T=2, B=35, H=24, D=2, batch_tiles=2),
    _at(GRID, cell="lstm", inputs="short", T=5, B=17, H=24, D=2, resets=True),
    _at(SOLO, cell="gru_textbook", inputs="empty", T=5, B=17, H=24, D=2),
    _at(STREAMED, cell="lstm", inputs="ended", T=3, B=17, H=24, D=2),
    _at(GRID, cell="lstm", T=2, H=136, block_k=128, block_h=8, group=2, warps=8),
    _at(MODES[3], cell="gru", T=2, H=136, block_k=128, block_h=8, warps=8),
    # What would be chosen: under Triton 3.9 another launch of this ends the compiler.
    Case("lstm", "float32", T=2, H=32, ieee=True, chosen=True),
)

# Heads, and blocks of one unit: by each schedule, with and without an inner gate.
HEADS = (
    _at(SOLO, cell="lstm", H=40, heads=2, D=2, lengths=True, resets=True),
    _at(GRID, cell="gru_textbook", dtype="bfloat16", H=48, heads=2, order="programs"),
    _at(MODES[3], cell="gru", H=40, heads=2, D=2, B=3, lengths=True, weak=True),
    _at(STEPWISE, cell="lstm", dtype="float32", H=45, heads=3, T=2),
    Case(tier="diagonal", cell="lstm", H=40, heads=40, D=2, lengths=True, resets=True, weak=True),
    Case(tier="diagonal", cell="gru_textbook", dtype="bfloat16", H=37, heads=37, B=6, order="warps", T=2),
    Case(tier="diagonal", cell="gru", dtype="float32", schedule="stepwise", H=33, heads=33, resets=True),
)


# Each cell of the catalogue, with its vectors and constants: all modes, both directions, masks.
DERIVED = (
    _at(GRID, cell="peephole_lstm", dtype="bfloat16", B=3, H=24, D=2, lengths=True, resets=True, weak=True),
    _at(SOLO, cell="cifg", B=3, H=21, D=2, lengths=True, resets=True, order="warps", T=2),
    _at(MODES[3], cell="mgu", dtype="bfloat16", B=3, H=24, resets=True, weak=True),
    _at(MODES[4], cell="ligru", B=3, H=24, D=2, lengths=True),
    _at(STEPWISE, cell="cfc", dtype="float32", B=3, H=19, D=2, lengths=True, resets=True),
    _at(GRID, cell="janet", dtype="float32", B=3, H=24, resets=True, order="programs"),
    Case(tier="diagonal", cell="indrnn", dtype="bfloat16", H=37, heads=37, D=2, lengths=True, resets=True),
    _at(MODES[3], cell="slstm", dtype="float32", B=3, H=24, lengths=True, resets=True, weak=True),
    _at(GRID, cell="slstm", dtype="bfloat16", T=2, B=3, H=24, D=2, resets=True),
    _at(SOLO, cell="lstm_decay", dtype="bfloat16", B=3, H=24, D=2, lengths=True, resets=True),
    _at(STREAMED, cell="nas", dtype="bfloat16", T=2, B=3, H=24, D=2, lengths=True, resets=True),
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def _check(case: Case, worker: Worker) -> None:
    outcome = worker.outcome(case)
    assert outcome.good, outcome.said
    assert outcome.instructions > 0


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.name)
def test_each_pair(case: Case, worker: Worker) -> None:
    _check(case, worker)


@pytest.mark.parametrize("case", CORNERS, ids=lambda case: case.name)
def test_corners(case: Case, worker: Worker) -> None:
    _check(case, worker)


@pytest.mark.parametrize("case", HEADS, ids=lambda case: case.name)
def test_heads(case: Case, worker: Worker) -> None:
    _check(case, worker)


@pytest.mark.parametrize("case", DERIVED, ids=lambda case: case.name)
def test_the_catalogue(case: Case, worker: Worker) -> None:
    _check(case, worker)


def test_the_catalogue_is_all_there() -> None:
    assert {case.cell for case in DERIVED} == set(CATALOGUE)


def test_every_value_is_tried() -> None:
    assert len(PAIRS) < 70
    assert {(case.cell, case.dtype, case.ieee) for case in PAIRS} == {(c, *p) for c in VALUES[0] for p in PRECISIONS}
    assert {(case.tier, case.schedule, case.exchange, case.cc) for case in PAIRS} == {
        (tier.replace("warpgroups", "streamed"), schedule, exchange, cc)
        for (tier, schedule, exchange), cc in itertools.product(MODES, VALUES[8])
    }


def _all() -> Iterator[Case]:
    """All cells, dtypes and modes, plain and with all there is; some in turns of their own, some in weak memory."""
    plain, full = ((3, 5, 40), 1, False), ((4, 17, 40), 2, True)
    for n, (cell, (dtype, ieee), mode, (sizes, D, masks)) in enumerate(
        itertools.product(VALUES[0], PRECISIONS, MODES, (plain, full))
    ):
        values = (cell, (dtype, ieee), mode, D, (masks, masks), sizes, ("grid", "programs")[n % 2], n % 3 == 0, 90)
        if _launched((*values[:6], "grid", False, 90)):
            yield _case(values)


def _catalogue() -> Iterator[Case]:
    """Every cell of the catalogue in every mode, dtypes, directions and masks in turn, some in weak memory."""
    for n, (cell, mode) in enumerate(itertools.product(CATALOGUE, MODES)):
        precision = PRECISIONS[:2][n % 2] if mode[0] == "warpgroups" else PRECISIONS[(n + n // 8) % 3]
        masks, sizes = ((True, False), (False, True), (True, True))[n % 3], ((3, 5, 40), (4, 3, 37))[n % 2]
        yield _case((cell, precision, mode, 1 + n // 8 % 2, masks, sizes, "grid", n % 3 == 0, 90))


@pytest.mark.slow
@pytest.mark.parametrize("case", list(_catalogue()), ids=lambda case: case.name)
def test_everything_of_the_catalogue(case: Case, worker: Worker) -> None:
    _check(case, worker)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(_all()), ids=lambda case: case.name)
def test_everything(case: Case, worker: Worker) -> None:
    _check(case, worker)


# What `choose` chooses at sizes of real use.
REAL = tuple(
    Case(cell, dtype, exchange=exchange, T=2, B=B, H=H, D=D, chosen=True)
    for cell, dtype, B, H, D, exchange in (
        ("lstm", "float16", 16, 256, 2, "flag"),
        ("gru", "bfloat16", 16, 256, 1, "barrier"),
        ("lstm", "float16", 16, 768, 1, "flag"),
        ("gru_textbook", "bfloat16", 16, 512, 1, "flag"),
        ("lstm", "float32", 16, 512, 1, "flag"),
        ("gru", "float16", 64, 768, 1, "none"),
        ("rnn_tanh", "float32", 33, 512, 2, "barrier"),
        ("gru_textbook", "float16", 64, 640, 1, "none"),
        ("lstm", "float16", 64, 1024, 1, "none"),
        ("rnn_relu", "bfloat16", 64, 2048, 1, "none"),
    )
)


@pytest.mark.slow
@pytest.mark.parametrize("case", REAL, ids=lambda case: case.name)
def test_launches_of_real_size(case: Case, worker: Worker) -> None:
    _check(case, worker)
