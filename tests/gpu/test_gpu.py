"""The real kernels on a real GPU: every dtype, both schedules, and what only a GPU can show.

Run by `make test-gpu`. Shapes are chosen so that a launch spreads over many programs that wait for each other.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import (
    CELLS,
    EVERY_CELL,
    as_tuple,
    assert_as_good_as_torch,
    choose_launches,
    initial_state,
    layer_pair,
    no_waiting,
    relative_error,
    run_layer,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn.backends import fused
from fastrnn.cells import CELLS as EQUATIONS
from fastrnn.kernels.plan import choice
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.cost import step_cost
from fastrnn.kernels.plan.devices import Device

pytestmark = pytest.mark.gpu

SCHEDULES = ["persistent", "stepwise"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
SIZES = {  # T, B, H, by what they reach
    "solo": (20, 5, 24),
    "grid": (20, 16, 256),
    "odd": (9, 19, 137),
    "large": (6, 33, 1024),
    "streamed": (4, 5, 2048),
}


@pytest.fixture(autouse=True)
def _exact_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 means float32 in these comparisons; test_tf32 has the other case."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _compare(cell: str, backend: str, dtype: torch.dtype, size: tuple[int, int, int], **options: Any) -> None:
    """Ours in `dtype` on the GPU, torch's in `dtype` on the CPU, both against float64."""
    T, B, H = size
    theirs, ours = layer_pair(cell, 48, H, dtype, backend, **options)
    truth, _ = layer_pair(cell, 48, H, torch.float64, "reference", **options)
    truth.load_state_dict(theirs.state_dict())
    ours.cuda()
    input = torch.randn(T, B, 48).to(dtype)
    hx = initial_state(theirs, B)
    exact = run_layer(truth.cuda(), input.cuda().double(), tuple(h.cuda().double() for h in hx))[1]
    names, results = run_layer(ours, input.cuda(), tuple(h.cuda() for h in hx))
    torchs = run_layer(theirs, input, hx)[1]
    assert_as_good_as_torch([r.cpu() for r in results], torchs, [e.cpu() for e in exact], dtype, names)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("cell", CELLS[:3])  # relu's kink makes roundings large: it has a test of its own
