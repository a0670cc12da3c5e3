"""Recurrent layers of every cell, by every backend, against the literal loops of tests/literal.py."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from recurrents import EVERY, INPUTS, LENGTHS, MASKS, RESETS, B, H, T, draw, gradients, literally, make, run
from support import FLOAT64_ERROR, combinations, forced_launch, worst_error
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn.cells import CATALOGUE, CELLS, named

STACKS: dict[str, dict[str, Any]] = {
    "one": {},
    "both ways": {"bidirectional": True},
    "two layers both ways": {"num_layers": 2, "bidirectional": True},
    "heads": {"heads": 2, "bidirectional": True},
    "diagonal": {"heads": H},
    "no bias": {"bias": False},
}


def check(layer: fastrnn.Recurrent, **masks: Any) -> None:
    """Results and all gradients are those of the literal loop."""
    x, hx, constants = draw(layer)
    found, expected = run(layer, x, hx, constants, **masks), literally(layer, x, hx, constants, **masks)
    assert worst_error(found, expected) < FLOAT64_ERROR
    assert worst_error(gradients(found, layer, x, hx), gradients(expected, layer, x, hx)) < FLOAT64_ERROR


@pytest.mark.parametrize(
    ("name", "stack", "mask"),
    combinations(
        EVERY, STACKS, MASKS, fast=lambda name, stack, mask: mask == "lengths and resets" or stack == "both ways"
    ),
)
def test_in_torchs_operators(name: str, stack: str, mask: str) -> None:
    for backend in ("reference", "aten"):
        check(make(name, backend=backend, **STACKS[stack]), **MASKS[mask])


# In the interpreter a case takes seconds: the cells of the catalogue that differ most have all masks in both directions
# by one launch, and the one with most arguments has them by the others. (The kernels' own tests have the built-in cells
# and heads, and tests/machine runs each cell as compiled.)
MOST = "lstm_decay"


@pytest.mark.parametrize(
    ("name", "tier", "stack"),
    combinations(
        EVERY,
        ("solo", "streamed", "split contraction", "grouped chunks"),
        ("both ways", "heads", "two layers both ways"),
        fast=lambda name, tier, stack: (
            stack == "both ways" and (name == MOST or (tier == "solo" and name in ("slstm", "nas", "mgu", "cfc")))
        ),
    ),
)
def test_by_the_kernels(name: str, tier: str, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    backend = "persistent" if tier == "solo" else "stepwise"
    with forced_launch(tier, monkeypatch):
        check(make(name, backend=backend, **STACKS[stack]), **MASKS["lengths and resets"])


@pytest.mark.parametrize(
    "name", [n if n in ("indrnn", "mgu") else pytest.param(n, marks=pytest.mark.slow) for n in EVERY]
)
def test_diagonals_by_the_kernels(name: str) -> None:
    pytest.importorskip("triton")
    check(make(name, backend="persistent", heads=H, bidirectional=True), **MASKS["lengths and resets"])


@pytest.mark.parametrize("name", ["peephole_lstm", "slstm", "mgu"])
def test_a_batch_as_it_comes(name: str) -> None:
    """Batch first, unbatched and packed input give what the padded batch gives."""
    layer = make(name, bidirectional=True)
    x, hx, _ = draw(layer)
    given = hx if len(hx) > 1 else hx[0]
    lengths = torch.tensor([2, 4, 3])
    output, final = layer(x, given, lengths=lengths)
    finals = final if isinstance(final, tuple) else (final,)

    first = make(name, bidirectional=True, batch_first=True)
    first.load_state_dict(layer.state_dict())
    assert worst_error([first(x.transpose(0, 1), given, lengths=lengths)[0].transpose(0, 1)], [output]) == 0

    packed, states = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), given)
    assert worst_error([pad_packed_sequence(packed, total_length=T)[0]], [output]) < FLOAT64_ERROR
    assert worst_error(states if isinstance(states, tuple) else (states,), finals) < FLOAT64_ERROR

    row, ends = layer(x[:2, 0], tuple(h[:, 0] for h in hx) if len(hx) > 1 else hx[0][:, 0])
    assert row.shape == (2, 2 * H)
    assert worst_error([row], [output[:2, 0]]) < FLOAT64_ERROR
    assert worst_error(ends if isinstance(ends, tuple) else (ends,), [f[:, 0] for f in finals]) < FLOAT64_ERROR


@pytest.mark.parametrize("backend", ["reference", "aten", "stepwise"])
def test_initial_values(backend: str) -> None:
    """Without hx, and where a row is reset, states have the values that the cell declares."""
    if backend == "stepwise":
        pytest.importorskip("triton")

    @fastrnn.cell(gates=2, states=2, initial=(0.5, -0.25))
    def counting(x: Any, r: Any, state: Any) -> Any:
        c = torch.sigmoid(x[0] + r[0]) * state[1] + torch.tanh(x[1] + r[1])
        return c + state[0], c

    layer = fastrnn.Recurrent(counting, INPUTS, H, bidirectional=True, dtype=torch.float64, backend=backend)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    start = tuple(torch.full((2, B, H), v, dtype=torch.float64) for v in (0.5, -0.25))
    assert worst_error(layer(x)[1], layer(x, start)[1]) == 0
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    whole = layer(x, tuple(torch.randn_like(s) for s in start), resets=resets)[0][2:, :, :H]
    assert worst_error([whole], [layer(x[2:])[0][:, :, :H]]) < FLOAT64_ERROR


@pytest.mark.parametrize("tier", ["solo", "streamed", "split contraction"])
def test_resets_to_initial_values(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the recurrent weights multiply in a row that is reset is h's initial value, whoever holds it."""
    pytest.importorskip("triton")

    @fastrnn.cell(gates=1, states=2, initial=(0.5, -0.25))
    def started(x: Any, r: Any, state: Any) -> Any:
        return torch.tanh(x[0] + r[0]) + 0.1 * state[1], state[0] - state[1]

    layer = fastrnn.Recurrent(started, INPUTS, H, bidirectional=True, dtype=torch.float64, backend="reference")
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    computed = []
    for backend in ("reference", "persistent" if tier == "solo" else "stepwise"):
        layer.backend = backend
        with forced_launch(tier, monkeypatch):
            output = layer(x, lengths=LENGTHS, resets=RESETS)[0]
            computed.append([output, *torch.autograd.grad(output.sin().sum(), [x, *layer.parameters()])])
    assert worst_error(*computed) < FLOAT64_ERROR


