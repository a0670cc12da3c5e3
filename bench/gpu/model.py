"""`model`: what the models of `kernels/plan/` give a layer on a GPU, here or not: our time, torch's, the limit, the
choice and why. Needs neither torch nor Triton, unless a cell is one's own."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.cells import counts_of
from fastrnn.bench.rows.modelled import EXACT, Modelled
from fastrnn.bench.showing.table import columns, emit, heading, line
from fastrnn.kernels.plan import peer, rule
from fastrnn.kernels.plan.configs import describe
from fastrnn.kernels.plan.devices import Device

COLUMNS = columns(
    "cell<12 | mode<7 | dtype<12 | T>5 | B>6 | I>5 | H>5 | layers>6 | dirs>4 | ours>9 | torch's>9 | ratio>6 | "
    "limit>9 | % of it>7 | chosen<10"
)
_batches = functools.lru_cache(maxsize=4096)(rule.torchs_batches)  # of a layer, whatever its batch


def layer_of(case: Case) -> peer.Layer:
    """A case as the models have it."""
    exact = case.dtype == EXACT
    dtype, directions = "float32" if exact else case.dtype, 2 if case.bidirectional else 1
    sizes = (case.B, case.H, directions, case.layers)
    return peer.Layer(counts_of(case.cell), dtype, *sizes, training=case.train, exact=exact)


def modelled(case: Case, device: Device) -> Modelled:
    """What the models give for a case of T steps; `chosen` with a cuDNN that has the dtype."""
    layer = layer_of(case)
    ours, limit = rule.launched(layer, device), rule.limit_us(layer, device)
    theirs = rule.torchs_us(layer, device) if case.cell in peer.CELLS else None
    handed = () if theirs is None else _batches(replace(layer, batch=0), device)
    if ours is None:
        chosen, why = "aten", f"no launch of {case.H} hidden units fits"
    elif rule.among(case.B, handed):
        asked = dict.fromkeys(peer.algorithm(layer, backward, device) for backward in rule.passes(layer))
        chosen, why = "aten", f"{rule.in_words(case.B, handed)} torch's kernels are expected to be faster"
        why += f" ({' and '.join(asked)} algorithm)"
    else:
        chosen, why = ours.schedule, describe(ours.launches)
        why += "; not the faster, but within the margin" if theirs is not None and ours.us > theirs else ""
    sizes = (case.T, case.B, case.I, case.H, case.layers, layer.directions)
    times = None if ours is None else _of_call(ours.us, case), None if theirs is None else _of_call(theirs, case)
    return Modelled(case.cell, case.dtype, *sizes, case.mode, *times, _of_call(limit, case), chosen, why)


def _of_call(step_us: float, case: Case) -> float:
    return round(step_us * case.T, 3)


def _show(row: Modelled) -> str:
    """A row's line, its times those of a step, and the reason below."""
    times = [None if us is None else f"{us / row.T:.2f}" for us in (row.ours_us, row.torch_us, row.limit_us)]
    ratio = None if row.ratio is None else f"{row.ratio:.2f}"
    share = None if row.ours_us is None else f"{100 * row.limit_us / row.ours_us:.0f}"
    case = [row.cell, row.mode, row.dtype, row.T, row.B, row.I, row.H, row.layers, row.directions]
    return f"{line(COLUMNS, [*case, *times[:2], ratio, times[2], share, row.chosen])}\n  {row.why}"


def report(todo: Iterable[Case], device: Device) -> list[Modelled]:
    """Model and print; the rows."""
    emit(f"{device.name}, by the models; nothing here was measured.\n")
    emit(heading(COLUMNS))
    rows = []
    for case in todo:
        rows.append(modelled(case, device))
        emit(_show(rows[-1]))
    emit("")
    emit(
        "ours, torch's, limit: microseconds a time step, the scans of all layers, backward included where it trains;\n"
        "in a file they are of the whole call, T times that. ratio: ours over torch's. limit: what memory or the\n"
        "matrix units take at the least."
    )
    return rows


def write(path: str, rows: Sequence[Modelled]) -> None:
    """Write the rows, a line each, in place of what was there."""
    Path(path).write_text("".join(json.dumps(row.as_object(), allow_nan=False) + "\n" for row in rows))