def test_as_good_as_torch(cell: str, schedule: str, dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    _compare(cell, schedule, dtype, size)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_relu_in_float32(schedule: str) -> None:
    _compare("rnn_relu", schedule, torch.float32, SIZES["grid"])


OPTIONS: list[dict[str, Any]] = [
    {"bidirectional": True},
    {"num_layers": 3},
    {"bidirectional": True, "num_layers": 2, "proj_size": 40},
    {"bias": False},
    {"batch_first": True, "bidirectional": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_options(schedule: str, options: dict[str, Any]) -> None:
    _compare("lstm", schedule, torch.float32, (16, 16, 200), **options)


def _launches(shape: ScanShape) -> list[LaunchConfig]:
    """One launch of every kind that fits this GPU: tier, tile and exchange."""
    device = fused.device_limits(torch.device("cuda"))
    kinds = {}
    for exchange in ("flag", "barrier"):
        for config in choice.candidates(shape, device, "persistent", exchange):
            kind = (config.tier, config.exchange, config.block_b, config.block_h, config.gluon and config.scatter)
            kinds.setdefault(kind, config)
    return list(kinds.values())


# The error allowed where products are exact, in TF32 and in float16; the launches that fit differ between the three.
PRECISIONS = {"ieee": (torch.float32, 1e-4), "tf32": (torch.float32, 5e-3), "float16": (torch.float16, 1e-2)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("hidden", [100, 512])
def test_every_kind_of_launch(hidden: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both exchanges, all tiers and tiles, on the same values: results agree with the reference's."""
    dtype, allowed = PRECISIONS[precision]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision == "tf32")
    reference = fastrnn.GRU(64, hidden, device="cuda", dtype=dtype, backend="reference")
    layer = fastrnn.GRU(64, hidden, device="cuda", dtype=dtype, backend="persistent")
    layer.load_state_dict(reference.state_dict())
    input = torch.randn(12, 70, 64, device="cuda", dtype=dtype)
    expected = run_layer(reference.double(), input.double(), None)[1]
    kinds = [
        _launches(fused.scan_shape(EQUATIONS["gru"], backward, dtype, 70, hidden, 1)) for backward in (False, True)
    ]
    assert all(kinds)
    chosen: list[ScanShape] = []
    for forward in kinds[0]:
        for backward in kinds[1]:
            if (forward.tier, forward.exchange) != (backward.tier, backward.exchange):
                continue

            def choose(
                shape: ScanShape, *_: Any, f: LaunchConfig = forward, b: LaunchConfig = backward
            ) -> LaunchConfig:
                chosen.append(shape)
                return b if shape.backward else f

            choose_launches(choose, monkeypatch)
            for ours, truth in zip(run_layer(layer, input, None)[1], expected, strict=True):
                assert relative_error(ours, truth) < allowed, (forward, backward)
    # What ran is what was listed: a launch listed for other products would have compiled for these unseen.
    assert {shape.ieee for shape in chosen} == {precision == "ieee"}


@pytest.mark.parametrize(
    ("exchange", "rows", "kind"),
    [
        ("flag", 16, "triton"),
        ("barrier", 16, "triton"),
        ("barrier", 16, "gluon"),
        ("flag", 16, "gluon"),
        ("barrier", 200, "wide"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("cell", EVERY_CELL)
def test_a_short_wait_ends(
    cell: str, dtype: torch.dtype, exchange: str, rows: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kernel whose programs wait, over a few steps: what is to be seen to end before anything longer runs."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # exact float32 products wait in another tier

    def choose(shape: ScanShape, device: Device, schedule: str) -> LaunchConfig | None:
        found = choice.candidates(shape, device, schedule, exchange)
        waiting = [config for config in found if config.exchange == exchange]
        alike = [config for config in waiting if (config.wide, config.gluon) == (kind == "wide", kind == "gluon")]
        return min(alike or waiting, key=lambda config: step_cost(shape, config, device), default=None)

    layer = _made(cell, 256, dtype, "persistent")
    truth = _made(cell, 256, torch.float64, "reference")
    truth.load_state_dict(layer.state_dict())
    input = torch.randn(3, rows, 48, device="cuda", dtype=dtype)
    expected = run_layer(truth, input.double(), None)[1]
    choose_launches(choose, monkeypatch)
    found = run_layer(layer, input, None)[1]
    torch.cuda.synchronize()
    allowed = {torch.float16: 1e-2, torch.bfloat16: 6e-2, torch.float32: 5e-3}[dtype]
    for ours, right in zip(found, expected, strict=True):
        assert relative_error(ours, right) < allowed * (4 if cell == "rnn_relu" else 1)  # relu's gradient jumps


def test_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 where torch allows it to cuDNN: about 1e-3 off, against 1e-6 without."""
    layer = fastrnn.LSTM(64, 256, device="cuda", backend="persistent")
    truth = fastrnn.LSTM(64, 256, device="cuda", backend="reference").double()
    truth.load_state_dict(layer.state_dict())
    input = torch.randn(20, 16, 64, device="cuda")
    expected = truth(input.double())[0]
    assert relative_error(layer(input)[0], expected) < 1e-5
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert 1e-6 < relative_error(layer(input)[0], expected) < 5e-3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_bitwise_repeatable(cell: str, dtype: torch.dtype) -> None:
    _, layer = layer_pair(cell, 48, 256, dtype, "persistent", device="cuda", bidirectional=True)
    input = torch.randn(50, 24, 48, device="cuda", dtype=dtype)
    first = run_layer(layer, input, None)[1]
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(run_layer(layer, input, None)[1], first, strict=True))


def test_two_streams_at_once() -> None:
    layers = [fastrnn.LSTM(48, 256, device="cuda", backend="persistent") for _ in range(2)]
    inputs = [torch.randn(200, 16, 48, device="cuda") for _ in range(2)]
    with torch.no_grad():
        expected = [layer(x)[0] for layer, x in zip(layers, inputs, strict=True)]
        streams = [torch.cuda.Stream() for _ in range(2)]
        torch.cuda.synchronize()
        for _ in range(5):
            results: list[Tensor] = []
            for stream, layer, x in zip(streams, layers, inputs, strict=True):
                with torch.cuda.stream(stream):
                    results.append(layer(x)[0])
            torch.cuda.synchronize()
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_cuda_graph(schedule: str) -> None:
    """Forward and backward captured once and replayed on new values: nothing is left between replays."""
    layer = fastrnn.GRU(48, 256, device="cuda", backend=schedule)
    static = torch.randn(20, 16, 48, device="cuda", requires_grad=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            layer(static)[0].sum().backward()
            static.grad = None
            layer.zero_grad(set_to_none=True)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output, _ = layer(static)
        output.sum().backward()
    for _ in range(3):
        values = torch.randn_like(static)
        with torch.no_grad():
            static.copy_(values)
        graph.replay()
        torch.cuda.synchronize()
        replayed = [output.clone(), layer.weight_hh_l0.grad.clone()]
        other = fastrnn.GRU(48, 256, device="cuda", backend=schedule)
        other.load_state_dict(layer.state_dict())
        fresh = other(values)[0]
        fresh.sum().backward()
        assert torch.equal(replayed[0], fresh)
        assert relative_error(replayed[1], other.weight_hh_l0.grad) < 1e-5


# torch lays bfloat16 weights out as they come (its list of cuDNN's dtypes lacks it), and says so at the peer's call.
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
def test_a_long_sequence() -> None:
    layer = fastrnn.LSTM(16, 128, device="cuda", dtype=torch.bfloat16, backend="persistent")
    peer = nn.LSTM(16, 128, device="cuda", dtype=torch.bfloat16)
    peer.load_state_dict(layer.state_dict())
    input = torch.randn(10_000, 4, 16, device="cuda", dtype=torch.bfloat16)
    output, _ = layer(input)
    assert not output.isnan().any()
    assert relative_error(output, peer(input)[0]) < 2e-2
    output.float().square().mean().backward()
    assert not layer.weight_hh_l0.grad.isnan().any()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_sampled_hidden_sizes(cell: str) -> None:
    for hidden in (1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 65, 100, 127, 129, 255, 300, 511, 640, 1000, 1025, 1500, 2047):
        make = getattr(fastrnn, cell.upper())
        reference, layer = (make(8, hidden, device="cuda", backend=name) for name in ("reference", "persistent"))
        layer.load_state_dict(reference.state_dict())
        input = torch.randn(3, 2, 8, device="cuda")
        expected = run_layer(reference.double(), input.double(), None)[1]
        for ours, truth in zip(run_layer(layer, input, None)[1], expected, strict=True):
            assert relative_error(ours, truth) < 1e-4, hidden


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("cell", CELLS[:3])
def test_nan_and_infinity_come_through(cell: str, schedule: str, value: float) -> None:
    """The same elements are NaN as in the reference, in input and in state, with no hang."""
    names = ("reference", schedule)
    reference, layer = (layer_pair(cell, 8, 256, torch.float32, name, device="cuda")[1] for name in names)
    layer.load_state_dict(reference.state_dict())
    input = torch.randn(6, 20, 8, device="cuda")
    hx = initial_state(layer, 20)
    input[2, 3, 1] = value
    hx[-1][0, 7, 100] = value
    with torch.no_grad():
        ours, final = layer(input, hx if len(hx) > 1 else hx[0])
        expected, expected_final = reference(input, hx if len(hx) > 1 else hx[0])
    for a, b in zip((ours, *as_tuple(final)), (expected, *as_tuple(expected_final)), strict=True):
        assert torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_nan_with_the_flag_pattern(dtype: torch.dtype) -> None:
    """All ones, the exchange's own pattern, in state, input and upstream gradient: no wait for ever."""
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    pattern = torch.full((), -1, dtype=bits, device="cuda").view(dtype)
    layer = fastrnn.RNN(8, 256, device="cuda", dtype=dtype, backend="persistent")
    input = torch.randn(6, 20, 8, device="cuda", dtype=dtype)
    state = torch.randn(1, 20, 256, device="cuda", dtype=dtype)
    input[1, 2], state[0, 3] = pattern, pattern
    output, _ = layer(input, state)
    upstream = torch.randn_like(output)
    upstream[4, 5] = pattern
    output.backward(upstream)
    torch.cuda.synchronize()
    assert output[:, 3].isnan().all()
    assert output[1:, 2].isnan().all()
    assert not output[:, 6:].isnan().any()


def test_a_launch_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More programs than the GPU holds at once, waiting for each other: the driver refuses, and goes on working."""
    layer = fastrnn.GRU(8, 2048, device="cuda", backend="persistent")
    input = torch.randn(4, 2000, 8, device="cuda")
    device = fused.device_limits(torch.device("cuda"))
    fitting = choice.choose(ScanShape(3, False, 4, 2000, 2048, 1), device, "persistent")
    assert fitting is not None
    too_large = LaunchConfig(**{**vars(fitting), "batch_tiles": 10_000})
    with monkeypatch.context() as patch, torch.no_grad():
        choose_launches(lambda *_: too_large, patch)
        with pytest.raises(RuntimeError, match="cooperative"):
            layer(input)
    torch.cuda.synchronize()
    with torch.no_grad():
        assert not layer(input)[0].isnan().any()


def test_more_than_two_to_the_31_elements() -> None:
    """The gates of this sequence are 2.4e9 elements; the last steps must not wrap around onto the first."""
    layer = fastrnn.RNN(4, 256, device="cuda", dtype=torch.bfloat16, backend="persistent")
    input = torch.randn(73_000, 128, 4, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        output, h_n = layer(input)
        assert torch.equal(output[-1], h_n[0])
        tail, _ = layer(input[-50:], output[-51].unsqueeze(0).clone())
    assert relative_error(output[-50:], tail) < 2e-2


@pytest.mark.parametrize("cell", CELLS[:3])
def test_packed_sequences(cell: str) -> None:
    theirs, ours = layer_pair(cell, 48, 200, torch.float32, "persistent", device="cuda", bidirectional=True)
    lengths = torch.tensor([30, 1, 17, 17, 29, 3])
    input = torch.randn(30, 6, 48, device="cuda")
    results = []
    for layer in (ours, theirs):
        x = input.clone().requires_grad_()
        output, final = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        (output.data.sin().sum() + sum(f.sin().sum() for f in as_tuple(final))).backward()
        results.append([output.data, *as_tuple(final), x.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-4


def _made(cell: str, hidden: int, dtype: torch.dtype, backend: str, **options: Any) -> nn.RNNBase:
    name = {"lstm": "LSTM", "gru": "GRU", "gru_textbook": "GRU"}.get(cell, "RNN")
    if cell == "gru_textbook":
        options["reset_after"] = False
    elif name == "RNN":
        options["nonlinearity"] = cell.removeprefix("rnn_")
    layer = getattr(fastrnn, name)(48, hidden, dtype=dtype, device="cuda", backend=backend, **options)
    assert isinstance(layer, nn.RNNBase)
    return layer


def _masked_run(layer: nn.RNNBase, input: Tensor, hx: tuple[Tensor, ...], **options: Any) -> list[Tensor]:
    """Results and gradients of `layer(input, hx, **options)`, under fixed upstream gradients."""
    dtype = layer.weight_hh_l0.dtype
    x, *states = (t.to(dtype, copy=True).requires_grad_() for t in (input, *hx))
    output, final, *cells = layer(x, tuple(states) if len(states) > 1 else states[0], **options)
    results = [output, *as_tuple(final), *cells]
    generator = torch.Generator("cuda").manual_seed(5)
    upstream = [torch.randn(r.shape, generator=generator, device="cuda").to(dtype) for r in results]
    return results + list(torch.autograd.grad(results, [x, *states, *layer.parameters()], upstream))


@pytest.mark.parametrize("size", [(12, 21, 24), (12, 21, 200), (9, 40, 512), (5, 6, 2048)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_textbook", "rnn_tanh"])
def test_lengths_resets_and_cells(cell: str, schedule: str, dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    """Against the reference in float64, the padding poisoned; a layer for which no launch fits is refused."""
    T, B, H = size
    ours = _made(cell, H, dtype, schedule, bidirectional=True)
    device = fused.device_limits(torch.device("cuda"))
    shapes = [fused.scan_shape(EQUATIONS[cell], backward, dtype, B, H, 2) for backward in (False, True)]
    if any(choice.choose(shape, device, schedule) is None for shape in shapes):
        with pytest.raises(RuntimeError, match=f"no launch of {H} hidden units fits this GPU at once"):
            ours(torch.randn(T, B, 48, device="cuda", dtype=dtype))
        return
    truth = _made(cell, H, torch.float64, "reference", bidirectional=True)
    truth.load_state_dict(ours.state_dict())
    lengths = torch.randint(0, T + 1, (B,), device="cuda")
    lengths[16:32] = 2  # a batch tile that ends early
    resets = torch.rand(T, B, device="cuda") < 0.2
    input = torch.randn(T, B, 48, device="cuda").to(dtype)
    hx = tuple(torch.randn(2, B, H, device="cuda").to(dtype) for _ in range(2 if cell == "lstm" else 1))
    options: dict[str, Any] = {"return_cells": True} if cell == "lstm" else {}
    for masks in ({"lengths": lengths}, {"resets": resets}, {"lengths": lengths, "resets": resets}):
        found = _masked_run(ours, input, hx, **masks, **options)
        expected = _masked_run(truth, input.double(), tuple(h.double() for h in hx), **masks, **options)
        bound = {torch.float16: 1e-2, torch.bfloat16: 6e-2, torch.float32: 2e-5}[dtype]
        errors = [relative_error(a, b) for a, b in zip(found, expected, strict=True)]
        assert max(errors) < bound, errors


def test_lengths_and_resets_wait_for_nothing() -> None:
    """On the GPU their values are never looked at, so that a whole call can be captured in a graph."""
    layer = _made("lstm", 256, torch.bfloat16, "persistent", num_layers=2, bidirectional=True)
    input = torch.randn(20, 16, 48, device="cuda", dtype=torch.bfloat16)
    lengths, resets = torch.randint(0, 21, (16,), device="cuda"), torch.rand(20, 16, device="cuda") < 0.1
    layer(input, lengths=lengths, resets=resets)[0].sum().backward()
    torch.cuda.synchronize()
    with no_waiting():
        layer(input, lengths=lengths, resets=resets)[0].sum().backward()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        # Called as it is captured: inference has a kernel of its own, and one must not be loaded inside a capture.
        layer(input, lengths=lengths, resets=resets)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            captured = layer(input, lengths=lengths, resets=resets)[0]
        lengths.copy_(torch.randint(0, 21, (16,), device="cuda"))
        graph.replay()
        assert torch.equal(captured, layer(input, lengths=lengths, resets=resets)[0])


def test_lengths_on_the_gpu_are_clamped_or_checked() -> None:
    layer, input = _made("gru", 64, torch.float32, "persistent"), torch.randn(5, 3, 48, device="cuda")
    wild, tame = (torch.tensor(values, device="cuda") for values in ([-3, 9, 2], [0, 5, 2]))
    assert torch.equal(layer(input, lengths=wild)[0], layer(input, lengths=tame)[0])
    with fastrnn.debug(), pytest.raises(ValueError, match="between 0 and the 5 time steps of the input, got -3 to 9"):
        layer(input, lengths=wild)


def test_auto_takes_the_kernels_and_explains(capsys: pytest.CaptureFixture[str]) -> None:
    layer = fastrnn.LSTM(8, 64, device="cuda")
    fastrnn.explain(layer, torch.randn(3, 2, 8, device="cuda"))
    assert "persistent  runs: " in capsys.readouterr().out


def test_the_layer_stays_on_the_current_stream() -> None:
    """What is queued behind a long kernel on a side stream must not be overtaken."""
    layer = fastrnn.GRU(8, 256, device="cuda", backend="persistent")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(20_000_000)
        input = torch.randn(10, 4, 8, device="cuda")
        output = layer(input)[0]
    stream.synchronize()
    with torch.no_grad():
        assert torch.equal(output, layer(input)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_runs_in_its_dtype(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's layers run in float16 under either; ours in the one that was asked for."""
    seen: list[torch.dtype] = []
    original = fused.scan

    def spy(*args: Any) -> Any:
        seen.append(args[0].x.dtype)
        return original(*args)

    monkeypatch.setattr(fused, "scan", spy)
    layer = fastrnn.LSTM(48, 256, device="cuda")
    x = torch.randn(10, 8, 48, device="cuda")
    exact = layer(x)[0]
    with torch.autocast("cuda", dtype=dtype):
        output = layer(x)[0]
    assert seen == [torch.float32, dtype]
    assert output.dtype == dtype
    assert relative_error(output, exact) < {torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]


@pytest.mark.parametrize("cell", CELLS[:3])
def test_second_derivatives(cell: str) -> None:
    reference, layer = (
        layer_pair(cell, 8, 137, torch.float32, name, device="cuda", bidirectional=True)[1]
        for name in ("reference", "persistent")
    )
    layer.load_state_dict(reference.state_dict())
    x = torch.randn(6, 5, 8, device="cuda", requires_grad=True)
    results = []
    for m in (reference, layer):
        x.grad = None
        (slope,) = torch.autograd.grad(m(x)[0].sin().sum(), x, create_graph=True)
        slope.square().sum().backward()
        assert x.grad is not None
        results.append([x.grad, *(p.grad for p in m.parameters())])
    for a, b in zip(*results, strict=True):
        assert relative_error(b, a) < 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")  # torch's own
@pytest.mark.parametrize("cell", CELLS[:3])
def test_compile_with_dynamic_sizes(cell: str) -> None:
    _, layer = layer_pair(cell, 48, 256, torch.float32, "auto", device="cuda", bidirectional=True)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for T, B in ((6, 3), (11, 7)):
        x = torch.randn(T, B, 48, device="cuda")
        expected = layer(x)[0]
        found = compiled(x)[0]
        assert relative_error(found, expected) < 1e-4
        found.sum().backward()


def test_vmap_of_gradients() -> None:
    layer = fastrnn.GRU(8, 32, device="cuda")
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    samples = torch.randn(3, 5, 2, 8, device="cuda")

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, parameters, (x,))[0].sin().sum()
        return result

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, samples)
    for i, x in enumerate(samples):
        layer.zero_grad()
        layer(x)[0].sin().sum().backward()
        for name, p in layer.named_parameters():
            assert p.grad is not None
            assert relative_error(gradients[name][i], p.grad) < 1e-3
