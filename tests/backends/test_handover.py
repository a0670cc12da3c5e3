"""torch's own kernels beside ours: the model of them against published times, and where "auto" hands over to them."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import as_tuple, worst_error
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

import fastrnn
from fastrnn.backends import aten, fused, handover
from fastrnn.cells import CELLS
from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan import peer, rule
from fastrnn.kernels.plan.choice import candidates, choose
from fastrnn.kernels.plan.configs import ScanShape
from fastrnn.kernels.plan.cost import launch_cost, step_cost
from fastrnn.kernels.plan.devices import DEVICES, Device
from fastrnn.scan import choice
from fastrnn.scan.choice import explanation, select
from fastrnn.scan.problem import Problem

H100 = DEVICES["sm_90"]
CUDA = torch.device("cuda", 0)
TORCHS = ("lstm", "gru", "rnn_tanh")
MANY = Problem(CELLS["lstm"], torch.float16, CUDA, time=100, batch=4096, hidden=1024, grad=True)


@pytest.fixture
def _h100(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with Triton, an H100 and a cuDNN of today, as far as the choice can see."""
    _forget()
    monkeypatch.setattr(fused, "_triton_installed", lambda: True)
    monkeypatch.setattr(fused, "interpreting", lambda: False)
    monkeypatch.setattr(fused, "device_limits", lambda device: H100)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    yield
    _forget()


def _forget() -> None:
    """What was chosen for another machine, the one at hand with its interpreter say."""
    fused.launches.cache_clear()
    handover._torchs_batches.cache_clear()


# The model of torch's kernels.

ESTIMATES: dict[str, Callable[[peer.Layer, bool, Device], float]] = {
    "standard": peer._standard,
    "persistent": peer._persistent,
    "small": peer._small,
}
# How far below a published time the estimate may be: torch's best on an H100, where those of the standard algorithm are
# of a V100 whose host launched it, and those of the small one grow faster in the number of rows than we rely on.
LEAST = {"standard": 0.13, "persistent": 0.95, "small": 0.35}


@pytest.mark.parametrize("point", peer.PUBLISHED, ids=lambda p: f"{p.algorithm}-{p.cell}-{p.hidden}-{p.batch}-{p.us}")
def test_estimates_are_below_what_was_published(point: peer.Point) -> None:
    layer = peer.Layer(COUNTS[point.cell], point.dtype, point.batch, point.hidden, layers=point.layers)
    estimate = ESTIMATES[point.algorithm](layer, point.backward, H100)
    assert LEAST[point.algorithm] * point.us <= estimate <= 1.01 * point.us


def test_the_floors_are_the_published_ones() -> None:
    layer = peer.Layer(COUNTS["gru"], "bfloat16", 1, 200)
    assert peer.step_us(layer, False, H100) == pytest.approx(6.8)
    assert peer.step_us(layer, True, H100) == pytest.approx(9.0)
    assert peer.step_us(dataclasses.replace(layer, directions=2), True, H100) == pytest.approx(18.0)


def _asked(cell: str, dtype: str, hidden: int, batch: int, **options: Any) -> tuple[str, str]:
    layer = peer.Layer(COUNTS[cell], dtype, batch, hidden, **options)
    return peer.algorithm(layer, False, H100), peer.algorithm(layer, True, H100)


def test_what_pytorch_asks_for() -> None:
    """The conditions of aten/src/ATen/native/cudnn/RNN.cpp."""
    assert _asked("lstm", "bfloat16", 128, 4096) == ("small", "small")
    assert _asked("gru", "float32", 192, 16) == ("small", "standard")
    assert _asked("rnn_relu", "float16", 256, 16) == ("small", "small")
    assert _asked("rnn_tanh", "float16", 384, 16) == ("small", "persistent")
    assert _asked("lstm", "float16", 768, 128) == ("persistent", "persistent")
    for options in ({"directions": 2}, {"layers": 2}, {"projection": 64}, {"single": True}):
        assert _asked("lstm", "float16", 768, 16, **options) == ("standard", "standard")
    assert _asked("lstm", "float16", 64, 16, single=True) == ("standard", "standard")
    for cell, dtype, hidden, batch in (
        ("lstm", "bfloat16", 768, 16), ("gru", "float16", 768, 16), ("lstm", "float16", 768, 136),
        ("lstm", "float16", 800, 16), ("lstm", "float16", 1152, 16), ("rnn_tanh", "float16", 896, 96),
    ):  # fmt: skip
        assert _asked(cell, dtype, hidden, batch) == ("standard", "standard")
    layer = peer.Layer(COUNTS["lstm"], "float16", 16, 768)
    assert peer.algorithm(layer, False, dataclasses.replace(H100, capability=(8, 6))) == "standard"
    assert peer.algorithm(layer, False, dataclasses.replace(H100, sms=56)) == "standard"


