"""A step and its gradient as expressions: what torch records of them (`torch.func.vjp` under `functionalize` and
`make_fx`, operators taken apart by torch's own decompositions), translated.

What a step cannot be is refused here, by name and line: see `refusals.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from fastrnn.derive.calling import Product, called
from fastrnn.derive.expressions import Builder, Expression, Value, in_order
from fastrnn.derive.operators import OPERATORS, evaluate
from fastrnn.derive.refusals import Watched, unknown
from fastrnn.derive.signature import Signature

_ATEN = torch.ops.aten
_ROWS = (2, 3)  # of what a step is traced with: any sizes do, since every operator is pointwise


@dataclass(frozen=True)
class Joint:
    """A step and its gradient over the inputs `x`, `r` (the inner gate's product is the last of them), `state`,
    `vectors`, `constants` and, upstream, `dstate`, and `through` for the operand of the inner gate.

    Attributes:
        state: the new states.
        operand: what the inner gate multiplies, or None.
        dx, dr, dstate, dvectors: gradients of the inputs of these names.
    """

    builder: Builder
    state: tuple[Value, ...]
    operand: Value | None
    dx: tuple[Value, ...]
    dr: tuple[Value, ...]
    dstate: tuple[Value, ...]
    dvectors: tuple[Value, ...]


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    return {
        **torch._decomp.core_aten_decompositions(),
        # By their results, so that what forward saved serves.
        _ATEN.sigmoid_backward.default: lambda g, y: g * y * (1 - y),
        _ATEN.tanh_backward.default: lambda g, y: g * (1 - y * y),
        # Torch's has two selections by sign.
        _ATEN.log_sigmoid_backward.default: lambda g, x, buffer: g * torch.sigmoid(-x),
    }


def trace(step: Callable[..., Any], of: Signature) -> Joint:
    """The joint expressions of `step`.

    Raises:
        TypeError, ValueError: `step` is nothing that can be derived; the message says what was found, and where.
    """
    watched = Watched(step, of)
    watched.run()

    def forward(inputs: _Inputs) -> tuple[Tensor, ...]:
        inner = Product(inputs["r"][-1])
        r = inputs["r"][: of.gates - of.inner]
        new = called(step, of, inputs["x"], r, inputs["state"], inputs["vectors"], inputs["constants"], inner)
        return (*new, *inner.operands)

    return _joint(Builder(), forward, of, {"dstate": of.states, "through": of.inner}, watched)


def trace_with_saved(joint: Joint, saved: Sequence[Expression], step: Callable[..., Any], of: Signature) -> Joint:
    """`joint` where a gradient, `dsaved`, comes to what is saved as well: in a second derivative."""
    results = [*joint.state, *([] if joint.operand is None else [joint.operand]), *saved]

    def forward(inputs: _Inputs) -> tuple[Tensor, ...]:
        known: dict[Expression, Tensor] = {}
        for node in in_order(results):
            args = [known[a] if isinstance(a, Expression) else a for a in node.args]
            known[node] = inputs[node.name][node.index] if node.operator == "input" else evaluate(node.operator, *args)
        like = inputs["x"][0]
        return tuple(known[r] if isinstance(r, Expression) else torch.full_like(like, r) for r in results)

    upstream = {"dstate": of.states, "through": of.inner, "dsaved": len(saved)}
    return _joint(joint.builder, forward, of, upstream, Watched(step, of))


_Inputs = dict[str, tuple[Tensor, ...]]
_Build = Callable[..., Value]


def _joint(
    builder: Builder,
    forward: Callable[[_Inputs], tuple[Tensor, ...]],
    of: Signature,
    upstream: dict[str, int],
    watched: Watched,
) -> Joint:
    """What torch records of `forward` and of its gradient, given one for each of its results."""
    own = {"x": of.gates, "r": of.gates, "state": of.states, "vectors": len(of.vectors)}
    sizes = {**own, "constants": len(of.constants), **upstream}
    places = [(name, i) for name, size in sizes.items() for i in range(size)]
    differentiable = sum(own.values())

    def joint(*flat: Tensor) -> tuple[Tensor, ...]:
        def on(*differentiated: Tensor) -> tuple[Tensor, ...]:
            inputs: dict[str, tuple[Tensor, ...]] = dict.fromkeys(sizes, ())
            for (name, _), value in zip(places, (*differentiated, *flat[differentiable:]), strict=True):
                inputs[name] = (*inputs[name], value)
            return forward(inputs)

        results, pull = torch.func.vjp(on, *flat[:differentiable])[:2]
        return (*results, *pull(flat[-len(results) :]))

    examples = [torch.rand(_ROWS, dtype=torch.float64) + 0.5 for _ in places]
    # On fake tensors, of which a recorded node costs a fraction of what it does on real ones.
    traced = make_fx(torch.func.functionalize(joint), decomposition_table=_decompositions(), tracing_mode="fake")
    graph = traced(*examples)
    graph.graph.eliminate_dead_code()
    values = _translated(graph, builder, places, watched)
    states, rest = values[: of.states], values[of.states :]
    operand = rest[0] if of.inner else None
    del rest[: sum(upstream.values()) - of.states]
    gradients = []
    for size in own.values():
        gradients.append(tuple(rest[:size]))
        del rest[:size]
    return Joint(builder, tuple(states), operand, *gradients)


def _translated(
    graph: torch.fx.GraphModule, builder: Builder, places: list[tuple[str, int]], watched: Watched
) -> list[Value]:
    """The results of a recorded graph, whose inputs have these names."""
    known: dict[Node, Value] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            known[node] = builder.input(*places[len(known)])
        elif node.op == "get_attr":
            constant = getattr(graph, str(node.target))
            if constant.dim() or any("lift_fresh" not in str(user.target) for user in node.users):
                raise watched.captured(tuple(constant.shape))
            known[node] = constant.item()
        elif node.op == "call_function":
            args = [known[a] if isinstance(a, Node) else a for a in node.args]
            known[node] = _expression(builder, node, args, watched)
    (results,) = next(n for n in graph.graph.nodes if n.op == "output").args
    return [known[r] if isinstance(r, Node) else float(r or 0) for r in results]


# What changes nothing of a number, or only where it lies.
_SAME = frozenset({"alias", "detach", "clone", "lift_fresh_copy", "lift_fresh", "expand", "view", "broadcast_to"})
_LITERALS = {"full": 1, "full_like": 1, "scalar_tensor": 0}
_CALLED = {"bitwise_and": "logical_and", "bitwise_or": "logical_or", "bitwise_not": "logical_not"}


def _expression(builder: Builder, node: Node, args: list[Any], watched: Watched) -> Value:
    """A node's value, from those of its arguments."""
    build = builder.build
    name = node.target.__name__.split(".")[0]  # type: ignore[union-attr]  # an operator's overload
    name = _CALLED.get(name, name)
    if name in _SAME:
        own: Value = args[0]
        return own
    if name == "_to_copy":
        return build("number", args[0]) if _is_boolean(args[0]) else args[0]
    if name in _LITERALS:
        value = args[_LITERALS[name]]
        return value if isinstance(value, (bool, Expression)) else float(value)
    if name in ("zeros_like", "ones_like", "empty_permuted", "new_zeros", "zeros"):
        return 1.0 if name == "ones_like" else 0.0
    rule = _RULES.get(name)
    if rule is not None and not (name == "pow" and isinstance(args[1], Expression)):
        found = rule(build, *args, **{k: v for k, v in node.kwargs.items() if k in ("min", "max", "alpha")})
        if found is not None:
            return found
    if name not in OPERATORS or any(not isinstance(a, (Expression, int, float)) for a in args):
        raise unknown(node, watched)
    if name.startswith("logical_"):
        args = [a if _is_boolean(a) or isinstance(a, bool) else build("ne", a, 0.0) for a in args]
    numeric = name in ("add", "sub", "mul", "div", "where")
    values = [build("number", a) if numeric and i >= (name == "where") and _is_boolean(a) else a
              for i, a in enumerate(args)]  # fmt: skip
    return build(name, *(v if isinstance(v, (Expression, bool)) else float(v) for v in values))


def _is_boolean(value: Value) -> bool:
    return isinstance(value, Expression) and (
        (value.operator in OPERATORS and OPERATORS[value.operator].boolean)
        or (value.operator == "where" and _is_boolean(value.args[1]))
    )


def _power(build: _Build, base: Value, exponent: float) -> Value | None:
    """By products, for whole exponents up to 8; by roots, for halves."""
    if exponent == 0:
        return 1.0
    if exponent < 0:
        below = _power(build, base, -exponent)
        return None if below is None else build("div", 1.0, below)
    whole = int(exponent)
    if exponent - whole not in (0, 0.5) or whole > 8:
        return None
    result: Value = build("sqrt", base) if exponent != whole else 1.0
    for _ in range(whole):
        result = build("mul", result, base)
    return result


def _clamp(build: _Build, a: Value, low: Value | None = None, high: Value | None = None, **named: Any) -> Value:
    low, high = named.get("min", low), named.get("max", high)
    if low is not None:
        a = build("maximum", a, low)
    return a if high is None else build("minimum", a, high)


def _elu(build: _Build, a: Value, alpha: float = 1.0, scale: float = 1.0, inside: float = 1.0) -> Value:
    below = build("mul", build("expm1", build("mul", a, float(inside))), float(alpha * scale))
    return build("where", build("gt", a, 0.0), build("mul", a, float(scale)), below)


def _scaled(build: _Build, operator: str, a: Value, b: Value, alpha: float = 1.0) -> Value:
    return build(operator, *_numbers(build, a, build("mul", *_numbers(build, b, float(alpha)))))


def _numbers(build: _Build, *values: Value) -> list[Value]:
    return [build("number", v) if _is_boolean(v) else v if isinstance(v, Expression) else float(v) for v in values]


_RULES: dict[str, Callable[..., Value | None]] = {
    "add": lambda build, a, b, alpha=1.0: _scaled(build, "add", a, b, alpha),
    "sub": lambda build, a, b, alpha=1.0: _scaled(build, "sub", a, b, alpha),
    "rsub": lambda build, a, b, alpha=1.0: _scaled(build, "sub", b, a, alpha),
    "reciprocal": lambda build, a: build("div", 1.0, a),
    "pow": _power,
    "square": lambda build, a: build("mul", a, a),
    "clamp": _clamp,
    "clamp_min": lambda build, a, low: build("maximum", a, low),
    "clamp_max": lambda build, a, high: build("minimum", a, high),
    "hardtanh": lambda build, a, low=-1.0, high=1.0: _clamp(build, a, float(low), float(high)),
    "leaky_relu": lambda build, a, slope=0.01: build("where", build("gt", a, 0.0), a, build("mul", a, float(slope))),
    "elu": _elu,
    "gelu": lambda build, a: build(
        "mul", build("mul", a, 0.5), build("add", build("erf", build("mul", a, 2**-0.5)), 1.0)
    ),
    "isnan": lambda build, a: build("ne", a, a),
}
