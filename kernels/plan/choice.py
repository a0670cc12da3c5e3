"""The choice of a launch: what there is to choose from, best first, and which one a kernel runs with in the end.

Pure Python, as all of `plan/`, no torch and no Triton: a choice is a function of sizes and of the device's limits, so
it can be made, tested and reported with no GPU. What a launch came to, its caller says: by an error where it gives way.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from fastrnn.kernels.plan import gluon
from fastrnn.kernels.plan.configs import MAX_GRID_Y, LaunchConfig, ScanShape, ceil_div, power_of_two
from fastrnn.kernels.plan.cost import launch_cost
from fastrnn.kernels.plan.devices import Device
from fastrnn.kernels.plan.limits import fits
from fastrnn.kernels.plan.wide import programs_per_sm, slots

_Result = TypeVar("_Result")

_warned: list[bool] = []  # whether this process was told that Gluon's kernels do not compile
# Of the kernels for many rows: rows, units and warps of a program. With four warps an SM has room for two.
_WIDE_TILES = ((64, 16, 4), (64, 32, 4), (128, 16, 8), (128, 32, 8), (64, 64, 8), (64, 64, 4), (128, 64, 8))
# Of Gluon's kernels: rows; units and warps.
_GLUON_ROWS, _GLUON_TILES = (16, 32), ((8, 4), (8, 8), (16, 4), (16, 8), (32, 8))
_WIDE_BATCH, _WIDE_HIDDEN = 17, 33  # from where on they are thought of: more rows than the least tile has
# How many launches are compiled, seconds each, before the one that spills least will do.
TRIALS = 6


def _solo(shape: ScanShape, schedule: str) -> Iterator[LaunchConfig]:
    size = max(16, power_of_two(shape.hidden))
    if size <= 128:
        # Backward in float32, 64 units need more registers than four warps have; as do more tensors than an LSTM's.
        crowded = shape.extra > 0 or (shape.backward and (shape.element_bytes > 2 or shape.gates > 4))
        warps = 8 if size > 64 or (size == 64 and crowded) else 4
        yield LaunchConfig(schedule, "solo", "none", 16, size, size, 1, 1, 1, warps, MAX_GRID_Y)


def _spread(shape: ScanShape, device: Device, schedule: str, exchange: str) -> Iterator[LaunchConfig]:
    """R over the grid: resident or streamed where the schedule is persistent, streamed where it is stepwise."""
    persistent = schedule == "persistent"
    for block_b, block_h, block_k in itertools.product((16, 32, 64), (8, 16, 32), (512, 256, 128)):
        programs = ceil_div(shape.hidden, block_h) * shape.groups
        tiles = min(max(1, ceil_div(shape.batch, block_b)), device.sms // programs) if persistent else MAX_GRID_Y
        if tiles == 0:
            continue
        num_k = ceil_div(shape.hidden, block_k)
        for tier, group in (*(("grid", g) for g in (4, 3, 2, 1) if persistent and num_k % g == 0), ("streamed", 1)):
            # Of a split contraction every warp repeats the pointwise part: four of them issue half of what eight do.
            for warps in (8, 4) if block_b < 64 else (8,):
                split = warps if block_b < 64 else 1
                yield LaunchConfig(
                    schedule, tier, exchange, block_b, block_h, block_k, num_k, group, split, warps, tiles
                )


def _wide_chunk(shape: ScanShape, tier: str, scatter: bool) -> int:
    """How much of the contraction is walked at once: as compile reports have it, and no more than there is."""
    if shape.element_bytes == 2:
        chunk = 128 if scatter or (tier == "wide streamed" and not shape.backward) else 64
    else:
        chunk = 64 if scatter and tier == "wide" else 32
    return min(chunk, power_of_two(shape.hidden))


def _wide(shape: ScanShape, device: Device, schedule: str, exchange: str) -> Iterator[LaunchConfig]:
    """Of the kernels for many rows: R resident or streamed. Backward by parts of dh, where there are more gates than
    one: H numbers a row are less than those of all gates. A step on its own has nobody to send them to."""
    if shape.batch < _WIDE_BATCH or shape.hidden < _WIDE_HIDDEN:
        return
    if exchange == "flag" or shape.ieee or shape.gates == shape.inner:
        return
    persistent = schedule == "persistent"
    tiers = ("wide", "wide streamed") if persistent else ("wide streamed",)
    scatter = shape.backward and persistent and shape.gates - shape.inner > 1
    for (rows, units, warps), tier in itertools.product(_WIDE_TILES, tiers):
        # A warp has registers for 16 rows of 128 columns.
        if rows * slots(shape) * units > warps * 16 * 128:
            continue
        block_k = _wide_chunk(shape, tier, scatter)
        num_k = ceil_div(shape.hidden, block_k)
        found = LaunchConfig(schedule, tier, exchange, rows, units, block_k, num_k, 1, 1, warps, MAX_GRID_Y, scatter)
        if persistent:
            programs = ceil_div(shape.hidden, units) * shape.groups
            room = device.sms * programs_per_sm(shape, found, device) // programs
            if room == 0:
                continue
            found = replace(found, batch_tiles=min(room, ceil_div(shape.batch, rows)))
        yield found


def _has_gluon(shape: ScanShape, device: Device, schedule: str) -> bool:
    return device.gluon and schedule == "persistent" and shape.element_bytes <= 4 and not shape.ieee


def _gluon(shape: ScanShape, device: Device, schedule: str, exchange: str) -> Iterator[LaunchConfig]:
    """Of the kernels with layouts of their own, which are for products on the matrix units, over all steps."""
    if not _has_gluon(shape, device, schedule):
        return
    flag = exchange == "flag"
    for rows, (units, warps) in itertools.product(_GLUON_ROWS, _GLUON_TILES):
        # All data of a step that are their own flag are in registers before any is multiplied: of short steps alone.
        if flag and (rows > 16 or (shape.backward and rows * units > 32 * warps)):
            continue
        parts = shape.backward and rows == units == 16 and shape.inner == 0 and shape.gates > 1
        # Parts are many times what is gathered: too much to be there for as many steps as flags need.
        for scatter in (False, True) if parts and not flag else (False,):
            found = gluon.grid(shape.hidden, rows, units, warps, scatter, exchange)
            programs = ceil_div(shape.hidden, units) * shape.groups
            room = device.sms * gluon.programs_per_sm(shape, found, device) // programs
            if room:
                yield replace(found, batch_tiles=min(room, max(1, ceil_div(shape.batch, rows))))


def _gluon_solo(shape: ScanShape, device: Device, schedule: str) -> Iterator[LaunchConfig]:
    if _has_gluon(shape, device, schedule) and shape.hidden <= 128:
        yield gluon.solo(shape.hidden)


def _diagonal(schedule: str) -> Iterator[LaunchConfig]:
    for block_b, block_h in itertools.product((4, 8, 16), (32, 64, 128)):
        if block_b * block_h > 1024:  # 16 elements a thread need more registers than there are
            continue
        yield LaunchConfig(schedule, "diagonal", "none", block_b, block_h, 1, 1, 1, 1, 4, MAX_GRID_Y)


def every(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> Iterator[LaunchConfig]:
    """Every launch that is thought of for `shape`; of one exchange, where it is given."""
    if shape.diagonal:
        return _diagonal(schedule)
    exchanges = ("none",) if schedule == "stepwise" else ("flag", "barrier") if exchange is None else (exchange,)
    several = [kind(shape, device, schedule, how) for kind in (_spread, _wide) for how in exchanges]
    several += [
        _gluon(shape, device, schedule, how) for how in (device.gluon_exchanges if exchange is None else (exchange,))
    ]
    return itertools.chain(_solo(shape, schedule), _gluon_solo(shape, device, schedule), *several)


def candidates(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> Iterator[LaunchConfig]:
    """Those that are known to work."""
    return (config for config in every(shape, device, schedule, exchange) if fits(shape, config, device))


def ranked(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> list[LaunchConfig]:
    """The candidates, the one that the cost model likes best first; none where the device has no room for any."""
    return sorted(candidates(shape, device, schedule, exchange), key=lambda config: launch_cost(shape, config, device))


def choose(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> LaunchConfig | None:
    """The first of `ranked`, or None."""
    return next(iter(ranked(shape, device, schedule, exchange)), None)


class RefusedError(RuntimeError):
    """A launch that was not made, and nothing written, since the driver or Triton's loader has no room for it."""


