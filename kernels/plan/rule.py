"""Both models side by side: what a layer's scans take by our kernels and by torch's, and which batches torch's take.

Pure Python, as all of `plan/`: `fastrnn.backends.handover` asks for a call, `bench model` for any GPU, here or not. All
times are microseconds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

from fastrnn.kernels.plan import cost, peer
from fastrnn.kernels.plan.choice import choose
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.devices import Device
from fastrnn.kernels.plan.peer import Layer

# Stretches of batch sizes, in order, none of which touches the next: the first, and the one after the last, if any.
Batches = tuple[tuple[int, int | None], ...]
_MOST_ROWS = 65536  # beyond which nothing is looked for
_TILE = 16


@dataclass(frozen=True)
class Launched:
    """What our kernels run for a layer: a schedule, and a launch for each pass; `us`: a step of all layers takes."""

    schedule: str
    launches: tuple[LaunchConfig, ...]
    us: float


def passes(layer: Layer) -> tuple[bool, ...]:
    """Of each scan of a layer, whether it is the backward one."""
    return (False, True) if layer.training else (False,)


@functools.lru_cache(maxsize=4096)  # layers that differ in number, or in what forward keeps, have launches in common
def _best(shape: ScanShape, device: Device, schedule: str) -> LaunchConfig | None:
    return choose(shape, device, schedule)


def _shape(layer: Layer, backward: bool) -> ScanShape:
    counts, ieee = layer.counts, layer.exact and layer.element_bytes == 4
    sizes = (layer.element_bytes, layer.batch, layer.hidden, layer.directions)
    moved = counts.moved(backward, layer.training)
    return ScanShape(counts.gates, backward, *sizes, ieee, moved=moved, **counts.tiles(backward))


def launched(layer: Layer, device: Device) -> Launched | None:
    """What our kernels would run, by the first schedule that has a launch for each pass; None where none has."""
    shapes = [_shape(layer, backward) for backward in passes(layer)]
    for schedule in ("persistent", "stepwise"):
        found = [_best(shape, device, schedule) for shape in shapes]
        launches = tuple(config for config in found if config is not None)
        if len(launches) == len(shapes):
            steps = (cost.step_cost(shape, config, device) for shape, config in zip(shapes, launches, strict=True))
            return Launched(schedule, launches, sum(steps) * layer.layers)
    return None


def torchs_us(layer: Layer, device: Device) -> float:
    """What a step of all layers takes by torch's kernels at their best."""
    return sum(peer.step_us(layer, backward, device) for backward in passes(layer)) * layer.layers


def limit_us(layer: Layer, device: Device) -> float:
    """What a step of all layers takes at the least: the larger of what memory takes for all that our scans move and
    what the matrix units take, ordinary ones where float32 products are to be exact."""
    counts, size = layer.counts, layer.element_bytes
    units = layer.batch * layer.hidden * layer.directions
    exact = layer.exact and size == 4
    rate = device.sms * (32 * device.sm_issue_rate if exact else device.sm_mac_rate * 2 / size)
    multiply = counts.gates * units * (layer.projection or layer.hidden) / rate
    return layer.layers * sum(
        max(counts.moved(backward, layer.training) * units * size / device.memory_rate, multiply)
        for backward in passes(layer)
    )


def first_above(ours: Callable[[int], float], allowed: Callable[[int], float], low: int = 0) -> int | None:
    """The smallest batch after `low` from which `ours` may exceed `allowed`, neither of which falls as batches grow.

    Below it ours never do. It is found in tiles of 16 rows, which ours come in, and to a sixteenth of it.
    """
    while low < _MOST_ROWS:
        high = max(_TILE, 2 * low)
        while ours(high) > allowed(low + 1):
            if high - low <= max(_TILE, low // 16):
                return low + 1
            high = low + (high - low) // (2 * _TILE) * _TILE
        low = high
    return None


def first_ahead(ours: Callable[[int], float], theirs: Callable[[int], float], low: int) -> int | None:
    """A batch from `low` on at which ours take no more than theirs, neither of which falls as batches grow; the first
    one, but for what there may be within a tile of 16 rows, or a sixteenth."""
    low = -(-low // _TILE) * _TILE
    while low <= _MOST_ROWS:
        us = ours(low)
        if us <= theirs(low):
            return low
        step = max(_TILE, low // (16 * _TILE) * _TILE)
        while low + step <= _MOST_ROWS and theirs(low + 2 * step) < us:  # up to there ours are behind
            step *= 2
        low += step
    return None


def stretches(ours: Callable[[int], float], theirs: Callable[[int], float], allowed: Callable[[int], float]) -> Batches:
    """Where torch's kernels run: from where ours may exceed what they are allowed, until ours take no more than theirs.

    Elsewhere ours never exceed it. The two bounds differ, so that waves of a launch do not turn the choice to and fro.
    """
    found: list[tuple[int, int | None]] = []
    low = 0
    while (first := first_above(ours, allowed, low)) is not None:
        if found and found[-1][1] == first:
            first = found.pop()[0]
        ahead = first_ahead(ours, theirs, max(first, low + 1))
        if ahead is None:
            return (*found, (first, None))
        found.append((first, ahead + 1))
        low = ahead
    return tuple(found)


def torchs_batches(layer: Layer, device: Device) -> Batches:
    """The batches for which `"auto"` takes torch's kernels for `layer`, whatever its own is; empty where it never
    does, as where no kernel of ours can run."""
    if launched(dataclasses.replace(layer, batch=1), device) is None:
        return ()

    @functools.cache
    def ours(batch: int) -> float:
        found = launched(dataclasses.replace(layer, batch=batch), device)
        return 0.0 if found is None else found.us

    def theirs(batch: int) -> float:
        return torchs_us(dataclasses.replace(layer, batch=batch), device)

    def allowed(batch: int) -> float:
        return peer.allowed_us(theirs(batch), len(passes(layer)) * layer.layers)

    return stretches(ours, theirs, allowed)


def among(batch: int, batches: Batches) -> bool:
    """Whether a batch is in one of the stretches."""
    return any(batch >= first and (end is None or batch < end) for first, end in batches)


def in_words(batch: int, batches: Batches) -> str:
    """The stretch that a batch is in: `"from B=97 on"`."""
    first, end = next(stretch for stretch in batches if among(batch, (stretch,)))
    return f"from B={first} on" if end is None else f"from B={first} to B={end - 1}"
