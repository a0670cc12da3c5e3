"""`report`: results files as tables in Markdown, and `env`: what a bug report should say of the machine."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastrnn.bench import record
from fastrnn.bench.cases import Case
from fastrnn.bench.compare import grouped, pooled
from fastrnn.bench.record import BenchError, Environment, Row

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NOT_MEASURED = "Speed: not yet measured on a GPU.\n"
_HEADINGS = ("cell", "mode", "dtype", "T, B, I, H", "layers", "extras", "fastrnn", "peer", "its time", "ratio", "error")


def _machine(env: Environment) -> str:
    if env.device == "cuda":
        return f"{env.gpu}, driver {env.driver}"
    return f"{env.cpu or 'CPU'}, {env.threads} thread{'s' * (env.threads > 1)}, no GPU"


def _versions(env: Environment) -> str:
    named = (("torch", env.torch), ("triton", env.triton), ("cuDNN", env.cudnn), ("Python", env.python))
    return ", ".join(f"{name} {version}" for name, version in named if version)


def _table_row(case: Case, ours: Sequence[Row], peers: Sequence[Row]) -> list[str]:
    mine, theirs, last = pooled(ours), pooled(peers), (*ours, *peers)[-1]
    time = "not measured" if not ours else ours[-1].status
    if mine is not None:
        time = f"{mine.us:.2f} ({mine.p20:.2f}-{mine.p80:.2f})"
    ratio = f"{theirs.us / mine.us:.2f}" if mine is not None and theirs is not None else "-"
    error = ours[-1].error if ours else None
    return [
        case.cell + (", both directions" if case.bidirectional else ""),
        case.mode,
        case.dtype,
        f"{case.T}, {case.B}, {case.I}, {case.H}",
        str(case.layers),
        case.extras() or "-",
        time,
        last.peer,
        "-" if theirs is None else f"{theirs.us:.2f} ({theirs.p20:.2f}-{theirs.p80:.2f})",
        ratio,
        "-" if error is None else f"{error:.0e}",
    ]


def _part(rows: Sequence[Row]) -> list[str]:
    """The lines of rows that one run measured."""
    first, groups = rows[0], grouped(rows)
    env = first.environment()
    code = f"fastrnn {env.fastrnn}" + (f" at `{first.commit}`" if first.commit else "")
    lines = [
        f"**{_machine(env)}**. {_versions(env)}; {code}, {max(row.time for row in rows)[:10]}:",
        "",
        "```sh",
        first.command,
        "```",
        "",
        "Median time per time step of a call in microseconds (p20-p80); ratio: the peer's time over fastrnn's, above 1 "
        "is faster than the peer; error: against float64.",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        f"|{'---|' * len(_HEADINGS)}",
    ]
    for case in dict.fromkeys(row.case() for row in rows):
        peer = next(row.peer for row in rows if row.case() == case)
        ours, theirs = groups.get((case, "fastrnn"), []), groups.get((case, peer), [])
        if ours or theirs:
            lines.append(f"| {' | '.join(_table_row(case, ours, theirs))} |")
    return [*lines, ""]


def markdown(rows: Iterable[Row]) -> str:
    """The tables, one for each machine, commit and command; what is said of GPUs comes first."""
    parts: dict[tuple[object, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.device != "cuda"):
        parts.setdefault((*dataclasses.astuple(row.environment()), row.commit, row.command), []).append(row)
    lines = [line for part in parts.values() for line in _part(part)]
    measured = any(part[0].device == "cuda" for part in parts.values())
    return ("" if measured else NOT_MEASURED + "\n" * bool(lines)) + "\n".join(lines)


def replace_part(path: Path, text: str) -> None:
    """Put `text` between the markers of a file.

    Raises:
        BenchError: there is no such file, or it lacks the markers.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot read {path.name}: {error.strerror}") from None
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
        "fastrnn": f"{env.fastrnn}, commit {record.commit() or 'unknown'}",
        "platform": platform.platform(),
    }
    return "".join(f"{name:<9} {'-' if value is None else value}\n" for name, value in values.items())
