"""`run --base`: this benchmark on another commit's fastrnn, in a worktree that is gone afterwards."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastrnn.bench.rows import checkout, record
from fastrnn.bench.rows.errors import BenchError


def resolve(ref: str) -> str:
    """The commit `ref` names.

    Raises:
        BenchError: fastrnn is not imported from a checkout, or it has no such commit.
    """
    if checkout.commit() is None:
        raise BenchError("--base needs fastrnn to be imported from a git checkout")
    try:
        return checkout.git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    except BenchError:
        raise BenchError(f"--base: no commit {ref!r} in this checkout") from None


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A folder with `commit` checked out, and this benchmark in place of its own: the rows and the schema are one."""
    with tempfile.TemporaryDirectory(prefix="fastrnn-base-") as folder:
        tree = Path(folder) / "tree"
        checkout.git("worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            shutil.rmtree(tree / "bench", ignore_errors=True)
            ignored = shutil.ignore_patterns("results", "__pycache__")
            shutil.copytree(checkout.root() / "bench", tree / "bench", ignore=ignored)
            yield tree
        finally:
            checkout.git("worktree", "remove", "--force", str(tree))


def measure(tree: Path, commit: str, arguments: Sequence[str]) -> list[record.Row]:
    """The rows of `run` with `arguments` in `tree`.

    Raises:
        BenchError: it ended without any; with the last it said.
    """
    file = tree.parent / "rows.jsonl"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench", *arguments, "--commit", commit, "--json", str(file)]
    done = subprocess.run(command, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    rows = record.read(file) if file.exists() else []
    if not rows:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BenchError(f"{commit[:10]} could not be measured: {said[-1]}")
    return rows
