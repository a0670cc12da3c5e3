"""From which batch on `"auto"` leaves a layer to torch's own kernels: a comparison of two models, theirs and ours.

What runs depends on the batch in this alone, so a call compares it with one number, found once for everything else
that it depends on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from fastrnn.backends import aten, fused
from fastrnn.kernels.plan import cost, peer

if TYPE_CHECKING:
    from fastrnn.scan.problem import Problem

_MOST_ROWS = 65536  # beyond which nothing is looked for
_TILE = 16


def comparable(problem: Problem) -> bool:
    """Whether cuDNN is what ours compete with: torch's own cell, and nothing asked for that torch's layers lack."""
    asked = problem.packed or problem.lengths or problem.resets or problem.cells or problem.heads > 1
    if problem.cell.mode not in aten.MODES or asked or (problem.grad and problem.evaluating) or fused.interpreting():
        return False
    enabled, deterministic, _ = switches()
    if not enabled or deterministic or fused.unmet_requirement(problem) is not None:
        return False
    needed = peer.BFLOAT16_CUDNN if problem.dtype == torch.bfloat16 else 1
    return (torch.backends.cudnn.version() or 0) >= needed


def switches() -> tuple[bool, bool, bool]:
    """torch's switches that the comparison depends on: whether there is cuDNN, whether results must be the same bits
    every time, which its RNNs' are not, and whether products may be TF32."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        deterministic = not torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.backends.cudnn.enabled, deterministic, fused.tf32_allowed()


def ours_us(problem: Problem) -> float | None:
    """What the model gives a time step of the kernels that would run, backward included where it is needed; None where
    none can."""
    device = fused.device_limits(problem.device)
    passes = fused.passes(problem)
    for schedule in ("persistent", "stepwise"):
        launches = [(shape, fused.launches(shape, device, schedule).best) for shape in passes]
        costs = [cost.step_cost(shape, config, device) for shape, config in launches if config is not None]
        if len(costs) == len(passes):
            return sum(costs) * problem.layers
    return None


def torchs_us(problem: Problem) -> float:
    """What the model gives a time step of torch's kernels at their best."""
    layer = peer.Layer(
        problem.cell,
        str(problem.dtype).removeprefix("torch."),
        problem.batch,
        problem.hidden,
        problem.directions,
        problem.layers,
        problem.projection,
        problem.grad,
        exact=not fused.tf32_allowed(),
        single=problem.single,
    )
    device = fused.device_limits(problem.device)
    passes = (False, True) if problem.grad else (False,)
    return sum(peer.step_us(layer, backward, device) for backward in passes) * problem.layers


def times_us(problem: Problem) -> tuple[float, float] | None:
    """Both, ours first; None where they are not to be compared, or the batch is left open."""
    if not problem.batch or not comparable(problem):
        return None
    ours = ours_us(problem)
    return None if ours is None else (ours, torchs_us(problem))


def first_above(ours: Callable[[int], float], allowed: Callable[[int], float]) -> int | None:
    """The smallest batch from which `ours` may exceed `allowed`, neither of which falls as the batch grows.

    Below it ours never do. It is found in tiles of 16 rows, which ours come in, and to a sixteenth of it.
    """
    low = 0
    while low < _MOST_ROWS:
        high = max(_TILE, 2 * low)
        while ours(high) > allowed(low + 1):
            if high - low <= max(_TILE, low // 16):
                return low + 1
            high = low + (high - low) // (2 * _TILE) * _TILE
        low = high
    return None


@functools.lru_cache(maxsize=4096)
def _torchs_from(problem: Problem, _: object) -> int | None:
    """`torchs_from`, remembered for the switches that it depends on besides."""
    if not comparable(problem) or ours_us(dataclasses.replace(problem, batch=1)) is None:
        return None

    @functools.cache
    def ours(batch: int) -> float:
        return ours_us(dataclasses.replace(problem, batch=batch)) or 0.0

    def allowed(batch: int) -> float:
        passes = (1 + problem.grad) * problem.layers
        return peer.allowed_us(torchs_us(dataclasses.replace(problem, batch=batch)), passes)

    return first_above(ours, allowed)


def torchs_from(problem: Problem) -> int | None:
    """The batch from which on `"auto"` takes torch's kernels for `problem`, whatever its own is; None for no batch."""
    return _torchs_from(dataclasses.replace(problem, time=0, batch=0), switches())


def declined(problem: Problem) -> str | None:
    """Why `"auto"` leaves `problem` to torch's kernels, or None; None where the batch is left open, too."""
    if not problem.batch:
        return None
    most = torchs_from(problem)
    times = None if most is None or problem.batch < most else times_us(problem)
    if times is None:
        return None
    return f"from B={most} on torch's kernels are expected to be faster ({in_words(times)})"


def in_words(times: tuple[float, float]) -> str:
    return f"estimated {times[0]:.1f} us a step, torch's at their best {times[1]:.1f}"
