"""Pictures of all rows of a machine, a bar for each: how it compares with its peer, and how its time divides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.ticker
from matplotlib.figure import Figure

from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.record import Environment, Row
from fastrnn.bench.showing.compare import Timing, grouped, pooled, verdict

_COLORS = {"faster": "#2166ac", "slower": "#b2182b", "same": "0.6"}  # the ends of the map of ratios, and grey
_PARTS = (
    ("input products (forward without scan)", "#92c5de"),
    ("scan, forward and backward", "#2166ac"),
    ("gradients of weights and input (backward without scan)", "#fdb863"),
)


@dataclass(frozen=True)
class Bar:
    """What was found for one case.

    Attributes:
        label: the case in words.
        peer: whom it is compared with.
        ours, theirs: fastrnn's time and its peer's, where they were measured.
        shares: the parts of fastrnn's time, in the order of `_PARTS`, or None where it does not divide.
    """

    label: str
    peer: str
    ours: Timing | None
    theirs: Timing | None
    shares: tuple[float, ...] | None


def machine_name(env: Environment) -> str:
    """What a picture says of the machine; a CPU is never taken for a GPU."""
    if env.device == "cuda":
        return f"GPU: {env.gpu}"
    return f"CPU, not a GPU: {env.processor()}"


def _label(case: Case) -> str:
    words = [case.cell, "training" if case.train else "inference", case.dtype]
    words += [f"T={case.T}", f"B={case.B}", *([f"I={case.I}"] if case.I != case.H else []), f"H={case.H}"]
    words += [f"{case.layers} layers"] if case.layers > 1 else []
    words += ["both directions"] if case.bidirectional else []
    return " ".join([*words, case.extras()]).strip()


def _shares(rows: Sequence[Row]) -> tuple[float, ...] | None:
    """The mean over repetitions."""
    found = [
        (row.input_share, row.scan_share, row.gradient_share)
        for row in rows
        if row.input_share is not None and row.scan_share is not None and row.gradient_share is not None
    ]
    return tuple(sum(part) / len(found) for part in zip(*found, strict=True)) if found else None


def bars(rows: Iterable[Row]) -> dict[Environment, list[Bar]]:
    """The rows by machine."""
    by_machine: dict[Environment, list[Row]] = {}
    for row in rows:
        by_machine.setdefault(row.environment(), []).append(row)
    found: dict[Environment, list[Bar]] = {}
    for env, members in by_machine.items():
        groups = grouped(members)
        for case, peer in dict.fromkeys((row.case(), row.peer) for row in members):
            ours = groups.get((case, "fastrnn"), [])
            bar = Bar(_label(case), peer, pooled(ours), pooled(groups.get((case, peer), [])), _shares(ours))
            found.setdefault(env, []).append(bar)
    return found


def _figure(env: Environment, count: int, heading: str) -> tuple[Figure, Any]:
    """One panel with room for so many bars."""
    figure = Figure(figsize=(9, 1.7 + 0.27 * count), layout="constrained")
    figure.suptitle(f"{heading}\n{machine_name(env)}. {env.versions('fastrnn', 'torch', 'triton', 'cudnn')}")
    axis = figure.subplots()
    axis.grid(axis="y", visible=False)
    axis.set_axisbelow(True)
    return figure, axis


def plain_ticks(axis: Any) -> None:
    """1, 2, 5, 10, ... on a logarithmic x or y axis, as numbers and not as powers of ten."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.set_minor_locator(matplotlib.ticker.NullLocator())


def _name_rows(axis: Any, labels: Sequence[str]) -> None:
    """From the top down."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)


def ratios(env: Environment, found: Sequence[Bar]) -> Figure | None:
    """How many times its peer's speed each row has; None where no row and peer were both timed."""
    pairs = [(bar, bar.theirs, bar.ours) for bar in found if bar.ours is not None and bar.theirs is not None]
    if not pairs:
        return None
    figure, axis = _figure(env, len(pairs), "The peer's time over fastrnn's: right of 1, fastrnn is faster")
    # From 1, so that twice as fast and half as fast are equally long.
    axis.set_xscale("log")
    values = [theirs.us / ours.us for _, theirs, ours in pairs]
    verdicts = [verdict(theirs, ours) for _, theirs, ours in pairs]
    axis.barh(
        range(len(pairs)),
        [ratio - 1 for ratio in values],
        left=1,
        height=0.7,
        color=[_COLORS[word] for word in verdicts],
    )
    for i, ratio in enumerate(values):
        axis.annotate(
            f"{ratio:.2f}",
            (ratio, i),
            xytext=(3 if ratio >= 1 else -3, 0),
            textcoords="offset points",
            va="center",
            ha="left" if ratio >= 1 else "right",
        )
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xlim(min(0.5, 0.6 * min(values)), max(2, 1.5 * max(values)))
    plain_ticks(axis.xaxis)
    _name_rows(axis, [f"{bar.label} (to {bar.peer})" if bar.peer != "torch.nn" else bar.label for bar, *_ in pairs])
    axis.set_xlabel("ratio to torch.nn's layer, or to what takes its place\ngrey: the noise of both hides a difference")
    return figure


def splits(env: Environment, found: Sequence[Bar]) -> Figure | None:
    """How each row's time divides; None where none does."""
    timed = [(bar.label, bar.ours.us, bar.shares) for bar in found if bar.ours is not None and bar.shares is not None]
    if not timed:
        return None
    figure, axis = _figure(env, len(timed), "Where the time of a call goes")
    left = [0.0] * len(timed)
    for part, (name, color) in enumerate(_PARTS):
        widths = [100 * shares[part] for _, _, shares in timed]
        axis.barh(range(len(timed)), widths, left=left, height=0.7, color=color, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for i, (_, us, _) in enumerate(timed):
        axis.annotate(f"{us:.3g} us", (100, i), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    _name_rows(axis, [label for label, _, _ in timed])
    axis.set_xlabel("per cent of the call; at the right its time per step, in microseconds")
    figure.legend(loc="outside lower center", ncols=1 if len(timed) < 3 else 3, fontsize=8)
    return figure
