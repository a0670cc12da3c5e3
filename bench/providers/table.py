"""Who is measured, by name. To add someone, write a `provider.Provider` in a file of its own, and enter it here."""

from __future__ import annotations

import torch

from fastrnn.bench.providers.fastrnns import Fastrnn, Reference
from fastrnn.bench.providers.flashrnn import FlashRNN, FlashRNNTriton
from fastrnn.bench.providers.haste import Haste
from fastrnn.bench.providers.loops import CompiledLoop, HoistedLoop, Loop
from fastrnn.bench.providers.provider import Provider
from fastrnn.bench.providers.torchrl import TorchRL
from fastrnn.bench.providers.torchs import Packed, TorchNN
from fastrnn.bench.rows.cases import Case

# With whom fastrnn is compared: the first that can, and so the least that torch.nn's users have to write.
_PEERS: dict[str, type[TorchNN] | type[Loop]] = {
    "torch.nn": TorchNN,
    "torch.nn-packed": Packed,
    "loop": HoistedLoop,
    "torch.nn-loop": Loop,
}
PROVIDERS: dict[str, type[Provider]] = {
    "fastrnn": Fastrnn,
    **_PEERS,
    "torch.compile": CompiledLoop,
    "haste": Haste,
    "flashrnn": FlashRNN,
    "flashrnn-triton": FlashRNNTriton,
    "torchrl": TorchRL,
    "reference": Reference,
}


def installed() -> list[str]:
    """Everyone there is to measure; the reference is there to check them."""
    return [name for name, provider in PROVIDERS.items() if provider is not Reference and provider.missing() is None]


def peer_of(case: Case) -> str:
    """Whom `case` is compared with."""
    return next(name for name, peer in _PEERS.items() if peer.lacks(case) is None)


def peer_algorithm(case: Case, device: torch.device) -> str:
    """What the peer of `case` runs."""
    return _PEERS[peer_of(case)].algorithm(case, device)
