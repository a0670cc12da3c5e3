"""The benchmark's pictures: which there are, what they say, and that one knows a CPU from a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from benching import ROW

from fastrnn.bench import cli
from fastrnn.bench.rows import journal, record

pytest.importorskip("matplotlib")

import matplotlib.colors

from fastrnn.bench.showing import bars, plot


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
    names += ["ratios-cuda", "split-cuda"]
    assert sorted(file.name for file in files) == sorted(f"{name}.{form}" for name in names for form in ("png", "svg"))
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        else:
            assert b"GPU: Some GPU" in content
            assert b"torch 9.9" in content
    ratio = (tmp_path / "new" / "folder" / "ratio-cuda-train-bfloat16-T512-1-layer.svg").read_text()
    assert ratio.count("2.50") == 4


def test_a_cpu_says_so(tmp_path: Path) -> None:
    rows = _rows(device="cpu", gpu=None, cpu="Some CPU", limit_us=None)
    files = plot.plot(rows, tmp_path)
    kinds = {re.split(r"-cpu[-.]", file.name)[0] for file in files}
    assert kinds == {"ratio", "ratios", "split", "time-by-B", "time-by-H"}
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
    names = {(setting.env, setting.name()) for setting in found}
    assert len(names) == len(changes)
    two = plot.plot(_rows(limit_us=None) + _rows(gpu="Another", limit_us=None), tmp_path)
    assert len(two) == len(set(tmp_path.iterdir())) == 20


def test_reset_rates_that_look_alike_have_pictures_of_their_own(tmp_path: Path) -> None:
    rows = [*_rows(reset_rate=0.123, limit_us=None), *_rows(reset_rate=0.1234, limit_us=None)]
    assert len({setting.name() for setting in plot.points(rows)}) == 2
    files = plot.plot(rows, tmp_path)
    assert len(set(files)) == len(files) == 2 * (2 + 3 * 2)


def test_points_hold_the_ratio() -> None:
    ((point, *_),) = plot.points(_rows()).values()
    assert (point.case.cell, point.case.H, point.case.B, point.peer) == ("lstm", 256, 8, "torch.nn")
    assert point.ratio == pytest.approx(2.5)
    (lone,) = plot.points([ROW]).values()
    assert lone[0].ratio is None


def test_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows"
    failed = dataclasses.replace(ROW, status="FAILED", us_per_step=None, p20=None, p80=None, scan_share=None)
    journal.append(file, dataclasses.asdict(failed))
    assert cli.main(["plot", str(file), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.endswith("nothing to draw: no row was timed\n")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    assert cli.main(["plot"]) == 1
    error = capsys.readouterr().err
    assert "matplotlib is not installed; pip install 'fastrnn[bench]'" in error
    assert error.count("\n") == 1


def _widths(figure: Any) -> list[float]:
    return [round(patch.get_width(), 6) for patch in figure.axes[0].patches]


def test_ratios_are_drawn_from_one() -> None:
    """Longer than one where fastrnn is faster, grey where the noise of both hides a difference."""
    peers = {256: 4.0, 512: 1.0, 768: 2.05}
    rows = []
    for H, us in peers.items():
        ours = dataclasses.replace(ROW, H=H)
        rows += [ours, dataclasses.replace(ours, provider=ours.peer, us_per_step=us, p20=us - 0.1, p80=us + 0.1)]
    ((env, found),) = bars.bars(rows).items()
    figure = bars.ratios(env, found)
    assert figure is not None
    (axis,) = figure.axes
    assert _widths(figure) == [1.0, -0.5, 0.025]
    assert {text.get_text() for text in axis.texts} == {"2.00", "0.50", "1.02"}
    colors = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in axis.patches]
    assert colors == [matplotlib.colors.to_hex(bars._COLORS[word]) for word in ("faster", "slower", "same")]
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        f"lstm training bfloat16 T=512 B=16 {size}" for size in ("H=256", "I=256 H=512", "I=256 H=768")
    ]
    assert bars.ratios(env, [dataclasses.replace(bar, theirs=None) for bar in found]) is None


def test_the_split_adds_up() -> None:
    again = dataclasses.replace(ROW, input_share=0.3, scan_share=0.5)
    none = dataclasses.replace(ROW, cell="gru", input_share=None, scan_share=None, gradient_share=None)
    ((env, found),) = bars.bars([ROW, again, none]).items()
    assert [bar.shares for bar in found] == [(pytest.approx(0.2), pytest.approx(0.6), pytest.approx(0.2)), None]
    figure = bars.splits(env, found)
    assert figure is not None
    assert _widths(figure) == [20, 60, 20]
    assert "2 us" in {text.get_text() for text in figure.axes[0].texts}
    assert bars.splits(env, found[1:]) is None
