"""Where the kernels run, and fresh memory that shows what was never written.

Without a GPU the kernels run in Triton's interpreter, which has to be chosen before Triton is first imported: hence
before any test module is. `-m gpu` runs the real ones.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn")
    group.addoption("--ledger", metavar="FILE", help="write each test's outcome here, and pass over those it has")
    group.addoption(
        "--record-launches",
        metavar="FILE",
        help="launch no kernel, and write what would have been launched here, for `python -m bench compile --launches`",
    )


def pytest_configure(config: pytest.Config) -> None:
    on_gpu = config.getoption("markexpr") == "gpu"
    if not on_gpu:
        os.environ["TRITON_INTERPRET"] = "1"
        torch.set_num_threads(1)  # the suite runs several processes
    elif "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        # torch's layers on the CPU are what results are compared with: each process gets its share of the cores.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    import ledger

    ledger.register(config)
    if not on_gpu and importlib.util.find_spec("triton") is not None:
        import interpreter

        interpreter.hurry()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA GPU")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill everything that torch hands out uninitialised, so that an unwritten element shows as NaN."""
    # torch.utils.deterministic covers empty, empty_like, new_empty and resize_ below Python.
    before = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before[0]
    torch.use_deterministic_algorithms(before[1])
