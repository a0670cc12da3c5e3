"""GPUs as a plan sees them: the limits a launch must keep to, and the rates that the cost models reckon with.

All times are microseconds, all sizes bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
# Dynamic shared memory one block may use, by compute capability (CUDA C++ Programming Guide, technical specifications).
_SHARED_KIB = {(8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99, (9, 0): 227, (10, 0): 227, (10, 3): 227, (12, 0): 99}


@dataclass(frozen=True)
class Device:
    """The limits and rates of a GPU. Rates are published H100 figures (shared design notes), not measured here.

    Attributes:
        name, capability: what it is.
        sms: streaming multiprocessors, one program each while a persistent scan runs.
        shared_bytes: shared memory one program may use.
        hop_us, barrier_us: from one program's store to another's use of it, through L2, where the data is its own flag,
            and where a counter says that it is there.
        launch_us: from one kernel launch to the next, in a stream kept full.
        l2_rate, memory_rate: bytes per microsecond of the whole device.
        sm_l2_rate, sm_shared_rate: bytes per microsecond of one SM, from L2 and from shared memory.
        sm_mac_rate: 16-bit multiply-adds per microsecond of one SM, through mma.sync.
        sm_issue_rate: instructions of a warp that an SM can issue per microsecond: four a cycle.
        l2_bytes: what L2 holds.
        gluon: whether kernels written in Gluon run there: with a Triton that has it, and not in its interpreter.
        gluon_exchanges: how those may hand over h or dr. Data that are their own flag would be faster at some sizes and
            slower at others, by the model (bench/NOTES.md): a GPU has to say, and until it has nobody is given them.
    """

    name: str
    capability: tuple[int, int]
    sms: int
    shared_bytes: int
    hop_us: float = 0.6
    barrier_us: float = 1.1
    launch_us: float = 3.0
    l2_rate: float = 5.5e6
    memory_rate: float = 3.0e6
    sm_l2_rate: float = 1.0e5
    sm_shared_rate: float = 2.2e5
    sm_mac_rate: float = 2.2e6
    sm_issue_rate: float = 4 * 1755.0
    l2_bytes: int = 50_000_000
    gluon: bool = True
    gluon_exchanges: tuple[str, ...] = ("barrier",)


def shared_bytes(capability: tuple[int, int]) -> int:
    """Shared memory one block may use; the smallest there is for a GPU this table does not know."""
    return _SHARED_KIB.get(capability, 99) * KIB


DEVICES: dict[str, Device] = {
    name: Device(name, capability, sms, shared_bytes(capability))
    for name, capability, sms in (("sm_80", (8, 0), 108), ("sm_90", (9, 0), 132), ("sm_100", (10, 0), 148))
}
