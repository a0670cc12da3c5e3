"""Which batches `"auto"` leaves to torch's own kernels: two models compared, theirs and ours (`kernels/plan/rule.py`).

What runs depends on the batch in this alone, so a call compares it with a few numbers, found once for everything else
that it depends on.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import torch

from fastrnn.backends import aten, fused
from fastrnn.kernels.plan import peer, rule

if TYPE_CHECKING:
    from fastrnn.scan.problem import Problem


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


def layer_of(problem: Problem) -> peer.Layer:
    """`problem` as the models have it, under torch's present TF32 switch."""
    return peer.Layer(
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


def times_us(problem: Problem) -> tuple[float, float] | None:
    """What the models give a time step of our kernels, backward included where it is needed, and of torch's at their
    best; None where they are not to be compared, none of ours can run, or the batch is left open."""
    if not problem.batch or not comparable(problem):
        return None
    layer, device = layer_of(problem), fused.device_limits(problem.device)
    ours = rule.launched(layer, device)
    return None if ours is None else (ours.us, rule.torchs_us(layer, device))


@functools.lru_cache(maxsize=4096)
def _torchs_batches(problem: Problem, _: object) -> rule.Batches:
    """`torchs_batches`, remembered for the switches that it depends on besides."""
    if not comparable(problem):
        return ()
    return rule.torchs_batches(layer_of(problem), fused.device_limits(problem.device))


def torchs_batches(problem: Problem) -> rule.Batches:
    """The batches for which `"auto"` takes torch's kernels for `problem`, whatever its own is."""
    return _torchs_batches(dataclasses.replace(problem, time=0, batch=0), switches())


def declined(problem: Problem) -> str | None:
    """Why `"auto"` leaves `problem` to torch's kernels, or None; None where the batch is left open, too."""
    if not problem.batch:
        return None
    theirs = torchs_batches(problem)
    times = times_us(problem) if rule.among(problem.batch, theirs) else None
    if times is None:
        return None
    return f"{rule.in_words(problem.batch, theirs)} torch's kernels are expected to be faster ({in_words(times)})"


def in_words(times: tuple[float, float]) -> str:
    return f"estimated {times[0]:.1f} us a step, torch's at their best {times[1]:.1f}"
