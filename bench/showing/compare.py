"""`compare`: whether one set of rows is faster than another, as far as the noise of both allows to say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.errors import BenchError
from fastrnn.bench.rows.record import Environment, Row
from fastrnn.bench.showing.pairs import Timing, grouped, pooled, verdict
from fastrnn.bench.showing.table import CASE_COLUMNS, case_values, columns, emit, heading, line

COLUMNS = CASE_COLUMNS + columns(
    "provider<15 | old us/step>11 | p20-p80>19 | new us/step>11 | p20-p80>19 | change>8 | verdict<7"
)


def _timings(rows: Iterable[Row]) -> dict[tuple[Case, str], Timing | None]:
    groups = grouped(rows, lambda row: (row.case(), row.provider))
    return {key: pooled(members) for key, members in groups.items()}


def _differences(old: Iterable[Row], new: Iterable[Row]) -> list[str]:
    """What the two were measured on, where it is not the same."""

    def values(rows: Iterable[Row], name: str) -> str:
        return ", ".join(dict.fromkeys(str(getattr(row, name)) for row in rows))

    names = [field.name for field in dataclasses.fields(Environment)]
    pairs = [(name, values(old, name), values(new, name)) for name in names]
    return [f"Not the same {name}: {a} before, {b} now." for name, a, b in pairs if a != b]


def compare(old: Sequence[Row], new: Sequence[Row]) -> int:
    """Print every row that both have; 0.

    Raises:
        BenchError: there is none.
    """
    before, after = _timings(old), _timings(new)
    found: list[str] = []
    lines = []
    for key, b in after.items():
        a = before.get(key)
        if a is not None and b is not None:
            found.append(verdict(a, b))
            old_values, new_values = ([f"{t.us:.3f}", f"{t.p20:.3f}-{t.p80:.3f}"] for t in (a, b))
            change = f"{100 * (b.us / a.us - 1):+.1f} %"
            lines.append(line(COLUMNS, [*case_values(key[0]), key[1], *old_values, *new_values, change, found[-1]]))
    if not found:
        raise BenchError("the two have no timed row in common")
    for text in (*_differences(old, new), heading(COLUMNS), *lines):
        emit(text)
    counts = ", ".join(f"{found.count(word)} {word}" for word in ("faster", "slower", "same"))
    alone = len(before.keys() | after.keys()) - len(found)
    emit(f"\n{len(found)} rows: {counts}. {alone} left out: not timed in both. Same: the p20-p80 intervals touch.")
    return 0