@pytest.mark.parametrize("name", ["lstm", "gru", "gru_textbook", "rnn_tanh"])
def test_the_layers_of_torchs_cells_are_torchs(name: str) -> None:
    """The same parameters, under the same names, give the same numbers as fastrnn's own classes."""
    options = {"reset_after": False} if name == "gru_textbook" else {}
    kind = {"lstm": "LSTM", "rnn_tanh": "RNN"}.get(name, "GRU")
    torch.manual_seed(0)
    theirs = getattr(fastrnn, kind)(INPUTS, H, 2, bidirectional=True, dtype=torch.float64, **options)
    torch.manual_seed(0)
    ours = make(name, num_layers=2, bidirectional=True)
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    assert worst_error(ours.parameters(), theirs.parameters()) == 0
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    assert worst_error([ours(x, lengths=LENGTHS)[0]], [theirs(x, lengths=LENGTHS)[0]]) < FLOAT64_ERROR


def test_parameters_of_vectors() -> None:
    layer = make("peephole_lstm", num_layers=2, bidirectional=True)
    own = [name for name, _ in layer.named_parameters() if name.startswith("p_")]
    suffixes = ("l0", "l0_reverse", "l1", "l1_reverse")
    assert own == [f"{vector}_{suffix}" for suffix in suffixes for vector in ("p_i", "p_f", "p_o")]
    assert all(tuple(getattr(layer, name).shape) == (H,) for name in own)
    bound = H**-0.5
    assert all(0 < float(p.detach().abs().max()) <= bound for p in layer.parameters())


def _twin(layer: nn.Module, x: Tensor) -> None:
    expected = layer(x)[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.cell is layer.cell
        assert torch.equal(other(x)[0], expected)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x)[0], expected)
    fresh = type(layer)(*((layer.cell,) if type(layer) is fastrnn.Recurrent else ()), INPUTS, 8)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x)[0], expected)


def test_copies() -> None:
    x = torch.randn(T, B, INPUTS)
    _twin(fastrnn.Recurrent(EVERY["cifg"], INPUTS, 8), x)
    _twin(fastrnn.SLSTM(INPUTS, 8), x)


