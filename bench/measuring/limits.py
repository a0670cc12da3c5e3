"""What the cost model gives a case: how fast the chosen launches should be, if the model's constants hold.

It counts the scans alone. The products before and after them are torch's, and come on top.
"""

from __future__ import annotations

import torch

from fastrnn.backends import fused
from fastrnn.bench.providers.own import cell_of
from fastrnn.bench.rows.cases import Case
from fastrnn.kernels.plan import cost
from fastrnn.kernels.plan.devices import Device


def limit_us(case: Case, device: Device) -> float | None:
    """Microseconds per time step of the scans of `case`, of the better schedule; None where no kernel can run it."""
    dtype, directions = getattr(torch, case.dtype), 2 if case.bidirectional else 1
    if dtype == torch.float64:
        return None
    total = 0.0
    for backward in (False, True) if case.train else (False,):
        shape = fused.scan_shape(cell_of(case.cell), backward, dtype, case.B, case.H, directions, case.train)
        launches = [fused.launches(shape, device, schedule).best for schedule in ("persistent", "stepwise")]
        costs = [cost.step_cost(shape, config, device) for config in launches if config is not None]
        if not costs:
            return None
        total += min(costs)
    return total * case.layers


def limit_on(case: Case, where: torch.device) -> float | None:
    """`limit_us` of the GPU `where`; None on a CPU, of which there is no model."""
    return limit_us(case, fused.device_limits(where)) if where.type == "cuda" else None
