"""What the tests of lengths, resets, all states and the textbook GRU share: layers, runs and hypotheses about them."""

from __future__ import annotations

from typing import Any

import torch
from support import as_tuple, initial_state
from torch import Tensor, nn

import fastrnn
from fastrnn.backends import reference
from fastrnn.cells import CELLS
from fastrnn.kernels.tensors import Inputs

LAYERS = {
    "LSTM": fastrnn.LSTM,
    "GRU": fastrnn.GRU,
    "textbook GRU": lambda *args, **options: fastrnn.GRU(*args, reset_after=False, **options),
    "RNN": fastrnn.RNN,
    "relu RNN": lambda *args, **options: fastrnn.RNN(*args, nonlinearity="relu", **options),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two directions": {"bidirectional": True},
    "two layers, two directions, no bias": {"num_layers": 2, "bidirectional": True, "bias": False},
    "projection": {"proj_size": 2, "bidirectional": True, "num_layers": 2},
}
CASES = [(name, which) for name in LAYERS for which in OPTIONS if name == "LSTM" or which != "projection"]
# Of the kernels, whose interpreter is slow, each option of a layer and each cell; tests/kernels has every cell's masks.
INTERPRETED = {
    "stepwise": (
        ("LSTM", "projection"),
        ("GRU", "two layers, two directions, no bias"),
        ("textbook GRU", "two directions"),
        ("RNN", "two directions"),
    ),
    "persistent": (("LSTM", "two directions"), ("relu RNN", "two directions")),
}
# "auto" is the aten backend here, on a CPU; the kernels run in Triton's interpreter.
BACKENDS = ("auto", "stepwise", "persistent", "reference")


def is_fast(backend: str, name: str, which: str) -> bool:
    """Whether the fast tests have this case: of the kernels, those of `INTERPRETED`."""
    return (name, which) in INTERPRETED.get(backend, ((name, which),))


def make(name: str, options: dict[str, Any], backend: str = "auto", input_size: int = 3, hidden: int = 4) -> nn.RNNBase:
    layer = LAYERS[name](input_size, hidden, dtype=torch.float64, backend=backend, **options)
    assert isinstance(layer, nn.RNNBase)
    return layer


def twin(layer: nn.RNNBase, backend: str) -> nn.RNNBase:
    """The same layer by another backend."""
    name = {"LSTM": "LSTM", "GRU": "GRU" if getattr(layer, "reset_after", True) else "textbook GRU"}.get(layer.mode)
    name = name or ("RNN" if layer.mode == "RNN_TANH" else "relu RNN")
    options = {
        "num_layers": layer.num_layers,
        "bias": layer.bias,
        "bidirectional": layer.bidirectional,
    } | ({"proj_size": layer.proj_size} if layer.proj_size else {})
    other = make(name, options, backend, layer.input_size, layer.hidden_size)
    other.load_state_dict(layer.state_dict())
    return other


def states_of(layer: nn.RNNBase, batch: int) -> tuple[Tensor, ...]:
    return initial_state(layer, batch)


def call(layer: nn.RNNBase, x: Tensor, hx: tuple[Tensor, ...] | None, **options: Any) -> list[Tensor]:
    """The output, the final states, and the cells where they are asked for."""
    output, final, *cells = layer(x, None if hx is None else hx if len(hx) > 1 else hx[0], **options)
    return [output, *as_tuple(final), *cells]


def with_gradients(layer: nn.RNNBase, x: Tensor, hx: tuple[Tensor, ...], **options: Any) -> list[Tensor]:
    """`call`'s results, and the gradients of input, states and parameters under fixed upstream gradients."""
    x, hx = x.clone().requires_grad_(), tuple(h.clone().requires_grad_() for h in hx)
    results = call(layer, x, hx, **options)
    generator = torch.Generator().manual_seed(11)
    upstream = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    gradients = torch.autograd.grad(results, [x, *hx, *layer.parameters()], upstream)
    return [r.detach() for r in results] + list(gradients)


def assert_same(ours: list[Tensor], expected: list[Tensor], tolerance: float = 1e-8) -> None:
    for position, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert a.shape == b.shape, f"result {position}: shape {tuple(a.shape)}, expected {tuple(b.shape)}"
        error = float((a - b).detach().abs().max()) if a.numel() else 0.0
        assert error < tolerance, f"result {position}: error {error:.1e}"


def reference_passes_gradcheck(cell: str, direction: int, lengths: Tensor | None, resets: Tensor | None) -> bool:
    """Whether the reference's derivatives, 4 steps of 3 rows, are those of finite differences."""
    c = CELLS[cell]
    tensors = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((4, 3, 2, c.gates, 2), (2, c.gates, 2, 2), (c.states, 2, 3, 2))
    ]

    def one_direction(x: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        output, final, cells, _ = reference.scan(Inputs(x, weight, None, state, lengths, resets), c)
        return output[:, :, direction], final[:, direction], cells[:, :, direction]

    return torch.autograd.gradcheck(one_direction, tensors)
