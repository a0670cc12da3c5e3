"""Rows put together: the repetitions of one measurement, and fastrnn's beside its peer's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.record import Row

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Microseconds per step of one case and provider, over all repetitions: the median, and the interval's ends."""

    us: float
    p20: float
    p80: float


@dataclass(frozen=True)
class Pair:
    """What was found for one case.

    Attributes:
        peer: whom fastrnn is compared with.
        rows: by provider.
        ours, theirs: fastrnn's time and its peer's, where they were measured.
        limit: what the cost model gives the scans of one step, or None.
    """

    case: Case
    peer: str
    rows: Mapping[str, Sequence[Row]]
    ours: Timing | None
    theirs: Timing | None
    limit: float | None

    @property
    def ratio(self) -> float | None:
        return None if self.ours is None or self.theirs is None else self.theirs.us / self.ours.us

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The parts of fastrnn's time (input, scan, gradients), means over repetitions; None where it has none."""
        found = [(r.input_share, r.scan_share, r.gradient_share) for r in self.rows.get("fastrnn", ())]
        parts = [[share for share in part if share is not None] for part in zip(*found, strict=True)]
        return tuple(map(statistics.fmean, parts)) if parts and all(parts) else None


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by key, in their order."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def pooled(rows: Iterable[Row]) -> Timing | None:
    """What `rows` of one case and provider say together; None if none of them was timed.

    The interval spans those of all repetitions: runs differ from each other by more than calls within one.
    """
    timed = [(r.us_per_step, r.p20, r.p80) for r in rows if r.us_per_step and r.p20 and r.p80]
    if not timed:
        return None
    middle, low, high = zip(*timed, strict=True)
    return Timing(statistics.median(middle), min(low), max(high))


def pairs(rows: Iterable[Row]) -> list[Pair]:
    """One for each case, in the order of the rows."""
    found = []
    for case, members in grouped(rows, Row.case).items():
        by_provider = grouped(members, lambda row: row.provider)
        last = members[-1]
        ours, theirs = (pooled(by_provider.get(name, ())) for name in ("fastrnn", last.peer))
        found.append(Pair(case, last.peer, by_provider, ours, theirs, last.limit_us))
    return found


def verdict(old: Timing, new: Timing) -> str:
    """`"faster"` or `"slower"` where the two intervals do not touch, else `"same"`."""
    if new.p80 < old.p20:
        return "faster"
    return "slower" if new.p20 > old.p80 else "same"


def verdicts(found: Iterable[Pair]) -> list[str]:
    """fastrnn's against its peer, of those where both were timed."""
    return [verdict(pair.theirs, pair.ours) for pair in found if pair.theirs is not None and pair.ours is not None]
