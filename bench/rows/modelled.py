"""Rows of what the models say: what one is, and the sets of cases that are asked about. Nothing of it is measured."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrnn.bench.rows import journal
from fastrnn.bench.rows.cases import MODES, Case
from fastrnn.bench.rows.errors import BenchError

# float32 is as torch's own switch has it, TF32; this is with exact products.
EXACT = "float32-ieee"
DTYPES = ("float16", "bfloat16", "float32", EXACT)
_T = 128  # which times are in proportion to


@dataclass(frozen=True)
class Modelled:
    """What the models give for one case.

    Attributes:
        cell, dtype, T, B, I, H, layers, directions, mode: the case's; `I` has no part in it, being of the products
            over all steps, which are the same for everybody.
        ours_us, torch_us: the scans of a whole call, of all T steps and layers: by our kernels, and by torch's at
            their best; None where there are none.
        limit_us: what such a scan takes at the least, by memory's rate and the matrix units'.
        chosen: the backend that `"auto"` takes.
        why: the launches, or why it takes torch's; in no file.
    """

    cell: str
    dtype: str
    T: int
    B: int
    I: int  # noqa: E741  # the field's name for it
    H: int
    layers: int
    directions: int
    mode: str
    ours_us: float | None
    torch_us: float | None
    limit_us: float
    chosen: str
    why: str = field(default="", compare=False)

    @property
    def ratio(self) -> float | None:
        """Our time over torch's: below 1 ours is shorter."""
        return None if self.ours_us is None or self.torch_us is None else self.ours_us / self.torch_us

    def case(self) -> Case:
        sizes = (self.T, self.B, self.I, self.H, self.layers)
        return Case(self.cell, self.mode, self.dtype, *sizes, bidirectional=self.directions == 2)

    def as_object(self) -> dict[str, Any]:
        """A row as files have it."""
        return {name: value for name, value in vars(self).items() if name != "why"}


_KEYS = {item.name for item in dataclasses.fields(Modelled)} - {"why"}


def read(path: journal.PathLike) -> list[Modelled]:
    """The rows of a file.

    Raises:
        BenchError: there is no such file, or a line is no such row.
    """
    found = []
    for number, values in enumerate(journal.objects(Path(path)), 1):
        if set(values) != _KEYS:
            raise BenchError(f"{Path(path).name}, line {number}: no row of `model`")
        found.append(Modelled(**values))
    return found


def _cases(
    cells: Sequence[str], dtypes: Sequence[str], batches: Sequence[int], hidden: Sequence[int],
    layers: Iterable[int] = (1,), directions: Iterable[int] = (1,),
) -> list[Case]:  # fmt: skip
    product = itertools.product(cells, dtypes, layers, directions, MODES, hidden, batches)
    return [Case(c, m, d, _T, B, H, H, n, bidirectional=k == 2) for c, d, n, k, m, H, B in product]


def table() -> list[Case]:
    """What bench/model/ has: LSTM and GRU of 64 to 1024 units, from one row to very many."""
    batches = (1, 4, 16, 64, 128, *(2**n for n in range(8, 17)))
    return _cases(("lstm", "gru"), DTYPES[:3], batches, (64, 128, 192, 256, 512, 1024))


def grid() -> list[Case]:
    """What no choice of `"auto"` may be slow in: everything that the choice depends on, and sizes of all kinds."""
    batches = (1, 4, 16, 33, 64, 130, 256, 700, 1024, 2048, 4096, 10000, 16384, 65536)
    hidden = (16, 32, 64, 96, 128, 192, 200, 256, 384, 512, 768, 1024, 1536, 2048)
    return _cases(("lstm", "gru", "rnn_tanh"), DTYPES, batches, hidden, (1, 2), (1, 2))
