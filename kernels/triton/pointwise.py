"""What a step is made of that Triton has no operator for, or none that treats NaN and small numbers as torch does.

FAST: by the GPU's approximate instructions as they are, without what Triton adds to them for the largest and smallest
numbers of float32: a sigmoid takes 4 instructions instead of 12, tanh 7 instead of 23. `constants.approximate` says
when, docs/guide/precision.md how wrong they may be.
"""

import triton
import triton.language as tl


@triton.jit
def exp2_approximate(x):
    """2^x to 2^-22, relative; subnormal numbers are zero."""
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def reciprocal_approximate(x):
    """1/x to 2^-23, relative; subnormal numbers are zero."""
    return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def sigmoid(x, FAST: tl.constexpr):
    if FAST:
        return reciprocal_approximate(1.0 + exp2_approximate(x * -1.4426950408889634))
    else:
        return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x, FAST: tl.constexpr):
    """tanh to a few float32 units in the last place; FAST, to 5e-5 relative.

    `(1 - e) / (1 + e)` with `e = exp(-2|x|)` never overflows, but cancels near zero, where the odd Taylor series
    (error below 6e-8 relative for |x| < 0.2) takes over. Triton has no tanh of its own, and libdevice's does not run
    in the interpreter. FAST, `1 - 2 / (1 + exp(2x))` has an absolute error of 5e-7, and near zero x itself takes over.
    """
    if FAST:
        far = 1.0 - 2.0 * reciprocal_approximate(1.0 + exp2_approximate(x * 2.8853900817779268))
        return tl.where(tl.abs(x) < 0.0078125, x, far)
    else:
        a = tl.abs(x)
        e = tl.exp(-2.0 * a)
        far = (1.0 - e) / (1.0 + e)
        s = x * x
        near = x * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0 + s * (62.0 / 2835.0)))))
        return tl.where(a < 0.2, near, tl.where(x < 0.0, -far, far))


@triton.jit
def relu(x):
    # Not tl.maximum, which drops NaN.
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def maximum(a, b):
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def minimum(a, b):
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def sign(x):
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x * 0.0))


@triton.jit
def log1p(x):
    """log(1 + x), with what rounding took from the sum given back (Kahan; Higham, Accuracy and Stability, 1.14)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / (u - 1.0)))


@triton.jit
def expm1(x):
    """exp(x) - 1, by the same means."""
    u = tl.exp(x)
    middle = (u - 1.0) * (x / tl.log(u))
    return tl.where(u == 1.0, x, tl.where((u == 0.0) | (u > 1e30), u - 1.0, middle))


@triton.jit
def zeros_like(x):
    """Zeros; Triton's own does not know what a layout is, and these steps run in Gluon too."""
    return tl.where(x == x, 0.0, 0.0).to(x.dtype)