class SpillsError(RuntimeError):
    """A launch that was not made, and nothing written, since its kernel keeps `words` registers' worth in memory."""

    def __init__(self, words: int) -> None:
        super().__init__(f"the kernel spills {words} registers")
        self.words = words


class UncompiledError(RuntimeError):
    """A launch that was not made, and nothing written, since this Triton does not compile its kernel."""


def _warn_once(error: UncompiledError) -> None:
    if not _warned:
        _warned.append(True)
        warnings.warn(
            f"fastrnn's Gluon kernels do not compile here, its Triton kernels run instead: {error}", stacklevel=3
        )


class Launches:
    """The launches of one scan, and what became of them: the one place where a launch falls to the next.

    Attributes:
        shape, device, schedule: what they are of.
        best: the one that the cost model likes best; None where the device has no room for any.
        settled: the one that runs, by the variant of the kernel.
    """

    def __init__(self, shape: ScanShape, device: Device, schedule: str, waiting: bool = True) -> None:
        """`waiting`: whether programs can wait for each other; in Triton's interpreter they run one after another."""
        self.shape, self.device, self.schedule, self.waiting = shape, device, schedule, waiting
        self.best: LaunchConfig | None = next(iter(self._found()), None)
        self.settled: dict[tuple[object, ...], LaunchConfig] = {}

    def _found(self) -> list[LaunchConfig]:
        of = (self.shape, self.device, self.schedule)
        found = ranked(*of)
        if self.waiting:
            return found
        # Whether the best launch waits depends on the batch, which the choice of a backend leaves open: of the launches
        # that fit, those without an exchange are taken; of all that are thought of, if none of these fits a GPU, since
        # the interpreter has room for any. Where there is none, a backend sees by the best that it waits.
        alone = [config for config in found if config.exchange == "none"]
        alone = alone or [config for config in every(*of) if config.exchange == "none"]
        return alone or found[:1]

    def ranked(self) -> Iterator[LaunchConfig]:
        """The best, then the others in turn; found again, since a process keeps thousands of these."""
        if self.best is not None:
            yield self.best
            yield from self._found()[1:]

    def run(self, call: Callable[..., _Result], variant: tuple[object, ...]) -> _Result:
        """`call(config=, spill_limit=)` under the best launch that is not refused and whose kernel spills no registers;
        or under the one that spills least, where all that were tried do.

        That is settled before the first launch, not by it: so every call of a process computes with the same launch,
        and what a CUDA graph captures is what ran before. A variant is settled for itself, whatever others were called
        before.

        Raises:
            RuntimeError: there is no launch, or all that were tried were refused: the last refusal.
        """
        known = self.settled.get(variant)
        if known is not None:
            return call(config=known, spill_limit=None)
        spilled: list[tuple[int, LaunchConfig]] = []
        compiles = True  # Gluon's kernels
        refusal = RuntimeError(f"no {self.schedule} launch fits this device for {self.shape}; pass backend='aten'")
        for config in itertools.islice((c for c in self.ranked() if compiles or not c.gluon), TRIALS):
            try:
                result = call(config=config, spill_limit=0)
            except SpillsError as error:
                spilled.append((error.words, config))
            except RefusedError as error:
                refusal = error
            except UncompiledError as error:
                compiles = False
                _warn_once(error)
            else:
                self.settled[variant] = config
                return result
        if not spilled:
            raise refusal
        self.settled[variant] = min(spilled, key=lambda found: found[0])[1]
        return call(config=self.settled[variant], spill_limit=None)
