"""What layers and cells return are tensors of their own: no views, which none can detach in place, no shared memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sequences import BACKENDS, LAYERS
from support import combinations
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn

LENGTHS = torch.tensor([3, 5, 1, 4])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "two layers, two directions": {"num_layers": 2, "bidirectional": True},
    "projection, batch first": {"proj_size": 2, "batch_first": True},
}
CALLS = ("batched", "unbatched", "packed", "packed unsorted", "lengths", "resets", "lengths and cells")


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [result.data]
    return [t for part in result for t in _tensors(part)]


def _call(layer: Any, how: str) -> list[Tensor]:
    x = torch.randn(5, 4, 3)
    keywords: dict[str, Any] = {}
    if how == "unbatched":
        return _tensors(layer(x[:, 0]))
    if how.startswith("packed"):
        lengths = LENGTHS if how == "packed unsorted" else LENGTHS.sort(descending=True)[0]
        return _tensors(layer(pack_padded_sequence(x, lengths, enforce_sorted=how == "packed")))
    if how.startswith("lengths"):
        keywords["lengths"] = LENGTHS
    if how == "resets":
        keywords["resets"] = (torch.rand(5, 4) < 0.4).t() if layer.batch_first else torch.rand(5, 4) < 0.4
    if how.endswith("cells") and layer.mode == "LSTM":
        keywords["return_cells"] = True
    return _tensors(layer(x.transpose(0, 1) if layer.batch_first else x, **keywords))


def _packs(options: dict[str, Any], how: str) -> bool:
    return how.startswith("packed") and options.get("batch_first", False)


def _fast(backend: str, name: str, which: str, grad: bool) -> bool:
    """Of the kernels, whose interpreter is slow, each option with and without gradients, and each layer plain."""
    if backend not in ("stepwise", "persistent") or "proj_size" in OPTIONS[which]:
        return True
    if "num_layers" in OPTIONS[which]:
        return (backend, name, grad) in (("stepwise", "RNN", True), ("persistent", "GRU", False))
    return grad == (which == "plain")


@pytest.mark.parametrize(
    ("backend", "name", "which", "grad"),
    combinations(BACKENDS, LAYERS, OPTIONS, (True, False), fast=_fast),
    ids={True: "grad", False: "no grad"}.get,
)
def test_layers(backend: str, name: str, which: str, grad: bool) -> None:
    options = OPTIONS[which]
    if "proj_size" in options and name != "LSTM":
        pytest.skip("has no projection")
    if backend == "persistent" and name not in ("LSTM", "GRU"):
        pytest.skip("was tested by stepwise, over the same operator")
    if backend in ("stepwise", "persistent"):
        pytest.importorskip("triton")
    layer = LAYERS[name](3, 4, backend=backend, **options)
    for how in CALLS:
        if _packs(options, how):
            continue
        if backend in ("stepwise", "persistent") and how in ("packed unsorted", "resets"):
            continue  # the interpreter takes its time, and these differ in nothing there
        with torch.set_grad_enabled(grad):
            results = _call(layer, how)
        for position, result in enumerate(results):
            elements = result.untyped_storage().nbytes() // result.element_size()
            assert elements == result.numel(), f"{how}: result {position} keeps {elements} numbers for its own"
            if (
                position == 0
                and backend == "auto"
                and name == "LSTM"
                and options.get("batch_first")
                and how == "batched"
            ):
                continue  # torch's own layer returns a view there
            assert result.requires_grad == grad
            assert not result.detach_().requires_grad, f"{how}: result {position}"
        assert len({r.untyped_storage().data_ptr() for r in results}) == len(results)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cells(backend: str, kind: str, grad: bool) -> None:
    if backend in ("stepwise", "persistent"):
        pytest.importorskip("triton")
    cell = getattr(fastrnn, kind)(3, 4, backend=backend)
    for shape in ((2, 3), (3,)):
        with torch.set_grad_enabled(grad):
            results = _tensors(cell(torch.randn(shape)))
        for result in results:
            assert result.shape == (*shape[:-1], 4)
            assert result.untyped_storage().nbytes() == result.numel() * result.element_size()
            assert not result.detach_().requires_grad


@pytest.mark.parametrize("how", ["batched", "packed", "packed unsorted"])
@pytest.mark.parametrize("which", ["plain", "batch first", "two layers, two directions"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_wherever_torchs_can_be_detached(name: str, which: str, how: str) -> None:
    options = OPTIONS[which]
    if _packs(options, how):
        return
    theirs, ours = (getattr(module, name)(3, 4, **options) for module in (nn, fastrnn))
    for torchs, own in zip(_call(theirs, how), _call(ours, how), strict=True):
        assert torchs._is_view() or not own._is_view()


@pytest.mark.parametrize("backend", BACKENDS)
def test_truncated_backpropagation_in_place(backend: str) -> None:
    """As it is often written: the state goes from chunk to chunk, detached where it stands."""
    if backend in ("stepwise", "persistent"):
        pytest.importorskip("triton")
    layer = fastrnn.LSTM(3, 4, batch_first=True, backend=backend)
    other = nn.LSTM(3, 4, batch_first=True)
    other.load_state_dict(layer.state_dict())
    chunks = torch.randn(2, 2, 3, 3)
    gradients = []
    for module, in_place in ((layer, True), (other, False)):
        state: Any = None
        for x in chunks:
            output, state = module(x, state)
            (output.sin().sum() + state[0].sum()).backward()
            if in_place:
                for s in state:
                    s.detach_()
            else:
                state = tuple(s.detach() for s in state)
        gradients.append([p.grad for p in module.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["stepwise", "auto"])
def test_an_output_changed_in_place_before_backward_is_noticed(backend: str) -> None:
    """The output is kept for the gradient: a change is an error, never a wrong gradient."""
    if backend == "stepwise":
        pytest.importorskip("triton")
    layer = fastrnn.GRU(3, 4, batch_first=True, backend=backend)
    output, _ = layer(torch.randn(2, 3, 3), resets=torch.zeros(2, 3, dtype=torch.bool))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("values", [[5, 3, 2], [5, 5, 5], [5, 2, 0], [2, 5, 0], [2, 5, 3]])
@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN"])
def test_rows_through_torchs_packed_layer(mode: str, values: list[int], batch_first: bool, given: bool) -> None:
    """Longest first, nothing is sorted: the same numbers as the reference's, and tensors of their own still."""
    layer = getattr(fastrnn, mode)(4, 6, num_layers=2, bidirectional=True, batch_first=batch_first)
    peer = getattr(fastrnn, mode)(4, 6, num_layers=2, bidirectional=True, batch_first=batch_first, backend="reference")
    peer.load_state_dict(layer.state_dict())
    x = torch.randn(*((3, 5) if batch_first else (5, 3)), 4)
    h = torch.randn(4, 3, 6)
    hx = None if not given else (h, torch.randn(4, 3, 6)) if mode == "LSTM" else h
    results = []
    for own in (layer, peer):
        output, final = own(x, hx, lengths=torch.tensor(values))
        states = final if isinstance(final, tuple) else (final,)
        loss = output.square().sum() + sum(s.square().sum() for s in states)
        results.append((output, *states, *torch.autograd.grad(loss, list(own.parameters()))))
        for tensor in (output, *states):
            tensor.detach_()
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