def test_a_cell_defined_in_a_function_cannot_be_pickled() -> None:
    local = fastrnn.cell(gates=1)(lambda x, r, state: torch.tanh(x[0] - r[0]))
    with pytest.raises(pickle.PicklingError, match="at the top of a module"):
        pickle.dumps(fastrnn.Recurrent(local, INPUTS, H))


def test_a_pickle_of_a_cell_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(EVERY["cifg"])
    assert pickle.loads(data) is EVERY["cifg"]
    monkeypatch.setattr(fastrnn.cells, "cifg", EVERY["janet"])
    monkeypatch.setattr(fastrnn.cells.catalogue, "cifg", EVERY["janet"])
    with pytest.raises(ImportError, match="it was cifg, and is janet"):
        pickle.loads(data)


def test_slstm_is_its_cell() -> None:
    layer = fastrnn.SLSTM(INPUTS, 8, dtype=torch.float64)
    assert (layer.heads, layer.weight_hh_l0.shape) == (4, (32, 2))
    other = fastrnn.Recurrent(EVERY["slstm"], INPUTS, 8, heads=4, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    output, final = layer(x)
    assert len(final) == 4
    assert worst_error([output, *final], [other(x)[0], *other(x)[1]]) == 0
    assert repr(layer) == "SLSTM(slstm, 2, 8, heads=4)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes(dtype: torch.dtype) -> None:
    for name in ("peephole_lstm", "cfc", "slstm"):
        layer = make(name, bidirectional=True).to(dtype)
        x = torch.randn(T, B, INPUTS, dtype=dtype)
        constants = {n: torch.rand(T, B) for n in layer.cell.constant_names}
        output, _ = layer(x, lengths=LENGTHS, **constants)
        assert output.dtype == dtype
        exact = layer.double()(x.double(), lengths=LENGTHS, **constants)[0]
        assert worst_error([output.double()], [exact]) < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("backend", ["reference", "aten", "persistent"])
def test_states_in_float32(backend: str) -> None:
    """Of a cell that says so, in 16 bits: given back so, and taken; the gradient is no worse than h's rounding."""
    if backend == "persistent":
        pytest.importorskip("triton")
    layer = fastrnn.SLSTM(INPUTS, H, heads=2, bidirectional=True, dtype=torch.bfloat16, backend=backend)
    exact = fastrnn.SLSTM(INPUTS, H, heads=2, bidirectional=True, dtype=torch.float64, backend="reference")
    exact.load_state_dict(layer.state_dict())
    gradients = []
    for of in (layer, exact):
        dtype = of.weight_ih_l0.dtype
        torch.manual_seed(1)
        x = 3 * torch.randn(2 * T, B, INPUTS).to(torch.bfloat16).to(dtype)
        output, (h, *others), cells = of(x.requires_grad_(), lengths=torch.tensor([8, 0, 5]), return_cells=True)
        wide = torch.promote_types(dtype, torch.float32)
        assert (output.dtype, h.dtype, {s.dtype for s in (*others, *cells)}) == (dtype, dtype, {wide})
        again = of(x, (h, *others))[1]
        assert again[1].dtype == wide
        output.sin().sum().backward()
        gradients.append([x.grad, *(p.grad for p in of.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert theirs is not None
        assert (ours.double() - theirs).abs().max() < 0.03 * theirs.abs().max()


def test_autocast() -> None:
    layer = fastrnn.Recurrent(EVERY["peephole_lstm"], INPUTS, H)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(T, B, INPUTS))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["peephole_lstm", "mgu", "slstm", "nas"])
def test_second_derivatives(name: str) -> None:
    """As many as one asks for, by what is saved."""
    layer = make(name)
    x, hx, _ = draw(layer)
    penalties = []
    for results in (run(layer, x, hx, {}), literally(layer, x, hx, {})):
        slopes = torch.autograd.grad(sum(r.sin().sum() for r in results), (x, *hx), create_graph=True)
        penalty = sum(s.square().sum() for s in slopes)
        penalties.append(torch.autograd.grad(penalty, [x, *hx, *layer.parameters()]))
    assert worst_error(*penalties) < FLOAT64_ERROR


def test_second_derivatives_of_what_is_not_kept() -> None:
    """Of a cell whose saved values do not tell their own derivative: the scan's input is kept beside them."""

    @fastrnn.cell(gates=1)
    def odd(x: Any, r: Any, state: Any) -> Any:
        return torch.sin(x[0] + r[0]) + 0.5 * state[0]

    assert odd.saved == 1  # the cosine, which does not tell the sine
    assert not odd.keeps_enough
    penalties = []
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    layer = fastrnn.Recurrent(odd, INPUTS, H, dtype=torch.float64, backend="aten")
    for backend in ("aten", "reference"):
        layer.backend = backend
        (slope,) = torch.autograd.grad(layer(x)[0].sin().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()]))
    assert worst_error(*penalties) < FLOAT64_ERROR


