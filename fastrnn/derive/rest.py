"""Whether a unit of which all is zero stays so."""

from __future__ import annotations

from fastrnn.derive.expressions import Expression, Value, in_order
from fastrnn.derive.saving import needed
from fastrnn.derive.signature import Signature
from fastrnn.derive.tracing import Joint


def stays_at_zero(joint: Joint, of: Signature) -> bool:
    """Whether new states and all gradients are zero where gates, states, vectors and gradients are, whatever the
    constants: of a tile's lanes past the last unit nothing can be NaN then.

    By the literals' values; so what depends on a constant, as 0 times it, counts as something else than zero.
    """
    if any(of.initial or ()):
        return False
    build, known = joint.builder.build, dict[Expression, Value]()
    roots = (*joint.state, *needed(joint))
    for node in in_order(roots):
        if node.operator == "input":
            known[node] = node if node.name == "constants" else 0.0
        else:
            known[node] = build(node.operator, *(known[a] if isinstance(a, Expression) else a for a in node.args))
    values = [known[r] if isinstance(r, Expression) else r for r in roots]
    return all(not isinstance(v, Expression) and v == 0 for v in values)
