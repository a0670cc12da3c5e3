"""What the subcommands do. What each needs is imported when it runs: `kernels` works without torch."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastrnn.bench.gpu import executed
from fastrnn.bench.gpu import kernels as kernel_report
from fastrnn.bench.rows import cases, checkout, files, journal, modelled, record
from fastrnn.bench.rows.errors import BenchError
from fastrnn.kernels.plan.devices import DEVICES

if TYPE_CHECKING:
    from fastrnn.bench.measuring.run import Plan


def _stop_where(reason: str | None) -> None:
    if reason is not None:
        raise BenchError(reason)


def _chosen(arguments: argparse.Namespace, cuda: bool) -> list[cases.Case]:
    """The rows asked for."""
    extras = {name: getattr(arguments, name) for name in ("bidirectional", "lengths", "reset_rate", "return_cells")}
    extras = {name: value for name, value in extras.items() if value}
    if not any((arguments.cell, arguments.mode, arguments.dtype, arguments.shape, extras)):
        if arguments.full and not cuda:
            raise BenchError("--full is for GPUs: no CUDA GPU here")
        return cases.full() if arguments.full else cases.quick(cuda)
    if arguments.quick or arguments.full:
        name = "--quick" if arguments.quick else "--full"
        arguments.parser.error(f"{name} is a set of its own: it takes no option that chooses rows")
    dtype, shape = cases.DEFAULTS[cuda]
    try:
        rows = cases.product(
            arguments.cell or ["lstm"],
            arguments.mode or cases.MODES,
            arguments.dtype or [dtype],
            arguments.shape or [shape],
            **extras,
        )
    except ValueError as error:
        arguments.parser.error(str(error))
    return rows


def _command(arguments: argparse.Namespace) -> list[str]:
    """The arguments that make this run what it is, without its files: for the record, and for `--base` to repeat."""
    words = ["run"]
    for name in ("cell", "mode", "dtype", "shape", "provider", "lengths", "reset_rate"):
        found = getattr(arguments, name)
        for value in found if isinstance(found, list) else [found] if found is not None else []:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name in ("bidirectional", "return_cells", "quick", "full"):
        if getattr(arguments, name):
            words.append(f"--{name.replace('_', '-')}")
    return words if arguments.device == "auto" else [*words, "--device", arguments.device]


def _providers(arguments: argparse.Namespace) -> list[str]:
    """Who is asked for, each once; nobody is named where that is left to the rows."""
    from fastrnn.bench.providers.table import PROVIDERS, installed

    names: list[str] = []
    for name in arguments.provider or ():
        if name == "all":
            names += installed()
        elif name not in PROVIDERS:
            choices = ", ".join([*PROVIDERS, "all"])
            arguments.parser.error(f"argument --provider: invalid choice: {name!r} (choose from {choices})")
        elif (missing := PROVIDERS[name].missing()) is not None:
            raise BenchError(f"--provider {name}: {missing}")
        else:
            names.append(name)
    return list(dict.fromkeys(names))


def run(arguments: argparse.Namespace) -> int:
    from fastrnn.bench.measuring import run

    where = run.device(arguments.device)
    cuda = where.type == "cuda"
    rows = _chosen(arguments, cuda)
    providers = _providers(arguments)
    if arguments.list:
        run.list_cases(rows)
        return 0
    if arguments.base is not None and arguments.resume:
        arguments.parser.error("--base measures both commits afresh: it takes no --resume")
    if arguments.pass_over_failed and not arguments.resume:
        arguments.parser.error("--pass-over-failed goes with --resume: without it no row is left out")
    run.prepare(where)
    before = files.open_results(arguments, record.environment(cuda))
    if arguments.base is not None and not providers:
        providers = arguments.provider = ["fastrnn"]  # the others are the same on both sides
    command = shlex.join(["python", "-m", "bench", *_command(arguments)])
    commit = arguments.commit or checkout.commit()
    done = before if arguments.resume else []
    plan = run.Plan(
        rows, providers, where, command, commit, arguments.json, arguments.csv, done, arguments.pass_over_failed
    )
    if arguments.base is not None:
        return _run_against(arguments, plan)
    found = run.run(plan, range(arguments.repeat))
    code = int(any(row.status == "FAILED" for row in found))
    if not cuda and rows == cases.quick(cuda):
        return max(code, _quick_kernels())
    return code


def _run_against(arguments: argparse.Namespace, plan: Plan) -> int:
    """Measure the base and this commit in turn, so that a machine that slows down does so for both; then compare."""
    from fastrnn.bench.measuring import base, run
    from fastrnn.bench.showing import compare

    commit = base.resolve(arguments.base)
    old: list[record.Row] = []
    new: list[record.Row] = []
    with base.worktree(commit) as tree:
        for repetition in range(arguments.repeat):
            print(f"{arguments.base} ({commit[:10]}), {repetition + 1} of {arguments.repeat} ...", flush=True)
            old += base.measure(tree, commit, _command(arguments))
            new += run.run(plan, [repetition])
            print()
    print(f"Old: {arguments.base} ({commit[:10]}). New: {plan.commit}.")
    compare.compare(old, new)
    return int(any(row.status == "FAILED" for row in new))


def _quick_kernels() -> int:
    """What can be said of the GPU kernels without a GPU."""
    print("\nThe GPU kernels, compiled for an H100 (sm_90) that is not here; `kernels` reports on more of them.")
    reason = kernel_report.unavailable()
    if reason is not None:
        print(f"Left out: {reason}.")
        return 0
    return kernel_report.report(kernel_report.quick(), None)


def kernels(arguments: argparse.Namespace) -> int:
    _stop_where(kernel_report.unavailable())
    archs = arguments.arch or ["sm_90"]
    if arguments.executed:
        _stop_where(executed.unavailable(archs))
    files.check_writable(arguments)
    todo = kernel_report.jobs(
        archs,
        arguments.cell or ["lstm", "gru", "rnn_tanh"],
        arguments.dtype or ["bfloat16", "float32"],
        arguments.hidden or kernel_report.HIDDEN,
        arguments.batch or [16, 64],
        2 if arguments.bidirectional else 1,
        arguments.schedule,
        arguments.kind,
    )
    return kernel_report.report(todo, arguments.json, arguments.executed, arguments.path)


def model(arguments: argparse.Namespace) -> int:
    from fastrnn.bench.gpu import model
    from fastrnn.bench.showing.modelled import fill

    chooses = (arguments.cell, arguments.mode, arguments.dtype, arguments.shape, arguments.bidirectional)
    if arguments.table or arguments.grid:
        name = "table" if arguments.table else "grid"
        if any(chooses):
            arguments.parser.error(f"--{name} is a set of its own: it takes no option that chooses rows")
        todo = getattr(modelled, name)()
    else:
        dtype, shape = cases.DEFAULTS[True]
        cells, modes = arguments.cell or ["lstm"], arguments.mode or cases.MODES
        shapes = arguments.shape or [shape]
        todo = cases.product(cells, modes, arguments.dtype or [dtype], shapes, arguments.bidirectional)
    if arguments.page and not arguments.table:
        arguments.parser.error("--page takes the rows of --table, and no others")
    files.check_writable(arguments)
    device = DEVICES[arguments.arch]
    rows = model.report(todo, device)
    if arguments.json is not None:
        model.write(arguments.json, rows)
    for page in arguments.page or ():
        fill(Path(page), rows, device)
    return 0


def compile(arguments: argparse.Namespace) -> int:
    _stop_where(kernel_report.unavailable())
    from fastrnn.bench.gpu import ahead, workers
    from fastrnn.bench.measuring import run

    launches = [launch for file in arguments.launches or () for launch in ahead.read(file)]
    if not arguments.launches:
        launches = ahead.of_cases(_chosen(arguments, cuda=True), run.device("cuda"))
    return int(ahead.compile_all(list(dict.fromkeys(launches)), arguments.processes or workers.cores()) > 0)


def compare(arguments: argparse.Namespace) -> int:
    from fastrnn.bench.showing import compare

    return compare.compare(record.read(arguments.old), record.read(arguments.new))


def report(arguments: argparse.Namespace) -> int:
    from fastrnn.bench.showing import report

    pages = {report.fill: arguments.readme, report.fill_cpu: arguments.cpu_page}
    asked = {fill: Path(page) for fill, page in pages.items() if page is not None}
    rows = [row for file in files.to_show(arguments.files, public=bool(asked)) for row in record.read(file)]
    if not asked:
        print(report.markdown(rows), end="")
    for fill, page in asked.items():
        fill(page, rows)
    return 0


def plot(arguments: argparse.Namespace) -> int:
    from fastrnn.bench.showing import plot

    rows = [row for file in files.to_show(arguments.files) for row in record.read(file)]
    written = plot.plot(rows, Path(arguments.out))
    print(f"{len(written)} files in {arguments.out}: " + ", ".join(sorted({file.stem for file in written})))
    return 0


def packed(arguments: argparse.Namespace) -> int:
    from fastrnn.bench.measuring import packed

    if arguments.fit:
        return packed.fit(arguments.fit)
    sizes = (arguments.time or packed.TIMES, arguments.batch or packed.BATCHES, arguments.hidden or packed.HIDDEN)
    return packed.report(*sizes, arguments.json)


def machine(arguments: argparse.Namespace) -> int:
    import torch

    from fastrnn.backends import fused
    from fastrnn.bench.gpu import machine

    _stop_where(machine.unavailable())
    where = torch.device("cuda")
    model = fused.device_limits(where)
    env = record.environment(True)
    files.settle_constants(arguments, env)
    print(f"GPU: {env.gpu}, driver {env.driver}. torch {env.torch}, triton {env.triton}.", flush=True)
    about = dataclasses.asdict(env) | {"commit": arguments.commit or checkout.commit()}

    def keep(found: Mapping[str, Any]) -> None:
        journal.append(arguments.json, {**found, **about, "time": journal.now()})

    complete = machine.measure(machine.measurements(model.sms, where), model, where, keep)
    print(f"Kept in {arguments.json}.")
    return 0 if complete else 1


def steps(arguments: argparse.Namespace) -> int:
    import torch

    from fastrnn.backends import fused
    from fastrnn.bench.gpu import machine, steps

    _stop_where(machine.unavailable())
    files.check_writable(arguments)
    where = torch.device("cuda")
    limits = fused.device_limits(where)
    todo = kernel_report.jobs(
        ["sm_90"],
        arguments.cell or ["lstm", "gru"],
        arguments.dtype or ["bfloat16", "float32"],
        arguments.hidden or [256, 512, 768, 1024],
        arguments.batch or [16],
        2 if arguments.bidirectional else 1,
        "persistent",
    )
    env = record.environment(True)
    about = dataclasses.asdict(env) | {"commit": arguments.commit or checkout.commit()}

    def keep(row: Mapping[str, Any]) -> None:
        if arguments.json is not None:
            journal.append(arguments.json, {**row, **about, "time": journal.now()})

    steps.compile_all(todo, limits, where)
    return 0 if steps.measure(todo, limits, where, keep) else 1


def hour(arguments: argparse.Namespace) -> int:
    import torch

    from fastrnn.bench.gpu import hour

    folder = Path(arguments.out).absolute()
    todo = hour.parts(folder, arguments.commit or checkout.commit())
    names = [part.name for part in todo]
    if arguments.list:
        for part in todo:
            print(f"{part.name:<9} {part.text}")
        return 0
    for name in arguments.part or ():
        if name not in names:
            arguments.parser.error(f"argument --part: invalid choice: {name!r} (choose from {', '.join(names)})")
    if not torch.cuda.is_available():
        raise BenchError("no CUDA GPU here: there is nothing to borrow one for")
    files.make_folder(folder, repr(arguments.out))
    chosen = [part for part in todo if arguments.part is None or part.name in arguments.part]
    found = hour.run(chosen, folder, arguments.seconds, again=arguments.part is not None)
    return hour.report(found, folder)


def env(arguments: argparse.Namespace) -> int:
    from fastrnn.bench.showing import report

    print(report.environment_text(), end="")
    return 0
