"""One provider on one case: first whether its results are right, and only then how long they take.

Right means: outputs, final states and (when training) every gradient within BOUNDS of the float64 reference with the
same weights and inputs.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrnn.bench.measuring.data import Inputs, make_inputs, make_weights
from fastrnn.bench.measuring.split import shares
from fastrnn.bench.measuring.timing import percentiles, synchronize, time_calls
from fastrnn.bench.providers.fastrnns import Reference
from fastrnn.bench.providers.own import is_own
from fastrnn.bench.providers.provider import Provider, State
from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.record import Outcome

# What the error of a right result stays under: the largest ||result - reference|| / ||reference|| over the tensors
# checked. "Measured" is torch.nn and plain torch at that dtype, over 32 steps of every cell, H up to 1024; the worst is
# always a gradient. A wrong gate, a lost step or a stale h gives 0.1 and more.
BOUNDS: dict[str, float] = {
    "float64": 1e-10,  # measured 7e-16; the same sums in another order are all that may differ
    "float32": 1e-5,  # measured 6e-7, likewise; longer sums than those get some room
    "tf32": 5e-3,  # simulated 1.5e-3: float32 operands cut to 10 bits, cuDNN's default and so ours on a GPU
    "float16": 5e-3,  # measured 1.4e-3: h, gates and gradients are rounded to 11 bits at every step
    "bfloat16": 3e-2,  # measured 1e-2: likewise to 8 bits
}
# relu's gradient jumps where its argument changes sign, which rounding does to a few units.
RELU_BOUNDS: dict[str, float] = {
    "tf32": 5e-2,  # simulated 1.9e-2
    "float16": 4e-2,  # measured 1.3e-2
    "bfloat16": 9e-2,  # measured 3.4e-2
}
# Of other cells nobody measured: a right result is off by at most so many times what the equations in its dtype are.
_OWN_FACTOR = 4.0
_STATES = "hcnmabdefgijklop"  # letters for the states there may be; torch calls the first two so
_CHECK_STEPS = 32
# In float64 the plain equations keep some twenty tensors this large for backward; 2^24 elements are 128 MiB.
_CHECK_ELEMENTS = 2**24
_L2_BYTES = 60_000_000  # more than any L2 of the GPUs at hand: inputs that rotate past it come from memory, as in use


@dataclass(frozen=True)
class Truth:
    """The weights of a case, inputs to check it on, and what the float64 reference makes of them.

    Attributes:
        state, inputs, expected: those.
        rounding: the error of the same equations in the case's dtype, of a cell that BOUNDS do not know; else 0.
    """

    state: State
    inputs: Inputs
    expected: dict[str, Tensor]
    rounding: float = 0.0


def _built(case: Case, provider: type[Provider], state: State) -> nn.Module:
    """The module, in the mode of the case: cuDNN keeps what backward needs for any module that is in training mode."""
    return provider.build(case, state).train(case.train)


def _grad_mode(case: Case) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if case.train else torch.inference_mode()


def _forward(module: nn.Module, inputs: Inputs) -> tuple[Any, ...]:
    results: tuple[Any, ...] = module(inputs.x, **inputs.options())
    return results


def _backward(inputs: Inputs, results: tuple[Any, ...]) -> None:
    """Where there is a gradient."""
    output, _, *cells = results
    if inputs.dout is not None:
        torch.autograd.backward(
            [output, *cells], [inputs.dout] if inputs.dcells is None else [inputs.dout, inputs.dcells]
        )


def _call(module: nn.Module, inputs: Inputs) -> tuple[Any, ...]:
    """One call, as it is timed: forward, and backward where there is a gradient."""
    results = _forward(module, inputs)
    _backward(inputs, results)
    return results


def _clear(module: nn.Module, inputs: Inputs) -> None:
    inputs.x.grad = None
    module.zero_grad(set_to_none=True)


def call_once(case: Case, module: nn.Module, inputs: Inputs) -> None:
    """One call, and nothing done with its results."""
    with _grad_mode(case):
        _call(module, inputs)


def _torch_name(name: str) -> str:
    """A parameter's name in torch.nn's layers, whatever the provider's: `Loop` has one cell for each suffix."""
    return "_".join(reversed(name.split(".")))


