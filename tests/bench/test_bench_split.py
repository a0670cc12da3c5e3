"""How a call's time divides into input products, scan and gradients."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from benching import CPU

import fastrnn
from fastrnn.bench.measuring import measure, split
from fastrnn.bench.providers import table as providers
from fastrnn.bench.rows.cases import Case


def _slowed(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: float) -> None:
    """Make a function take that much longer."""
    inner = getattr(owner, name)

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return inner(*args, **options)

    monkeypatch.setattr(owner, name, slow)


def _shares(train: bool) -> split.Shares | None:
    layer, x = fastrnn.LSTM(3, 4, 2), torch.randn(5, 2, 3, requires_grad=train)
    resets = torch.zeros(5, 2, dtype=torch.bool)  # what torch's own layer lacks, so that there is a scan
    with torch.inference_mode(not train):
        return split.shares(
            lambda: layer(x, resets=resets)[0],
            (lambda output: output.sum().backward()) if train else None,
            lambda: None,
            CPU,
        )


@pytest.mark.parametrize(
    ("owner", "name", "part"),
    [
        ("fastrnn.stack.F", "linear", "input"),
        ("fastrnn.backends.aten_scan", "scan", "scan"),
        ("fastrnn.backends.aten_scan_backward", "scan_backward", "scan"),
        ("fastrnn.scan.derivatives", "_weight_gradient", "gradient"),
    ],
)
def test_what_is_slow_has_the_largest_share(owner: str, name: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastrnn import stack
    from fastrnn.backends import aten_scan, aten_scan_backward
    from fastrnn.scan import derivatives

    owners = {
        "fastrnn.stack.F": stack.F,
        "fastrnn.backends.aten_scan": aten_scan,
        "fastrnn.backends.aten_scan_backward": aten_scan_backward,
        "fastrnn.scan.derivatives": derivatives,
    }
    _slowed(monkeypatch, owners[owner], name, 0.1)
    found = _shares(train=True)
    assert found is not None
    assert found.input + found.scan + found.gradient == pytest.approx(1)
    assert getattr(found, part) > 0.75
    assert min(vars(found).values()) > 0


def test_inference_has_no_gradients() -> None:
    found = _shares(train=False)
    assert found is not None
    assert found.gradient == 0
    assert found.input + found.scan == pytest.approx(1)
    assert 0 < found.scan < 1


def test_torchs_layer_does_not_divide() -> None:
    layer, x = fastrnn.LSTM(3, 4), torch.randn(5, 2, 3)
    assert split.shares(lambda: layer(x), None, lambda: None, CPU) is None


@pytest.mark.parametrize(("rate", "divides"), [(0.0, False), (0.2, True)])
def test_rows_hold_the_shares(rate: float, divides: bool) -> None:
    case = Case("gru", "train", "float32", 6, 2, 3, 4, reset_rate=rate)
    truth = measure.make_truth(case, CPU)
    ours = measure.measure(case, providers.PROVIDERS["fastrnn"], truth, CPU)
    assert (ours.scan_share is not None) == divides
    theirs = measure.measure(case, providers.PROVIDERS["torch.nn-loop"], truth, CPU)
    assert (theirs.status, theirs.scan_share) == ("ok", None)
