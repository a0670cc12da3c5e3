"""The choice of a launch: what there is to choose from, best first.

Pure Python, as all of `plan/`, no torch and no Triton: a choice is a function of sizes and of the device's limits, so
it can be made, tested and reported with no GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape, ceil_div
from fastrnn.kernels.plan.cost import launch_cost
from fastrnn.kernels.plan.devices import Device
from fastrnn.kernels.plan.limits import fits

_MAX_GRID_Y = 65535


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _solo(shape: ScanShape, schedule: str) -> Iterator[LaunchConfig]:
    size = max(16, _power_of_two(shape.hidden))
    if size <= 128:
        # Backward in float32, 64 units need more registers than four warps have.
        warps = 8 if size > 64 or (size == 64 and shape.backward and shape.element_bytes > 2) else 4
        yield LaunchConfig(schedule, "solo", "none", 16, size, size, 1, 1, 1, warps, _MAX_GRID_Y)


def _spread(shape: ScanShape, device: Device, schedule: str, exchange: str) -> Iterator[LaunchConfig]:
    """R over the grid: resident or streamed where the schedule is persistent, streamed where it is stepwise."""
    persistent = schedule == "persistent"
    for block_b, block_h, block_k in itertools.product((16, 32, 64), (8, 16, 32), (512, 256, 128)):
        programs = ceil_div(shape.hidden, block_h) * shape.directions
        tiles = min(max(1, ceil_div(shape.batch, block_b)), device.sms // programs) if persistent else _MAX_GRID_Y
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


def every(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> Iterator[LaunchConfig]:
    """Every launch that is thought of for `shape`; of one exchange, where it is given."""
    exchanges = ("none",) if schedule == "stepwise" else ("flag", "barrier") if exchange is None else (exchange,)
    spread = itertools.chain.from_iterable(_spread(shape, device, schedule, kind) for kind in exchanges)
    return itertools.chain(_solo(shape, schedule), spread)


def candidates(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> Iterator[LaunchConfig]:
    """Those that are known to work."""
    return (config for config in every(shape, device, schedule, exchange) if fits(shape, config, device))


def ranked(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> list[LaunchConfig]:
    """The candidates, the one that the cost model likes best first; none where the device has no room for any."""
    return sorted(candidates(shape, device, schedule, exchange), key=lambda config: launch_cost(shape, config, device))


def choose(shape: ScanShape, device: Device, schedule: str, exchange: str | None = None) -> LaunchConfig | None:
    """The first of `ranked`, or None."""
    return next(iter(ranked(shape, device, schedule, exchange)), None)
