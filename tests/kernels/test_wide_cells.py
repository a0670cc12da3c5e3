"""The kernels of cells with more than four gates, states or saved tensors, by two that only tests have.

As compiled, such a case runs by `python tests/compiled.py demo_paired float16 grid flag`, and `demo_slstm` with
`inputs=positive`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from compiled import Case, Worker
from support import LAUNCHES, TORCH_ERROR_FACTOR, launch, relative_error, worst_error
from torch import Tensor

pytest.importorskip("triton")

from scans import Scan
from wide_cells import WIDE, registered

from fastrnn.cells import CELLS


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered():
        yield


def _scan(cell: str, *sizes: int, dtype: torch.dtype = torch.float64, options: bool = False) -> Scan:
    scan = Scan(CELLS[cell], *sizes, dtype, options, options)
    if cell == "demo_slstm":
        scan.state[2] = scan.state[2].abs() + 1  # a sum of exponentials, divided by
    return scan


@pytest.mark.parametrize("cell", WIDE)
def test_sums_over_a_split_contraction(cell: str) -> None:
    _scan(cell, 2, 3, 20, 1).check(launch("split contraction", 20))


@pytest.mark.slow
@pytest.mark.parametrize("every_option", [False, True], ids=["padded", "lengths and resets"])
@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize("cell", WIDE)
def test_every_launch_computes_the_reference(cell: str, name: str, every_option: bool) -> None:
    _scan(cell, 3, 5, 37, 2 if every_option else 1, options=every_option).check(launch(name, 37))


@pytest.mark.parametrize("cell", WIDE)
def test_the_persistent_time_loop(cell: str) -> None:
    """Of a program with units to spare, where the sLSTM divides zero by zero."""
    _scan(cell, 4, 3, 20, 2, options=True).check(launch("solo", 20, schedule="persistent"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("cell", WIDE)
@pytest.mark.slow
def test_every_dtype_is_as_good_as_the_reference_in_it(cell: str, dtype: torch.dtype) -> None:
    scan = _scan(cell, 4, 5, 20, 2, dtype=dtype)
    results = scan.by_kernels(launch("solo", 20)), scan.by_reference(dtype), scan.by_reference()
    for a, b, t in zip(*([*outputs, *grads] for outputs, grads in results), strict=True):
        assert relative_error(a, t) <= TORCH_ERROR_FACTOR[dtype] * relative_error(b, t)


@pytest.mark.parametrize("cell", WIDE)
def test_the_gradients_of_a_step_are_its_gradients(cell: str) -> None:
    """The cells' own `step_backward`, by autograd through `step`: of the states and of what is saved."""
    counts = CELLS[cell]

    def draw(count: int) -> list[Tensor]:
        return [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(count)]

    x, r, before = draw(counts.gates), draw(counts.gates), draw(counts.states)
    state, saved = counts.step(tuple(x), tuple(r), tuple(before), lambda v: v)
    upstream = [torch.randn_like(v) for v in (*state, *saved)]
    by = [(v, u) for v, u in zip((*state, *saved), upstream, strict=True) if v.requires_grad]
    tensors, gradients = zip(*by, strict=True)
    expected = torch.autograd.grad(tensors, [*x, *r, *before], gradients, materialize_grads=True)
    detached = [tuple(v.detach() for v in values) for values in (saved, before, state)]
    dsaved = tuple(upstream[counts.states :])
    made = counts.step_backward(tuple(upstream[: counts.states]), dsaved, *detached, lambda v: v)
    ours = [v for values in made for v in values]
    assert worst_error(ours, expected) < 1e-12


COMPILED = [
    Case("demo_paired", "bfloat16", "grid", "persistent", "flag", H=40, D=2, lengths=True, resets=True),
    Case("demo_paired", "float32", "streamed", "persistent", "barrier", H=24, B=17),
    Case("demo_slstm", "float16", "solo", "persistent", lengths=True, resets=True, inputs="positive"),
    Case("demo_slstm", "bfloat16", "grid", "persistent", "barrier", D=2, resets=True, inputs="positive"),
    Case("demo_slstm", "float32", "streamed", "stepwise", H=24, lengths=True, inputs="positive"),
]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
def test_as_compiled(case: Case, worker: Worker) -> None:
    outcome = worker.outcome(case)
    assert outcome.good, outcome.said
