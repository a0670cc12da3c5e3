"""`heads=`: block-diagonal recurrent weights, against a literal loop over rows and steps with full matrices."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from sequences import LAYERS, assert_same, call, make, states_of, with_gradients
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn.scan.heads import joined_cells

T, B, INPUTS, H = 4, 3, 2, 6
NAMES = ("LSTM", "GRU", "textbook GRU", "RNN")
GATES = {"LSTM": 4, "GRU": 3, "textbook GRU": 3, "RNN": 1}
LENGTHS, RESETS = torch.tensor([3, 0, 4]), torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]], dtype=torch.bool)
MASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "resets": {"resets": RESETS},
    "lengths and resets": {"lengths": LENGTHS, "resets": RESETS},
}


def _full(weight: Tensor, gates: int) -> Tensor:
    """`(GATES * H, H / heads)` as the `(GATES * H, H)` that it stands for."""
    return torch.cat([torch.block_diag(*rows.split(weight.shape[1])) for rows in weight.chunk(gates)])


def _step(name: str, x: list[Tensor], W: list[Tensor], b: list[Tensor], state: list[Tensor]) -> list[Tensor]:
    """One step of one row, as the classes' documentation prints it."""
    h = state[0]
    r = [w @ h + own for w, own in zip(W, b, strict=True)]
    if name == "LSTM":
        i, f, o = (torch.sigmoid(x[g] + r[g]) for g in (0, 1, 3))
        c = f * state[1] + i * torch.tanh(x[2] + r[2])
        return [o * torch.tanh(c), c]
    if name == "RNN":
        return [torch.tanh(x[0] + r[0])]
    reset, z = (torch.sigmoid(x[g] + r[g]) for g in (0, 1))
    n = torch.tanh(x[2] + (reset * r[2] if name == "GRU" else W[2] @ (reset * h) + b[2]))
    return [(1 - z) * n + z * h]


def _literally(
    name: str, layer: nn.RNNBase, x: Tensor, hx: tuple[Tensor, ...], lengths: Tensor | None, resets: Tensor | None
) -> list[Tensor]:
    """The output and the final states."""
    directions, finals, zero = 2 if layer.bidirectional else 1, [], x.new_zeros(H)
    for n in range(layer.num_layers * directions):
        d, rows = n % directions, x if n % directions == 0 else rows  # noqa: F821  # from the first direction on
        suffix = f"l{n // directions}" + ("_reverse" if d else "")
        w_ih, w_hh, b_ih, b_hh = (getattr(layer, f"{kind}_{suffix}") for kind in
                                  ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))  # fmt: skip
        W = list(_full(w_hh, GATES[name]).chunk(GATES[name]))
        outputs, ends = [[zero] * B for _ in range(T)], []
        for b in range(B):
            state, length = [h[n, b] for h in hx], T if lengths is None else int(lengths[b])
            for t in range(length) if d == 0 else reversed(range(length)):
                boundary = t + d
                if resets is not None and boundary < length and resets[boundary, b]:
                    state = [zero] * len(state)
                parts = list((w_ih @ rows[t, b] + b_ih).chunk(GATES[name]))
                state = _step(name, parts, W, list(b_hh.chunk(GATES[name])), state)
                outputs[t][b] = state[0]
            ends.append(torch.stack(state))
        finals.append(torch.stack(ends, 1))
        output = torch.stack([torch.stack(row) for row in outputs])
        x = output if d == 0 else torch.cat((x, output), -1)
    return [x, *torch.stack(finals, 1).unbind(0)]


def _expected(name: str, layer: nn.RNNBase, x: Tensor, hx: tuple[Tensor, ...], **masks: Any) -> list[Tensor]:
    """As `with_gradients`."""
    x, hx = x.clone().requires_grad_(), tuple(h.clone().requires_grad_() for h in hx)
    results = _literally(name, layer, x, hx, masks.get("lengths"), masks.get("resets"))
    generator = torch.Generator().manual_seed(11)
    upstream = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    return results + list(torch.autograd.grad(results, [x, *hx, *layer.parameters()], upstream))


def _check(name: str, backend: str, heads: int, which: str, **options: Any) -> None:
    layer = make(name, {"heads": heads, **options}, backend, INPUTS, H)
    x, hx = torch.randn(T, B, INPUTS, dtype=torch.float64), states_of(layer, B)
    assert_same(with_gradients(layer, x, hx, **MASKS[which]), _expected(name, layer, x, hx, **MASKS[which]))


@pytest.mark.parametrize("which", MASKS)
@pytest.mark.parametrize("heads", [2, 3, H])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_it_is_its_formula(backend: str, name: str, heads: int, which: str) -> None:
    _check(name, backend, heads, which, num_layers=2, bidirectional=True)


