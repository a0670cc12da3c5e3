"""What a step cannot be, found by running it once: said with what was found, and the line where."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastrnn.derive.calling import Product, called
from fastrnn.derive.operators import OPERATORS
from fastrnn.derive.signature import Signature

_POINTWISE = (
    "A step is made of pointwise operators: + - * / and powers, comparisons, torch.where, maximum, minimum, clamp, "
    "abs, sign, exp, log, sqrt and their kin, sigmoid, tanh, relu and the other activations of torch.nn.functional, "
    "sin, cos, erf"
)
_HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "bernoulli", "normal", "uniform",
      "dropout", "native_dropout", "multinomial", "exponential", "poisson", "randperm"),
     "it draws random numbers: draw them before, and pass them as a constant of each row and step (constants=)"),
    (("sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "norm", "linalg_vector_norm", "softmax",
      "_softmax", "_log_softmax", "var", "var_mean", "std", "prod", "cumsum", "cumprod", "native_layer_norm",
      "native_batch_norm", "native_group_norm", "logsumexp", "sort", "topk"),
     "it combines units, which programs hold apart: a step has no reductions"),
    (("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "dot", "mv", "addmv"),
     "it is a product of matrices: W_hh h is in r; for a gate that multiplies something else, declare inner=1"),
    (("cat", "stack", "split", "chunk", "select", "slice", "index", "gather", "roll", "flip", "permute", "transpose",
      "narrow", "unbind"),
     "it moves numbers from unit to unit, or between tensors: gates and states come as tuples, and go as one"),
)  # fmt: skip


def _hint(name: str) -> str:
    """What to do instead of calling an operator of this name; empty where it may be fine."""
    return next((text for names, text in _HINTS if name in names or name.rstrip("_") in names), "")


class _ReadError(Exception):
    """A step looked at a number."""


class _CapturedError(Exception):
    """A step used a tensor, of this shape, that it was not given."""


# What makes a tensor of a number that is written in the step.
_MADE = frozenset({"lift_fresh", "lift_fresh_copy", "detach", "_to_copy"})


class Watched(TorchDispatchMode):
    """A step's one run on numbers: which operator was called from which line."""

    def __init__(self, step: Callable[..., Any], of: Signature) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.step, self.of = step, of
        self.name = getattr(step, "__qualname__", repr(step))
        self.file = inspect.getsourcefile(step) if inspect.isroutine(step) else None
        self.lines: dict[str, str] = {}
        self.known: list[Tensor] = []  # what the step was given, and what it made of that

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        self.lines.setdefault(name, self.line())
        if name in ("_local_scalar_dense", "is_nonzero", "item"):
            raise _ReadError
        if name not in _MADE:
            for arg in tree_leaves((args, kwargs)):
                if isinstance(arg, Tensor) and all(arg is not known for known in self.known):
                    raise _CapturedError(tuple(arg.shape), self.line())
        result = func(*args, **(kwargs or {}))
        self.known.extend(r for r in tree_leaves(result) if isinstance(r, Tensor))
        return result

    def line(self, stack: traceback.StackSummary | None = None) -> str:
        """Where in the step's file this is, as ` in line N: text`; empty where that is not known."""
        for frame in reversed(traceback.extract_stack() if stack is None else stack):
            if frame.filename == self.file:
                return f" in line {frame.lineno}: {frame.line}"
        return ""

    def run(self) -> None:
        """Run the step, and check what it gives."""
        of = self.of

        def some(count: int) -> list[Tensor]:
            return [torch.rand(2, 3, dtype=torch.float64) + 0.5 for _ in range(count)]

        x, r, state = some(of.gates), some(of.gates), some(of.states)
        vectors, constants = some(len(of.vectors)), some(len(of.constants))
        inner = Product(r[-1])
        given = [*x, *r, *state, *vectors, *constants]
        before, self.known = [t._version for t in given], list(given)
        with self, torch.no_grad():
            try:
                new = called(self.step, of, x, r[: of.gates - of.inner], state, vectors, constants, inner)
            except _ReadError:
                at = self.lines.get("_local_scalar_dense", "")
                raise ValueError(
                    f"{self.name} takes a number out of a tensor{at}, as a Python branch on a value "
                    "does: torch.where(condition, a, b) chooses unit by unit"
                ) from None
            except _CapturedError as error:
                raise self.captured(*error.args) from None
            except Exception as error:
                where = self.line(traceback.extract_tb(error.__traceback__))
                raise type(error)(
                    f"{self.name} could not be run with {of.gates} gates and {of.states} states{where} ({error})"
                ) from error
        for called_name, where in self.lines.items():
            hint = _hint(called_name)
            if hint:
                raise ValueError(f"{self.name} calls {called_name}{where}: {hint}")
        if [t._version for t in given] != before:
            at = self.lines.get("copy_", "") or next((v for k, v in self.lines.items() if k.endswith("_")), "")
            raise ValueError(f"{self.name} writes in place to what it was given{at}. Return new tensors")
        if len(new) != of.states or not all(isinstance(s, Tensor) for s in new):
            found = ", ".join(type(s).__name__ for s in new)
            raise ValueError(f"{self.name} should return {of.states} states, a tensor each, got ({found})")
        if any(s.shape != x[0].shape for s in new):
            shapes = ", ".join(str(tuple(s.shape)) for s in new)
            raise ValueError(f"{self.name} should return states shaped like its gates, {tuple(x[0].shape)}: {shapes}")
        if len(inner.operands) != of.inner:
            raise ValueError(f"{self.name} should call inner() {of.inner} times, called it {len(inner.operands)} times")

    def captured(self, shape: tuple[int, ...], where: str = "") -> ValueError:
        return ValueError(
            f"{self.name} uses a tensor of shape {shape} that it was not given{where}. What it needs is passed "
            "explicitly: a trained vector by vectors=, a number of each row and step by constants="
        )


def unknown(node: Node, watched: Watched) -> ValueError:
    """The error for an operator that no kernel has."""
    name = node.target.__name__.split(".")[0]  # type: ignore[union-attr]  # an operator's overload
    made_of = node.meta.get("original_aten")
    called = name if made_of is None else str(made_of.name()).split("::")[-1].split(".")[0]
    if called not in watched.lines:  # made of something, which then is what the step called
        called = next((n for n in watched.lines if n not in OPERATORS), called)
    where = watched.lines.get(called, "")
    known = ", ".join(OPERATORS)
    return ValueError(f"{watched.name} calls {called}{where}: there is no kernel for it. {_POINTWISE} ({known})")
