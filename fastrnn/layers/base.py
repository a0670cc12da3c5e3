"""What LSTM, GRU and RNN layers share: torch.nn's contract, kept by a stack of fastrnn's.

The classes derive from torch.nn's own bases, so parameters, initialisation, state dicts, argument checks and error
messages are torch's; what differs is which kernels run. One keyword is ours, `backend`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn import stack
from fastrnn.batch import batch_of
from fastrnn.cells import BY_MODE, Cell
from fastrnn.graphs.onnx import refuse_packed
from fastrnn.layers.checks import checked_heads, checked_lengths, checked_resets
from fastrnn.scan.choice import check_name
from fastrnn.scan.problem import NO_EXTRAS, Extras, Problem, Stack

_OURS = ("backend", "reset_after", "heads")


def torch_twin(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A `kind` of torch.nn with the parameters, hooks and options of `module`."""
    twin = kind.__new__(kind)
    twin.__dict__.update({name: value for name, value in vars(module).items() if name not in _OURS})
    return twin


def forward_is_ours(module: nn.Module) -> bool:
    """Whether `forward` is fastrnn's, and not that of a class derived elsewhere."""
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    return owner.__module__.startswith("fastrnn.")


def fx_leaf(module: nn.Module, *args: Any, **options: Any) -> Any:
    """The call as one node of a graph: torch.fx.symbolic_trace takes only torch.nn's own modules for leaves."""
    tracer = args[0].tracer
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, given)


