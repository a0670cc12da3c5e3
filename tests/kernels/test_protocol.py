"""The exchange, model-checked: every interleaving of a few programs, over a memory that reorders what it may.

The model has what `kernels/triton/sync.py` and the scans rely on. A program is two warps, of which one stores half of
the program's units, the other the other half and the counter. A store becomes visible to others at any later time, in
any order; a release waits until the stores of its own warp, and those that a block-wide barrier put before it, are
visible. What a step reads is checked against what the step before wrote, in this launch.

The protocols hold in every reachable state; each of the mistakes that `kernels/triton/sync.py` guards against is found.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

WARPS = 2
Action = tuple[str, ...]


@dataclass(frozen=True)
class Protocol:
    """One protocol, or a broken one.

    Attributes:
        exchange: `"flag"` or `"barrier"`, as in `kernels/triton/sync.py`.
        filled: flag: whether all slots were filled with the "not written yet" pattern before the launch.
        synced: barrier: whether a block-wide barrier stands before the arrival, and one after the wait.
        released: barrier: whether the arrival is a release.
        zeroed: barrier: whether the counter starts the launch at zero.
        needed: barrier: arrivals waited for at step s, less `s * programs`.
        handovers: exchanges in a step: 2 for a cell with an inner gate.
    """

    exchange: str
    filled: bool = True
    synced: bool = True
    released: bool = True
    zeroed: bool = True
    needed: int = 0
    handovers: int = 1


def program(protocol: Protocol, me: int, warp: int, programs: int, steps: int) -> list[Action]:
    """What a warp does: loads of all other warps' values, its own store, and what stands between."""
    actions: list[Action] = []
    slots = steps * protocol.handovers
    for slot in range(slots):
        if slot:
            if protocol.exchange == "barrier":
                if warp == 0:
                    actions.append(("wait", str(slot * programs + protocol.needed)))
                if protocol.synced:
                    actions.append(("sync",))
            for other in range(programs):
                for half in range(WARPS):
                    actions.append(("load", f"{slot - 1},{other},{half}"))
        actions.append(("store", f"{slot},{me},{warp}"))
        if protocol.exchange == "barrier" and slot + 1 < slots:
            if protocol.synced:
                actions.append(("sync",))
            if warp == 0:
                actions.append(("arrive",))
    return actions


State = tuple[tuple[int, ...], frozenset[str], frozenset[str], int]
"""Each warp's position; the slots visible to all; those stored but not visible yet; the counter."""


class ProtocolError(Exception):
    """A state that must not be reachable."""


def check(protocol: Protocol, programs: int = 2, steps: int = 3) -> int:
    """Explore every interleaving; the number of states. `ProtocolError` for a stale read, or a hang."""
    warps = [(p, w) for p in range(programs) for w in range(WARPS)]
    code = [program(protocol, p, w, programs, steps) for p, w in warps]
    start: State = (
        (0,) * len(warps),
        frozenset(),
        frozenset(),
        0 if protocol.zeroed else steps * programs * protocol.handovers,
    )
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        following = list(_moves(protocol, code, state))
        finished = all(at == len(code[i]) for i, at in enumerate(state[0]))
        if not following and not finished:
            raise ProtocolError(f"every program waits: {state}")
        for new in following:
            if new not in seen:
                seen.add(new)
                todo.append(new)
    return len(seen)


def _moves(protocol: Protocol, code: list[list[Action]], state: State) -> list[State]:
    positions, visible, pending, counter = state
    moves: list[State] = [(positions, visible | {slot}, pending - {slot}, counter) for slot in pending]
    for i, at in enumerate(positions):
        if at == len(code[i]):
            continue
        action = code[i][at]
        stepped = (*positions[:i], at + 1, *positions[i + 1 :])
        kind = action[0]
        if kind == "store":
            moves.append((stepped, visible, pending | {action[1]}, counter))
        elif kind == "load":
            if _readable(protocol, action[1], i, visible, pending):
                moves.append((stepped, visible, pending, counter))
        elif kind == "wait":
            if counter >= int(action[1]):
                moves.append((stepped, visible, pending, counter))
        elif kind == "arrive":
            own = {slot for slot in pending if int(slot.split(",")[1]) == i // WARPS}
            if not protocol.synced:
                own = {slot for slot in own if int(slot.split(",")[2]) == i % WARPS}
            if not (protocol.released and own):
                moves.append((stepped, visible, pending, counter + 1))
        elif kind == "sync":
            together = range(i // WARPS * WARPS, i // WARPS * WARPS + WARPS)
            if i == together[0] and all(code[j][positions[j] : positions[j] + 1] == [("sync",)] for j in together):
                both = tuple(p + (j in together) for j, p in enumerate(positions))
                moves.append((both, visible, pending, counter))
    return moves


def _readable(protocol: Protocol, slot: str, reader: int, visible: frozenset[str], pending: frozenset[str]) -> bool:
    """Whether a load returns now; `ProtocolError` if it returns something else than what the slot is to hold."""
    written = slot in visible or (slot in pending and int(slot.split(",")[1]) == reader // WARPS)
    if written:
        return True
    if protocol.exchange == "flag" and protocol.filled:
        return False
    raise ProtocolError(f"a stale read of {slot}")


PROTOCOLS = {
    "flag": Protocol("flag"),
    "barrier": Protocol("barrier"),
    "flag, inner gate": Protocol("flag", handovers=2),
    "barrier, inner gate": Protocol("barrier", handovers=2),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_interleaving_reads_what_was_written_and_ends(name: str) -> None:
    protocol = PROTOCOLS[name]
    states = check(protocol, steps=2 if protocol.handovers == 2 else 3)
    assert states > 100, "the model explored nothing"


@pytest.mark.slow
def test_three_programs() -> None:
    assert check(Protocol("barrier"), programs=3, steps=2) > 1000


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Protocol("flag", filled=False), "stale read"),  # a buffer that still holds another launch's values
        (Protocol("barrier", synced=False), "stale read"),
        (Protocol("barrier", released=False), "stale read"),
        (Protocol("barrier", zeroed=False), "stale read"),  # a counter that another launch left behind
        (Protocol("barrier", needed=-1), "stale read"),
        (Protocol("barrier", needed=1), "every program waits"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_every_known_mistake_is_found(broken: Protocol, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        check(broken)
