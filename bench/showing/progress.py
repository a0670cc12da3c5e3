"""How far a long command is: a bar below the rows on a terminal, through rich where that is installed; else nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastrnn.bench.showing.table import emit


@dataclass(frozen=True)
class Display:
    """Where rows are printed, and who is told what is measured next; each call of `next` counts one."""

    emit: Callable[[str], None] = emit
    next: Callable[[str], None] = lambda label: None


@contextlib.contextmanager
def progress(total: int) -> Iterator[Display]:
    """A display for `total` measurements."""
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        yield Display()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # Drawn between measurements only: rich's own thread would draw during them, and be measured.
    columns = (MofNCompleteColumn(), BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("", total=total)
        started = False

        def following(label: str) -> None:
            nonlocal started
            bar.update(task, advance=1 if started else 0, description=label, refresh=True)
            started = True

        def show(text: str) -> None:
            bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

        yield Display(show, following)
