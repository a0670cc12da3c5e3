"""`plot`: pictures of results files, PNG and SVG.

Of rows that differ in cell, H and B alone: time per step against H and against B, the ratio over both and, where rows
carry one, time against the model's limit. Of all rows of a machine (`bars`): each one's ratio, and how its time splits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.errors import BenchError
from fastrnn.bench.rows.files import make_folder
from fastrnn.bench.rows.record import Environment, Row
from fastrnn.bench.showing import bars
from fastrnn.bench.showing.pairs import Pair, grouped, pairs

_FORMATS = ("png", "svg")
# Time-independent files, whose text can be searched.
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "fastrnn",
}
_MARKERS = "osD^v<>P"
_LINES = {"ours": ("-", "o"), "theirs": ("--", "s")}
_TICKS = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 1: "1", 2: "2", 4: "4", 8: "8"}


@dataclass(frozen=True)
class Setting:
    """What the rows of one picture have in common: the machine, and of the case all but the cell, B, I and H."""

    env: Environment
    case: Case

    def title(self) -> str:
        words = [self.case.purpose(), self.case.dtype, f"T = {self.case.T}", *self.case.details()]
        return f"{', '.join(words)}\n{bars.machine_name(self.env)}, torch {self.env.torch}"

    def name(self) -> str:
        words = [self.case.mode, self.case.dtype, f"T{self.case.T}", f"{self.case.layers}-layer"]
        words += ["bidirectional"] if self.case.bidirectional else []
        words += [self.case.extras().replace(", ", "-").replace(" ", "-")] if self.case.extras() else []
        return "-".join(words)


def _setting(row: Row) -> Setting:
    return Setting(row.environment(), replace(row.case(), cell="lstm", B=0, I=0, H=0))


def points(rows: Iterable[Row]) -> dict[Setting, list[Pair]]:
    """The rows by picture."""
    return {setting: pairs(members) for setting, members in grouped(rows, _setting).items()}


def _sizes(found: Iterable[Pair], name: str) -> list[int]:
    """Each `"H"` or `"B"` there is."""
    return sorted({getattr(pair.case, name) for pair in found})


def _figure(setting: Setting, found: Iterable[Pair], heading: str, along_y: str) -> tuple[Figure, dict[str, Any]]:
    """A row of panels, one for each cell."""
    cells = list(dict.fromkeys(pair.case.cell for pair in found))
    figure = Figure(figsize=(max(7, 3.6 * len(cells)), 4.2), layout="constrained")
    figure.suptitle(f"{heading}: {setting.title()}")
    axes = dict(zip(cells, figure.subplots(1, len(cells), squeeze=False)[0], strict=True))
    for cell, axis in axes.items():
        axis.set_title(cell)
    axes[cells[0]].set_ylabel(along_y)
    return figure, axes


def time_against(setting: Setting, found: Sequence[Pair], along: str) -> Figure | None:
    """Time per step against `"H"` or `"B"`, a panel for each cell; None where no curve has two points."""
    other = "B" if along == "H" else "H"
    curves: dict[tuple[str, str, int], list[Pair]] = {}
    for who, pair in itertools.product(_LINES, found):
        if getattr(pair, who) is not None:
            curves.setdefault((who, pair.case.cell, getattr(pair.case, other)), []).append(pair)
    curves = {key: members for key, members in curves.items() if len(members) > 1}
    if not curves:
        return None
    shown = [pair for members in curves.values() for pair in members]
    heading, along_y = f"Time per step against {along}", "microseconds per time step (band: p20-p80)"
    figure, axes = _figure(setting, shown, heading, along_y)
    colors = {n: f"C{i % 10}" for i, n in enumerate(_sizes(found, other))}
    for (who, cell, n), members in sorted(curves.items(), key=lambda curve: (curve[0][0], curve[0][2])):
        members.sort(key=lambda pair: int(getattr(pair.case, along)))
        x, timings = [getattr(pair.case, along) for pair in members], [getattr(pair, who) for pair in members]
        name, (style, marker) = "fastrnn" if who == "ours" else members[0].peer, _LINES[who]
        look = {"color": colors[n], "marker": marker, "markersize": 4, "label": f"{name}, {other} = {n}"}
        axes[cell].plot(x, [t.us for t in timings], style, **look)
        band = [t.p20 for t in timings], [t.p80 for t in timings]
        axes[cell].fill_between(x, *band, color=colors[n], alpha=0.15, linewidth=0)
    ticks = _sizes(shown, along)
    for axis in axes.values():
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        bars.plain_ticks(axis.yaxis)
        axis.set_xlabel("H (hidden units)" if along == "H" else "B (batch rows)")
    handles = {h.get_label(): h for axis in axes.values() for h in axis.get_lines()}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    return figure


def ratio_map(setting: Setting, found: Sequence[Pair]) -> Figure | None:
    """The ratio over (B, H), a panel for each cell; None where there is only one size."""
    rated = [pair for pair in found if pair.ratio is not None]
    hidden, batches = _sizes(rated, "H"), _sizes(rated, "B")
    if len(hidden) * len(batches) < 2:
        return None
    peers = ", ".join(dict.fromkeys(pair.peer for pair in rated))
    figure, axes = _figure(setting, rated, f"Ratio to {peers}", "B (batch rows)")
    # Twice as fast and half as fast are equally far from white.
    norm = matplotlib.colors.LogNorm(1 / 8, 8, clip=True)
    for cell, axis in axes.items():
        table = np.full((len(batches), len(hidden)), np.nan)
        for pair in rated:
            if pair.case.cell == cell and (ratio := pair.ratio):
                i, j = batches.index(pair.case.B), hidden.index(pair.case.H)
                table[i, j], dark = ratio, not 0.25 < ratio < 4
                axis.text(j, i, f"{ratio:.2f}", ha="center", va="center", color="white" if dark else "black")
        image = axis.imshow(table, cmap="RdBu", norm=norm, origin="lower", aspect="auto")
        axis.grid(False)
        axis.set_xticks(range(len(hidden)), [str(n) for n in hidden])
        axis.set_yticks(range(len(batches)), [str(n) for n in batches])
        axis.set_xlabel("H (hidden units)")
        axis.set_facecolor("0.9")  # what was not measured
    bar = figure.colorbar(image, ax=list(axes.values()), label="above 1: fastrnn is faster")
    bar.set_ticks(list(_TICKS), labels=list(_TICKS.values()))
    bar.ax.minorticks_off()
    return figure


def against_limit(setting: Setting, found: Sequence[Pair]) -> Figure | None:
    """Time against the model's limit, a panel for each cell; None where rows carry none."""
    timed = [pair for pair in found if pair.limit is not None and pair.ours is not None]
    if not timed:
        return None
    colors = {n: f"C{i % 10}" for i, n in enumerate(_sizes(timed, "H"))}
    markers = {n: _MARKERS[i % len(_MARKERS)] for i, n in enumerate(_sizes(timed, "B"))}
    figure, axes = _figure(setting, timed, "Time against the model's limit", "fastrnn, microseconds per step")
    for cell, axis in axes.items():
        times: list[float] = []
        for pair in timed:
            if pair.case.cell == cell and pair.limit is not None and pair.ours is not None:
                times += [pair.limit, pair.ours.us]
                axis.plot(*times[-2:], markers[pair.case.B], color=colors[pair.case.H], markersize=5)
        ends = [0.9 * min(times), 1.1 * max(times)]
        axis.plot(ends, ends, color="0.5", linewidth=1)
        axis.set_xscale("log")
        axis.set_yscale("log")
        bars.plain_ticks(axis.xaxis)
        bars.plain_ticks(axis.yaxis)
        axis.set_xlabel("limit for the scans alone, microseconds per step")
    keys = [Line2D([], [], color="0.5", label="the model's limit")]
    keys += [Line2D([], [], color=color, linewidth=4, label=f"H = {n}") for n, color in colors.items()]
    keys += [
        Line2D([], [], color="black", linestyle="", marker=marker, label=f"B = {n}") for n, marker in markers.items()
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


_PICTURES: Mapping[str, Callable[[Setting, Sequence[Pair]], Figure | None]] = {
    "time-by-H": lambda setting, found: time_against(setting, found, "H"),
    "time-by-B": lambda setting, found: time_against(setting, found, "B"),
    "ratio": ratio_map,
    "limit": against_limit,
}
_MACHINE_PICTURES: Mapping[str, Callable[[Environment, Sequence[Pair]], Figure | None]] = {
    "ratios": bars.ratios,
    "split": bars.splits,
}


def _figures(rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """Each picture and its name; a machine is numbered where there are several."""
    machines = list(dict.fromkeys(row.environment() for row in rows))

    def place(env: Environment) -> str:
        return env.device + (f"-{machines.index(env) + 1}" if len(machines) > 1 else "")

    for env, found in bars.bars(rows).items():
        for kind, draw in _MACHINE_PICTURES.items():
            if figure := draw(env, found):
                yield f"{kind}-{place(env)}", figure
    for setting, found in points(rows).items():
        for kind, draw_setting in _PICTURES.items():
            if figure := draw_setting(setting, found):
                yield f"{kind}-{place(setting.env)}-{setting.name()}", figure


def save(figure: Figure, file: Path) -> None:
    """As PNG or SVG, by its ending."""
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw all there is to draw; the files written.

    Raises:
        BenchError: there is nothing, or the folder cannot be made.
    """
    make_folder(folder, folder.name)
    files = []
    with matplotlib.rc_context(_STYLE):
        for name, figure in _figures(rows):
            for file in (folder / f"{name}.{form}" for form in _FORMATS):
                save(figure, file)
                files.append(file)
    if not files:
        raise BenchError("nothing to draw: no row was timed")
    return files
