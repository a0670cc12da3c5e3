"""The choice of a launch: a pure function of sizes and limits that never asks for more than the device has."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")  # `make test-gpu` does without

from hypothesis import given, settings
from hypothesis import strategies as st

from fastrnn.kernels.plan import choice, gluon, limits
from fastrnn.kernels.plan.choice import candidates, choose
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.cost import launch_cost, shared_estimate, step_cost
from fastrnn.kernels.plan.devices import DEVICES, Device, shared_bytes
from fastrnn.kernels.plan.wide import programs_per_sm

SHAPES = st.builds(
    ScanShape,
    gates=st.sampled_from([1, 3, 4, 8]),
    backward=st.booleans(),
    element_bytes=st.sampled_from([2, 4]),
    batch=st.integers(1, 2000),
    hidden=st.integers(1, 3000),
    directions=st.sampled_from([1, 2]),
    ieee=st.booleans(),
    inner=st.sampled_from([0, 1]),
    heads=st.sampled_from([1, 3]),
    extra=st.sampled_from([0, 2, 5]),
    states=st.sampled_from([1, 2, 4]),
    constants=st.sampled_from([0, 1]),
)
SMALL_GPU = Device("a small GPU", (8, 6), sms=16, shared_bytes=shared_bytes((8, 6)))
WITHOUT_GLUON = dataclasses.replace(DEVICES["sm_90"], gluon=False)
GPUS = [*DEVICES.values(), SMALL_GPU]
GPU_NAMES = [*DEVICES, "small"]


def _programs(shape: ScanShape, config: LaunchConfig) -> int:
    """Programs of the first and largest launch."""
    tiles = min(-(-shape.batch // config.block_b), config.batch_tiles)
    return -(-shape.hidden // config.block_h) * tiles * shape.groups


@pytest.mark.parametrize("device", GPUS, ids=GPU_NAMES)
@settings(max_examples=60, deadline=None)
@given(shape=SHAPES)
def test_what_waits_fits_the_device_at_once(device: Device, shape: ScanShape) -> None:
    config = choose(shape, device, "persistent")
    if config is not None and config.exchange != "none":
        at_once = gluon.programs_per_sm(shape, config, device) if config.gluon else 1
        at_once = programs_per_sm(shape, config, device) if config.wide else at_once
        assert _programs(shape, config) <= device.sms * at_once


@pytest.mark.parametrize("schedule", ["persistent", "stepwise"])
@pytest.mark.parametrize("device", GPUS, ids=GPU_NAMES)
@settings(max_examples=60, deadline=None)
@given(shape=SHAPES)
def test_every_candidate_is_a_whole_tiling(device: Device, schedule: str, shape: ScanShape) -> None:
    for config in candidates(shape, device, schedule):
        assert config.num_k * config.block_k >= shape.hidden
        assert config.num_k % config.group == 0
        assert config.block_k % config.split == 0
        assert config.block_k // config.split >= 16  # the least a matrix instruction takes
        assert shared_estimate(shape, config) <= device.shared_bytes
        assert config.batch_tiles >= 1
        assert config.tier != "solo" or config.block_h >= shape.hidden
        assert schedule == "persistent" or config.exchange == "none"


@pytest.mark.parametrize("device", GPUS, ids=GPU_NAMES)
@settings(max_examples=60, deadline=None)
@given(shape=SHAPES)
def test_there_is_always_a_stepwise_launch(device: Device, shape: ScanShape) -> None:
    assert choose(shape, device, "stepwise") is not None


@pytest.mark.parametrize("hidden", [256, 512, 768, 1024])
def test_weights_stay_on_chip_where_they_fit(hidden: int) -> None:
    for backward in (False, True):
        config = choose(ScanShape(4, backward, 2, 16, hidden, 1), DEVICES["sm_90"], "persistent")
        assert config is not None
        assert config.tier == "gluon grid"
        config = choose(ScanShape(4, backward, 2, 16, hidden, 1), WITHOUT_GLUON, "persistent")
        assert config is not None
        assert config.tier == "grid"


@pytest.mark.parametrize("backward", [False, True])
def test_data_as_their_own_flag_wait_for_a_gpu_to_say(backward: bool) -> None:
    """Gluon's launches that hand over so are there for who asks, of short steps; else none is considered."""
    shape, device = ScanShape(4, backward, 2, 16, 512, 1), DEVICES["sm_90"]
    assert {config.exchange for config in candidates(shape, device, "persistent") if config.gluon} == {"barrier"}
    asked = [config for config in candidates(shape, device, "persistent", "flag") if config.gluon]
    assert {(config.exchange, config.block_b, config.scatter) for config in asked} == {("flag", 16, False)}
    allowed = dataclasses.replace(device, gluon_exchanges=("flag",))
    config = choose(shape, allowed, "persistent")
    assert config in asked


@pytest.mark.parametrize(("device", "hidden"), [("gluon", 4096), ("triton", 2048)])
def test_a_matrix_too_large_for_the_chip_is_streamed(device: str, hidden: int) -> None:
    config = choose(
        ScanShape(4, False, 2, 16, hidden, 1), DEVICES["sm_90"] if device == "gluon" else WITHOUT_GLUON, "persistent"
    )
    assert config is not None
    assert config.tier == "streamed"


