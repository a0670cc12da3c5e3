"""`report`: results files as tables in Markdown, and `env`: what a bug report should say of the machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastrnn.bench.rows import cases, checkout, record
from fastrnn.bench.rows.errors import BenchError, refusing
from fastrnn.bench.rows.record import Environment, Row
from fastrnn.bench.showing.pairs import Pair, Timing, grouped, pairs, pooled, verdicts

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PICTURE = Path("bench/results/speed.svg")
NOT_MEASURED = "Speed: not yet measured on a GPU.\n"
_HEADINGS = ("cell", "mode", "dtype", "T, B, I, H", "layers", "extras", "fastrnn", "peer", "its time", "ratio", "error")
_OPTIONAL = ("MB", "its MB", "others")  # columns where there are any
_MEMORY = "; MB: the GPU memory that a call takes at the most, weights and inputs included"


def _machine(env: Environment) -> str:
    if env.device == "cuda":
        return f"{env.gpu}, driver {env.driver}"
    return f"{env.processor()}, no GPU"


def _time(timing: Timing | None) -> str:
    return "-" if timing is None else f"{timing.us:.2f} ({timing.p20:.2f}-{timing.p80:.2f})"


def _memory(rows: Sequence[Row]) -> str:
    """The most that a call took."""
    found = [row.peak_mb for row in rows if row.peak_mb is not None]
    return f"{max(found):.0f}" if found else "-"


def _table_row(pair: Pair) -> list[str]:
    case, ours = pair.case, pair.rows.get("fastrnn", ())
    time = _time(pair.ours)
    if pair.ours is None:
        time = ours[-1].status if ours else "not measured"
    error = ours[-1].error if ours else None
    others = {name: pooled(rows) for name, rows in pair.rows.items() if name not in ("fastrnn", pair.peer)}
    return [
        case.cell + (", both directions" if case.bidirectional else ""),
        case.mode,
        case.dtype,
        f"{case.T}, {case.B}, {case.I}, {case.H}",
        str(case.layers),
        case.extras() or "-",
        time,
        pair.peer,
        _time(pair.theirs),
        "-" if pair.ratio is None else f"{pair.ratio:.2f}",
        "-" if error is None else f"{error:.0e}",
        _memory(ours),
        _memory(pair.rows.get(pair.peer, ())),
        ", ".join(f"{name} {_time(timing)}" for name, timing in others.items() if timing is not None) or "-",
    ]


def _summary(found: Sequence[str]) -> list[str]:
    """In how many rows who is faster, by more than the noise of both."""
    faster, slower = found.count("faster"), found.count("slower")
    words = (
        f"Of {len(found)} rows fastrnn is faster in {faster}, the peer in {slower}; the noise of both hides the rest."
    )
    return [words] if found else []


def _part(rows: Sequence[Row]) -> list[str]:
    """The lines of rows that one run measured."""
    first, found = rows[0], pairs(rows)
    env = first.environment()
    code = f"fastrnn {env.fastrnn}" + (f" at `{first.commit}`" if first.commit else "")
    table = [[*_HEADINGS, *_OPTIONAL], *map(_table_row, found)]
    empty = [len(_HEADINGS) <= i and {*column[1:]} == {"-"} for i, column in enumerate(zip(*table, strict=True))]
    table = [[cell for cell, left_out in zip(line, empty, strict=True) if not left_out] for line in table]
    versions = env.versions("torch", "triton", "cudnn", "python")
    headings, *lines = (f"| {' | '.join(line)} |" for line in table)
    return [
        f"**{_machine(env)}**. {versions}; {code}, {max(row.time for row in rows)[:10]}:",
        "",
        "```sh",
        first.command,
        "```",
        "",
        "Median time per time step of a call in microseconds (p20-p80); ratio: the peer's time over fastrnn's, above 1 "
        f"is faster than the peer; error: against float64{_MEMORY if 'MB' in table[0] else ''}.",
        *_summary(verdicts(found)),
        "",
        headings,
        f"|{'---|' * len(table[0])}",
        *lines,
        "",
    ]


def on_gpus(rows: Iterable[Row]) -> list[Row]:
    """Those that say something of GPUs."""
    return [row for row in rows if row.device == "cuda"]


def markdown(rows: Iterable[Row]) -> str:
    """The tables, one for each machine, commit and command; what is said of GPUs comes first."""
    gpus_first = sorted(rows, key=lambda row: row.device != "cuda")
    parts = grouped(gpus_first, lambda row: (row.environment(), row.commit, row.command))
    lines = [line for part in parts.values() for line in _part(part)]
    measured = any(on_gpus(part) for part in parts.values())
    return ("" if measured else NOT_MEASURED + "\n" * bool(lines)) + "\n".join(lines)


def for_front_page(rows: Iterable[Row]) -> list[Row]:
    """What GPUs did, and of that only the quick set, if it was measured: a page read in minutes has no room for all."""
    quick, measured = set(cases.quick(cuda=True)), on_gpus(rows)
    return [row for row in measured if row.case() in quick] or measured


def fill_cpu(page: Path, rows: Iterable[Row]) -> None:
    """Put the tables of what CPUs did between the markers of a file.

    Raises:
        BenchError: there is no such file, or it lacks the markers.
    """
    replace_part(page, markdown(row for row in rows if row.device != "cuda").removeprefix(NOT_MEASURED).lstrip())


def fill(readme: Path, rows: Sequence[Row]) -> None:
    """Put the tables of what GPUs did, or that none was measured, between the markers of a file; a picture beside it.

    Raises:
        BenchError: there is no such file, it lacks the markers, or a picture is due and matplotlib is not installed.
    """
    shown = for_front_page(rows)
    text, figure = markdown(shown), None
    timed = [row for row in shown if row.us_per_step is not None]
    if timed:
        if importlib.util.find_spec("matplotlib") is None:
            raise BenchError("the front page takes a picture: pip install 'fastrnn[bench]', or matplotlib alone")
        from fastrnn.bench.showing import bars, plot

        latest = max(timed, key=lambda row: row.time).environment()
        figure = bars.ratios(latest, bars.bars(timed)[latest])
    if figure is None:
        replace_part(readme, text)
        return
    picture = readme.parent / PICTURE
    replace_part(readme, f"![The peer's time over fastrnn's, row by row]({PICTURE.as_posix()})\n\n{text}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    plot.save(figure, picture)


def replace_part(path: Path, text: str) -> None:
    """Put `text` between the markers of a file.

    Raises:
        BenchError: there is no such file, or it lacks the markers.
    """
    with refusing(f"cannot read {path.name}"):
        content = path.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{path.name} has no {BEGIN} ... {END} to fill")
    path.write_text(f"{before}{BEGIN}\n{text.rstrip()}\n{END}{after}", encoding="utf-8")


def environment_text() -> str:
    """One line for each thing a bug report should say."""
    import torch

    env = record.environment(torch.cuda.is_available())
    values = {
        **dataclasses.asdict(env),
        "fastrnn": f"{env.fastrnn}, commit {checkout.commit() or 'unknown'}",
        "platform": platform.platform(),
    }
    return "".join(f"{name:<9} {'-' if value is None else value}\n" for name, value in values.items())
