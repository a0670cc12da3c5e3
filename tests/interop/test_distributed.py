"""Our layers under DDP, FSDP2 and distributed checkpoints: two processes get the numbers that torch.nn gets in one.

Run as a program, this file is one of the two processes: it does every check and writes down what came of each.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import FLOAT64_ERROR, worst_error
from torch import Tensor, nn

import fastrnn
from fastrnn.interop.conversion import Conversion, convert

WORLD = 2
TIMEOUT = 100  # seconds for all checks together; they take about ten
STEPS = 2


class Model(nn.Module):
    """A layer of each kind and a cell, from torch.nn or from fastrnn."""

    def __init__(self, home: ModuleType, **options: Any) -> None:
        super().__init__()
        self.lstm = home.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True, proj_size=2, **options)
        self.gru = home.GRU(4, 3, batch_first=True, **options)
        self.rnn = home.RNN(3, 3, batch_first=True, bias=False, **options)
        self.cell = home.GRUCell(3, 3, **options)
        self.head = nn.Linear(3, 1)  # cannot be split evenly
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(x)
        x, _ = self.gru(x)
        x, h = self.rnn(x)
        h = h[0]
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h)


def _pair(backend: str) -> tuple[Model, Model]:
    """torch.nn's model and ours, alike in every process."""
    torch.manual_seed(0)
    theirs, ours = Model(nn), Model(fastrnn, backend=backend)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def _batch(step: int) -> Tensor:
    return torch.randn(2 * WORLD, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def _mine(batch: Tensor) -> Tensor:
    return batch.chunk(WORLD)[dist.get_rank()]


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - 1).square().mean()


def _whole(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies of the tensors, gathered from all processes where they are in pieces."""
    from torch.distributed.tensor import DTensor

    return [(t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for t in tensors]


def _gradients(model: nn.Module) -> list[Tensor]:
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None for g in gradients)
    return _whole(g for g in gradients if g is not None)


def _assert_same_training(theirs: nn.Module, ours: nn.Module) -> None:
    """Steps of SGD: `theirs` here on the whole batch, `ours` on this process's share of it."""
    start = _whole(ours.parameters())
    optimizers = [torch.optim.SGD(m.parameters(), 0.5, momentum=0.9) for m in (theirs, ours)]
    for step in range(STEPS):
        for model, optimizer in zip((theirs, ours), optimizers, strict=True):
            optimizer.zero_grad()
            _loss(model, _batch(step) if model is theirs else _mine(_batch(step))).backward()
        assert worst_error(_gradients(ours), _gradients(theirs)) < FLOAT64_ERROR
        for optimizer in optimizers:
            optimizer.step()
    trained = _whole(ours.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(trained, start, strict=True))
    assert worst_error(trained, theirs.parameters()) < FLOAT64_ERROR


def _ddp(backend: str) -> None:
    theirs, ours = _pair(backend)
    _assert_same_training(theirs, nn.parallel.DistributedDataParallel(ours))


def _ddp_converted(backend: str) -> None:
    """Converting what DDP has wrapped already."""
    theirs, _ = _pair("auto")
    model = nn.parallel.DistributedDataParallel(_pair("auto")[0])
    assert convert(model, backend).converted == [f"module.{name}" for name in ("lstm", "gru", "rnn", "cell")]
    _assert_same_training(theirs, model)


def _accumulation(backend: str) -> None:
    """Micro-batches, of which only the last exchanges gradients."""
    theirs, ours = _pair(backend)
    model = nn.parallel.DistributedDataParallel(ours)
    for step in range(STEPS):
        (_loss(theirs, _batch(step)) / STEPS).backward()
        with contextlib.nullcontext() if step == STEPS - 1 else model.no_sync():
            (_loss(model, _mine(_batch(step))) / STEPS).backward()
        together = worst_error(_gradients(model), _gradients(theirs)) < FLOAT64_ERROR
        assert together == (step == STEPS - 1)


def _sharded(model: Model) -> Model:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (WORLD,))
    for module in (model.lstm, model.cell, model):  # the GRU and the RNN stay with the root
        fully_shard(module, mesh=mesh)
    return model


