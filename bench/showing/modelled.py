"""What the models say, as tables in Markdown: parts of pages between markers, each part by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fastrnn.bench.rows.cases import MODES
from fastrnn.bench.rows.errors import BenchError, refusing
from fastrnn.bench.rows.modelled import Modelled
from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan import rule
from fastrnn.kernels.plan.devices import Device
from fastrnn.kernels.plan.peer import Layer

Lines = Iterator[str]
_BATCHES = (16, 64, 256, 1024, 4096, 16384, 65536)
_WORDS = {"train": "training", "forward": "inference"}
_PRECISIONS = {"bfloat16": "bfloat16", "float32": "TF32"}
# Of the notes: cell, dtype, H, B.
_NOTED = (
    ("lstm", "bfloat16", 768, 16), ("lstm", "bfloat16", 1024, 64), ("lstm", "bfloat16", 1024, 256),
    ("lstm", "float16", 256, 2048), ("lstm", "float32", 512, 128),
)  # fmt: skip


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Lines:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    yield from (f"| {' | '.join(cells)} |" for cells in lines)


def _batches(layer: Layer, device: Device) -> str:
    """The batches that torch's kernels take, in words."""
    found = rule.torchs_batches(layer, device)
    words = [f"from {first}" if end is None else f"{first} to {end - 1}" for first, end in found]
    return ", ".join(words) or "never"


def handed_over(rows: Sequence[Modelled], device: Device) -> Lines:
    """Where torch's kernels take over, in training, one direction."""
    headings, lines = ["hidden size"], []
    kinds = [(cell, dtype) for cell in ("lstm", "gru") for dtype in ("bfloat16", "float32")]
    for cell, dtype in kinds:
        headings.append(f"{cell.upper()}, {'16 bits' if dtype == 'bfloat16' else 'TF32'}")
    for hidden in (256, 512, 768, 1024, 2048):
        found = [_batches(Layer(COUNTS[cell], dtype, 0, hidden), device) for cell, dtype in kinds]
        lines.append([str(hidden), *found])
    yield from _markdown(headings, lines)


def noted(rows: Sequence[Modelled], device: Device) -> Lines:
    """A few sizes, in training: both times of a step."""
    lines = []
    for cell, dtype, hidden, batch in _NOTED:
        layer = Layer(COUNTS[cell], dtype, batch, hidden)
        ours = rule.launched(layer, device)
        times = (ours.us if ours else float("inf"), rule.torchs_us(layer, device))
        name = f"{cell.upper()} {_PRECISIONS.get(dtype, dtype)} {hidden}"
        lines.append([name, str(batch), *(f"{us:.1f}" for us in times), _batches(layer, device)])
    yield from _markdown(["cell, dtype, H", "B", "ours", "torch's", "torch's take"], lines)


def ratios(rows: Sequence[Modelled], device: Device) -> Lines:
    """Our time over torch's, a table for each precision and mode; in bold where `"auto"` takes torch's."""
    found = {row.case(): row for row in rows if row.layers == row.directions == 1 and row.ratio is not None}
    by_size = {(c.cell, c.mode, c.dtype, c.H, c.B): row for c, row in found.items()}
    sizes = sorted({row.H for row in found.values()})
    for dtype, precision in _PRECISIONS.items():
        for mode in reversed(MODES):
            lines = []
            for cell in ("lstm", "gru"):
                for hidden in sizes:
                    kinds = [by_size.get((cell, mode, dtype, hidden, batch)) for batch in _BATCHES]
                    lines.append([f"{cell.upper()} {hidden}", *map(_ratio, kinds)])
            yield f"{precision}, {_WORDS[mode]}:"
            yield ""
            yield from _markdown(["H \\ B", *map(str, _BATCHES)], lines)
            yield ""


def _ratio(row: Modelled | None) -> str:
    if row is None or row.ratio is None:
        return "-"
    return f"**{row.ratio:.2f}**" if row.chosen == "aten" else f"{row.ratio:.2f}"


# The parts that pages may have, by name.
PARTS: Mapping[str, Callable[[Sequence[Modelled], Device], Lines]] = {
    "handed-over": handed_over,
    "noted": noted,
    "ratios": ratios,
}
_PART = re.compile(r"(<!-- model:([\w-]+) -->\n).*?(\n<!-- model:end -->)", re.DOTALL)


def filled(text: str, rows: Sequence[Modelled], device: Device) -> str:
    """A page's text with each of its parts written anew.

    Raises:
        BenchError: it has none, or one that there is not.
    """
    names = [match[2] for match in _PART.finditer(text)]
    if not names:
        raise BenchError("no <!-- model:NAME --> ... <!-- model:end --> to fill")
    for name in names:
        if name not in PARTS:
            raise BenchError(f"no part {name!r}: choose from {', '.join(PARTS)}")

    def part(match: re.Match[str]) -> str:
        lines = "\n".join(PARTS[match[2]](rows, device))
        return f"{match[1]}\n{lines.rstrip()}\n{match[3]}"

    return _PART.sub(part, text)


def fill(page: Path, rows: Sequence[Modelled], device: Device) -> None:
    """Write the parts of a page anew.

    Raises:
        BenchError: there is no such page, or it has no part to fill.
    """
    with refusing(f"cannot read {page.name}"):
        text = page.read_text(encoding="utf-8")
    try:
        page.write_text(filled(text, rows, device), encoding="utf-8")
    except BenchError as error:
        raise BenchError(f"{page.name}: {error}") from None
