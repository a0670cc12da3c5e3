"""The cells that rows and reports can name: torch.nn's, the catalogue's, and `module:function`, anybody's own.

A cell of one's own is imported where it is needed, in each process: its name is all that goes between them. Naming one
of the others needs no torch.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from typing import Any

from fastrnn.kernels.counts import COUNTS, Counts

# Those with layers and cells in torch.nn, or, the textbook GRU, in Keras.
BUILTIN = ("lstm", "gru", "gru_textbook", "rnn_tanh", "rnn_relu")


@functools.cache
def counts_of(name: str) -> Counts:
    """The counts of a cell; of a user's own its `Cell`.

    Raises:
        ValueError: there is no such cell; the message says what was found.
    """
    if name in COUNTS:
        return COUNTS[name]
    module, colon, path = name.partition(":")
    if not colon:
        raise ValueError(f"invalid choice: {name!r} (choose from {', '.join(COUNTS)}, or module:function)")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # an installed program starts in the folder of programs
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{name!r}: {error}") from None
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Counts):
        raise ValueError(f"{name!r} is no cell: make {path or 'a function'} of {module} one with @fastrnn.cell")
    return found


def parse_cell(text: str) -> str:
    """A cell's name; for argparse."""
    try:
        counts_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
