"""Plain text tables of fixed widths, printed a line at a time as results come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastrnn.bench.rows.cases import Case


@dataclass(frozen=True)
class Column:
    """A column's heading and width; numbers go to the right, words to the left."""

    title: str
    width: int
    right: bool = True


def line(columns: Sequence[Column], values: Sequence[object]) -> str:
    """One line; None prints as a dash."""
    texts = ["-" if value is None else str(value) for value in values]
    pairs = zip(columns, texts, strict=True)
    return "  ".join(f"{t:>{c.width}}" if c.right else f"{t:<{c.width}}" for c, t in pairs).rstrip()


def heading(columns: Sequence[Column]) -> str:
    """The headings, and a rule below."""
    titles = line(columns, [column.title for column in columns])
    return f"{titles}\n{'-' * (sum(column.width for column in columns) + 2 * (len(columns) - 1))}"


def emit(text: str) -> None:
    """Print at once, also into a pipe: rows take seconds each."""
    print(text, flush=True)


CASE_COLUMNS = (
    Column("cell", 12, right=False),
    Column("mode", 7, right=False),
    Column("dtype", 8, right=False),
    Column("T", 5),
    Column("B", 4),
    Column("I", 5),
    Column("H", 5),
    Column("layers", 6),
    Column("bidir", 5),
    Column("extras", 20, right=False),
)


def case_values(case: Case) -> list[object]:
    """The values of CASE_COLUMNS."""
    sizes = [case.cell, case.mode, case.dtype, case.T, case.B, case.I, case.H, case.layers]
    return [*sizes, "yes" if case.bidirectional else "no", case.extras() or None]
