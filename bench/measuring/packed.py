"""`packed`: training on rows of unequal length on a CPU, where torch's packed layer and fastrnn's scan compete.

Times both and what fastrnn chooses between them, in turn and in one process, over a grid of sizes; and fits the
constants of the model that chooses (`fastrnn/backends/packed_cost.py`) to such rows. Times are processor time of one
thread, which other programs of the machine disturb less than the clock.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn.backends import packed_cost
from fastrnn.bench.rows import journal
from fastrnn.bench.rows.errors import BenchError
from fastrnn.bench.showing.table import columns, emit, heading, line

CELLS = ("LSTM", "GRU", "RNN")
TIMES, BATCHES, HIDDEN = (4, 10, 25, 60, 150, 400), (4, 16, 64), (32, 96, 256)
_MADE, _ENOUGH = 12, 4.0  # times that the layers are made anew, unless it took so many seconds; and each time
_LEAST, _SECONDS, _MOST_SECONDS = 3, 0.05, 0.8  # calls of each, unless that takes too long, and for how long at least
COLUMNS = columns("cell<4 | dirs>4 | H>4 | B>3 | T>4 | as<8 | torch.nn us>11 | scan us>9 | fastrnn us>10 | ratio>5")


def _calls(cell: str, directions: int, hidden: int, lengths: torch.Tensor, packed: bool) -> list[Callable[[], None]]:
    """Forward and backward: torch.nn's, what fastrnn chooses, and fastrnn's scan."""
    theirs, ours = (getattr(of, cell)(hidden, hidden, bidirectional=directions == 2) for of in (torch.nn, fastrnn))
    steps = int(lengths.max())
    x = torch.randn(steps, len(lengths), hidden, requires_grad=True)

    def through_packing(layer: Any) -> None:
        output, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        (output.data if packed else pad_packed_sequence(output, total_length=steps)[0]).sum().backward()

    def chosen() -> None:
        if packed:
            through_packing(ours)
        else:
            ours(x, lengths=lengths)[0].sum().backward()

    def scan() -> None:
        with mock.patch.object(packed_cost, "MARGIN", 0.0):
            chosen()

    return [lambda: through_packing(theirs), chosen, scan]


def _in_turn(make: Callable[[], Sequence[Callable[[], None]]]) -> list[float]:
    """Median microseconds of the calls that `make` gives, the first of which comes before each of the others: it leaves
    them the caches, and the allocator its memory, as they are found in a program that does more than this.

    They are made anew several times, unless that takes too long: where a layer's tensors happen to lie in memory
    changes its time for as long as it lives.
    """
    samples: list[list[float]] = []
    start = time.monotonic()
    for made in range(_MADE):
        if made and time.monotonic() - start > _ENOUGH:
            break
        first, *others = make()
        samples = samples or [[] for _ in range(1 + len(others))]
        turn = [place for i in range(len(others)) for place in ((first, samples[0]), (others[i], samples[1 + i]))]
        for call in (first, *others):
            call()
        begin, before = time.monotonic(), len(samples[1])
        while (
            (count := len(samples[1]) - before) == 0
            or (elapsed := time.monotonic() - begin) < _SECONDS
            or (count < _LEAST and elapsed < _MOST_SECONDS)
        ):
            for call, own in turn:
                started = time.process_time()
                call()
                own.append(time.process_time() - started)
    return [1e6 * statistics.median(own) for own in samples]


def measure(times: Sequence[int], batches: Sequence[int], hidden: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for each size: the lengths are anything from 1 to T, one of them T."""
    torch.set_num_threads(1)
    for cell, directions, H, B, T in itertools.product(CELLS, (1, 2), hidden, batches, times):
        generator = torch.Generator().manual_seed(B * T)
        lengths = torch.randint(1, T + 1, (B,), generator=generator)
        lengths[B // 2] = T
        packed = len(cell) % 2 == directions % 2  # half of the rows each
        torchs, chosen, scan = _in_turn(functools.partial(_calls, cell, directions, H, lengths, packed))
        yield {
            "cell": cell, "directions": directions, "H": H, "B": B, "T": T, "rows": int(lengths.sum()),
            "as": "packed" if packed else "lengths", "torch_us": torchs, "scan_us": scan, "fastrnn_us": chosen,
            "torch": torch.__version__,
        }  # fmt: skip


def fitted(rows: Sequence[dict[str, Any]], key: str, quadratic: bool) -> packed_cost.Cost:
    """The constants, none negative, that come closest to the rows' times by their ratios."""
    names = [n for n in packed_cost.Cost._fields if quadratic or n != "quadratic"]
    units = [packed_cost.Cost(*(float(n == name) for n in packed_cost.Cost._fields)) for name in names]
    sizes = [(r["T"], r["B"], r["rows"], r["H"], r["directions"]) for r in rows]
    matrix = np.array([[unit.time(*size) for unit in units] for size in sizes])
    matrix /= np.array([[r[key]] for r in rows])
    free = list(range(len(names)))
    while True:
        found, *_ = np.linalg.lstsq(matrix[:, free], np.ones(len(rows)), rcond=None)
        if (found >= 0).all():
            break
        free.pop(int(found.argmin()))
    constants = {names[i]: float(value) for i, value in zip(free, found, strict=True)}
    return packed_cost.Cost(**dict.fromkeys(packed_cost.Cost._fields, 0.0) | constants)


def fit(paths: Sequence[str]) -> int:
    """Print the constants that the rows of some files give."""
    rows = [json.loads(text) for path in paths for text in Path(path).read_text().splitlines()]
    for key, quadratic in (("torch_us", True), ("scan_us", False)):
        for cell in CELLS:
            own = [r for r in rows if r["cell"] == cell]
            if not own:
                raise BenchError(f"no row of {cell} in {', '.join(paths)}")
            cost = fitted(own, key, quadratic)
            emit(f"{key} {cell}: {', '.join(f'{name}={value:.3g}' for name, value in cost._asdict().items())}")
    return 0


def report(times: Sequence[int], batches: Sequence[int], hidden: Sequence[int], json_path: str | None) -> int:
    """Measure, print and record; 1 if fastrnn took more than 1 / 0.95 of torch.nn's time anywhere, else 0."""
    emit(heading(COLUMNS))
    worst = math.inf
    for row in measure(times, batches, hidden):
        ratio = row["torch_us"] / row["fastrnn_us"]
        worst = min(worst, ratio)
        if json_path is not None:
            journal.append(json_path, row)
        numbers = [f"{row[key]:.0f}" for key in ("torch_us", "scan_us", "fastrnn_us")]
        sizes = [row[key] for key in ("cell", "directions", "H", "B", "T", "as")]
        emit(line(COLUMNS, [*sizes, *numbers, f"{ratio:.2f}"]))
    emit("")
    emit(f"fastrnn took at most {1 / worst:.2f} times as long as torch.nn.")
    return 0 if worst >= 0.95 else 1
