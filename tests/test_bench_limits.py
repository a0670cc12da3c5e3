"""What the benchmark says of a GPU's limits, with no GPU at hand: the model's bound, and the probes of the machine."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from benching import CPU, ROW

from fastrnn.bench import limits, run
from fastrnn.bench.cases import Case
from fastrnn.kernels import configs
from fastrnn.kernels.configs import ScanShape

H100 = configs.DEVICES["sm_90"]
CASE = Case("lstm", "train", "bfloat16", 512, 16, 512, 512)


def _cost(backward: bool, schedule: str, **changes: int) -> float:
    shape = dataclasses.replace(ScanShape(4, backward, 2, 16, 512, 1), **changes)
    config = configs.choose(shape, H100, schedule)
    assert config is not None
    return configs.step_cost(shape, config, H100)


def test_the_limit_is_the_models() -> None:
    forward, backward = _cost(False, "persistent"), _cost(True, "persistent")
    assert limits.limit_us(CASE, H100) == pytest.approx(forward + backward)
    assert limits.limit_us(dataclasses.replace(CASE, mode="forward"), H100) == pytest.approx(forward)
    assert limits.limit_us(dataclasses.replace(CASE, layers=3), H100) == pytest.approx(3 * (forward + backward))
    both = dataclasses.replace(CASE, bidirectional=True, mode="forward")
    assert limits.limit_us(both, H100) == pytest.approx(_cost(False, "persistent", directions=2))
    textbook = dataclasses.replace(CASE, cell="gru_textbook", mode="forward")
    assert limits.limit_us(textbook, H100) == pytest.approx(_cost(False, "persistent", gates=3, inner=1))


def test_the_limit_is_the_better_schedules() -> None:
    huge = dataclasses.replace(CASE, H=4096, B=256, mode="forward")
    costs = []
    for schedule in ("persistent", "stepwise"):
        shape = ScanShape(4, False, 2, 256, 4096, 1)
        config = configs.choose(shape, H100, schedule)
        costs += [] if config is None else [configs.step_cost(shape, config, H100)]
    assert limits.limit_us(huge, H100) == pytest.approx(min(costs))


def test_no_limit_where_no_kernel_runs() -> None:
    assert limits.limit_us(dataclasses.replace(CASE, dtype="float64"), H100) is None
    assert limits.limit_on(CASE, CPU) is None
    assert limits.limit_on(CASE, torch.device("cpu")) is None


def test_percent_of_limit() -> None:
    assert run.percent_of_limit(ROW) == pytest.approx(75)
    assert run.percent_of_limit(dataclasses.replace(ROW, limit_us=None)) is None
    assert run.percent_of_limit(dataclasses.replace(ROW, us_per_step=None)) is None
