"""What a cell is: one step, as a function of plain torch, and what was derived of it."""

from __future__ import annotations

import functools
import importlib
import linecache
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fastrnn.derive.signature import Signature
from fastrnn.kernels.counts import Counts

State = tuple[Tensor, ...]
Upstream = tuple[Tensor | None, ...]
Inner = Callable[[Tensor], Tensor]
Coefficients = tuple[tuple[Tensor | None, ...], ...]


@dataclass(frozen=True)
class Cell(Counts):
    """A recurrent cell: `x_t = W_ih input_t (+ b_ih)`, `r_t = W_hh h_{t-1} (+ b_hh)`, then one step.

    `fastrnn.cell` makes one of a function, which it is called like. Of two that differ, the names do.

    Attributes:
        mode: what torch.nn calls it (`RNNBase.mode`), where torch.nn has it; else how it is called in messages.
        function: the step, as it was written.
        vector_names, constant_names: what it takes besides, by name: `Counts.vectors` and `Counts.constants` of them.
        text: the source of its derived functions in torch; empty where `fastrnn.cells.derived` has them.
    """

    mode: str = ""
    function: Callable[..., Any] = field(default=lambda x, r, state: state, compare=False, repr=False)
    vector_names: tuple[str, ...] = ()
    constant_names: tuple[str, ...] = ()
    text: str = field(default="", compare=False, repr=False)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.function(*args, **named)

    def __deepcopy__(self, memo: Any) -> Cell:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if "<" in self.function.__qualname__:
            raise pickle.PicklingError(
                f"the cell {self.function.__qualname__} has no name by which another process could find it: define it "
                "at the top of a module"
            )
        return _found, (self.function.__module__, self.function.__qualname__, self.name)

    def new_state(self, x: State, r: State, state: State, given: State, inner: Inner) -> State:
        """The states after a step, by the function itself.

        Args:
            x, r, state: tensors `(..., H)`, one per gate or state; of a cell with an inner gate, `r` lacks that gate.
            given: the vectors and then the constants, which broadcast with them.
            inner: multiplies a tensor by the inner gate's weights, and adds its recurrent bias.
        """
        named = dict(zip((*self.vector_names, *self.constant_names), given, strict=True))
        if self.inner:
            named["inner"] = inner  # type: ignore[assignment]  # a function among tensors
        result = self.function(x, r, state, **named)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    def step(self, x: State | None, r: State, state: State, given: State, inner: Inner) -> tuple[State, State]:
        """The states after a step, and what is saved of it for backward; arguments as of `new_state`.

        `x` may be None where the cell does not split its biases: the input part was added to `r` already, and `inner`
        adds its own.
        """
        result: tuple[State, State] = self._functions["forward"](x, r, state, given, inner)
        return result

    def step_backward(
        self, dstate: State, dsaved: Upstream, saved: State, state_prev: State, state: State, given: State, inner: Inner
    ) -> tuple[State, State, State, State]:
        """The gradient of `step`: `dx, dr, dstate_prev, dvectors`.

        Args:
            dstate: the gradient of the states after the step.
            dsaved: of what it saved: None in a first derivative, where nothing else reads that.
            saved, state_prev, state: what it saved, and the states before and after.
            given: as for `new_state`.
            inner: multiplies the inner gate's gradient by its weights, transposed.

        Returns:
            The gradients of `x`, of `r` (those of all gates), of the states before, less what goes through the
            recurrent matmul of the outer gates, and of the vectors, unit by unit, to be summed.
        """
        name = "backward"
        if any(d is not None for d in dsaved):
            name = "backward_with_saved"
            dsaved = tuple(torch.zeros_like(s) if d is None else d for d, s in zip(dsaved, saved, strict=True))
        result: tuple[State, State, State, State] = self._functions[name](
            dstate, dsaved, saved, state_prev, state, given, inner
        )
        return result

    def operand(self, saved: State, state_prev: State, state: State, given: State) -> Tensor:
        """What the inner gate multiplied."""
        result: Tensor = self._functions["operand"](saved, state_prev, state, given)
        return result

    def coefficients(
        self, saved: State, state_prev: State, state: State, given: State
    ) -> tuple[Coefficients, Coefficients, Coefficients, Coefficients]:
        """What `step_backward` multiplies by, since it is linear in what comes to it: the gradients of the states, and
        what `inner` gives.

        Returns:
            For each of what `step_backward` returns, for each tensor of it, that of each gradient that comes, or None
            where that does not reach it.
        """
        result: Any = self._functions["coefficients"](saved, state_prev, state, given)
        return result  # type: ignore[no-any-return]  # what the derived source returns

    @property
    def signature(self) -> Signature:
        """What it takes and gives, as it was declared."""
        names = self.vector_names, self.constant_names
        return Signature(self.gates, self.states, *names, self.inner, self.initial)

    @property
    def keeps_enough(self) -> bool:
        """Whether second derivatives can be had of what is saved; else the scan's input is kept for them."""
        return "backward_with_saved" in self._functions

    @functools.cached_property
    def _functions(self) -> MappingProxyType[str, Callable[..., Any]]:
        if self.text:
            return _defined(self.name, self.text)
        module = importlib.import_module(f"fastrnn.cells.derived.{self.name}")
        return _without_prefix(self.name, vars(module))


def _without_prefix(name: str, known: dict[str, Any]) -> MappingProxyType[str, Callable[..., Any]]:
    start = f"{name}_"
    return MappingProxyType({key[len(start) :]: value for key, value in known.items() if key.startswith(start)})


@functools.cache
def _defined(name: str, text: str) -> MappingProxyType[str, Callable[..., Any]]:
    """The functions of a source text, which tracebacks show."""
    file = f"<fastrnn cell {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    known: dict[str, Any] = {"torch": torch, "__name__": f"fastrnn.cells.{name}"}
    exec(compile(text, file, "exec"), known)
    return _without_prefix(name, known)


def _found(module: str, path: str, name: str) -> Cell:
    """The cell that a pickle names."""
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Cell):
        raise ImportError(f"a layer was stored with the cell {path} of {module}, which has no cell of that name now")
    if found.name != name:
        raise ImportError(
            f"a layer was stored with the cell {path} of {module}, which has changed since: it was {name}, and is "
            f"{found.name}"
        )
    return found