# The interpreter is slow: of the kernels there is each cell, each schedule, each kind of blocks, not each with each.
KERNELS = [
    pytest.param(name, backend, heads, which, marks=[] if (name, backend, heads, which) in (
        ("LSTM", "persistent", 2, "lengths and resets"),
        ("GRU", "persistent", H, "plain"),
        ("textbook GRU", "persistent", 3, "plain"),
        ("RNN", "persistent", 2, "resets"),
        ("LSTM", "stepwise", H, "lengths"),
        ("textbook GRU", "stepwise", H, "plain"),
        ("GRU", "stepwise", 2, "lengths"),
    ) else [pytest.mark.slow])
    for name in NAMES for backend in ("persistent", "stepwise") for heads in (2, 3, H) for which in MASKS
]  # fmt: skip


@pytest.mark.parametrize(("name", "backend", "heads", "which"), KERNELS)
def test_the_kernels_compute_its_formula(name: str, backend: str, heads: int, which: str) -> None:
    pytest.importorskip("triton")
    _check(name, backend, heads, which, bidirectional=True)


@pytest.mark.parametrize("heads", [2, H])
@pytest.mark.parametrize("name", NAMES)
def test_all_kinds_of_input(name: str, heads: int) -> None:
    """Batch first, packed, unbatched and with all cell states, against rows by themselves."""
    layer = make(name, {"heads": heads, "batch_first": True, "bidirectional": True}, "aten", INPUTS, H)
    x, lengths = torch.randn(B, T, INPUTS, dtype=torch.float64), torch.tensor([4, 3, 1])
    given = {"return_cells": True} if name == "LSTM" else {}
    output, final, *cells = call(layer, x, None, lengths=lengths, **given)[: 2 + bool(given)]
    packed, _ = layer(pack_padded_sequence(x, lengths, batch_first=True))
    assert_same([packed.data[: 2 * B]], [torch.stack([output[0, 0], output[1, 0], output[2, 0],
                                                       output[0, 1], output[1, 1], output[0, 2]])])  # fmt: skip
    for b in range(B):
        alone = call(layer, x[b, : lengths[b]], None, **given)
        assert_same([alone[0], alone[1]], [output[b, : lengths[b]], final[:, b]])
    if cells:
        # The last cell of a row is its final one.
        assert call(layer, x, None, **given)[3].shape == (B, T, 2 * H)
        every, last = layer(x, return_cells=True)[2], layer(x)[1][1]
        assert_same([every[:, -1, :H], every[:, 0, H:]], [last[0], last[1]])