@pytest.mark.parametrize("cell", TORCHS)
@pytest.mark.parametrize("backward", [False, True])
def test_more_rows_never_take_less(cell: str, backward: bool) -> None:
    """What the search for the first batch rests on."""
    for hidden, dtype, single in itertools.product((64, 128, 384, 1024), ("float16", "float32"), (False, True)):
        layer = peer.Layer(COUNTS[cell], dtype, 1, hidden, single=single)
        times = [
            peer.step_us(dataclasses.replace(layer, batch=B), backward, H100) for B in (*range(1, 700, 3), 4096, 65536)
        ]
        assert times == sorted(times)


# What the model of ours used to forget.


def _solo(batch: int, moved: int = 0, **changes: Any) -> float:
    shape = dataclasses.replace(ScanShape(4, False, 2, batch, 128, 1, moved=moved), **changes)
    config = next(c for c in candidates(shape, H100, "persistent") if c.tier == "solo")
    return step_cost(shape, config, H100)


def test_solo_programs_run_in_waves() -> None:
    """One of 128 units fills an SM; several of 32 share one."""
    chip = 16 * H100.sms
    assert _solo(chip) == _solo(16)
    assert _solo(chip + 1) == pytest.approx(2 * _solo(16))
    assert _solo(chip + 1, hidden=32) == pytest.approx(_solo(16, hidden=32), rel=0.3)
    assert _solo(20 * chip, hidden=32) > 3 * _solo(16, hidden=32)


def test_a_step_takes_what_its_memory_traffic_takes() -> None:
    moved = COUNTS["lstm"].moved(False, True)
    assert moved == 10  # x four, h, c, four gates
    assert COUNTS["lstm"].moved(False, False) == 5
    assert COUNTS["lstm"].moved(True, True) == 10
    batch = 65536
    assert _solo(batch, moved) == pytest.approx(max(batch * 128 * 10 * 2 / H100.memory_rate, _solo(batch)))
    assert _solo(batch, 100) == pytest.approx(batch * 128 * 100 * 2 / H100.memory_rate)
    one, other = (ScanShape(4, False, 2, 64, 512, 1, moved=m) for m in (0, 10_000_000))
    assert choose(one, H100, "persistent") == choose(other, H100, "persistent")


def test_exact_float32_products_are_not_the_matrix_units() -> None:
    shape = ScanShape(4, False, 4, 512, 1024, 1)
    config = choose(dataclasses.replace(shape, ieee=True), H100, "persistent")
    assert config is not None
    slow, fast = (launch_cost(dataclasses.replace(shape, ieee=ieee), config, H100) for ieee in (True, False))
    assert slow > fast


# Where "auto" hands over.


def _kinds(count: int) -> list[Problem]:
    """A sample of all there is, the same at every run; and every cell, dtype and pass at H=512. `test_model.py` has
    the grid of what a benchmark can name."""
    every = list(
        itertools.product(
            TORCHS, (torch.float16, torch.bfloat16, torch.float32, "exact"), (16, 32, 64, 96, 128, 192, 200, 256, 384,
            512, 768, 1024, 1536, 2048), (1, 2), (1, 3), (True, False), (0, 64), (True, False),
        )
    )  # fmt: skip
    fixed = [k for k in every if k[2:5] == (512, 1, 1) and k[6] == 0 and not k[7]]
    chosen = fixed + random.Random(0).sample(every, count)
    problems = []
    for cell, dtype, hidden, directions, layers, grad, projection, single in chosen:
        single = single and directions == layers == 1 and not projection
        projection = projection if cell == "lstm" and projection < hidden else 0
        exact = dtype == "exact"
        problem = Problem(
            CELLS[cell], torch.float32 if exact else dtype, CUDA, int(exact), 0, hidden, directions, layers, projection,
            grad=grad, single=single,
        )  # fmt: skip
        problems.append(problem)
    return problems


BATCHES = (1, 2, 8, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128, 130, 192, 256, 320, 384, 513, 768, 1024, 1500, 2048, 4096,
           8192, 20000, 65536)  # fmt: skip


