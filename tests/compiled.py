"""The kernels as compiled, run on the PTX machine and compared with float64: cases, a verdict, and who runs them.

    python tests/compiled.py lstm bfloat16 grid flag T=4 B=17 H=40 D=2 lengths weak order=warps

runs one case by itself, and says what came of it; words that are left out have the values of `Case`. Tests interpret
the kernels in their own process, so they have cases run in another: `Worker`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np
import torch
from support import ERROR_FLOOR, TORCH_ERROR_FACTOR, compiling_environment, relative_error
from torch import Tensor

from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan import gluon
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape

if TYPE_CHECKING:
    from scans import Scan

    from fastrnn.kernels.tensors import Gradients, Results
    from ptx_machine import Launch

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
CUT_FLOOR, TF32_FLOOR = 2e-3, 1e-3  # operands have 10 bits: cut off, as the plain kernels leave them, or rounded
RESULTS = ("output", "final", "cells", "dx", "dstate", "dbias", "dvectors")


@dataclass(frozen=True)
class Case:
    """One scan, forward and backward, how it is launched, and how the machine runs it.

    Attributes:
        cell, dtype, T, B, H, D: of the scan; `ieee`: products of float32 that are exact.
        lengths, resets: whether rows end early, or start anew.
        tier, schedule, exchange, block_b, block_h, block_k, group, warps, batch_tiles, scatter, stages: of the launch,
            as in `LaunchConfig`; block_b of 64 is for warpgroup instructions. `chosen`: that of `choose`, instead.
        inputs: what is special about them: a name of `INPUTS`.
        order, weak, seed, cc: of the machine.
        heads: into how many the H units are divided; with H of them R is diagonal, of the "diagonal" tier.
    """

    cell: str = "lstm"
    dtype: str = "float16"
    tier: str = "solo"
    schedule: str = "persistent"
    exchange: str = "none"
    T: int = 3
    B: int = 5
    H: int = 40
    D: int = 1
    ieee: bool = False
    lengths: bool = False
    resets: bool = False
    block_b: int = 16
    block_h: int = 16
    block_k: int = 64
    group: int = 1
    warps: int = 4
    batch_tiles: int = 65535
    scatter: bool = False
    stages: int = 1
    chosen: bool = False
    inputs: str = "plain"
    order: str = "grid"
    weak: bool = False
    seed: int = 0
    cc: int = 90
    heads: int = 1

    @property
    def name(self) -> str:
        """As `named` takes it: the scan and the launch in full, and of the rest what is not as usual."""
        words = [self.cell, self.dtype, *([] if self.chosen else [self.tier]), self.schedule, self.exchange]
        words += [f"{size}={getattr(self, size)}" for size in "TBHD"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in _WORDS and field.name not in "TBHD" and value != field.default:
                words.append(field.name if value is True else f"{field.name}={value}")
        return " ".join(words)

    def config(self, backward: bool) -> LaunchConfig:
        from fastrnn.kernels.plan.choice import choose
        from fastrnn.kernels.plan.devices import DEVICES

        if self.chosen:
            counts, size = COUNTS[self.cell], DTYPES[self.dtype].itemsize
            heads = {"heads": 1, "diagonal": True} if self.heads == self.H > 1 else {"heads": self.heads}
            sizes = (self.B, self.H // heads["heads"], self.D)
            shape = ScanShape(counts.gates, backward, size, *sizes, self.ieee, **counts.tiles(backward), **heads)
            exchange = None if self.exchange == "none" else self.exchange
            config = choose(shape, DEVICES[f"sm_{self.cc}"], self.schedule, exchange)
            assert config is not None, self.name
            return config
        hidden = self.H // self.heads
        if self.tier == "diagonal":
            tile = (4, 32, 1, 1, 1, 1, self.warps)
        elif self.tier == "gluon-solo":
            return gluon.solo(hidden)
        elif self.tier == "solo":
            size = max(16, 1 << (hidden - 1).bit_length())
            tile = (16, size, size, 1, 1, 1, self.warps)
        elif self.tier == "gluon-grid":
            tile = (self.block_b, self.block_h, self.warps, self.scatter and backward, self.exchange)
            return dataclasses.replace(gluon.grid(hidden, *tile), batch_tiles=self.batch_tiles)
        elif self.tier.startswith("wide"):
            tile = (self.block_b, self.block_h, self.block_k, -(-hidden // self.block_k), 1, 1, self.warps)
            tile = (*tile, self.batch_tiles, self.scatter and backward, self.stages)
            return LaunchConfig(self.schedule, self.tier.replace("-", " "), self.exchange, *tile)
        else:
            # Backward, 64 rows have no launch.
            rows = 16 if backward else self.block_b
            num_k = -(-hidden // (self.block_k * self.group)) * self.group
            split = self.warps if rows < 64 else 1
            tile = (rows, self.block_h, self.block_k, num_k, self.group, split, self.warps)
        return LaunchConfig(self.schedule, self.tier.replace("-", " "), self.exchange, *tile, self.batch_tiles)


# Words that stand for themselves: whose they are.
_WORDS = {
    "cell": tuple(COUNTS),
    "dtype": tuple(DTYPES),
    "tier": ("solo", "grid", "streamed", "diagonal", "wide", "wide-streamed", "gluon-solo", "gluon-grid"),
    "schedule": ("persistent", "stepwise"),
    "exchange": ("none", "flag", "barrier"),
}


def named(name: str) -> Case:
    """The case of that name."""
    values: dict[str, Any] = {}
    types = {field.name: field.type for field in dataclasses.fields(Case)}
    for word in name.split():
        key, equals, value = word.partition("=")
        owner = next((owner for owner, words in _WORDS.items() if word in words), None)
        if owner is not None:
            values[owner] = word
        elif key not in types:
            raise ValueError(f"{word!r} is no word of a case; fields are {', '.join(types)}")
        else:
            values[key] = (int(value) if types[key] == "int" else value) if equals else True
    return Case(**values)


def _nan_pattern(scan: Scan) -> None:
    """The user's own NaN with the bits that mean "not written yet" (sync.py), where it could come through."""
    bits = {2: torch.int16, 4: torch.int32}[scan.x.element_size()]
    pattern = torch.full((1,), -1, dtype=bits).view(scan.x.dtype)
    for tensor, at in ((scan.state, (0, 0, 1)), (scan.x, (0, 2)), (scan.dfinal, (0, 0, 0))):
        tensor[at] = pattern