@pytest.mark.parametrize("heads", [2, H])
@pytest.mark.parametrize("backend", ["aten", "reference", pytest.param("persistent", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["LSTM", "textbook GRU"])
def test_second_derivatives(name: str, backend: str, heads: int) -> None:
    if backend == "persistent":
        pytest.importorskip("triton")
    layer = make(name, {"heads": heads}, backend, INPUTS, H)
    x = torch.randn(2, 2, INPUTS, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))[0]
        return output

    assert torch.autograd.gradgradcheck(run, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("heads", [2, H])
def test_transforms(heads: int) -> None:
    """Batched gradients, forward mode, and torch.func."""
    layer = make("textbook GRU", {"heads": heads, "bidirectional": True}, "auto", INPUTS, H)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    output, _ = layer(x)
    upstream = torch.randn(2, *output.shape, dtype=torch.float64)
    weights = [x, *layer.parameters()]
    batched = torch.autograd.grad(output, weights, upstream, is_grads_batched=True, retain_graph=True)
    singly = [torch.autograd.grad(output, weights, u, retain_graph=True) for u in upstream]
    assert_same(list(batched), [torch.stack(pair) for pair in zip(*singly, strict=True)])
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(layer(forward_ad.make_dual(x.detach(), tangent))[0]).tangent
    assert_same([(dual * upstream[0]).sum()], [(singly[0][0] * tangent).sum()])
    rows = torch.vmap(lambda row: layer(row)[0], 1, 1)(x.detach())
    assert_same([rows], [output.detach()])


@pytest.mark.parametrize("heads", [2, H])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_module_like_others(name: str, heads: int) -> None:
    layer = LAYERS[name](INPUTS, H, heads=heads, num_layers=2)
    assert layer.weight_hh_l1.shape == (GATES[name] * H, H // heads)
    assert layer.weight_hh_l0.abs().max() <= H**-0.5
    assert f"heads={heads}" in repr(layer)
    assert vars(LAYERS[name](INPUTS, H)).keys() == vars(LAYERS[name](INPUTS, H, heads=1)).keys()
    assert "heads" not in vars(LAYERS[name](INPUTS, H))
    x = torch.randn(T, B, INPUTS)
    other = LAYERS[name](INPUTS, H, heads=heads, num_layers=2)
    other.load_state_dict(layer.state_dict())
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert torch.equal(copied(x)[0], layer(x)[0])
    layer.flatten_parameters()
    moved = copy.deepcopy(layer).double()
    assert moved.weight_hh_l0.shape == layer.weight_hh_l0.shape
    assert torch.equal(moved.weight_hh_l0.float(), layer.weight_hh_l0)
    assert copy.deepcopy(layer).bfloat16()(x.bfloat16())[0].dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="size mismatch"):
        LAYERS[name](INPUTS, H, num_layers=2).load_state_dict(layer.state_dict())
    output, final = layer(x)
    for result in (output, *(final if isinstance(final, tuple) else (final,))):
        result.detach_()  # what is a view could not be


def test_one_unit_of_one_head() -> None:
    layer, plain = fastrnn.LSTM(INPUTS, 1, heads=1), nn.LSTM(INPUTS, 1)
    plain.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("heads", [2, H])
def test_torch_compile_and_export(heads: int) -> None:
    layer = fastrnn.GRU(INPUTS, H, heads=heads, bidirectional=True)
    x = torch.randn(T, B, INPUTS)
    expected, _ = layer(x)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)[0]
    torch.testing.assert_close(compiled, expected)
    compiled.sum().backward()
    assert layer.weight_hh_l0.grad is not None
    dynamic = {"input": {0: torch.export.Dim("time", min=2), 1: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(layer, (x,), dynamic_shapes=dynamic, strict=False)
    longer = torch.randn(T + 3, B + 1, INPUTS)
    torch.testing.assert_close(program.module()(longer)[0], layer(longer)[0])


# torch's own: that TorchScript is deprecated, and which sizes a trace fixes.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("heads", [2, H])
def test_torch_jit_trace(heads: int) -> None:
    layer = fastrnn.LSTM(INPUTS, H, heads=heads, bidirectional=True)
    traced = torch.jit.trace(layer, (torch.randn(T, B, INPUTS),))
    longer = torch.randn(T + 3, B + 1, INPUTS)
    torch.testing.assert_close(traced(longer)[0], layer(longer)[0])


def test_torch_has_no_such_layer() -> None:
    layer = fastrnn.LSTM(INPUTS, H, heads=2)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script has no layers with heads"):
        torch.jit.script(layer)
    model = nn.Sequential(layer, fastrnn.GRU(H, H))
    assert fastrnn.revert(model) == ["1"]
    assert type(model[0]) is fastrnn.LSTM
    assert fastrnn.convert(model).converted == ["1"]
    assert model[0].heads == 2


def test_what_callers_get_wrong() -> None:
    with pytest.raises(ValueError, match=r"a positive divisor of hidden_size, got heads=4 for hidden_size=6"):
        fastrnn.LSTM(INPUTS, H, heads=4)
    with pytest.raises(ValueError, match="got heads=0"):
        fastrnn.RNN(INPUTS, H, heads=0)
    with pytest.raises(TypeError, match="heads should be of type int, got: float"):
        fastrnn.GRU(INPUTS, H, heads=2.0)
    with pytest.raises(ValueError, match=r"takes no projection, got heads=2 with proj_size=3"):
        fastrnn.LSTM(INPUTS, H, heads=2, proj_size=3)
    with pytest.raises(TypeError, match="hidden_size should be of type int"):
        fastrnn.LSTM(INPUTS, "6", heads=2)
    layer = fastrnn.LSTM(INPUTS, H, heads=2)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(1, 3, 6\)"):
        layer(torch.randn(T, B, INPUTS), (torch.zeros(2, B, 3), torch.zeros(2, B, 3)))


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    fastrnn.explain(fastrnn.LSTM(INPUTS, H, heads=2), torch.randn(T, B, INPUTS))
    said = capsys.readouterr().out
    assert "H=6, heads=2, training" in said
    assert "runs: torch's operators, step by step, for heads" in said


def test_cells_of_several_states() -> None:
    """No cell has more than two states yet: of more, a direction's others come state by state, as without heads."""
    cells = torch.arange(2 * 2 * 3 * 4).view(1, 1, -1)  # two directions, two heads, three others, four units
    expected = cells.view(2, 2, 3, 4).transpose(1, 2).reshape(1, 1, -1)
    assert torch.equal(joined_cells(cells, 3, 2, 4), expected)
    assert joined_cells(cells, 1, 2, 12) is cells