@pytest.mark.usefixtures("_h100")
def test_no_choice_is_slower_than_torchs_beyond_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """By both models, at any number of rows; nor is anything handed over to what is slower."""
    handed = kept = 0
    for n, problem in enumerate(_kinds(30)):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", problem.time == 0)  # time marks the exact ones
        theirs = handover.torchs_batches(problem)
        for batch in BATCHES[n % 2 :: 2]:  # in turns: a choice takes the model a hundredth of a second
            at = dataclasses.replace(problem, batch=batch)
            times = handover.times_us(at)
            assert times is not None
            ours, torchs = times
            passes = (1 + at.grad) * at.layers
            if not rule.among(batch, theirs):
                assert ours <= peer.allowed_us(torchs, passes) + 1e-9, at.describe()
                kept += 1
            else:
                # A stretch ends where ours are ahead, also where cuDNN changes its algorithm.
                assert torchs <= 1.1 * ours, at.describe()
                handed += 1
    assert handed > 100
    assert kept > 100


@pytest.mark.usefixtures("_h100")
def test_the_models_are_asked_of_what_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launches, and each thing that torch's time depends on."""
    for tf32, batch, changes in itertools.product(
        (True, False),
        (64, 65536),
        ({}, {"directions": 2, "layers": 3}, {"grad": False}, {"hidden": 64}, {"hidden": 4096}, {"cell": CELLS["gru"]}),
    ):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
        problem = dataclasses.replace(MANY, dtype=torch.float32, batch=batch, **changes)
        found = rule.launched(handover.layer_of(problem), H100)
        assert found is not None
        assert list(found.launches) == fused.planned(problem, found.schedule)
        steps = zip(fused.passes(problem), found.launches, strict=True)
        assert found.us == pytest.approx(sum(step_cost(*step, H100) for step in steps) * problem.layers)
        assert handover.layer_of(problem).exact != tf32
    asked = dataclasses.replace(MANY, projection=64, grad=False, directions=2, layers=3, single=True)
    layer = peer.Layer(CELLS["lstm"], "float16", 4096, 1024, 2, 3, 64, training=False, exact=True, single=True)
    assert handover.layer_of(asked) == layer
    times = handover.times_us(dataclasses.replace(MANY, layers=2))
    layer = peer.Layer(CELLS["lstm"], "float16", 4096, 1024, layers=2)
    assert times is not None
    assert times[1] == pytest.approx(2 * sum(peer.step_us(layer, backward, H100) for backward in (False, True)))