def _shifted(scan: Scan) -> None:
    """Every input one element past an aligned address, so that Triton compiles other loads."""
    names = ("x", "weight", "bias", "state", "dout", "dfinal", "dcells", "lengths", "vectors", "constants")
    for name in names:
        tensor = getattr(scan, name)
        if tensor is not None and tensor.numel():
            buffer = tensor.new_zeros(tensor.numel() + 1)
            setattr(scan, name, buffer[1:].copy_(tensor.flatten()).view(tensor.shape))


def _short_tail(scan: Scan) -> None:
    """A tile whose rows all end before the other's."""
    scan.lengths = torch.tensor([2] * 16 + [5] * (scan.x.shape[1] - 16), dtype=torch.int32).clamp(max=len(scan.x))


def _empty(scan: Scan) -> None:
    """Rows of no step at all, and one of some."""
    scan.lengths = torch.zeros(scan.x.shape[1], dtype=torch.int32)
    scan.lengths[-1] = len(scan.x)


def _mixed(scan: Scan) -> None:
    """Rows of one step or more, most of all steps, and few that start anew."""
    B = scan.x.shape[1]
    scan.lengths = torch.tensor(([4, 3, 2, 1] + [4] * B)[: B - 1] + [2], dtype=torch.int32)
    assert scan.resets is not None
    scan.resets &= torch.rand(scan.resets.shape) < 0.3


def _ended(scan: Scan) -> None:
    """Rows of no step, all of them."""
    scan.lengths = torch.zeros(scan.x.shape[1], dtype=torch.int32)


def _positive(scan: Scan) -> None:
    """The sLSTM's normaliser as its steps leave it."""
    scan.state[2] = scan.state[2].abs() + 1


def _infinite(scan: Scan) -> None:
    """A weight that is infinite: backward, one unit's gradient is, and two steps later the row's."""
    scan.weight[0, 0, 1, 2] = float("inf")


def _near(scan: Scan) -> None:
    """Factors just below a number of TF32: rounded they are as good as exact, cut off they are not. For one step, whose
    products have no others."""
    for tensor in (scan.weight, scan.state[:1]):
        tensor.view(torch.int32).bitwise_or_(0x1FFF)


