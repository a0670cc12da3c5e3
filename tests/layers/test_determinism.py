"""One seed, one result: bitwise, from run to run and from process to process, dropout and deterministic mode included.

Run as a program, this file writes the results of every case, for the comparison between processes.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FLOAT64_ERROR, as_tuple, combinations, worst_error
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import fastrnn

STACK: dict[str, Any] = {"num_layers": 2, "dropout": 0.5}
BOTH_WAYS: dict[str, Any] = {**STACK, "bidirectional": True}
# Name: class, options, whether the input is packed.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "lstm": ("LSTM", STACK, False),
    "projected lstm": ("LSTM", {**BOTH_WAYS, "proj_size": 3}, False),
    "gru": ("GRU", BOTH_WAYS, False),
    "rnn": ("RNN", STACK, False),
    "packed lstm": ("LSTM", {**STACK, "proj_size": 3}, True),
    "packed gru": ("GRU", BOTH_WAYS, True),
    "packed rnn": ("RNN", STACK, True),
    "lstm cell": ("LSTMCell", {}, False),
    "gru cell": ("GRUCell", {}, False),
    "rnn cell": ("RNNCell", {}, False),
}
WITH_DROPOUT = [name for name, (_, options, _) in CASES.items() if "dropout" in options]
PADDED = [name for name in WITH_DROPOUT if not CASES[name][2]]
BACKENDS = ["aten", "stepwise", "reference"]
# The interpreter takes seconds for each: what does not depend on the cell is tested with two, or with one.
DROPOUT_RUNS: list[Any] = [(case, backend) for case in WITH_DROPOUT for backend in ("aten", "reference")]
DROPOUT_RUNS += [("lstm", "stepwise"), pytest.param("packed gru", "stepwise", marks=pytest.mark.slow)]
# A layer, one over packed input and a cell run by the kernels.
INTERPRETED = ("lstm", "packed gru", "rnn cell")


def _run(
    case: str,
    backend: str | None,
    seed: int = 3,
    dropout_seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    recompute: bool = False,
) -> list[Tensor]:
    """Results and gradients of a layer whose parameters, input and dropout masks all come from `seed`.

    Without a backend it is torch.nn's. `dropout_seed` draws other masks, `recompute` draws them again in backward.
    """
    if backend == "stepwise":
        pytest.importorskip("triton")
    kind, options, packed = CASES[case]
    torch.manual_seed(seed)
    if backend is None:
        layer: nn.Module = getattr(nn, kind)(4, 5, dtype=dtype, **options)
    else:
        layer = getattr(fastrnn, kind)(4, 5, dtype=dtype, backend=backend, **options)
    x = torch.randn(*([] if kind.endswith("Cell") else [3]), 2, 4, dtype=dtype, requires_grad=True)
    if dropout_seed is not None:
        torch.manual_seed(dropout_seed)

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        given = pack_padded_sequence(x, torch.tensor([3, 1])) if packed else x
        output, *rest = as_tuple(layer(given))
        return (output.data if isinstance(output, PackedSequence) else output, *(h for r in rest for h in as_tuple(r)))

    results = checkpoint(forward, x, use_reentrant=False) if recompute else forward(x)
    torch.stack([r.sin().sum() for r in results]).sum().backward()
    gradients = [x.grad, *(p.grad for p in layer.parameters())]
    assert not any(g is None for g in gradients)
    return [t.detach() for t in (*results, *gradients) if t is not None]


def _equal(ours: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))


@functools.cache
def _first(case: str, backend: str) -> list[Tensor]:
    """A run to compare others with."""
    return _run(case, backend)


def test_another_process_gets_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    here = Path(__file__).resolve()
    file = tmp_path / "results.pt"
    # Another order of every set of strings: nothing may hang on it.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, here.parents[1:3])), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, str(here), str(file)], env=environment, check=True, timeout=100)
    theirs = torch.load(file)
    assert len(theirs) == len(CASES) * 2 + len(INTERPRETED)
    assert [run for run, results in theirs.items() if not _equal(results, _first(*run))] == []


@pytest.mark.parametrize(
    ("case", "backend"),
    combinations(CASES, BACKENDS, fast=lambda case, backend: backend != "stepwise" or case in INTERPRETED),
)
def test_deterministic_mode(case: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    first = _first(case, backend)
    torch.use_deterministic_algorithms(True)  # not as a warning; conftest.py restores it
    results = _run(case, backend)
    assert _equal(results, first)
    assert not any(r.isnan().any() for r in results)


@pytest.mark.parametrize("case", CASES)
def test_run_after_run(case: str) -> None:
    torch.use_deterministic_algorithms(False)
    for backend in ("aten", "reference"):
        assert all(_equal(_run(case, backend), _first(case, backend)) for _ in range(4))


@pytest.mark.parametrize(("case", "backend"), DROPOUT_RUNS)
def test_dropout_follows_the_seed(case: str, backend: str) -> None:
    first, again, other = (_run(case, backend, dropout_seed=seed) for seed in (5, 5, 6))
    assert _equal(first, again)
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(("case", "backend"), DROPOUT_RUNS)
def test_recomputing_in_backward_drops_the_same(case: str, backend: str) -> None:
    assert _equal(_run(case, backend, recompute=True), _first(case, backend))


@pytest.mark.parametrize("case", PADDED)
def test_aten_draws_what_torch_draws(case: str) -> None:
    theirs = _run(case, None)
    state = torch.get_rng_state()
    assert _equal(_run(case, "aten"), theirs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("case", "backend"),
    [
        *((case, "reference") for case in PADDED),
        pytest.param("lstm", "stepwise", marks=pytest.mark.slow),
        ("gru", "stepwise"),
    ],
)
def test_on_padded_input_every_backend_draws_what_torch_draws(case: str, backend: str) -> None:
    ours, theirs = (_run(case, name, dtype=torch.float64) for name in (backend, None))
    assert worst_error(ours, theirs) < FLOAT64_ERROR


PACKED_RUNS = [(case, backend) for case in WITH_DROPOUT if case not in PADDED for backend in ("aten", "reference")]
PACKED_RUNS += [("packed gru", "stepwise")]


@pytest.mark.parametrize(("case", "backend"), PACKED_RUNS)
def test_on_packed_input_every_backend_draws_what_torch_draws(case: str, backend: str) -> None:
    theirs = _run(case, None, dtype=torch.float64)
    state = torch.get_rng_state()
    assert worst_error(_run(case, backend, dtype=torch.float64), theirs) < FLOAT64_ERROR
    assert torch.equal(torch.get_rng_state(), state)


if __name__ == "__main__":
    torch.set_num_threads(1)  # as conftest.py does
    runs = [(case, backend) for case in CASES for backend in BACKENDS if backend != "stepwise" or case in INTERPRETED]
    torch.save({run: _run(*run) for run in runs}, sys.argv[1])