@pytest.mark.usefixtures("_h100")
def test_the_choice_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert select(MANY).name == "aten"
    assert select(dataclasses.replace(MANY, batch=64)).name == "persistent"
    assert select(dataclasses.replace(MANY, hidden=256)).name == "persistent"
    assert select(dataclasses.replace(MANY, batch=32, dtype=torch.float32)).name == "persistent"
    assert select(dataclasses.replace(MANY, batch=512, dtype=torch.float32)).name == "aten"
    # Left open, or asked for by name.
    assert select(dataclasses.replace(MANY, batch=0)).name == "persistent"
    assert select(MANY, "persistent").name == "persistent"
    assert select(MANY, "stepwise").name == "stepwise"


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    "changes",
    [
        {"cell": CELLS["gru_textbook"]},
        {"lengths": True},
        {"resets": True},
        {"cells": True},
        {"packed": True},
        {"evaluating": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_torchs_layers_lack_stays(changes: dict[str, Any]) -> None:
    """With gradients in eval mode too, whose backward cuDNN refuses."""
    problem = dataclasses.replace(MANY, **changes)
    assert select(problem).name == "persistent"
    assert "torch's at" not in explanation(problem)


@pytest.mark.usefixtures("_h100")
def test_eval_mode_without_gradients_hands_over() -> None:
    assert select(dataclasses.replace(MANY, grad=False, evaluating=True)).name == "aten"


@pytest.mark.usefixtures("_h100")
def test_torchs_switches_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cuDNN (torch's own advice for second derivatives), and where every run must give the same bits."""
    with torch.backends.cudnn.flags(enabled=False):
        assert select(MANY).name == "persistent"
    torch.use_deterministic_algorithms(True)
    assert select(MANY).name == "persistent"
    torch.use_deterministic_algorithms(False)
    assert select(MANY).name == "aten"
    narrow = dataclasses.replace(MANY, dtype=torch.bfloat16)
    assert select(narrow).name == "aten"
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    handover._torchs_batches.cache_clear()
    assert select(narrow).name == "persistent"
    handover._torchs_batches.cache_clear()


@pytest.mark.usefixtures("_h100")
def test_both_times_are_printed_whichever_way_it_falls() -> None:
    text = explanation(MANY).splitlines()
    name, rest = text[1].split(":", 1)
    assert name.split() == ["persistent", "passed", "over"]
    figures = [float(word) for word in rest.replace(")", "").split() if word.replace(".", "").isdigit()]
    assert figures[0] > 1.5 * figures[1]
    first, end = handover.torchs_batches(MANY)[-1]
    assert end is None
    assert f"from B={first} on" in rest
    assert " runs: cuDNN" in text[3]
    few = explanation(dataclasses.replace(MANY, batch=16)).splitlines()
    assert "gluon grid tier, 16 units" in few[1]
    for lines in (text, few):
        assert lines[-1].split()[:2] == ["scans", "estimated"]
        assert "torch's at their best" in lines[-1]


def test_no_times_where_there_is_no_gpu() -> None:
    cpu = dataclasses.replace(MANY, device=torch.device("cpu"), dtype=torch.float32)
    assert handover.torchs_batches(cpu) == ()
    assert "estimated" not in explanation(cpu)


def test_the_first_batch_above() -> None:
    """Never late, and early by a tile or a sixteenth at most."""
    for true in (1, 16, 17, 100, 1000, 30000):
        for low in (0, 16):
            found = rule.first_above(lambda b, true=true: 2.0 * (b >= true), lambda b: 1.0, low)
            assert found is not None
            assert found <= max(true, low + 1) <= found + max(15, true // 15)
    assert rule.first_above(lambda b: 1.0, lambda b: 1.0) is None


def test_the_first_batch_ahead() -> None:
    """Never early, and late by two tiles or a sixteenth at most; none where ours are ahead nowhere."""
    for true in (33, 100, 1000, 30000):
        found = rule.first_ahead(lambda b: 2.0, lambda b, true=true: 1.0 + 2.0 * (b >= true), 20)
        assert found is not None
        assert true <= found <= true + max(31, true // 15)
    assert rule.first_ahead(lambda b: 2.0, lambda b: 1.0, 20) is None


def test_stretches() -> None:
    """Ours a wait of 1 and then 1/100 a row, then, of larger tiles, 6 and 1/1000; theirs 2 and 1/200."""

    def ours(batch: int) -> float:
        return min(1 + batch / 100, 6 + batch / 1000)

    def theirs(batch: int) -> float:
        return 2 + batch / 200

    (first, end), *rest = rule.stretches(ours, theirs, lambda batch: 1.2 * theirs(batch))
    assert not rest
    assert first <= 351 <= first + 31  # 1 + B / 100 = 2.4 + 6 B / 1000
    assert end is not None
    assert 1000 <= end <= 1000 + 64  # 6 + B / 1000 = 2 + B / 200
    assert rule.stretches(ours, ours, theirs)[0][0] > 1
    assert rule.stretches(lambda b: 9.0, lambda b: 1.0, lambda b: 1.0) == ((1, None),)
    assert rule.stretches(lambda b: 1.0, lambda b: 1.0, lambda b: 1.0) == ()


def test_stretches_never_touch() -> None:
    """Ours ahead in one tile, and behind right after it: the stretch goes on."""
    assert rule.stretches(lambda b: 1.0 if b == 256 else 9.0, lambda b: 2.0, lambda b: 3.0) == ((1, None),)


def test_a_stretch_in_words() -> None:
    theirs: rule.Batches = ((97, 129), (1000, None))
    assert [batch for batch in (1, 96, 97, 128, 129, 999, 1000, 65536) if rule.among(batch, theirs)] == [
        97, 128, 1000, 65536
    ]  # fmt: skip
    assert rule.in_words(97, theirs) == "from B=97 to B=128"
    assert rule.in_words(4000, theirs) == "from B=1000 on"


# On the way of a call.

THEIRS: rule.Batches = ((8, 40), (100, None))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As on a GPU, in the interpreter: the kernels, and for batches in THEIRS torch's; which of them ran, in order."""
    pytest.importorskip("triton")
    original = choice._selected

    def selected(backend: str, *rest: Any) -> tuple[str, bool, rule.Batches]:
        return ("persistent", False, THEIRS) if backend == "auto" else original(backend, *rest)

    monkeypatch.setattr(choice, "_selected", selected)
    monkeypatch.setattr(choice, "_step_selected", choice._step_selected.__wrapped__)
    ran: list[str] = []
    for module, name in ((aten.BACKEND, "layers"), (aten.BACKEND, "step"), (fused, "scan")):
        original_function = getattr(module, name)

        def spy(*args: Any, name: str = name, function: Any = original_function, **options: Any) -> Any:
            ran.append(name)
            return function(*args, **options)

        monkeypatch.setattr(module, name, spy)
    return ran


def _expected(layer: nn.Module, x: Tensor) -> Tensor:
    twin = type(layer)(3, 5, backend="reference")
    twin.load_state_dict(layer.state_dict())
    return as_tuple(twin(x))[0]


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_call_compares_its_batch(taken: list[str], batch_first: bool) -> None:
    layer = fastrnn.LSTM(3, 5, batch_first=batch_first)
    for T, B in ((9, 7), (2, 8), (9, 2), (1, 39), (2, 40), (1, 100)):
        layer(torch.randn(*((B, T) if batch_first else (T, B)), 3))
    assert taken == ["scan", "layers", "scan", "layers", "scan", "layers"]
    layer(torch.randn(20, 3))  # unbatched
    assert taken.pop() == "scan"


def test_a_cell_compares_its_batch(taken: list[str]) -> None:
    cell = fastrnn.GRUCell(3, 5)
    for B in (7, 8):
        cell(torch.randn(B, 3))
    assert taken == ["scan", "step"]


def test_autocast_compares_once(taken: list[str]) -> None:
    layer = fastrnn.GRU(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        for B in (7, 8):
            assert layer(torch.randn(2, B, 3))[0].dtype == torch.bfloat16
    assert taken == ["scan", "layers"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiling_guards_on_the_batch_once(taken: list[str]) -> None:
    """One compilation for each stretch, with backward through the same kernels; none for any other batch in it."""
    torch._dynamo.reset()
    layer = fastrnn.GRU(3, 5)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for T, B in ((6, 2), (7, 4), (6, 7), (7, 9), (6, 11), (4, 20), (5, 2), (3, 17), (4, 50), (5, 60), (4, 5)):
        x = torch.randn(T, B, 3)
        output = compiled(x)[0]
        assert worst_error([output], [_expected(layer, x)]) < 1e-5
        layer.zero_grad()
        output.sin().sum().backward()
        found = [p.grad for p in layer.parameters()]
        counts.append(counter.frame_count)
        wanted = torch.autograd.grad(_expected_of(layer, x).sin().sum(), list(layer.parameters()))
        assert worst_error([g for g in found if g is not None], wanted) < 1e-5
    first = counts[0]
    assert counts == [first] * 3 + [first + 1] * 5 + [first + 2] * 3
    operators = [{str(n.target) for n in graph.graph.nodes if "fastrnn" in str(n.target)} for graph in counter.graphs]
    expected = [["fastrnn.scan_layer"], ["fastrnn.aten_layer"], ["fastrnn.scan_layer"]]
    assert [sorted(found) for found in operators if found] == expected


def _expected_of(layer: nn.Module, x: Tensor) -> Tensor:
    """By the reference, over the layer's own parameters."""
    return torch.func.functional_call(fastrnn.GRU(3, 5, backend="reference"), dict(layer.named_parameters()), (x,))[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("example", [4, 12])
def test_an_exported_program_serves_every_batch(taken: list[str], strict: bool, example: int) -> None:
    layer = fastrnn.GRU(3, 5).eval()
    dynamic = ({0: Dim("T", min=1, max=1000), 1: Dim("B", min=1, max=1000)},)
    with torch.no_grad():
        program = torch.export.export(layer, (torch.randn(6, example, 3),), dynamic_shapes=dynamic, strict=strict)
        again = program.module()
        for T, B in ((5, 2), (4, 9)):
            x = torch.randn(T, B, 3)
            assert worst_error([again(x)[0]], [_expected(layer, x)]) < 1e-6
    assert {str(n.target) for n in program.graph.nodes if "fastrnn" in str(n.target)} == {"fastrnn.scan_layer.default"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_serves_every_batch(taken: list[str]) -> None:
    layer = fastrnn.GRU(3, 5).eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, torch.randn(4, 12, 3), check_trace=False)
        assert taken == ["scan"]
        for B in (12, 2):
            x = torch.randn(4, B, 3)
            assert worst_error([traced(x)[0]], [_expected(layer, x)]) < 1e-6