INPUTS: dict[str, Callable[[Scan], None]] = {
    "plain": lambda scan: None,
    "nan": _nan_pattern,
    "shifted": _shifted,
    "mixed": _mixed,
    "short": _short_tail,
    "empty": _empty,
    "ended": _ended,
    "positive": _positive,
    "infinite": _infinite,
    "near": _near,
}


@contextlib.contextmanager
def _poisoned() -> Iterator[dict[int, Any]]:
    """What is allocated in here holds NaN, and counts as written by nobody; yields the record that the machine has."""
    from fastrnn.kernels.launch import buffers
    from fastrnn.kernels.launch import scan as launch

    fresh: dict[int, Any] = {}
    kept: list[Tensor] = []  # or their memory would be given away again

    def poison(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocated(*args: Any, **kwargs: Any) -> Tensor:
            tensor = allocate(*args, **kwargs)
            if tensor.numel():
                tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
                fresh[tensor.data_ptr()] = np.zeros(tensor.numel() * tensor.element_size(), bool)
                kept.append(tensor)
            return tensor

        return allocated

    def exchange_buffer(config: LaunchConfig, *shape: int, like: Tensor) -> Tensor:
        buffer = before[2](config, *shape, like=like)
        if config.exchange == "flag":  # filled by the launcher
            fresh.pop(buffer.data_ptr(), None)
        return buffer

    # The launcher's own, and those that its buffers are made with.
    before = torch.Tensor.new_empty, torch.empty_like, buffers.exchange_buffer
    torch.Tensor.new_empty, torch.empty_like = poison(before[0]), poison(before[1])  # type: ignore[method-assign, assignment]
    launch.exchange_buffer = buffers.exchange_buffer = exchange_buffer
    try:
        yield fresh
    finally:
        torch.Tensor.new_empty, torch.empty_like = before[:2]  # type: ignore[method-assign]
        launch.exchange_buffer = buffers.exchange_buffer = before[2]


@dataclass
class Ran:
    """What a scan came to: tensors by name, those of `RESULTS` that it has; and its launches."""

    forward: Results | None
    tensors: dict[str, Tensor]
    launches: list[Launch]


def scan_of(case: Case) -> Scan:
    from scans import Scan

    from fastrnn.cells import named as cell_named

    torch.manual_seed(case.seed)
    sizes = (case.T, case.B, case.H, case.D)
    scan = Scan(cell_named(case.cell), *sizes, DTYPES[case.dtype], case.lengths, case.resets, case.heads)
    INPUTS[case.inputs](scan)
    return scan


def run(
    scan: Scan, case: Case, forward: bool = True, kept: Results | None = None, backward: bool = True, **options: Any
) -> Ran:
    """The scan's launches on the machine; `kept`: forward's results, for backward alone."""
    from fastrnn.kernels.launch import scan as launch
    from fastrnn.kernels.tensors import Upstream
    from ptx_machine import on_machine

    precision, tensors, results = "ieee" if case.ieee else "tf32", {}, kept
    of_machine = {"seed": case.seed, "order": case.order, "weak": case.weak, **options}
    with _poisoned() as fresh, on_machine(case.cc, fresh=fresh, **of_machine) as launches:
        if forward:
            results = launch.scan_fwd(scan.inputs(), scan.cell, case.config(False), precision, True, True)
            tensors |= {"output": results.output, "final": results.final, "cells": results.cells}
        if backward:
            assert results is not None
            upstream = Upstream(scan.dout, scan.dfinal, scan.dcells)
            grads: Gradients = launch.scan_bwd(upstream, scan.kept(results), scan.cell, case.config(True), precision)
            tensors |= {"dx": grads.x, "dstate": grads.state, "dbias": grads.r.double().sum((0, 1))}
            tensors |= {} if grads.vectors is None else {"dvectors": grads.vectors}
    return Ran(results, tensors, launches)


def judge(scan: Scan, case: Case, tensors: dict[str, Tensor]) -> tuple[float, str]:
    """The worst error, as a part of what is allowed, and its tensor."""
    dtype = DTYPES[case.dtype]
    truth, own = ([*a, *b] for a, b in (scan.by_reference(), scan.by_reference(dtype)))
    floor = ERROR_FLOOR[dtype]
    if dtype == torch.float32 and not case.ieee and case.inputs != "near":
        floor = TF32_FLOOR if case.tier.startswith("gluon") else CUT_FLOOR
    worst = (0.0, "")
    for name, b, t in zip(RESULTS, own, truth, strict=False):  # not all cells have vectors
        if name not in tensors:
            continue
        ours = tensors[name].double()
        finite = t.isfinite()
        if not finite.all() and torch.equal(ours.isfinite(), finite):  # the same NaN and infinities
            ours, b, t = (torch.where(finite, x.double().nan_to_num(), 0.0) for x in (ours, b, t))
        share = relative_error(ours, t) / max(TORCH_ERROR_FACTOR[dtype] * relative_error(b, t), floor)
        worst = max(worst, (share if share == share else float("inf"), name))
    return worst


# What must not be; "mixed" is what the flag exchange lives on, and "same value" changes nothing.
WRONG = {"race", "lanes", "registers", "unwritten"}


def signs(scan: Scan, case: Case, ran: Ran) -> list[str]:
    """What shows that a launch was wrong: kinds of races, "unwritten", "wrong" results."""
    found = sorted(set().union(*(one.report.kinds() for one in ran.launches)) & WRONG)
    return found + (["wrong"] if judge(scan, case, ran.tensors)[0] > 1 else [])


@dataclass
class Outcome:
    """A case's: `good`, and what to read if not; the worst error as a part of what is allowed; what was executed."""

    good: bool
    said: str
    share: float = 0.0
    seconds: float = 0.0
    instructions: int = 0
    launches: int = 0


def outcome(case: Case) -> Outcome:
    from ptx_machine import FaultError, RefusedError

    scan, start = scan_of(case), time.perf_counter()
    try:
        ran = run(scan, case)
    except (FaultError, RefusedError) as error:
        return Outcome(False, f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - start
    share, worst = judge(scan, case, ran.tensors)
    said = [f"error {share:.2f} of what is allowed, of {worst}"]
    for one in ran.launches:
        said += [f"{one.kernel}: {race}" for race in one.report.found("race", "lanes", "registers")]
        said += [f"{one.kernel}: nobody wrote {n} granules of {text}" for text, n in one.report.unwritten.items()]
    good = not signs(scan, case, ran)
    executed = sum(one.report.instructions for one in ran.launches)
    return Outcome(good, "\n".join(said), share, seconds, executed, len(ran.launches))


class Worker:
    """A process that compiles the kernels, where this one interprets them, and runs one case after another."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=compiling_environment())

    def ask(self, name: str) -> dict[str, Any]:
        """What `answer` says."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(name + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the process that runs {name!r} has ended: {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def outcome(self, case: Case) -> Outcome:
        answer = self.ask(case.name)
        command = f"python tests/compiled.py {case.name}"
        return Outcome(**{**answer, "said": f"{answer['said']}\nAlone: {command}"})

    def close(self) -> None:
        with self._process:  # closes both pipes, which ends the process, and waits for it
            pass


def _answer(line: str) -> dict[str, Any]:
    """To one line that a `Worker` sent: an outcome, or of `mutations NAME | CASE | MOST` several."""
    if line.startswith("mutations "):
        import mutations

        mutation, case, most = line.removeprefix("mutations ").split(" | ")
        outcomes = [mutations.outcome(place.name) for place in mutations.places(mutation, case, int(most))]
        return {"outcomes": [(outcome.good, outcome.said) for outcome in outcomes]}
    try:
        return dataclasses.asdict(answer_to(line))
    except Exception as error:  # a compiler's, a bug: it belongs to this case, and others follow
        return dataclasses.asdict(Outcome(False, f"{type(error).__name__}: {error}"))


def _serve() -> None:
    """One line in, one line out; what else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        out.write(json.dumps(_answer(line.strip())) + "\n")
        out.flush()


def answer_to(text: str) -> Outcome:
    """The outcome of a case; or of a mutation, `mutation NAME`."""
    if text.startswith("mutation "):
        import mutations

        return mutations.outcome(text.removeprefix("mutation "))
    return outcome(named(text))


if __name__ == "__main__":
    sys.modules["compiled"] = sys.modules["__main__"]  # for `mutations`, which imports this file by its name
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--serve"]:
        _serve()
    elif sys.argv[1] == "signs":
        from mutations import case_signs

        print(*case_signs(named(" ".join(sys.argv[2:]))))
    else:
        result = answer_to(" ".join(sys.argv[1:]))
        print(result)
        sys.exit(0 if result.good else 1)