def test_a_small_layer_waits_for_nobody() -> None:
    for device, tier in ((DEVICES["sm_90"], "gluon solo"), (WITHOUT_GLUON, "solo")):
        config = choose(ScanShape(4, False, 2, 16, 32, 1), device, "persistent")
        assert config is not None
        assert (config.tier, config.exchange) == (tier, "none")


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES)
def test_gluon_is_chosen_where_it_is(shape: ScanShape) -> None:
    """Over all steps, on the matrix units; and where there is none, or products are exact, nowhere."""
    for device, schedule in itertools.product((DEVICES["sm_90"], WITHOUT_GLUON), ("persistent", "stepwise")):
        found = [config for config in candidates(shape, device, schedule) if config.gluon]
        assert not found or (device.gluon and schedule == "persistent" and not shape.ieee)
        for config in found:
            assert config.exchange == ("none" if config.alone else "barrier")
            assert not config.alone or config.block_h >= shape.hidden


def test_large_batches_run_in_waves() -> None:
    shape = ScanShape(4, False, 2, 4096, 1024, 1)
    config = choose(shape, DEVICES["sm_90"], "persistent")
    assert config is not None
    assert config.batch_tiles * config.block_b < 4096
    one = dataclasses.replace(shape, batch=config.batch_tiles * config.block_b)
    waves = -(-4096 // one.batch)
    assert step_cost(shape, config, DEVICES["sm_90"]) == pytest.approx(waves * step_cost(one, config, DEVICES["sm_90"]))


def test_a_faster_exchange_never_makes_a_step_slower() -> None:
    shape = ScanShape(4, False, 2, 16, 768, 1)
    slow, fast = (dataclasses.replace(DEVICES["sm_90"], hop_us=hop, barrier_us=2 * hop) for hop in (2.0, 0.5))
    config = choose(shape, slow, "persistent")
    assert config is not None
    assert step_cost(shape, config, fast) < step_cost(shape, config, slow)


@pytest.mark.parametrize("schedule", ["persistent", "stepwise"])
def test_a_step_in_two_parts_costs_more(schedule: str) -> None:
    """A cell with an inner gate exchanges twice, or launches twice, in every step."""
    shape = ScanShape(3, False, 2, 16, 768, 1)
    config = choose(shape, DEVICES["sm_90"], schedule)
    assert config is not None
    apart = dataclasses.replace(shape, inner=1)
    assert step_cost(apart, config, DEVICES["sm_90"]) > step_cost(shape, config, DEVICES["sm_90"])


def test_every_limit_forbids_something_and_says_why() -> None:
    """Of all launches there are for a few shapes; one that nothing meets has its conditions misspelt."""
    unseen = set(limits.LIMITS)
    assert all(limit.reason for limit in unseen)
    for gates, inner, extra, states in (
        (1, 0, 0, 1),
        (2, 0, 0, 1),
        (8, 0, 1, 2),
        (4, 0, 0, 2),
        (3, 0, 0, 2),
        (3, 1, 0, 1),
        (4, 0, 2, 4),
    ):
        for sizes in itertools.product((False, True), (4, 2), (256,), (2048, 1024, 512, 128, 64), (1,), (False, True)):
            shape = ScanShape(gates, *sizes, inner=inner, extra=extra, states=states, constants=1)
            for name, schedule in itertools.product(("sm_80", "sm_90", "sm_100"), ("persistent", "stepwise")):
                device = DEVICES[name]
                for config in choice.every(shape, device, schedule):
                    launch = limits.facts(shape, config, device)
                    unseen -= {limit for limit in unseen if limit.forbids(launch)}
    assert not unseen


@pytest.mark.parametrize("schedule", ["persistent", "stepwise"])
@pytest.mark.parametrize("hidden", [17, 32])
def test_a_launch_that_ends_the_compiler_is_not_chosen(hidden: int, schedule: str) -> None:
    """Triton 3.9's LLVM ends the process over an LSTM's exact products in one program of more than 16 units."""
    config = choose(ScanShape(4, False, 4, 16, hidden, 1, ieee=True), DEVICES["sm_90"], schedule)
    assert config is not None
    assert config.tier == "streamed"


def test_plans_know_neither_torch_nor_triton() -> None:
    files = sorted((Path(__file__).resolve().parents[2] / "kernels" / "plan").glob("*.py"))
    assert len(files) >= 6
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                known = name in sys.stdlib_module_names or name.split(".")[0] in sys.stdlib_module_names
                ours = name == "fastrnn.kernels.counts" or name.startswith("fastrnn.kernels.plan")
                assert known or ours, f"{path.name} imports {name}"


def test_an_unknown_gpu_gets_the_smallest_shared_memory() -> None:
    assert shared_bytes((99, 0)) == min(shared_bytes(c) for c in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)))


@pytest.mark.parametrize("schedule", ["persistent", "stepwise"])
@settings(max_examples=60, deadline=None)
@given(shape=SHAPES)
def test_a_diagonal_waits_for_nobody(shape: ScanShape, schedule: str) -> None:
    diagonal = dataclasses.replace(shape, heads=1, diagonal=True)
    config = choose(diagonal, DEVICES["sm_90"], schedule)
    assert config is not None
    assert config.tier == "diagonal"
    assert config.exchange == "none"
    assert launch_cost(diagonal, config, DEVICES["sm_90"]) > 0


@pytest.mark.parametrize("backward", [False, True])
def test_heads_cost_what_as_many_directions_do(backward: bool) -> None:
    device = DEVICES["sm_90"]
    heads, directions = (ScanShape(4, backward, 2, 16, 64, d, moved=10, heads=h) for d, h in ((1, 2), (2, 1)))
    config = choose(heads, device, "persistent")
    assert config is not None
    assert config == choose(directions, device, "persistent")
    assert step_cost(heads, config, device) == step_cost(directions, config, device)
    whole = dataclasses.replace(heads, hidden=128, heads=1)
    best = choose(whole, device, "persistent")
    assert best is not None
    assert step_cost(heads, config, device) <= step_cost(whole, best, device)
