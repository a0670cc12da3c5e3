"""A gradient as what it is: linear in each of the gradients that come to a step."""

from __future__ import annotations

from collections.abc import Sequence

from fastrnn.derive.expressions import Builder, Expression, Value, in_order

_Terms = dict[Expression, Value]


def coefficients(builder: Builder, roots: Sequence[Value], of: Sequence[Expression]) -> list[list[Value]]:
    """By root, what it has of each input in `of`: the number 0 where that does not reach it.

    Raises:
        ValueError: a root is not linear in them, as a gradient is.
    """
    known: dict[Expression, _Terms] = {u: {u: 1.0} for u in of}
    for node in in_order(roots):
        if node not in known:
            known[node] = _terms(builder, node, [_known(known, a) for a in node.args])
    return [[_known(known, root).get(u, 0.0) for u in of] for root in roots]


def _known(known: dict[Expression, _Terms], value: Value) -> _Terms:
    return known[value] if isinstance(value, Expression) else {}


def _terms(builder: Builder, node: Expression, terms: list[_Terms]) -> _Terms:
    """Of a node, given those of its arguments."""
    build, args = builder.build, node.args
    reached = list(dict.fromkeys(u for own in terms for u in own))
    if not reached:
        return {}
    if node.operator == "neg":
        return {u: build("neg", terms[0][u]) for u in reached}
    if node.operator in ("add", "sub") and all(_only(t, a) for t, a in zip(terms, args, strict=True)):
        return {u: build(node.operator, *(t.get(u, 0.0) for t in terms)) for u in reached}
    if node.operator == "where" and not terms[0] and all(_only(t, a) for t, a in zip(terms[1:], args[1:], strict=True)):
        return {u: build("where", args[0], *(t.get(u, 0.0) for t in terms[1:])) for u in reached}
    if node.operator == "mul" and not (terms[0] and terms[1]):
        linear, factor = (0, args[1]) if terms[0] else (1, args[0])
        return {u: build("mul", terms[linear][u], factor) for u in reached}
    if node.operator == "div" and not terms[1]:
        return {u: build("div", terms[0][u], args[1]) for u in reached}
    raise ValueError(f"a gradient should be linear in what comes to it, and {node.operator} is not")


def _only(terms: _Terms, value: Value) -> bool:
    """Whether a value has nothing but its terms."""
    return bool(terms) or (not isinstance(value, Expression) and value == 0)
