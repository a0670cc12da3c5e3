"""What the tests on the PTX machine would find: kernels with one line broken, each given away by something.

`tests/mutations.py` has the list. What tells is a race, a load of what nobody wrote, a fault, a deadlock, or results
that are wrong; every one of these is the only sign of some mutation.
"""

from __future__ import annotations

from collections.abc import Iterator

import mutations
import pytest
from compiled import Worker
from mutations import CASES, EVERYWHERE, PTX, SOURCE

pytest.importorskip("triton")

# The case that a mutation is made in, where that is another than the exchange by a barrier.
WHERE = {
    "a volatile load made plain": "flag",
    "a load's mask removed": "float32",
    "a lane's acquire made relaxed": "inner",
    "a lane's arrival removed": "gluon",
    "a lane's release made relaxed": "parts",
    "an operand 16 bytes further": "gluon",
} | dict.fromkeys(
    ("a proxy fence removed", "wgmma.fence removed", "wgmma's wait removed", "a wgmma operand elsewhere"), "warpgroups"
)
FEW_SOURCES = ("no barrier before the arrival", "input loaded past the last step", "a user's NaN stored as it is")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


# A few seconds each: every other one, and all of them, line by line, in a slow test below.
@pytest.mark.parametrize(
    "mutation", [m if n % 2 else pytest.param(m, marks=pytest.mark.slow) for n, m in enumerate(PTX)]
)
def test_a_line_of_the_ptx(mutation: str, worker: Worker) -> None:
    """Of at most two lines a launch one is given away; or each, of what changes something everywhere."""
    found = worker.ask(f"mutations {mutation} | {WHERE.get(mutation, 'barrier')} | 2")
    outcomes = found["outcomes"]
    assert outcomes, "it fits no line"
    caught = [said for good, said in outcomes if good]
    missed = [said for good, said in outcomes if not good]
    assert caught, missed
    assert not (mutation in EVERYWHERE and missed), missed


@pytest.mark.slow
@pytest.mark.parametrize("mutation", PTX)
def test_every_line_of_the_ptx(mutation: str, worker: Worker) -> None:
    """At most six places a launch, but every barrier and every hand-over."""
    most = 1000 if mutation in EVERYWHERE[:6] else 6
    caught, missed = 0, []
    for case in CASES:
        for good, said in worker.ask(f"mutations {mutation} | {case} | {most}")["outcomes"]:
            caught += good
            missed += [] if good else [said]
    assert caught > 0
    assert not (mutation in EVERYWHERE and missed), missed


def _check_source(name: str) -> None:
    outcome = mutations.outcome(name)
    assert outcome.good, outcome.said


@pytest.mark.parametrize("name", FEW_SOURCES)
def test_a_line_of_the_source(name: str) -> None:
    _check_source(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SOURCE if name not in FEW_SOURCES])
def test_other_lines_of_the_source(name: str) -> None:
    _check_source(name)
