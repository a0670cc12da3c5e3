"""What a step computes, as expressions: an operator and its arguments, each distinct one built once.

Simplified as they are built, by what holds for every number, NaN and infinity included: the same expression is the same
object, a sum with zero is the other term, a literal's value is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from fastrnn.derive.operators import evaluate

Literal = float | bool


@dataclass(frozen=True, eq=False)
class Expression:
    """An operator of `operators.OPERATORS` on its arguments; or an input, whose operator is "input".

    Attributes:
        operator: its name.
        args: expressions and literals; an input's are empty.
        name: of an input, `x`, `r`, `state` and so on; else empty.
        index: of an input, which of its name.
    """

    operator: str
    args: tuple[Expression | Literal, ...]
    name: str = ""
    index: int = 0

    @property
    def operands(self) -> tuple[Expression, ...]:
        return tuple(arg for arg in self.args if isinstance(arg, Expression))


Value = Expression | Literal

_COMMUTATIVE = frozenset({"add", "mul", "eq", "ne", "logical_and", "logical_or"})
_BOUNDED = {"maximum": "at_least", "minimum": "at_most"}
_NEGATED = {"add": "sub", "sub": "add"}


@dataclass
class Builder:
    """Where expressions are built."""

    _known: dict[tuple[object, ...], Expression] = field(default_factory=dict)

    def input(self, name: str, index: int) -> Expression:
        return self._once(("input", name, index), Expression("input", (), name, index))

    def build(self, operator: str, *args: Value) -> Value:
        """`operator(*args)`, simplified."""
        simpler = self._simplified(operator, args)
        if simpler is not None:
            return simpler
        if operator in _COMMUTATIVE and not isinstance(args[0], Expression):
            args = args[::-1]
        key = (operator, *(id(a) if isinstance(a, Expression) else ("literal", type(a), repr(a)) for a in args))
        return self._once(key, Expression(operator, tuple(args)))

    def _once(self, key: tuple[object, ...], new: Expression) -> Expression:
        return self._known.setdefault(key, new)

    def _simplified(self, operator: str, args: tuple[Value, ...]) -> Value | None:
        if not any(isinstance(a, Expression) for a in args):
            return _computed(operator, args)
        if operator == "neg" and isinstance(args[0], Expression) and args[0].operator == "neg":
            return args[0].args[0]
        if operator == "where" and not isinstance(args[0], Expression):
            return args[1] if args[0] else args[2]
        if operator == "where" and args[1] is args[2]:
            return args[1]
        if operator in ("maximum", "minimum"):
            for one, other in (args, args[::-1]):
                if not isinstance(other, Expression):
                    return self.build(_BOUNDED[operator], one, other)
        if len(args) != 2:
            return None
        a, b = args
        if operator in ("add", "sub"):
            if _is(b, 0):
                return a
            if _is(a, 0):
                return b if operator == "add" else self.build("neg", b)
            if isinstance(b, Expression) and b.operator == "neg":
                return self.build(_NEGATED[operator], a, b.args[0])
            if operator == "add" and isinstance(a, Expression) and a.operator == "neg":
                return self.build("sub", b, a.args[0])
        if operator in ("mul", "div") and _is(b, 1):
            return a
        if operator == "mul":
            if _is(a, 1):
                return b
            for one, other in ((a, b), (b, a)):
                if _is(one, -1):
                    return self.build("neg", other)
                if isinstance(one, Expression) and one.operator == "neg":
                    return self.build("neg", self.build("mul", one.args[0], other))
        return None


def _is(value: Value, number: float) -> bool:
    return not isinstance(value, Expression) and value == number


def _computed(operator: str, args: tuple[Value, ...]) -> Literal:
    """The value of an operator on literals, by torch's operator of the name."""
    given = [torch.tensor(a, dtype=torch.bool if isinstance(a, bool) else torch.float64) for a in args]
    result = evaluate(operator, *given)
    return bool(result) if result.dtype == torch.bool else float(result)


def in_order(roots: Iterable[Value]) -> Iterator[Expression]:
    """All that `roots` are made of, each after what it is made of."""
    seen: set[Expression] = set()
    for root in roots:
        stack = [(root, False)] if isinstance(root, Expression) else []
        while stack:
            node, done = stack.pop()
            if done:
                yield node
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((arg, False) for arg in reversed(node.operands) if arg not in seen)
