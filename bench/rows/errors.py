"""What ends a command with one line, and errors in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class BenchError(ValueError):
    """What ends a command with one line and exit code 1."""


class LostGPUError(BenchError):
    """An error after which this process can use its GPU no more: what is left needs another process. Exit code 3."""


def said(error: Exception) -> str:
    """What kind of error it is, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


@contextlib.contextmanager
def refusing(what: str, hint: str = "") -> Iterator[None]:
    """End the command where the system refuses what is done inside: `what` failed, and why."""
    try:
        yield
    except OSError as error:
        raise BenchError(f"{what}: {error.strerror}{hint}") from None