def _results(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """What a call computes, by name: of sequences the steps there are, what fills up the rest being free."""
    output, final, *cells = _call(module, inputs)
    finals = final if isinstance(final, tuple) else (final,)
    found = {"output": output, **{f"{name}_n": one for name, one in zip(_STATES, finals, strict=False)}}
    found |= {"cells": cells[0]} if cells else {}
    valid = inputs.valid()
    if valid is not None:
        found |= {name: found[name][valid] for name in ("output", "cells") if name in found}
    if inputs.dout is not None:
        gradients = {"input": inputs.x.grad}
        gradients |= {_torch_name(name): weight.grad for name, weight in module.named_parameters()}
        for name, gradient in gradients.items():
            if gradient is None:
                raise RuntimeError(f"{name} got no gradient")
            found[f"d({name})"] = gradient
    return {name: tensor.detach() for name, tensor in found.items()}


def make_truth(case: Case, device: torch.device) -> Truth:
    """Weights, inputs and right results for checking `case`: fewer time steps, everything else as it is timed.

    The batch stays: kernels are chosen by it, and the kernel that is checked must be the one that is timed.
    """
    width = max(case.I, 4 * case.H) * (2 if case.bidirectional else 1)
    steps = max(2, min(case.T, _CHECK_STEPS, _CHECK_ELEMENTS // (case.B * width)))
    short = replace(case, T=min(steps, case.T))
    state, inputs = make_weights(case, device), make_inputs(short, device, seed=0)
    reference = Reference.build(case, {name: weight.double() for name, weight in state.items()})
    with _grad_mode(case):
        expected = _results(reference, inputs.double())
        if not is_own(case):
            return Truth(state, inputs, expected)
        rounded = _results(Reference.build(case, state), inputs)
    return Truth(state, inputs, expected, compare(rounded, expected)[0])


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative error, NaN counting as the largest, and the name of the tensor that has it."""
    errors = []
    for name, right in expected.items():
        if found[name].shape != right.shape:
            raise RuntimeError(f"{name} has shape {tuple(found[name].shape)}, not {tuple(right.shape)}")
        scale = right.norm().item() or 1.0
        errors.append(((found[name].double() - right).norm().item() / scale, name))
    return max(errors, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])


def bound_of(case: Case, device: torch.device) -> float:
    """The entry of BOUNDS or RELU_BOUNDS that holds for `case`."""
    tf32 = case.dtype == "float32" and device.type == "cuda" and torch.backends.cudnn.allow_tf32
    precision = "tf32" if tf32 else case.dtype
    return RELU_BOUNDS.get(precision, BOUNDS[precision]) if case.cell == "rnn_relu" else BOUNDS[precision]


def check(case: Case, provider: type[Provider], truth: Truth, device: torch.device) -> Outcome:
    """Build and call the provider once, and compare."""
    synchronize(device)
    start = time.perf_counter()
    module = _built(case, provider, truth.state)
    with _grad_mode(case):
        truth.inputs.x.grad = None
        found = _results(module, truth.inputs)
        synchronize(device)
        seconds = time.perf_counter() - start
        error, name = compare(found, truth.expected)
        backend, tier = provider.runs(case, module, truth.inputs.x, truth.inputs.options())
    bound = max(bound_of(case, device), _OWN_FACTOR * truth.rounding)
    outcome = Outcome(status="ok", backend=backend, tier=tier, first_call_s=seconds, error=error)
    if math.isfinite(error) and error <= bound:
        return outcome
    reason = f"{name} is off by {error:.2e}, allowed is {bound:.0e}"
    return replace(outcome, status="FAILED", error=error if math.isfinite(error) else None, reason=reason)


def _timed(case: Case, provider: type[Provider], state: State, device: torch.device) -> dict[str, Any]:
    """What there is to time of a provider whose results are right, by the names of `Outcome`."""
    cuda = device.type == "cuda"
    occupied = torch.cuda.memory_allocated(device) if cuda else 0
    module = _built(case, provider, state)
    first = make_inputs(case, device, seed=0)
    found: dict[str, Any] = {}
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        call_once(case, module, first)
        synchronize(device)
        # Taken while there is one set of inputs only: the others are the benchmark's, not the layer's.
        found["peak_mb"] = (torch.cuda.max_memory_allocated(device) - occupied) / 1e6
    size = first.x.element_size() * (first.x.numel() + (0 if first.dout is None else first.dout.numel()))
    count = min(16, max(3, _L2_BYTES // size + 1)) if cuda else 3
    sets = [first, *(make_inputs(case, device, seed) for seed in range(1, count))]
    with _grad_mode(case):
        samples = time_calls(
            lambda i: _call(module, sets[i % count]), lambda i: _clear(module, sets[i % count]), count, device
        )
        parts = None
        if provider.divides:
            parts = shares(
                lambda: _forward(module, first),
                (lambda results: _backward(first, results)) if case.train else None,
                lambda: _clear(module, first),
                device,
            )
    if parts is not None:
        found |= {f"{name}_share": part for name, part in vars(parts).items()}
    p20, median, p80 = (seconds * 1e6 / case.T for seconds in percentiles(samples))
    return {**found, "us_per_step": median, "p20": p20, "p80": p80}


def measure(case: Case, provider: type[Provider], truth: Truth, device: torch.device) -> Outcome:
    """Check, then time; a result out of bounds is not timed."""
    missing = provider.unable(case, device)
    if missing is not None:
        return Outcome(status="n/a", reason=missing)
    outcome = check(case, provider, truth, device)
    if outcome.status != "ok":
        return outcome
    return replace(outcome, **_timed(case, provider, truth.state, device))
