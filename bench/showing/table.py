"""Plain text tables of fixed widths, printed a line at a time as results come in."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastrnn.bench.rows.cases import Case


@dataclass(frozen=True)
class Column:
    """A column's heading, its side, `"<"` for words and `">"` for numbers, and its width."""

    title: str
    side: str
    width: int


def columns(text: str) -> tuple[Column, ...]:
    """Columns as in `"cell<12 | T>5"`."""
    found = re.findall(r"([^|]+)([<>])(\d+)", text)
    return tuple(Column(title.strip(), side, int(width)) for title, side, width in found)


def line(columns: Sequence[Column], values: Sequence[object]) -> str:
    """One line; None prints as a dash."""
    texts = ["-" if value is None else str(value) for value in values]
    return "  ".join(f"{t:{c.side}{c.width}}" for c, t in zip(columns, texts, strict=True)).rstrip()


def heading(columns: Sequence[Column]) -> str:
    """The headings, and a rule below."""
    titles = line(columns, [column.title for column in columns])
    return f"{titles}\n{'-' * (sum(column.width for column in columns) + 2 * (len(columns) - 1))}"


# Print at once, also into a pipe: rows take seconds each.
emit = functools.partial(print, flush=True)


CASE_COLUMNS = columns("cell<12 | mode<7 | dtype<8 | T>5 | B>4 | I>5 | H>5 | layers>6 | bidir>5 | extras<20")


def case_values(case: Case) -> list[object]:
    """The values of CASE_COLUMNS."""
    sizes = [case.cell, case.mode, case.dtype, case.T, case.B, case.I, case.H, case.layers]
    return [*sizes, "yes" if case.bidirectional else "no", case.extras() or None]
