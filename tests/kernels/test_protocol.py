"""The exchange, model-checked: every interleaving of a few programs, over a memory that reorders what it may.

The model has what `kernels/triton/sync.py`, `kernels/gluon/flags.py` and the scans rely on. A program is two warps, of
which one stores half of the program's units, the other the other half and the counter. A store becomes visible to
others at any later time, in any order; a release waits until the stores of its own warp, and those that a block-wide
barrier put before it, are visible. What a step reads is checked against what the step before wrote, in this launch.

The protocols hold in every reachable state; each of the mistakes that those two guard against is found.

Of slots that are used again (`ring`), what is stored to one place is seen in the order in which it was stored: data,
ones again, data of a later step. Only the upkeep tells anybody else that ones are there.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fastrnn.kernels.plan import gluon

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
        ring: flag: how many slots there are, where they are used again; 0 for one each.
        period: of a ring: every how many steps programs count.
        cleared: of a ring: how many steps after they were read slots are cleared, less what `flags.py` has.
        counted: of a ring: whether the counts of others are waited for.
    """

    exchange: str
    filled: bool = True
    synced: bool = True
    released: bool = True
    zeroed: bool = True
    needed: int = 0
    handovers: int = 1
    ring: int = 0
    period: int = 1
    cleared: int = 0
    counted: bool = True


def program(protocol: Protocol, me: int, warp: int, programs: int, steps: int) -> list[Action]:
    """What a warp does: loads of all other warps' values, its own store, and what stands between."""
    if protocol.ring:
        return _in_a_ring(protocol, me, warp, programs, steps)
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


def _in_a_ring(protocol: Protocol, me: int, warp: int, programs: int, steps: int) -> list[Action]:
    """The same as `flags.settle` has it: a program counts, and waits for what was counted a period ago."""
    actions: list[Action] = [("store", f"0,{me},{warp}")]
    for step in range(steps):
        due = step % protocol.period == 0
        actions += [("load", f"{step},{other},{half}") for other in range(programs) for half in range(WARPS)]
        actions.append(("sync",))  # the sum over the warps
        if step + 1 < steps:
            actions.append(("store", f"{step + 1},{me},{warp}"))
        if due and warp == 0 and protocol.counted:
            actions.append(("wait", str(step // protocol.period * programs)))
        actions.append(("sync",))
        if due and warp == 1:
            actions.append(("arrive", f"{step}"))
        old = step - 2 * protocol.period - protocol.cleared
        if old >= 0:
            actions.append(("clear", f"{old},{me},{warp}"))
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
    seen = pending if not protocol.ring else {slot for slot in pending if not _before(protocol, slot) & pending}
    moves: list[State] = [(positions, visible | {slot}, pending - {slot}, counter) for slot in seen]
    for i, at in enumerate(positions):
        if at == len(code[i]):
            continue
        action = code[i][at]
        stepped = (*positions[:i], at + 1, *positions[i + 1 :])
        kind = action[0]
        if kind == "clear":
            moves.append((stepped, visible, pending | {f"ones {action[1]}"}, counter))
        elif kind == "store":
            moves.append((stepped, visible, pending | {action[1]}, counter))
        elif kind == "load":
            if _readable(protocol, action[1], i, visible, pending):
                moves.append((stepped, visible, pending, counter))
        elif kind == "wait":
            if counter >= int(action[1]):
                moves.append((stepped, visible, pending, counter))
        elif kind == "arrive":
            own = {slot for slot in pending if int(slot.split(",")[1]) == i // WARPS}
            if protocol.ring:  # of what comes after the barrier, the other warp's need not be there
                last = int(action[1]) - 2 * protocol.period - protocol.cleared
                own -= {slot for slot in own if slot.startswith("ones") and int(slot[5:].split(",")[0]) >= last}
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
    if protocol.ring:
        return _readable_again(protocol, slot, visible | (pending if written else set()))
    if written:
        return True
    if protocol.exchange == "flag" and protocol.filled:
        return False
    raise ProtocolError(f"a stale read of {slot}")


def _named(slot: str, step: int) -> str:
    """The same warp's of another step."""
    return f"{step},{slot.split(',', 1)[1]}"


def _before(protocol: Protocol, slot: str) -> set[str]:
    """What was stored before to the same place."""
    if slot.startswith("ones"):
        return {slot[5:]}
    return {f"ones {_named(slot, int(slot.split(',')[0]) - protocol.ring)}"}


def _readable_again(protocol: Protocol, slot: str, visible: frozenset[str] | set[str]) -> bool:
    """`_readable` of a slot that is used again: its data; ones; or what it had a ring ago, or has already lost."""
    step = int(slot.split(",")[0])
    if f"ones {slot}" in visible:
        raise ProtocolError(f"a stale read of {slot}: it was cleared")
    if slot in visible:
        return True
    old = _named(slot, step - protocol.ring)
    if step >= protocol.ring and f"ones {old}" not in visible:
        raise ProtocolError(f"a stale read of {slot}: it has what came a ring ago")
    return False


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


def test_a_ring_of_slots() -> None:
    """As many as `plan/gluon.py` has for its period, and no fewer: a period of one has the fewest to explore."""
    assert gluon.SLOTS == 4 * gluon.PERIOD + 1
    assert check(Protocol("flag", ring=5), steps=6) > 1000
    with pytest.raises(ProtocolError, match="a ring ago"):
        check(Protocol("flag", ring=4), steps=6)


@pytest.mark.slow
def test_a_ring_with_a_longer_period() -> None:
    assert check(Protocol("flag", ring=9, period=2), steps=12) > 1000
    with pytest.raises(ProtocolError, match="a ring ago"):
        check(Protocol("flag", ring=8, period=2), steps=12)


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
        (Protocol("flag", ring=5, counted=False), "a ring ago"),
        (Protocol("flag", ring=5, cleared=-2), "it was cleared"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_every_known_mistake_is_found(broken: Protocol, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        check(broken, steps=6 if broken.ring else 3)
