"""A derived step as source: in Triton, for the kernels, and in torch, for the scan in torch's operators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fastrnn.derive.expressions import Expression, Value, in_order
from fastrnn.derive.linear import coefficients
from fastrnn.derive.operators import OPERATORS
from fastrnn.derive.signature import Signature
from fastrnn.derive.tracing import Joint

# What has the shape of a whole tile, by name.
_WHOLE = frozenset({"x", "r", "state", "dstate", "through", "dsaved"})
_Names = dict[Expression, str]


def split_gates(joint: Joint, of: Signature) -> tuple[int, ...]:
    """The gates whose input part and recurrent part come otherwise than as their sum: of the others, biases add too."""
    roots = [*joint.state, *([] if joint.operand is None else [joint.operand])]
    sums, split = _sums(joint, of), set()
    for node in in_order(roots):
        split |= {arg.index for arg in node.operands if arg.name in ("x", "r") and node is not sums[arg.index]}
    return tuple(sorted(split))


def _sums(joint: Joint, of: Signature) -> list[Expression]:
    """The sum of the two parts of each gate."""
    build, own = joint.builder.build, joint.builder.input
    sums = [build("add", own("x", g), own("r", g)) for g in range(of.gates)]
    return [s for s in sums if isinstance(s, Expression)]


def _literal(value: float) -> str:
    """As both languages read it."""
    return repr(value) if math.isfinite(value) else f'float("{value}")'


class _Body:
    """The lines of a function, as they come to be needed.

    `names` are of what it is given. A root that is no whole tile is spread over one, `like`.
    """

    def __init__(self, language: str, names: _Names, like: str) -> None:
        self.language, self.names, self.like = language, dict(names), like
        self.lines: list[str] = []
        self.uses_dtype = False

    def text(self, value: Value) -> str:
        return self.names[value] if isinstance(value, Expression) else _literal(value)

    def add(self, roots: Iterable[Value]) -> list[str]:
        """What `roots` are called, after lines that compute them."""
        roots = list(roots)
        for node in _missing(roots, self.names):
            self.names[node] = f"v{len(self.lines)}"
            self.lines.append(f"{self.names[node]} = {self._line(node)}")
        return [self._spread(root) for root in roots]

    def _line(self, node: Expression) -> str:
        args = [self.text(a) for a in node.args]
        if node.operator == "where" and not any(isinstance(a, Expression) for a in node.args[1:]):
            args[1] = self._full(args[1])  # two literals alone would have no dtype
        operator = OPERATORS[node.operator]
        line = (operator.triton if self.language == "triton" else operator.torch).format(*args)
        self.uses_dtype |= "dtype" in line
        return line

    def _full(self, literal: str) -> str:
        if self.language == "triton":
            return f"zeros_like({self.like})" + ("" if literal == "0.0" else f" + {literal}")
        return f"torch.full_like({self.like}, {literal})"

    def _spread(self, root: Value) -> str:
        if not isinstance(root, Expression):
            return self._full(_literal(root))
        if any(node.name in _WHOLE or node.name == "saved" for node in in_order([root])):
            return self.text(root)
        return f"{self.text(root)} + {self._full('0.0')}"

    def function(self, header: str, results: str) -> str:
        dtype = [f"dtype = {self.like}.dtype"] if self.uses_dtype else []
        return "\n".join([header, *(f"    {line}" for line in (*dtype, *self.lines, f"return {results}"))]) + "\n"


def _missing(roots: Iterable[Value], names: _Names) -> Iterable[Expression]:
    """What is to be computed for `roots`, in order, where `names` are there already."""
    seen = set(names)

    def visit(node: Expression) -> Iterable[Expression]:
        if node in seen:
            return
        seen.add(node)
        for arg in node.operands:
            yield from visit(arg)
        yield node

    for root in roots:
        if isinstance(root, Expression):
            yield from visit(root)


def _jit(name: str, arguments: str) -> str:
    return f"@triton.jit\ndef {name}({arguments}, FAST: tl.constexpr):"


def _tuple(values: Sequence[str]) -> str:
    return "(" + ", ".join(values) + ("," if len(values) == 1 else "") + ")"


class Sources:
    """A derived step's functions, in one language."""

    def __init__(self, joint: Joint, saved: Sequence[Expression], of: Signature, additive: bool) -> None:
        self.joint, self.saved, self.of, self.additive = joint, tuple(saved), of, additive
        self.initial = of.initial or (0.0,) * of.states

    def _named(self, name: str, text: str, count: int) -> _Names:
        return {self.joint.builder.input(name, i): f"{text}[{i}]" for i in range(count)}

    def _given(self) -> _Names:
        """Vectors and constants, which come as one tuple."""
        vectors, constants = len(self.of.vectors), len(self.of.constants)
        names = self._named("vectors", "given", vectors)
        return names | {self.joint.builder.input("constants", i): f"given[{vectors + i}]" for i in range(constants)}

    def _forward_names(self) -> _Names:
        of = self.of
        names = self._named("r", "r", of.gates) | self._named("state", "state", of.states) | self._given()
        return names | self._named("x", "x", of.gates)

    def _backward_names(self, dsaved: bool = False) -> _Names:
        of, joint = self.of, self.joint
        names = {node: f"saved[{i}]" for i, node in enumerate(self.saved)}
        for i, node in enumerate(joint.state):
            if isinstance(node, Expression):
                names.setdefault(node, f"state[{i}]")
        names |= self._named("state", "state_prev", of.states) | self._named("dstate", "dstate", of.states)
        if dsaved:
            names |= self._named("dsaved", "dsaved", len(self.saved))
        return names | self._given()

    def triton(self, name: str) -> str:
        """`{name}_fwd`, `_bwd` and `_start`; for an inner gate `{name}_inner_fwd` and `_inner_bwd`."""
        joint, of = self.joint, self.of
        functions = []
        if joint.operand is not None:
            body = _Body("triton", self._forward_names(), "state[0]")
            (operand,) = body.add([joint.operand])
            functions.append(body.function(_jit(f"{name}_inner_fwd", "x, r, state, given"), operand))
        body = _Body("triton", self._forward_names(), "state[0]")
        new, kept = body.add(joint.state), body.add(self.saved)
        results = f"{_tuple(new)}, {_tuple(kept)}"
        functions.append(body.function(_jit(f"{name}_fwd", "x, r, state, given"), results))
        starts = ", ".join("zero" if v == 0 else f"zero + {v!r}" for v in self.initial)
        comma = "," if of.states == 1 else ""
        functions.append(f"@triton.jit\ndef {name}_start(zero):\n    return ({starts}{comma})\n")
        arguments = "dstate, saved, state_prev, state, given"
        if of.inner:
            body = _Body("triton", self._backward_names(), "dstate[0]")
            (dinner,) = body.add([joint.dr[-1]])
            functions.append(body.function(_jit(f"{name}_inner_bwd", arguments), dinner))
            arguments += ", through"
        names = self._backward_names()
        if of.inner:
            names[joint.builder.input("through", 0)] = "through"
        body = _Body("triton", names, "dstate[0]")
        results = ", ".join(_tuple(body.add(g)) for g in (joint.dx, joint.dr, joint.dstate, joint.dvectors))
        functions.append(body.function(_jit(f"{name}_bwd", arguments), results))
        return "\n\n".join(functions)

    def torch(self, name: str, again: Joint | None) -> str:
        """`{name}_forward`, `_backward` and `_coefficients`; for an inner gate `_operand`; and, if there is a gradient
        `again` of what is saved, `_backward_with_saved`."""
        functions = [self._torch_forward(name), self._torch_backward(f"{name}_backward", self.joint, False)]
        functions.append(self._torch_coefficients(name))
        if again is not None:
            functions.append(self._torch_backward(f"{name}_backward_with_saved", again, True))
        if self.joint.operand is not None:
            body = _Body("torch", self._backward_names(), "state[0]")
            (operand,) = body.add([self.joint.operand])
            functions.append(body.function(f"def {name}_operand(saved, state_prev, state, given):", operand))
        return "\n\n".join(functions)

    def _torch_forward(self, name: str) -> str:
        joint, of = self.joint, self.of
        outer = of.gates - of.inner
        names = self._forward_names()
        body = _Body("torch", names, "state[0]")
        if self.additive:
            for g, node in enumerate(_sums(joint, of)):
                body.names[node] = f"a{g}"
            for g in range(outer):
                body.lines.append(f"a{g} = r[{g}] if x is None else x[{g}] + r[{g}]")
        if joint.operand is not None:
            (operand,) = body.add([joint.operand])
            body.lines.append(f"q = inner({operand})")
            body.names[joint.builder.input("r", outer)] = "q"
            if self.additive:
                body.lines.append(f"a{outer} = q if x is None else x[{outer}] + q")
        new, kept = body.add(joint.state), body.add(self.saved)
        return body.function(f"def {name}_forward(x, r, state, given, inner):", f"{_tuple(new)}, {_tuple(kept)}")

    def _torch_backward(self, name: str, joint: Joint, dsaved: bool) -> str:
        body = _Body("torch", self._backward_names(dsaved), "dstate[0]")
        if self.of.inner:
            (dinner,) = body.add([joint.dr[-1]])
            body.lines.append(f"through = inner({dinner})")
            body.names[joint.builder.input("through", 0)] = "through"
        results = ", ".join(_tuple(body.add(g)) for g in (joint.dx, joint.dr, joint.dstate, joint.dvectors))
        arguments = "dstate, dsaved, saved, state_prev, state, given, inner"
        return body.function(f"def {name}({arguments}):", results)

    def _torch_coefficients(self, name: str) -> str:
        joint, of = self.joint, self.of
        come = [joint.builder.input("dstate", s) for s in range(of.states)]
        come += [joint.builder.input("through", i) for i in range(of.inner)]
        body, results = _Body("torch", self._backward_names(), "state[0]"), []
        for gradients in (joint.dx, joint.dr, joint.dstate, joint.dvectors):
            rows = []
            for row in coefficients(joint.builder, gradients, come):
                rows.append(_tuple(["None" if c == 0 else body.add([c])[0] for c in row]))
            results.append(_tuple(rows) if rows else "()")
        return body.function(f"def {name}_coefficients(saved, state_prev, state, given):", ", ".join(results))
