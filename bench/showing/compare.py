"""Whether one set of rows is faster than another, as far as the noise of both allows to say."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.record import BenchError, Environment, Row
from fastrnn.bench.showing.table import CASE_COLUMNS, Column, case_values, emit, heading, line

COLUMNS = (
    *CASE_COLUMNS,
    Column("provider", 15, right=False),
    Column("old us/step", 11),
    Column("p20-p80", 19),
    Column("new us/step", 11),
    Column("p20-p80", 19),
    Column("change", 8),
    Column("verdict", 7, right=False),
)


@dataclass(frozen=True)
class Timing:
    """Microseconds per step of one case and provider, over all repetitions: the median, and the interval's ends."""

    us: float
    p20: float
    p80: float

    def interval(self) -> str:
        return f"{self.p20:.3f}-{self.p80:.3f}"


def pooled(rows: Sequence[Row]) -> Timing | None:
    """What `rows` of one case and provider say together; None if none of them was timed.

    The interval spans those of all repetitions: runs differ from each other by more than calls within one.
    """
    timed = [(r.us_per_step, r.p20, r.p80) for r in rows if r.us_per_step and r.p20 and r.p80]
    if not timed:
        return None
    middle, low, high = zip(*timed, strict=True)
    return Timing(statistics.median(middle), min(low), max(high))


def grouped(rows: Iterable[Row]) -> dict[tuple[Case, str], list[Row]]:
    """Rows by case and provider, in their order."""
    groups: dict[tuple[Case, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case(), row.provider), []).append(row)
    return groups


def verdict(old: Timing, new: Timing) -> str:
    """`"faster"` or `"slower"` where the two intervals do not touch, else `"same"`."""
    if new.p80 < old.p20:
        return "faster"
    return "slower" if new.p20 > old.p80 else "same"


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
    before, after = grouped(old), grouped(new)
    found: list[str] = []
    for key in before.keys() & after.keys():
        if pooled(before[key]) is None or pooled(after[key]) is None:
            del before[key]
    common = [key for key in after if key in before]
    if not common:
        raise BenchError("the two have no timed row in common")
    for text in _differences(old, new):
        emit(text)
    emit(heading(COLUMNS))
    for key in common:
        a, b = pooled(before[key]), pooled(after[key])
        assert a is not None
        assert b is not None
        found.append(verdict(a, b))
        values = [f"{a.us:.3f}", a.interval(), f"{b.us:.3f}", b.interval(), f"{100 * (b.us / a.us - 1):+.1f} %"]
        emit(line(COLUMNS, [*case_values(key[0]), key[1], *values, found[-1]]))
    counts = ", ".join(f"{found.count(word)} {word}" for word in ("faster", "slower", "same"))
    alone = len(before.keys() ^ after.keys())
    emit(f"\n{len(common)} rows: {counts}. {alone} left out: not timed in both. Same: the p20-p80 intervals touch.")
    return 0
