"""`plot`: pictures of results files, PNG and SVG.

Of rows that differ in cell, H and B alone: time per step against H and against B, the ratio over both and, where rows
carry one, time against the model's limit. Of all rows of a machine (`bars`): each one's ratio, and how its time splits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastrnn.bench.rows.record import BenchError, Environment, Row
from fastrnn.bench.showing import bars
from fastrnn.bench.showing.compare import Timing, grouped, pooled

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
_LINES = {"fastrnn": ("-", "o"), "peer": ("--", "s")}


@dataclass(frozen=True)
class Setting:
    """What the rows of one picture have in common."""

    env: Environment
    mode: str
    dtype: str
    T: int
    layers: int
    bidirectional: bool
    extras: str

    def title(self) -> str:
        words = ["training" if self.mode == "train" else "inference", self.dtype, f"T = {self.T}"]
        words += [f"{self.layers} layers"] if self.layers > 1 else []
        words += ["both directions"] if self.bidirectional else []
        words += [self.extras] if self.extras else []
        return f"{', '.join(words)}\n{bars.machine_name(self.env)}, torch {self.env.torch}"

    def name(self) -> str:
        words = [self.mode, self.dtype, f"T{self.T}", f"{self.layers}-layer"]
        words += ["bidirectional"] if self.bidirectional else []
        words += [self.extras.replace(", ", "-").replace(" ", "-")] if self.extras else []
        return "-".join(words)


@dataclass(frozen=True)
class Point:
    """What was found for one cell, H and B of a setting."""

    cell: str
    H: int
    B: int
    peer: str
    ours: Timing | None
    theirs: Timing | None
    limit: float | None

    def ratio(self) -> float | None:
        return None if self.ours is None or self.theirs is None else self.theirs.us / self.ours.us


def _setting(row: Row) -> Setting:
    case = row.case()
    return Setting(row.environment(), case.mode, case.dtype, case.T, case.layers, case.bidirectional, case.extras())


def points(rows: Iterable[Row]) -> dict[Setting, list[Point]]:
    """The rows by picture."""
    by_setting: dict[Setting, list[Row]] = {}
    for row in rows:
        by_setting.setdefault(_setting(row), []).append(row)
    found: dict[Setting, list[Point]] = {}
    for setting, members in by_setting.items():
        groups = grouped(members)
        for row in {row.case(): row for row in members}.values():
            case = row.case()
            ours, theirs = (pooled(groups.get((case, name), [])) for name in ("fastrnn", row.peer))
            point = Point(case.cell, case.H, case.B, row.peer, ours, theirs, row.limit_us)
            found.setdefault(setting, []).append(point)
    return found


def _figure(setting: Setting, panels: Sequence[str], heading: str) -> tuple[Figure, list[Any]]:
    """A row of panels, one for each name."""
    figure = Figure(figsize=(max(7, 3.6 * len(panels)), 4.2), layout="constrained")
    figure.suptitle(f"{heading}: {setting.title()}")
    axes = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_title(panel)
    return figure, axes


def _curve(axis: Any, pairs: list[tuple[int, Timing]], who: str, label: str, color: str) -> None:
    pairs.sort(key=lambda pair: pair[0])
    x, y = [n for n, _ in pairs], [t.us for _, t in pairs]
    style, marker = _LINES[who]
    axis.plot(x, y, style, marker=marker, markersize=4, color=color, label=label)
    axis.fill_between(x, [t.p20 for _, t in pairs], [t.p80 for _, t in pairs], color=color, alpha=0.15, linewidth=0)


def time_against(setting: Setting, found: Sequence[Point], along: str) -> Figure | None:
    """Time per step against `"H"` or `"B"`, a panel for each cell; None where no curve has two points."""
    other = "B" if along == "H" else "H"
    values = sorted({getattr(p, other) for p in found})
    colors = {n: f"C{i % 10}" for i, n in enumerate(values)}
    curves = []
    for who in _LINES:
        for cell, n in itertools.product(dict.fromkeys(p.cell for p in found), values):
            members = [p for p in found if p.cell == cell and getattr(p, other) == n]
            timed = [(getattr(p, along), p.ours if who == "fastrnn" else p.theirs) for p in members]
            pairs = [(x, timing) for x, timing in timed if timing is not None]
            if len(pairs) > 1:
                name = "fastrnn" if who == "fastrnn" else members[0].peer
                curves.append((cell, pairs, who, f"{name}, {other} = {n}", colors[n]))
    if not curves:
        return None
    cells = list(dict.fromkeys(curve[0] for curve in curves))
    figure, axes = _figure(setting, cells, f"Time per step against {along}")
    ticks = sorted({x for curve in curves for x, _ in curve[1]})
    for axis, cell in zip(axes, cells, strict=True):
        for _, pairs, who, label, color in (curve for curve in curves if curve[0] == cell):
            _curve(axis, pairs, who, label, color)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        bars.plain_ticks(axis.yaxis)
        axis.set_xlabel("H (hidden units)" if along == "H" else "B (batch rows)")
    axes[0].set_ylabel("microseconds per time step (band: p20-p80)")
    handles = {h.get_label(): h for axis in axes for h in axis.get_lines()}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    return figure


def ratio_map(setting: Setting, found: Sequence[Point]) -> Figure | None:
    """The ratio over (B, H), a panel for each cell; None where there is only one size."""
    rated = [p for p in found if p.ratio() is not None]
    hidden, batches = sorted({p.H for p in rated}), sorted({p.B for p in rated})
    if len(hidden) * len(batches) < 2:
        return None
    cells = list(dict.fromkeys(p.cell for p in rated))
    figure, axes = _figure(setting, cells, f"Ratio to {', '.join(dict.fromkeys(p.peer for p in rated))}")
    # Twice as fast and half as fast are equally far from white.
    norm = matplotlib.colors.LogNorm(1 / 8, 8, clip=True)
    image = None
    for axis, cell in zip(axes, cells, strict=True):
        table = [[float("nan")] * len(hidden) for _ in batches]
        for p in rated:
            if p.cell == cell:
                ratio = p.ratio()
                assert ratio is not None
                i, j = batches.index(p.B), hidden.index(p.H)
                table[i][j] = ratio
                dark = not 0.25 < ratio < 4
                axis.text(j, i, f"{ratio:.2f}", ha="center", va="center", color="white" if dark else "black")
        image = axis.imshow(table, cmap="RdBu", norm=norm, origin="lower", aspect="auto")
        axis.grid(False)
        axis.set_xticks(range(len(hidden)), [str(n) for n in hidden])
        axis.set_yticks(range(len(batches)), [str(n) for n in batches])
        axis.set_xlabel("H (hidden units)")
        axis.set_facecolor("0.9")  # what was not measured
    axes[0].set_ylabel("B (batch rows)")
    assert image is not None
    bar = figure.colorbar(image, ax=axes, label="above 1: fastrnn is faster")
    bar.set_ticks([0.125, 0.25, 0.5, 1, 2, 4, 8], labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    bar.ax.minorticks_off()
    return figure


def against_limit(setting: Setting, found: Sequence[Point]) -> Figure | None:
    """Time against the model's limit, a panel for each cell; None where rows carry none."""
    timed = [(p, p.limit, p.ours.us) for p in found if p.limit is not None and p.ours is not None]
    if not timed:
        return None
    cells = list(dict.fromkeys(p.cell for p, _, _ in timed))
    hidden, batches = sorted({p.H for p, _, _ in timed}), sorted({p.B for p, _, _ in timed})
    figure, axes = _figure(setting, cells, "Time against the model's limit")
    for axis, cell in zip(axes, cells, strict=True):
        for p, limit, us in timed:
            if p.cell == cell:
                color, marker = f"C{hidden.index(p.H) % 10}", _MARKERS[batches.index(p.B) % len(_MARKERS)]
                axis.plot([limit], [us], marker, color=color, markersize=5)
        pairs = [(limit, us) for p, limit, us in timed if p.cell == cell]
        ends = [0.9 * min(min(pair) for pair in pairs), 1.1 * max(max(pair) for pair in pairs)]
        axis.plot(ends, ends, color="0.5", linewidth=1)
        axis.set_xscale("log")
        axis.set_yscale("log")
        bars.plain_ticks(axis.xaxis)
        bars.plain_ticks(axis.yaxis)
        axis.set_xlabel("limit for the scans alone, microseconds per step")
    axes[0].set_ylabel("fastrnn, microseconds per step")
    keys = [Line2D([], [], color="0.5", label="the model's limit")]
    keys += [Line2D([], [], color=f"C{i % 10}", linewidth=4, label=f"H = {n}") for i, n in enumerate(hidden)]
    markers = [_MARKERS[i % len(_MARKERS)] for i in range(len(batches))]
    keys += [
        Line2D([], [], color="black", linestyle="", marker=marker, label=f"B = {n}")
        for n, marker in zip(batches, markers, strict=True)
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


_PICTURES: dict[str, Callable[[Setting, Sequence[Point]], Figure | None]] = {
    "time-by-H": lambda setting, found: time_against(setting, found, "H"),
    "time-by-B": lambda setting, found: time_against(setting, found, "B"),
    "ratio": ratio_map,
    "limit": against_limit,
}
_MACHINE_PICTURES: dict[str, Callable[[Environment, Sequence[bars.Bar]], Figure | None]] = {
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
            figure = draw(env, found)
            if figure is not None:
                yield f"{kind}-{place(env)}", figure
    for setting, members in points(rows).items():
        for kind, draw_setting in _PICTURES.items():
            figure = draw_setting(setting, members)
            if figure is not None:
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"cannot make {folder.name}: {error.strerror}") from None
    files = []
    with matplotlib.rc_context(_STYLE):
        for name, figure in _figures(rows):
            for form in _FORMATS:
                files.append(folder / f"{name}.{form}")
                save(figure, files[-1])
    if not files:
        raise BenchError("nothing to draw: no row was timed")
    return files