def test_compiled_and_exported() -> None:
    torch._dynamo.reset()
    layer = fastrnn.Recurrent(EVERY["lstm_decay"], INPUTS, H)
    x, dt = torch.randn(T, B, INPUTS), torch.rand(T, B)
    expected = layer(x, dt=dt)[0]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, dt=dt)[0], expected)
    program = torch.export.export(layer, (x,), {"dt": dt})
    torch.testing.assert_close(program.module()(x, dt=dt)[0], expected)


def test_refusals() -> None:
    layer = make("cfc")
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    dt = torch.rand(T, B, dtype=torch.float64)
    with pytest.raises(TypeError, match="the cell takes dt, a number of each row and step: pass dt="):
        layer(x)
    with pytest.raises(TypeError, match=r"Recurrent.forward\(\) got an unexpected keyword argument 'gap'"):
        layer(x, gap=dt)
    with pytest.raises(ValueError, match=r"dt should have the input's time and batch axes, \(4, 3\), got \(3, 4\)"):
        layer(x, dt=dt.t())
    with pytest.raises(ValueError, match="dt is a constant, and gets no gradient"):
        layer(x, dt=dt.requires_grad_())
    with pytest.raises(TypeError, match="dt should be a tensor of numbers"):
        layer(x, dt=1.0)
    with pytest.raises(ValueError, match="a PackedSequence takes no dt"):
        layer(pack_padded_sequence(x, torch.tensor([4, 3, 2])), dt=dt.detach())
    with pytest.raises(ValueError, match="CFC: return_cells=True, but the cell has no state other than h"):
        layer(x, dt=dt.detach(), return_cells=True)
    with pytest.raises(TypeError, match="takes a cell, got function"):
        fastrnn.Recurrent(lambda x, r, state: x[0], INPUTS, H)
    several = make("cifg")
    with pytest.raises(TypeError, match=r"CIFG: Expected hx to be a tuple of 2 tensors, got Tensor"):
        several(x, torch.zeros(1, B, H, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"Expected size of hx\[1\] \(1, 3, 6\), got \[1, 3, 5\]"):
        several(x, (torch.zeros(1, B, H, dtype=torch.float64), torch.zeros(1, B, 5, dtype=torch.float64)))
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script has no Recurrent layers"):
        torch.jit.script(several)
    with pytest.raises(KeyError, match="no cell 'nobody' in this process: import the module"):
        named("nobody")


def test_what_goes_on_around() -> None:
    """explain, warmup, revert."""
    layer = fastrnn.Recurrent(EVERY["cfc"], INPUTS, H)
    fastrnn.warmup(layer, [(2, 3)], lengths=True)
    fastrnn.warmup(fastrnn.Recurrent(EVERY["lstm_decay"], INPUTS, H, batch_first=True), [(2, 3)], resets=True)
    assert fastrnn.revert(nn.Sequential(layer)) == []
    problem = layer._problem(torch.randn(T, B, INPUTS), dt=torch.rand(T, B))
    assert problem.describe().startswith("CFC float32 on cpu, T=4 B=3 H=6")
    assert {c.mode for c in CELLS.values()}.isdisjoint(c.mode for c in CATALOGUE.values())


def test_resets_say_nothing_past_a_length() -> None:
    layer = make("lstm_decay", bidirectional=True)
    x, hx, constants = draw(layer)
    constants["dt"][3, 0] = float("nan")  # past the first row's length
    output = layer(x, hx, lengths=LENGTHS, resets=RESETS, **constants)[0]
    gradient = torch.autograd.grad(output.sum(), [x, *layer.parameters()])
    assert all(g.isfinite().all() for g in (output, *gradient))
