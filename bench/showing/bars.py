"""Pictures of all rows of a machine, a bar for each: how it compares with its peer, and how its time divides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.ticker
from matplotlib.figure import Figure

from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.record import Environment, Row
from fastrnn.bench.showing.pairs import Pair, grouped, pairs, verdicts

_COLORS = {"faster": "#2166ac", "slower": "#b2182b", "same": "0.6"}  # the ends of the map of ratios, and grey
_PARTS = (
    ("input products (forward without scan)", "#92c5de"),
    ("scan, forward and backward", "#2166ac"),
    ("gradients of weights and input (backward without scan)", "#fdb863"),
)


def machine_name(env: Environment) -> str:
    """What a picture says of the machine; a CPU is never taken for a GPU."""
    if env.device == "cuda":
        return f"GPU: {env.gpu}"
    return f"CPU, not a GPU: {env.processor()}"


def _label(case: Case) -> str:
    words = [case.cell, case.purpose(), case.dtype, f"T={case.T}", f"B={case.B}"]
    words += [f"I={case.I}"] if case.I != case.H else []
    return " ".join([*words, f"H={case.H}", *case.details()])


def bars(rows: Iterable[Row]) -> dict[Environment, list[Pair]]:
    """The rows by machine."""
    return {env: pairs(members) for env, members in grouped(rows, Row.environment).items()}


def _figure(env: Environment, labels: Sequence[str], heading: str) -> tuple[Figure, Any]:
    """One panel with room for a bar for each label, from the top down."""
    figure = Figure(figsize=(9, 1.7 + 0.27 * len(labels)), layout="constrained")
    figure.suptitle(f"{heading}\n{machine_name(env)}. {env.versions('fastrnn', 'torch', 'triton', 'cudnn')}")
    axis = figure.subplots()
    axis.grid(axis="y", visible=False)
    axis.set_axisbelow(True)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    return figure, axis


def plain_ticks(axis: Any) -> None:
    """1, 2, 5, 10, ... on a logarithmic x or y axis, as numbers and not as powers of ten."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.set_minor_locator(matplotlib.ticker.NullLocator())


def ratios(env: Environment, found: Sequence[Pair]) -> Figure | None:
    """How many times its peer's speed each row has; None where no row and peer were both timed."""
    rated = [pair for pair in found if pair.ratio is not None]
    values = [pair.ratio for pair in rated if pair.ratio is not None]
    if not rated:
        return None
    labels = [_label(p.case) + (f" (to {p.peer})" if p.peer != "torch.nn" else "") for p in rated]
    figure, axis = _figure(env, labels, "The peer's time over fastrnn's: right of 1, fastrnn is faster")
    # From 1, so that twice as fast and half as fast are equally long.
    axis.set_xscale("log")
    colors = [_COLORS[word] for word in verdicts(rated)]
    drawn = axis.barh(range(len(rated)), [value - 1 for value in values], left=1, height=0.7, color=colors)
    axis.bar_label(drawn, [f"{value:.2f}" for value in values], padding=3)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xlim(min(0.5, 0.6 * min(values)), max(2, 1.5 * max(values)))
    plain_ticks(axis.xaxis)
    axis.set_xlabel("ratio to torch.nn's layer, or to what takes its place\ngrey: the noise of both hides a difference")
    return figure


def splits(env: Environment, found: Sequence[Pair]) -> Figure | None:
    """How each row's time divides; None where none does."""
    timed = [(pair.case, pair.ours.us, pair.shares) for pair in found if pair.ours is not None and pair.shares]
    if not timed:
        return None
    figure, axis = _figure(env, [_label(case) for case, *_ in timed], "Where the time of a call goes")
    left = [0.0] * len(timed)
    for part, (name, color) in enumerate(_PARTS):
        widths = [100 * shares[part] for *_, shares in timed]
        drawn = axis.barh(range(len(timed)), widths, left=left, height=0.7, color=color, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.bar_label(drawn, [f"{us:.3g} us" for _, us, _ in timed], padding=4)
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("per cent of the call; at the right its time per step, in microseconds")
    figure.legend(loc="outside lower center", ncols=1 if len(timed) < 3 else 3, fontsize=8)
    return figure
