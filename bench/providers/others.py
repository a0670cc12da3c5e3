"""Layers of other projects, and torch.compile, as peers: each adapter gives one of them torch.nn's weights and names.

Called as fastrnn's layers are. Their modules are imported when an adapter is built, so that none of them is needed to
measure the rest; `runs` is what the record says of them. Where their layout of the weights differs from torch.nn's, the
weights are laid out anew inside each call: a copy of them, timed with it, so that gradients arrive under torch's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrnn.bench.providers import peers
from fastrnn.bench.rows.cases import Case

State = dict[str, Tensor]


@dataclass(frozen=True)
class Scope:
    """What a project's layers can do.

    Attributes:
        name: the project's, for the reasons.
        cells, dtypes: those it has.
        layers, resets, return_cells: whether it takes several, takes them, returns them.
    """

    name: str
    cells: tuple[str, ...]
    dtypes: tuple[str, ...]
    layers: bool = False
    resets: bool = False
    return_cells: bool = False

    def lacks(self, case: Case) -> str | None:
        """Why it has no such layer as `case`, or None."""
        reasons = (
            (case.cell not in self.cells, f"has no {case.cell}"),
            (case.dtype not in self.dtypes, f"takes {' and '.join(self.dtypes)} only"),
            (case.layers > 1 and not self.layers, "runs one layer"),
            (case.bidirectional, "runs in one direction"),
            (case.lengths != "full", "does not end rows at their lengths"),
            (case.reset_rate > 0 and not self.resets, "takes no resets"),
            (case.return_cells and not self.return_cells, "returns no cells"),
        )
        return next((f"{self.name} {reason}" for holds, reason in reasons if holds), None)


HASTE = Scope("haste", ("lstm", "gru"), ("float32", "float64"))
_FLASHRNN = Scope("flashrnn", ("lstm", "gru", "rnn_tanh"), ("float16", "bfloat16", "float32"), return_cells=True)
_FLASHRNN_TRITON = Scope("flashrnn's triton_fused", ("lstm",), _FLASHRNN.dtypes, return_cells=True)
TORCHRL = Scope("torchrl's triton", ("lstm", "gru"), ("float32",), layers=True, resets=True)


def flashrnn_lacks(case: Case) -> str | None:
    """What its backend cuda_fused lacks; GRUs go to another of its backends, which takes any size."""
    if case.cell in _FLASHRNN.cells and case.cell != "gru" and case.H % 16:
        # It solves for tiles that divide H, the smallest of which are 16 units.
        return "flashrnn's cuda_fused takes multiples of 16 hidden units"
    return _FLASHRNN.lacks(case)


def flashrnn_triton_lacks(case: Case) -> str | None:
    """What its backend triton_fused lacks."""
    reason = _FLASHRNN_TRITON.lacks(case)
    if reason is None and case.H not in (16, 32, 64):
        # A whole head is one tile: a power of 2, at least tl.dot's 16, and at most what its documentation allows.
        return "flashrnn's triton_fused takes 16, 32 or 64 hidden units"
    if reason is None and case.train and case.dtype != "float32":
        # Its backward kernel takes tl.exp of what it loads, which Triton has for float32 and float64 alone.
        return "flashrnn's triton_fused trains in float32 only"
    return reason


def _reordered(weight: Tensor, order: Sequence[int]) -> Tensor:
    """A weight with its gates, `len(order)` blocks of rows, in another order."""
    gates = weight.chunk(len(order))
    return torch.cat([gates[k] for k in order])


class CompiledLoop(peers.Loop):
    """`Loop` with the step of a cell compiled. The loop is not: unrolled, hundreds of steps compile for minutes."""

    runs = "inductor", "compiled cells in a Python loop"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # What earlier rows compiled counts against the limit of compilations, which is for all cells together.
        torch.compiler.reset()
        # Not `cell.compile()`: Dynamo skips frames of torch.nn, and that runs the cell as it is without a word.
        # Full graphs, so that a step that cannot be compiled, once more than that limit included, raises.
        self.step = torch.compile(peers.step, fullgraph=True, dynamic=False)


class _OneLayer(nn.Module):
    """The weights of a torch.nn layer, one layer and direction, for an adapter to lay out its own way."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, case: Case, state: State) -> None:
        super().__init__()
        self.cell, self.hidden_size = case.cell, case.H
        for name, weight in state.items():
            self.register_parameter(name, nn.Parameter(weight.clone()))


class Haste(_OneLayer):
    """haste_pytorch's layer: weights transposed, gates `i g f o` and `z r n`, one bias of an LSTM; see above."""

    def __init__(self, case: Case, state: State) -> None:
        super().__init__(case, state)
        import haste_pytorch

        with torch.device("meta"):  # its own weights are never used
            layer = getattr(haste_pytorch, case.cell.upper())(case.I, case.H)
        self.runs = "haste", f"haste_pytorch {haste_pytorch.__version__}"
        self._layer: tuple[nn.Module, ...] = (layer,)  # in a tuple, which keeps its weights from being this module's

    def forward(self, x: Tensor) -> Any:
        order = (0, 2, 1, 3) if self.cell == "lstm" else (1, 0, 2)
        kernel, recurrent = (_reordered(weight, order).t() for weight in (self.weight_ih_l0, self.weight_hh_l0))
        weights = {"kernel": kernel, "recurrent_kernel": recurrent}
        if self.cell == "lstm":
            weights["bias"] = _reordered(self.bias_ih_l0 + self.bias_hh_l0, order)
        else:
            weights["bias"] = _reordered(self.bias_ih_l0, order)
            weights["recurrent_bias"] = _reordered(self.bias_hh_l0, order)
        return torch.func.functional_call(self._layer[0].train(self.training), weights, (x,))