class Layers(nn.RNNBase):
    """What the three layers share. Subclasses differ in their constructor and in the shape of `hx`."""

    backend: str = "auto"  # of instances that were given a class of ours, and nothing else
    heads: int = 1  # on the instance only where it is not

    def __init__(self, mode: str, *args: Any, backend: str = "auto", heads: int = 1, **kwargs: Any) -> None:
        self.backend = check_name(backend)
        if heads != 1:
            self.heads = checked_heads(heads, hidden_size=args[1], proj_size=args[7])
        # By name: in a class that derives from torch.nn's layer too, super() would be that one, which names the mode.
        nn.RNNBase.__init__(self, mode, *args, **kwargs)

    def _init_flat_weights(self) -> None:
        if self.heads != 1:
            units = self.hidden_size // self.heads
            for name in self._flat_weights_names:
                weight = getattr(self, name, None)
                if name.startswith("weight_hh") and isinstance(weight, nn.Parameter) and weight.shape[1] != units:
                    # As torch.nn made it, and not yet initialised: this runs before that, and whenever weights move.
                    self.register_parameter(name, nn.Parameter(weight.new_empty(weight.shape[0], units)))
        super()._init_flat_weights()

    def flatten_parameters(self) -> None:
        if self.heads == 1:  # else cuDNN has nothing to lay them out for
            super().flatten_parameters()

    def extra_repr(self) -> str:
        text = super().extra_repr()
        text = text if self.heads == 1 else f"{text}, heads={self.heads}"
        return text if self.backend == "auto" else f"{text}, backend={self.backend!r}"

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles, and puts into the model: torch.nn's layer over the same parameters."""
        if not forward_is_ours(self):
            return self
        if self.heads != 1:
            raise RuntimeError("torch.jit.script has no layers with heads; use torch.compile or torch.export")
        return torch_twin(self, {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(self.mode, nn.RNN))

    def _weights(self) -> list[Tensor]:
        """The parameters in torch's order, read afresh: they may have been replaced in any of the ways there are."""
        own: dict[str, Any] = self._parameters
        try:
            # Module.__getattr__ for each would be a tenth of a short call's time.
            return [own[name] for name in self._flat_weights_names]
        except KeyError:  # a parametrized one
            return [getattr(self, name) for name in self._flat_weights_names]

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        weight: Any = self._parameters.get("weight_ih_l0")
        if weight is None:
            weight = self.weight_ih_l0
        if input.dtype != weight.dtype and not torch._C._is_any_autocast_enabled():
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})"
            )
        expected = 2 if batch_sizes is not None else 3
        if input.dim() != expected:
            raise RuntimeError(f"input must have {expected} dimensions, got {input.dim()}")
        if self.input_size != input.size(-1):
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}"
            )

    def _states(self, hx: Any) -> tuple[Tensor, ...]:
        """`hx` as a tuple of states."""
        return (hx,)

    def _initial(self, input: Tensor, batch: int) -> Any:
        """Zero states for a batch."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        return torch.zeros(count, batch, self.hidden_size, dtype=input.dtype, device=input.device)

    def _check_rank(self, input: Tensor) -> None:
        if input.dim() not in (2, 3):
            raise ValueError(f"{self.mode}: Expected input to be 2D or 3D, got {input.dim()}D instead")

    def _check_kind(self, hx: Any) -> None:
        """Refuse what is no state at all; sizes are looked at later."""
        if not isinstance(hx, Tensor):
            raise TypeError(f"{self.mode}: Expected hx to be a tensor, got {type(hx).__name__}")

    def _batch_hidden(self, hx: Any, is_batched: bool) -> Any:
        """Check the rank of `hx`, and give an unbatched one its batch axis."""
        if is_batched:
            if hx.dim() != 3:
                raise RuntimeError(f"For batched 3-D input, hx should also be 3-D but got {hx.dim()}-D tensor")
            return hx
        if hx.dim() != 2:
            raise RuntimeError(f"For unbatched 2-D input, hx should also be 2-D but got {hx.dim()}-D tensor")
        return hx.unsqueeze(1)

    def _cell(self) -> Cell:
        return BY_MODE[self.mode]

    def _stack(self) -> Stack:
        training = self.training
        return Stack(self._cell(), self.bias, self.num_layers, self.dropout, training, self.bidirectional, self.heads)

    def _prepare(self, input: Tensor | PackedSequence, hx: Any) -> tuple[Tensor, Any, Tensor | None]:
        """Check the arguments and bring them into the form `stack.run` takes: `(input, hx, batch_sizes)`."""
        if hx is not None:
            self._check_kind(hx)
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, _ = input
            if hx is None:
                self.check_input(data, batch_sizes)
                return data, self._initial(data, batch_of(batch_sizes)), batch_sizes
            # Before the permutation: indexing would hide a batch that is too large.
            self.check_forward_args(data, hx, batch_sizes)
            states = self._states(hx)
            # Which torch does of padded input alone.
            stack.check_tensors(data, states[:1] if self._cell().float32_states else states, ())
            return data, self.permute_hidden(hx, sorted_indices), batch_sizes
        self._check_rank(input)
        is_batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        if not is_batched:
            input = input.unsqueeze(batch_dim)
        if hx is None:
            self.check_input(input, None)
            return input, self._initial(input, input.size(batch_dim)), None
        hx = self._batch_hidden(hx, is_batched)
        self.check_forward_args(input, hx, None)
        return input, hx, None

    def _extras(
        self,
        input: Tensor | PackedSequence,
        lengths: Tensor | None,
        resets: Tensor | None,
        cells: bool,
        constants: dict[str, Any] | None = None,
    ) -> Extras:
        """Check what torch.nn has no argument for; `input` was checked before."""
        if lengths is None and resets is None:
            return Extras(cells=cells)
        if isinstance(input, PackedSequence):
            name = "resets" if lengths is None else "lengths"
            raise ValueError(f"a PackedSequence takes no {name}: pass the padded input with lengths= instead")
        batched = input.dim() == 3
        time = input.shape[1 if batched and self.batch_first else 0]
        batch = input.shape[0 if self.batch_first else 1] if batched else None
        if lengths is not None:
            lengths = checked_lengths(lengths, time, batch, input.device)
        if resets is not None:
            resets = checked_resets(resets, time, batch, self.batch_first, input.device)
        return Extras(lengths, resets, cells)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run the layers over a sequence; arguments and results as in the class's documentation."""
        if isinstance(input, torch.fx.Proxy):
            return fx_leaf(self, input, hx, lengths=lengths, resets=resets)
        output, final, _ = self._forward(input, hx, lengths, resets, False, {})
        return output, final

    def _forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        keep_cells: bool,
        constants: dict[str, Any],
    ) -> tuple[Any, Any, Any]:
        if isinstance(input, PackedSequence) and torch.compiler.is_compiling():
            refuse_packed()
            if torch.compiler.is_dynamo_compiling():
                from fastrnn.graphs.uncompiled import packed_forward

                packed: tuple[Any, Any, Any] = packed_forward(self, input, hx, lengths, resets, keep_cells, constants)
                return packed
        data, hx, batch_sizes = self._prepare(input, hx)
        plain = lengths is None and resets is None and not keep_cells and not self._cell().constants
        extras = NO_EXTRAS if plain and not constants else self._extras(input, lengths, resets, keep_cells, constants)
        output, states, cells = stack.run(
            self._stack(), data, self._states(hx), self._weights(), batch_sizes, extras, self.backend,
            self.batch_first and batch_sizes is None,
        )  # fmt: skip
        final: Any = states if len(states) > 1 else states[0]
        if isinstance(input, PackedSequence):
            places = input[1:]
            packed_cells = None if cells is None else PackedSequence(cells, *places)
            return PackedSequence(output, *places), self.permute_hidden(final, places[2]), packed_cells
        if input.dim() != 3:
            # Copies, small ones, of a single row: views could not be detached in place.
            batch_dim = 0 if self.batch_first else 1
            output = output.squeeze(batch_dim).clone()
            cells = None if cells is None else cells.squeeze(batch_dim).clone()
            final = tuple(h.squeeze(1).clone() for h in final) if isinstance(final, tuple) else final.squeeze(1).clone()
        return output, final, cells

    def _problem(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_cells: bool = False,
        **constants: Any,
    ) -> Problem:
        """What `forward` asks of a backend; for `fastrnn.explain`."""
        data, hx, batch_sizes = self._prepare(input, hx)
        extras = self._extras(input, lengths, resets, return_cells, constants)
        problem = stack.problem_of(self._stack(), data, self._states(hx), self._weights(), batch_sizes, extras)
        time = data.shape[int(self.batch_first)] if batch_sizes is None else batch_sizes.numel()
        batch, rows = self._states(hx)[0].shape[1], 0 if batch_sizes is None else data.shape[0]
        if lengths is not None and lengths.device.type == "cpu":
            rows = int(lengths.sum())
        return dataclasses.replace(problem, time=time, batch=batch, rows=rows)
