"""The benchmark's rows as data: what a row is, the quick sets, and how rows are named on the command line.

Plain Python: neither torch nor Triton is needed to list rows.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastrnn.bench.rows.cells import counts_of
from fastrnn.kernels.counts import COUNTS

CELLS: tuple[str, ...] = tuple(COUNTS)
MODES: tuple[str, ...] = ("forward", "train")
DTYPES: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64")
LENGTHS: tuple[str, ...] = ("full", "uniform", "zipf")


@dataclass(frozen=True)
class Shape:
    """Time steps, batch rows, input features, hidden units; layers."""

    T: int
    B: int
    I: int  # noqa: E741  # the field's name for it
    H: int
    layers: int = 1

    def __str__(self) -> str:
        """As the command line takes it."""
        sizes = (self.T, self.B, self.I, self.H, *((self.layers,) if self.layers > 1 else ()))
        return ",".join(map(str, sizes))


@dataclass(frozen=True)
class Case:
    """What one row measures: a layer, and what is done with it.

    Attributes:
        cell: its name, as `rows.cells` has it.
        mode: `"forward"` (inference) or `"train"` (forward and backward).
        dtype: torch's name of it.
        T, B, I, H, layers: sizes.
        bidirectional: whether the layers run in both directions.
        lengths: `"full"` (no `lengths` argument), `"uniform"` (each row anything from 1 to T) or `"zipf"` (one row of
            T, one of T / 2, of T / 3, ... in any order: few long ones).
        reset_rate: the share of steps at which a row starts afresh; 0 is no `resets` argument.
        return_cells: whether every c_t is returned, and gets a gradient.
    """

    cell: str
    mode: str
    dtype: str
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    layers: int = 1
    bidirectional: bool = False
    lengths: str = "full"
    reset_rate: float = 0.0
    return_cells: bool = False

    def __post_init__(self) -> None:
        if not self.return_cells:
            return
        if counts_of(self.cell).states < 2:
            raise ValueError(f"a {self.cell} has no cells to return; lstm has")
        if counts_of(self.cell).states > 2:
            raise ValueError(f"a {self.cell} has cells of several kinds; rows have one kind, as lstm has")

    @property
    def train(self) -> bool:
        return self.mode == "train"

    def purpose(self) -> str:
        return "training" if self.train else "inference"

    def extras(self) -> str:
        """What is asked beyond torch.nn's arguments, in words; empty for nothing."""
        words = [self.lengths] if self.lengths != "full" else []
        words += [f"resets {self.reset_rate}"] if self.reset_rate else []
        words += ["cells"] if self.return_cells else []
        return ", ".join(words)

    def details(self) -> list[str]:
        """What is not so of every case, in words."""
        words = [f"{self.layers} layers"] if self.layers > 1 else []
        words += ["both directions"] if self.bidirectional else []
        return words + ([self.extras()] if self.extras() else [])


def parse_shape(text: str) -> Shape:
    """`"T,B,I,H"` or `"T,B,I,H,layers"`; for argparse."""
    parts = text.split(",")
    if len(parts) not in (4, 5) or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected T,B,I,H or T,B,I,H,layers, each at least 1, got {text!r}")
    return Shape(*map(int, parts))


def parse_rate(text: str) -> float:
    """A share, 0 to 1; for argparse."""
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return rate


def product(
    cells: Iterable[str],
    modes: Iterable[str],
    dtypes: Iterable[str],
    shapes: Iterable[Shape],
    bidirectional: bool = False,
    **extras: Any,
) -> list[Case]:
    """Every combination, once; `extras` as `Case` has them."""
    rows = itertools.product(shapes, dtypes, cells, modes)
    return list(
        dict.fromkeys(Case(c, m, d, s.T, s.B, s.I, s.H, s.layers, bidirectional, **extras) for s, d, c, m in rows)
    )


# Dtype and size taken where options choose rows but not these: without a GPU, and with one.
DEFAULTS = ("float32", Shape(100, 8, 128, 128)), ("bfloat16", Shape(512, 16, 512, 512))


def quick(cuda: bool) -> list[Case]:
    """The quick set, for a machine with or without a GPU."""
    return _quick_gpu() if cuda else _quick_cpu()


def _extras(shape: Shape, small: Shape, dtype: str) -> list[Case]:
    """What torch.nn's layers lack, a row or two each. Against a Python loop, `small` keeps the wait short."""
    return [
        *product(["lstm", "gru"], ["train"], [dtype], [shape], lengths="uniform"),
        *product(["lstm"], ["train"], [dtype], [shape], lengths="zipf"),
        *product(["lstm"], ["train"], [dtype], [small], reset_rate=0.01),
        *product(["lstm"], ["train"], [dtype], [small], return_cells=True),
        *product(["gru_textbook"], MODES, [dtype], [small]),
    ]