def _fsdp(backend: str) -> None:
    theirs, ours = _pair(backend)
    _assert_same_training(theirs, _sharded(ours))


def _fsdp_converted(backend: str) -> None:
    """Converting first is the way; what fully_shard has made a class of its own for is named and left alone."""
    theirs, _ = _pair("auto")
    model, _ = _pair("auto")
    convert(model, backend)
    _assert_same_training(theirs, _sharded(model))
    late = _sharded(_pair("auto")[0])
    skipped = {"lstm": "subclass FSDPLSTM of torch.nn.LSTM", "cell": "subclass FSDPGRUCell of torch.nn.GRUCell"}
    assert convert(late, backend) == Conversion(["gru", "rnn"], skipped)
    _assert_same_training(_pair("auto")[0], late)


def _checkpoint(backend: str) -> None:
    """A sharded model saved by both processes, read back into a sharded one, a plain one, and torch.nn's."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    theirs, ours = _pair(backend)
    _assert_same_training(theirs, _sharded(ours))
    folder = Path(sys.argv[2]) / f"checkpoint {backend}"
    state = get_model_state_dict(ours)
    assert list(state) == list(theirs.state_dict())
    dcp.save(state, checkpoint_id=folder)
    for fresh in (_sharded(Model(fastrnn, backend=backend)), Model(fastrnn, backend=backend), Model(nn)):
        state = get_model_state_dict(fresh)
        dcp.load(state, checkpoint_id=folder)
        set_model_state_dict(fresh, state)
        read, saved = _whole(fresh.parameters()), _whole(ours.parameters())
        assert all(torch.equal(a, b) for a, b in zip(read, saved, strict=True))
        x = _batch(9)
        assert worst_error([fresh(x)], [theirs(x)]) < FLOAT64_ERROR


# What is done, with which backend.
CHECKS: list[tuple[Callable[[str], None], str]] = [
    (_ddp, "auto"),
    (_ddp, "reference"),
    (_ddp_converted, "auto"),
    (_accumulation, "auto"),
    (_accumulation, "reference"),
    (_fsdp, "auto"),
    (_fsdp, "reference"),
    (_fsdp_converted, "auto"),
    (_checkpoint, "auto"),
    (_checkpoint, "reference"),
]
if importlib.util.find_spec("triton") is not None:
    CHECKS.append((_ddp, "stepwise"))


def _report(folder: Path, check: int, rank: int) -> Path:
    return folder / f"{check}.{rank}"


# One test for all checks: what takes long is to start two processes.
def test_two_processes_get_the_numbers_of_one(tmp_path: Path) -> None:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, here.parents[1:3])), "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # the host's own name need not resolve
    said = [tmp_path / f"said.{rank}" for rank in range(WORLD)]
    processes = []
    try:
        for rank in range(WORLD):
            arguments = [sys.executable, str(here), str(rank), str(tmp_path)]
            with said[rank].open("w") as file:
                processes.append(subprocess.Popen(arguments, env=environment, stdout=file, stderr=subprocess.STDOUT))
        deadline = time.monotonic() + TIMEOUT
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        codes = [p.poll() for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    problems = []
    for i, (check, backend) in enumerate(CHECKS):
        for rank in range(WORLD):
            report = _report(tmp_path, i, rank)
            result = report.read_text() if report.exists() else "not finished"
            if result != "passed":
                problems.append(f"{check.__name__}({backend!r}), process {rank}: {result}")
    for rank, code in enumerate(codes):
        if code != 0:
            outcome = f"was stopped after {TIMEOUT} s" if code is None else f"ended with {code}"
            problems.append(f"process {rank} {outcome}: {said[rank].read_text()}")
    assert not problems, "\n".join(problems)


def _main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=TIMEOUT / 2)
    dist.init_process_group("gloo", f"file://{folder}/store", timeout, world_size=WORLD, rank=rank)
    for i, (check, backend) in enumerate(CHECKS):
        try:
            check(backend)
            result = "passed"
        except Exception:
            result = traceback.format_exc()
        _report(folder, i, rank).write_text(result)
    # As in examples/char_lm.py: gloo's threads, which need Python to drop a tensor, run before Python ends.
    dist.barrier()
    time.sleep(0.2)
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]))
