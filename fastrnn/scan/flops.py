"""How many floating-point operations the operators take, for torch.utils.flop_counter, which counts products alone.

A row counts for all time steps, whatever its length: a formula sees shapes, and values on a GPU would have to be waited
for. Diagonal recurrent weights, which multiply elementwise, count for nothing. torch.utils.flop_counter imports Triton,
so its registry is filled when somebody else has imported it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"


def _products(T: int, B: int, weight: Sequence[int]) -> int:
    """One product with each group's matrices a step."""
    P, gates, H, K = weight
    return 2 * T * B * P * gates * H * K if K == H else 0


def _scan(x: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """One product of h with the recurrent matrix a step; x is `(T, B, P, GATES, H)`."""
    return _products(x[0], x[1], weight)


def _scan_backward(
    dout: Any, dfinal: Any, dcells: Any, weight: Sequence[int], state: Any, lengths: Any, resets: Any,
    output: Sequence[int], *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """One product of the gates' gradient a step; those for the weights follow as operators of torch's own."""
    return _products(output[0], output[1], weight)


def _aten_layer(
    input: Sequence[int], batch_sizes: Any, hx: Sequence[Sequence[int]], weights: Sequence[Sequence[int]],
    *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """Every matrix of every direction multiplies once a row and step; a bias is a vector."""
    rows = 1
    for size in input[:-1]:
        rows *= size
    return sum(2 * rows * w[0] * w[1] for w in weights if len(w) == 2)


def _aten_layer_backward(dout: Any, dh: Any, dc: Any, *given: Any, **kwargs: Any) -> int:
    """The layer again, and for each of its products two: a gradient of either factor."""
    return 3 * _aten_layer(*given)


FORMULAS: dict[str, Callable[..., int]] = {
    "scan_layer": _scan,
    "scan_backward": _scan_backward,
    "aten_layer": _aten_layer,
    "aten_layer_backward": _aten_layer_backward,
}


def _fill(counter: Any) -> None:
    for name, formula in FORMULAS.items():
        counter.register_flop_formula(getattr(torch.ops.fastrnn, name))(formula)


class _WhenImported(importlib.abc.MetaPathFinder):
    """Fills the registry as soon as there is one."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_fill(module: ModuleType) -> None:
                run(module)
                _fill(module)

            spec.loader.exec_module = run_and_fill  # type: ignore[method-assign]  # of this one loader
        return spec


def register() -> None:
    """Have FlopCounterMode know the operators, without importing it."""
    if _COUNTER in sys.modules:
        _fill(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _WhenImported())
