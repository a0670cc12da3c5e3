"""The benchmark's rows as data: what a row is, the quick sets, and how rows are named on the command line.

Plain Python: neither torch nor Triton is needed to list rows.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from fastrnn.kernels.counts import COUNTS

CELLS: tuple[str, ...] = tuple(COUNTS)
MODES: tuple[str, ...] = ("forward", "train")
DTYPES: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Shape:
    """Time steps, batch rows, input features, hidden units; layers."""

    T: int
    B: int
    I: int  # noqa: E741  # the field's name for it
    H: int
    layers: int = 1


@dataclass(frozen=True)
class Case:
    """What one row measures: a layer, and what is done with it.

    Attributes:
        cell: key of `fastrnn.cells.CELLS`.
        mode: `"forward"` (inference) or `"train"` (forward and backward).
        dtype: torch's name of it.
        T, B, I, H, layers: sizes.
        bidirectional: whether the layers run in both directions.
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

    @property
    def train(self) -> bool:
        return self.mode == "train"


def parse_shape(text: str) -> Shape:
    """`"T,B,I,H"` or `"T,B,I,H,layers"`; for argparse."""
    parts = text.split(",")
    if len(parts) not in (4, 5) or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected T,B,I,H or T,B,I,H,layers, each at least 1, got {text!r}")
    return Shape(*map(int, parts))


def product(
    cells: Iterable[str], modes: Iterable[str], dtypes: Iterable[str], shapes: Iterable[Shape], bidirectional: bool
) -> list[Case]:
    """Every combination, once."""
    rows = itertools.product(shapes, dtypes, cells, modes)
    return list(dict.fromkeys(Case(c, m, d, s.T, s.B, s.I, s.H, s.layers, bidirectional) for s, d, c, m in rows))


def default_shape(cuda: bool) -> Shape:
    """The size taken where options choose rows but none chooses a size."""
    return Shape(512, 16, 512, 512) if cuda else Shape(100, 8, 128, 128)


def default_dtype(cuda: bool) -> str:
    return "bfloat16" if cuda else "float32"


def quick(cuda: bool) -> list[Case]:
    """The quick set, for a machine with or without a GPU."""
    return _quick_gpu() if cuda else _quick_cpu()


def _quick_gpu() -> list[Case]:
    """26 rows; the first run also compiles their kernels, seconds for each."""
    small, middle, large, largest = (Shape(512, 16, n, n) for n in (256, 512, 768, 1024))
    wide_batch = Shape(512, 64, 512, 512)
    return [
        *product(["lstm"], MODES, ["bfloat16"], [small, middle, large, largest, wide_batch], False),
        # The peer's best case: cuDNN has a persistent kernel for these.
        *product(["lstm"], MODES, ["float16"], [middle, large, largest], False),
        *product(["gru"], MODES, ["bfloat16"], [middle, largest], False),
        *product(["gru"], MODES, ["float16"], [large], False),
        *product(["lstm"], ["train"], ["bfloat16"], [Shape(512, 16, 512, 512, 2)], True),
        *product(["lstm"], ["train"], ["bfloat16"], [Shape(512, 16, 128, 128)], False),
        *product(["rnn_tanh"], ["train"], ["bfloat16"], [middle], False),
        *product(["lstm"], ["train"], ["float32"], [middle], False),
    ]


def _quick_cpu() -> list[Case]:
    """10 rows, under half a minute on two cores."""
    return [
        *product(["lstm", "gru", "rnn_tanh"], MODES, ["float32"], [Shape(100, 8, 128, 128)], False),
        *product(["lstm"], MODES, ["float32"], [Shape(50, 32, 256, 256)], False),
        *product(["lstm", "gru"], ["train"], ["float32"], [Shape(50, 8, 64, 64, 2)], True),
    ]
