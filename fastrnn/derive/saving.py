"""Which of forward's values backward is given: as few as can be.

A minimum cut of the graph between what forward computes from and what backward needs. The states before and after a
step cost nothing, since they are kept anyway, nor do vectors and constants. An input is as large as what was computed
of it, which then would be computed again: so what comes later is a little cheaper.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastrnn.derive.expressions import Expression, Value, in_order
from fastrnn.derive.operators import OPERATORS
from fastrnn.derive.tracing import Joint

_UPSTREAM = frozenset({"dstate", "through", "dsaved"})
_FREE = frozenset({"state", "vectors", "constants"})
_LATER = 1e-3  # how much cheaper, at most; less than what a whole value costs, for any number of them


def upstream_of(roots: Iterable[Value]) -> set[Expression]:
    """What of an expression's parts depends on the gradients that come to a step."""
    found: set[Expression] = set()
    for node in in_order(roots):
        if node.name in _UPSTREAM or any(arg in found for arg in node.operands):
            found.add(node)
    return found


def _free(joint: Joint) -> set[Expression]:
    """What backward has without it being saved, but for what is an input."""
    return {s for s in joint.state if isinstance(s, Expression)}


def needed(joint: Joint) -> tuple[Value, ...]:
    """What is computed in backward, or after it."""
    own = () if joint.operand is None else (joint.operand,)
    return (*joint.dx, *joint.dr, *joint.dstate, *joint.dvectors, *own)


def choose_saved(joint: Joint) -> tuple[Expression, ...]:
    """The values to save, in the order in which forward has them."""
    import networkx  # a dependency of torch's; imported where a cell is derived, not with fastrnn

    roots = needed(joint)
    order = list(in_order(roots))
    below, free = upstream_of(roots), _free(joint)
    depth: dict[Expression, int] = {}
    net = networkx.DiGraph()
    wanted = {r for r in roots if isinstance(r, Expression) and r not in below}
    for node in order:
        depth[node] = 1 + max((depth[arg] for arg in node.operands), default=-1)
    most = max(depth.values(), default=0) or 1
    for node in order:
        if node in below or node in free or node.name in _FREE:
            continue
        boolean = node.operator in OPERATORS and OPERATORS[node.operator].boolean
        cost = float("inf") if boolean else 1 + _LATER * (1 - depth[node] / most) / len(order)
        net.add_edge((node, "in"), (node, "out"), capacity=cost)
        if node.name in ("x", "r"):
            net.add_edge("source", (node, "in"), capacity=float("inf"))
        if node in wanted:
            net.add_edge((node, "out"), "sink", capacity=float("inf"))
    for node in order:
        if node in free:
            continue
        for arg in node.operands:
            if net.has_node((arg, "out")):
                end = "sink" if node in below else (node, "in")
                net.add_edge((arg, "out"), end, capacity=float("inf"))
    if not (net.has_node("source") and net.has_node("sink")):
        return ()
    _, (side, _) = networkx.minimum_cut(net, "source", "sink")
    chosen = {node for node in order if (node, "in") in side and (node, "out") not in side}
    forward = in_order([*joint.state, *([] if joint.operand is None else [joint.operand]), *order])
    return tuple(node for node in forward if node in chosen)


def computable(roots: Iterable[Value], given: set[Expression]) -> bool:
    """Whether `roots` follow from `given`, from upstream gradients and from what is free."""
    stack = [r for r in roots if isinstance(r, Expression)]
    seen: set[Expression] = set()
    while stack:
        node = stack.pop()
        if node in seen or node in given or node.name in _FREE or node.name in _UPSTREAM:
            continue
        seen.add(node)
        if node.operator == "input":
            return False
        stack.extend(node.operands)
    return True