def _quick_gpu() -> list[Case]:
    """33 rows; the first run also compiles their kernels, seconds for each."""
    small, middle, large, largest = (Shape(512, 16, n, n) for n in (256, 512, 768, 1024))
    wide_batch = Shape(512, 64, 512, 512)
    return [
        *product(["lstm"], MODES, ["bfloat16"], [small, middle, large, largest, wide_batch]),
        # The peer's best case: cuDNN has a persistent kernel for these.
        *product(["lstm"], MODES, ["float16"], [middle, large, largest]),
        *product(["gru"], MODES, ["bfloat16"], [middle, largest]),
        *product(["gru"], MODES, ["float16"], [large]),
        *product(["lstm"], ["train"], ["bfloat16"], [Shape(512, 16, 512, 512, 2)], bidirectional=True),
        *product(["lstm"], ["train"], ["bfloat16"], [Shape(512, 16, 128, 128)]),
        *product(["rnn_tanh"], ["train"], ["bfloat16"], [middle]),
        *product(["lstm"], ["train"], ["float32"], [middle]),
        *_extras(Shape(512, 32, 512, 512), Shape(128, 16, 512, 512), "bfloat16"),
    ]


def _quick_cpu() -> list[Case]:
    """17 rows, about a minute on two cores."""
    return [
        *product(["lstm", "gru", "rnn_tanh"], MODES, ["float32"], [Shape(100, 8, 128, 128)]),
        *product(["lstm"], MODES, ["float32"], [Shape(50, 32, 256, 256)]),
        *product(["lstm", "gru"], ["train"], ["float32"], [Shape(50, 8, 64, 64, 2)], bidirectional=True),
        *_extras(Shape(100, 32, 128, 128), Shape(100, 8, 128, 128), "float32"),
    ]


def covering(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Few combinations in which every two values of different axes meet; the same ones at each call."""
    combinations = list(itertools.product(*axes))

    def meetings(combination: tuple[Any, ...]) -> set[tuple[Any, ...]]:
        return set(itertools.combinations(enumerate(combination), 2))

    missing = set().union(*map(meetings, combinations))
    found = []
    while missing:
        found.append(max(combinations, key=lambda combination: len(meetings(combination) & missing)))
        missing -= meetings(found[-1])
    return found


# Time steps for so many rows: with 512 units an LSTM's gates are more than 2^31 numbers at the end, and memory stays
# far below 80 GB, the check's and torch's included.
_MANY_ROWS = {256: 256, 1024: 128, 4096: 64, 16384: 32, 65536: 20}


def _many_rows() -> list[Case]:
    """Where a step is work rather than a wait."""

    def shapes(*hidden: int) -> list[Shape]:
        return [Shape(T, B, n, n) for B, T in _MANY_ROWS.items() for n in hidden]

    return [
        *product(["lstm"], ["train"], ["bfloat16"], shapes(64, 128, 192, 256, 512)),
        *product(["gru"], ["train"], ["bfloat16"], shapes(128, 512)),
        *product(["lstm"], ["forward"], ["bfloat16"], shapes(256)),
        *product(["lstm"], ["train"], ["float32"], shapes(256)),
    ]


def full() -> list[Case]:
    """All that is reported of a GPU. Large layers get short sequences: the whole is to take less than 20 minutes."""
    widths = [256, 512, 768, 1024]
    against_best = [Shape(512, B, n, n) for n in widths for B in (8, 16, 32, 64, 128)]
    mixed = [
        case
        for cell, dtype, n, layers, bidirectional, B in covering(
            ["lstm", "gru"], ["bfloat16", "float32"], widths, [1, 2, 3, 4], [False, True], [1, 16, 64, 128, 256]
        )
        for case in product([cell], ["train"], [dtype], [Shape(256, B, n, n, layers)], bidirectional)
    ]
    steps = [Shape(1, B, 512, 512) for B in (1, 16, 64)]
    odd = [Shape(512, B, n, n) for n in (64, 128, 192) for B in (16, 64)]
    odd += [Shape(256, B, n, n) for n in (1536, 2048) for B in (16, 64)]
    rows = [
        *product(["lstm"], ["train"], ["float16"], against_best),
        *product(["lstm"], ["forward"], ["float16", "bfloat16"], [Shape(512, 16, n, n) for n in widths]),
        *mixed,
        *product(["lstm", "gru"], ["train"], ["bfloat16"], odd),
        *product(["lstm", "gru", "rnn_tanh"], ["train"], ["bfloat16"], [Shape(512, 32, 512, 512)], lengths="uniform"),
        *_extras(Shape(512, 64, 512, 512), Shape(128, 16, 512, 512), "bfloat16"),
        *product(["lstm", "gru"], ["forward"], ["bfloat16"], steps),
        *_many_rows(),
    ]
    return list(dict.fromkeys(rows))