_FUNCTIONS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "elman"}


class FlashRNN(_OneLayer):
    """flashrnn's function with one head, after the input projection that it leaves to its caller; see above.

    Its backend vanilla is plain torch, for tests.
    """

    def __init__(self, case: Case, state: State, backend: str = "cuda_fused") -> None:
        super().__init__(case, state)
        from flashrnn import flashrnn

        self._flashrnn, self.backend, self.dtype = flashrnn, backend, case.dtype
        # flashrnn's own choice, written down: fused kernels of three gates do not fit its tiles.
        chosen = "cuda" if (backend, case.cell) == ("cuda_fused", "gru") else backend
        self.runs = "flashrnn", f"{chosen}, flashrnn {metadata.version('flashrnn')}"
        # The fused kernels read the gates of a unit side by side: projected so, x is not copied once more.
        self._side_by_side = chosen == "cuda_fused"

    def _projected(self, x: Tensor) -> Tensor:
        """`(B, T, gates, 1, H)`."""
        T, B, H = *x.shape[:2], self.hidden_size
        if not self._side_by_side:
            return F.linear(x, self.weight_ih_l0).view(T, B, -1, 1, H).transpose(0, 1)
        beside = self.weight_ih_l0.view(-1, H, x.shape[2]).transpose(0, 1).flatten(0, 1)
        return F.linear(x, beside).view(T, B, 1, H, -1).permute(1, 0, 4, 2, 3)

    def forward(self, x: Tensor, *, return_cells: bool = False) -> tuple[Any, ...]:
        H, recurrent = self.hidden_size, self.weight_hh_l0
        if self.cell == "gru":
            # Its recurrent gates are n r z, and of four biases n has two: the recurrent part's first, the input's last.
            recurrent = _reordered(recurrent, (2, 0, 1))
            bias = torch.cat([self.bias_hh_l0[2 * H :], self.bias_ih_l0]) + F.pad(self.bias_hh_l0[: 2 * H], (H, H))
        else:
            bias = self.bias_ih_l0 + self.bias_hh_l0
        states, last = self._flashrnn(
            self._projected(x),
            recurrent.view(-1, 1, H, H),
            bias.view(-1, 1, H),
            function=_FUNCTIONS[self.cell],
            backend=self.backend,
            dtype=self.dtype,
        )  # (states, B, T, 1, H), (states, B, 1, 1, H)
        output, *cells = states.squeeze(3).transpose(1, 2)
        final = tuple(last.flatten(2).unsqueeze(1))
        results = output, final if self.cell == "lstm" else final[0]
        return (*results, cells[0]) if return_cells else results


class TorchRL(nn.Module):
    """torchrl's layer in its recurrent mode. It has torch.nn's layout, batch first.

    Its backend pad is torch.nn's layer on padded rows, for tests.
    """

    def __init__(self, case: Case, state: State, backend: str = "triton") -> None:
        super().__init__()
        from torchrl.modules import GRUModule, LSTMModule

        kind, inner = (LSTMModule, "lstm") if case.cell == "lstm" else (GRUModule, "gru")
        self._states = ("h", "c") if case.cell == "lstm" else ("h",)
        # As cuDNN and fastrnn do: torch has another switch for matmuls, which torchrl would follow.
        precision = "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
        module = kind(
            case.I,
            case.H,
            case.layers,
            in_keys=["x", *self._states],
            out_keys=["y", *(("next", name) for name in self._states)],
            recurrent_backend=backend,
            recurrent_matmul_precision=precision,
            default_recurrent_mode=True,
        ).to(state["weight_ih_l0"])
        module.get_submodule(inner).load_state_dict(state)
        # Its parameters under torch.nn's names: the first name that a parameter is found by is the one it has.
        for name, weight in module.get_submodule(inner).named_parameters():
            self.register_parameter(name, weight)
        self.module = module
        self.runs = "torchrl", f"{backend}, torchrl {metadata.version('torchrl')}"

    def forward(self, x: Tensor, *, resets: Tensor | None = None) -> tuple[Any, ...]:
        from tensordict import TensorDict

        if resets is None:
            resets = x.new_zeros(x.shape[:2], dtype=torch.bool)
        inputs = {"x": x.transpose(0, 1), "is_init": resets.t().unsqueeze(-1)}
        found = self.module(TensorDict(inputs, batch_size=[x.shape[1], x.shape[0]]))
        final = tuple(found["next", name][:, -1].transpose(0, 1) for name in self._states)
        return found["y"].transpose(0, 1), final if len(final) > 1 else final[0]
