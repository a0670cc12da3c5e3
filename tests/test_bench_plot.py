"""The benchmark's pictures: which there are, what they say, and that one knows a CPU from a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest
from benching import ROW

from fastrnn.bench import cli, record

pytest.importorskip("matplotlib")

from fastrnn.bench import plot


def _rows(**changes: Any) -> list[record.Row]:
    rows = []
    for H, B in itertools.product((256, 512), (8, 16)):
        ours = dataclasses.replace(ROW, H=H, B=B, us_per_step=H / 100, p20=H / 110, p80=H / 90, **changes)
        rows += [ours, dataclasses.replace(ours, provider=ours.peer, us_per_step=2.5 * H / 100)]
    return rows


def test_pictures(tmp_path: Path) -> None:
    rows = _rows() + _rows(mode="forward")
    files = plot.plot(rows, tmp_path / "new" / "folder")
    kinds = ("limit", "ratio", "time-by-B", "time-by-H")
    names = [f"{kind}-cuda-{mode}-bfloat16-T512-1-layer" for kind in kinds for mode in ("forward", "train")]
    assert sorted(file.name for file in files) == sorted(f"{name}.{form}" for name in names for form in ("png", "svg"))
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        else:
            assert b"GPU: Some GPU, torch 9.9" in content
    ratio = (tmp_path / "new" / "folder" / "ratio-cuda-train-bfloat16-T512-1-layer.svg").read_text()
    assert ratio.count("2.50") == 4


def test_a_cpu_says_so(tmp_path: Path) -> None:
    rows = _rows(device="cpu", gpu=None, cpu="Some CPU", limit_us=None)
    files = plot.plot(rows, tmp_path)
    assert {file.name.split("-cpu-")[0] for file in files} == {"ratio", "time-by-B", "time-by-H"}
    for file in files:
        if file.suffix == ".svg":
            assert "CPU, not a GPU: Some CPU, 1 thread" in file.read_text()


def test_pictures_do_not_mix_what_differs(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"T": 9}, {"layers": 2}, {"bidirectional": True}, {"dtype": "float16"}, {"gpu": "Another"},
        {"lengths": "uniform", "peer": "torch.nn-packed"},
    ]  # fmt: skip
    rows = [row for change in changes for row in _rows(**change)]
    found = plot.points(rows)
    assert [len(members) for members in found.values()] == [4] * len(changes)
    names = {(setting.machine, setting.name()) for setting in found}
    assert len(names) == len(changes)
    two = plot.plot(_rows(limit_us=None) + _rows(gpu="Another", limit_us=None), tmp_path)
    assert len(two) == len(set(tmp_path.iterdir())) == 12


def test_points_hold_the_ratio() -> None:
    ((point, *_),) = plot.points(_rows()).values()
    assert (point.cell, point.H, point.B, point.peer) == ("lstm", 256, 8, "torch.nn")
    assert point.ratio() == pytest.approx(2.5)
    (lone,) = plot.points([ROW]).values()
    assert lone[0].ratio() is None


def test_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows"
    record.append(file, dataclasses.asdict(dataclasses.replace(ROW, limit_us=None)))
    assert cli.main(["plot", str(file), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.endswith("nothing to draw: a picture takes timed rows of two sizes or more\n")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    assert cli.main(["plot"]) == 1
    error = capsys.readouterr().err
    assert "matplotlib is not installed; pip install 'fastrnn[bench]'" in error
    assert error.count("\n") == 1
