"""What torch.compile leaves to Python. It imports the compiler, so it is imported where that is at work already."""

from __future__ import annotations

from typing import Any

import torch


def _packed_forward(layer: Any, *args: Any) -> Any:
    return layer._forward(*args)


# A layer's call with a PackedSequence, whose sizes are data: traced, it would fall apart into a dozen graphs.
packed_forward = torch.compiler.disable(_packed_forward)
