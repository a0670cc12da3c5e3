"""What wrong activations do to an LSTM over 500 steps, for docs/guide/precision.md: `python tests/drift.py`.

Emulated in float64: states and outputs are rounded as the kernels round them, activations are off by all that the
manual of PTX allows for the instructions that they are made of, up or down, whichever is worse.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

T, B, H, LAST = 500, 16, 64, 50
Function = Callable[[Tensor], Tensor]
Activations = tuple[Function, Function]  # sigmoid and tanh
EXACT: Activations = (torch.sigmoid, torch.tanh)


def instructions(sign: float) -> Activations:
    """As in `pointwise.py`: ex2.approx to 2^-22, rcp.approx to 2^-23."""

    def narrow(x: Tensor) -> Tensor:
        return x.float().double()

    def exp2(x: Tensor) -> Tensor:
        return torch.exp2(x.float()).double() * (1 + sign * 2.0**-22)

    def reciprocal(x: Tensor) -> Tensor:
        return (1 / x.float()).double() * (1 + sign * 2.0**-23)

    def sigmoid(x: Tensor) -> Tensor:
        return narrow(reciprocal(narrow(1 + exp2(narrow(x * -1.4426950408889634)))))

    def tanh(x: Tensor) -> Tensor:
        far = narrow(1 - 2 * reciprocal(narrow(1 + exp2(narrow(x * 2.8853900817779268)))))
        return torch.where(x.abs() < 0.0078125, x, far)

    return sigmoid, tanh


def approximate_tanh(error: Function) -> Activations:
    """tanh.approx, to 2^-11, and a sigmoid made of it."""

    def tanh(x: Tensor) -> Tensor:
        return torch.tanh(x) * (1 + 2.0**-11 * error(x))

    return lambda x: 0.5 + 0.5 * tanh(0.5 * x), tanh


ERRORS: tuple[Function, ...] = (torch.ones_like, lambda x: -torch.ones_like(x), lambda x: torch.sin(64 * x))
COLUMNS = {
    "rounding alone": [EXACT],
    "as it is": [instructions(1.0), instructions(-1.0)],
    "tanh.approx": [approximate_tanh(error) for error in ERRORS],
    "for tanh alone": [(instructions(1.0)[0], approximate_tanh(error)[1]) for error in ERRORS],
}


def tf32(x: Tensor) -> Tensor:
    """Rounded to 10 bits of mantissa."""
    bits = x.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()


# What a tensor is rounded to where it is stored, and where it is multiplied.
DTYPES: dict[str, tuple[Function, Function]] = {
    "bfloat16": (lambda x: x.bfloat16().double(), lambda x: x),
    "float16": (lambda x: x.half().double(), lambda x: x),
    "float32 with TF32": (lambda x: x.float().double(), tf32),
}


def outputs(weight: Tensor, bias: Tensor, x: Tensor, activations: Activations, dtype: str | None) -> Tensor:
    """Every step's h; rounded as of `dtype`, None for not at all."""
    sigmoid, tanh = activations
    stored, factor = DTYPES[dtype] if dtype else (lambda x: x, lambda x: x)
    h, c = (x.new_zeros(B, H) for _ in range(2))
    steps = []
    for given in x + bias:
        i, f, g, o = (stored(given) + factor(h) @ factor(weight).T).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        c = c if dtype is None else c.float().double()
        h = stored(sigmoid(o) * tanh(c))
        steps.append(h)
    return torch.stack(steps)


def main() -> None:
    for forget in (0.0, 3.0, 6.0):
        for dtype, (stored, _) in DTYPES.items():
            torch.manual_seed(1)
            weight = stored((torch.rand(4 * H, H, dtype=torch.float64) * 2 - 1) / H**0.5)
            bias = torch.zeros(4 * H, dtype=torch.float64)
            bias[H : 2 * H] = forget
            x = stored(0.5 * torch.randn(T, B, 4 * H, dtype=torch.float64) + bias) - bias
            truth = outputs(weight, bias, x, EXACT, None)[-LAST:]
            print(f"{dtype}, forget gate's bias {forget}", flush=True)
            for name, variants in COLUMNS.items():
                found = [outputs(weight, bias, x, activations, dtype)[-LAST:] for activations in variants]
                print(f"  {name}: {max(float((f - truth).norm() / truth.norm()) for f in found):.1e}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
