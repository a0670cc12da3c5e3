"""Processes that compile, as many as there are cores."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def pool(processes: int) -> Iterator[concurrent.futures.Executor]:
    """So many of them; what none of them has begun is dropped at the end."""
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches the whole process group; the parent alone is to act on it.
    ignoring = (signal.SIGINT, signal.SIG_IGN)
    workers = concurrent.futures.ProcessPoolExecutor(processes, context, signal.signal, ignoring)
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
