"""The checkout that fastrnn is imported from, where it is imported from one, and what git says of it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import fastrnn
from fastrnn.bench.rows.errors import BenchError


def root() -> Path:
    """The folder that holds fastrnn's."""
    return Path(fastrnn.__file__).parent.parent


def git(*arguments: str, folder: Path | None = None) -> str:
    """What git prints, in `folder` or else at the root.

    Raises:
        BenchError: it fails; with the last it said.
    """
    command = ["git", "--no-optional-locks", "-C", str(folder or root()), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:
        raise BenchError("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise BenchError((error.stderr.strip().splitlines() or [f"git {arguments[0]} failed"])[-1]) from None


def commit() -> str | None:
    """The commit of the checkout, as in `record.Row`; None where fastrnn is not imported from one."""
    file = Path(fastrnn.__file__)
    try:
        # An installed copy may lie inside some checkout, as in a virtual environment there, without being part of it.
        git("ls-files", "--error-unmatch", file.name, folder=file.parent)
        head, changes = git("rev-parse", "HEAD", folder=file.parent), git("diff", "HEAD", folder=file.parent)
    except BenchError:
        return None
    # The digest tells one change from the next: a run that goes on must not take the one's rows for the other's.
    return f"{head}-dirty-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else head
