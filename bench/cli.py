"""The command line, `python -m bench` and `fastrnn-bench`: arguments only.

What a subcommand needs is imported when it runs: `kernels` works without torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fastrnn.bench import cases, kernels, record
from fastrnn.kernels import configs


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; `--help` has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1, got {text!r}")
    return int(text)


def _several(parser: argparse.ArgumentParser, name: str, help: str, **options: Any) -> None:
    parser.add_argument(name, action="append", help=f"{help}; may be repeated", **options)


def _add_run(parser: argparse.ArgumentParser) -> None:
    _several(parser, "--cell", "cell", choices=cases.CELLS)
    _several(parser, "--mode", "forward (inference) or train (forward and backward)", choices=cases.MODES)
    _several(parser, "--dtype", "dtype of weights and inputs", choices=cases.DTYPES)
    _several(parser, "--shape", "T,B,I,H or T,B,I,H,layers", type=cases.parse_shape, metavar="T,B,I,H[,layers]")
    parser.add_argument("--bidirectional", action="store_true", help="run the layers in both directions")
    parser.add_argument(
        "--lengths", choices=cases.LENGTHS, help="how long the rows are (default: full, without a lengths argument)"
    )
    parser.add_argument(
        "--reset-rate",
        type=cases.parse_rate,
        metavar="R",
        help="share of steps at which rows start afresh (default: 0)",
    )
    parser.add_argument("--return-cells", action="store_true", help="return every cell state as well (lstm)")
    _several(parser, "--provider", "who is measured (default: fastrnn, and its peer in the row)", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="the quick set: what runs if no option chooses rows")
    parser.add_argument("--json", metavar="FILE", help="append one JSON object per row and provider")
    parser.add_argument("--list", action="store_true", help="print the rows and exit")
    parser.add_argument("--commit", metavar="SHA", help="commit to record (default: the checkout's)")
    parser.set_defaults(call=_run, parser=parser)


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    _several(parser, "--arch", "GPU architecture to compile for (default: sm_90)", choices=list(configs.DEVICES))
    _several(parser, "--cell", "cell (default: lstm, gru, rnn_tanh)", choices=cases.CELLS)
    _several(parser, "--dtype", "dtype (default: bfloat16, float32)", choices=list(kernels.ELEMENT_BYTES))
    _several(parser, "--hidden", f"hidden size (default: {', '.join(map(str, kernels.HIDDEN))})", type=_positive)
    _several(parser, "--batch", "batch size (default: 16, 64)", type=_positive)
    parser.add_argument("--bidirectional", action="store_true", help="both directions in one launch")
    parser.add_argument("--schedule", choices=["persistent", "stepwise"], default="persistent")
    parser.add_argument("--json", metavar="FILE", help="append one JSON object per row")
    parser.set_defaults(call=_kernels, parser=parser)


def _check_file(arguments: argparse.Namespace) -> None:
    """Refuse a file that cannot be written before minutes have gone into its rows."""
    if arguments.json is not None:
        try:
            open(arguments.json, "a").close()
        except OSError as error:
            arguments.parser.error(f"argument --json: cannot write {arguments.json!r}: {error.strerror}")


def _chosen(arguments: argparse.Namespace, cuda: bool) -> list[cases.Case]:
    """The rows asked for."""
    options = (arguments.cell, arguments.mode, arguments.dtype, arguments.shape, arguments.bidirectional)
    if not any((*options, arguments.lengths, arguments.reset_rate, arguments.return_cells)):
        return cases.quick(cuda)
    if arguments.quick:
        arguments.parser.error("--quick is a set of its own: it takes no option that chooses rows")
    try:
        rows = cases.product(
            arguments.cell or ["lstm"],
            arguments.mode or cases.MODES,
            arguments.dtype or [cases.default_dtype(cuda)],
            arguments.shape or [cases.default_shape(cuda)],
            arguments.bidirectional,
            arguments.lengths or "full",
            arguments.reset_rate or 0.0,
            arguments.return_cells,
        )
    except ValueError as error:
        arguments.parser.error(str(error))
    return rows


def _run(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("torch") is None:
        arguments.parser.exit(1, f"{arguments.parser.prog}: error: torch is not installed\n")
    from fastrnn.bench import run
    from fastrnn.bench.providers import PROVIDERS

    cuda = run.device().type == "cuda"
    rows = _chosen(arguments, cuda)
    providers = list(dict.fromkeys(arguments.provider or ()))
    for name in providers:
        if name not in PROVIDERS:
            arguments.parser.error(
                f"argument --provider: invalid choice: {name!r} (choose from {', '.join(PROVIDERS)})"
            )
    if arguments.list:
        run.list_cases(rows)
        return 0
    _check_file(arguments)
    code = run.run(rows, providers, arguments.json, arguments.commit or record.commit())
    if not cuda and rows == cases.quick(cuda):
        return max(code, _quick_kernels())
    return code


def _quick_kernels() -> int:
    """What can be said of the GPU kernels without a GPU."""
    print("\nThe GPU kernels, compiled for an H100 (sm_90) that is not here; `kernels` reports on more of them.")
    reason = kernels.unavailable()
    if reason is not None:
        print(f"Left out: {reason}.")
        return 0
    return kernels.report(kernels.quick(), None)


def _kernels(arguments: argparse.Namespace) -> int:
    reason = kernels.unavailable()
    if reason is not None:
        arguments.parser.exit(1, f"{arguments.parser.prog}: error: {reason}\n")
    _check_file(arguments)
    todo = kernels.jobs(
        arguments.arch or ["sm_90"],
        arguments.cell or ["lstm", "gru", "rnn_tanh"],
        arguments.dtype or ["bfloat16", "float32"],
        arguments.hidden or kernels.HIDDEN,
        arguments.batch or [16, 64],
        2 if arguments.bidirectional else 1,
        arguments.schedule,
    )
    return kernels.report(todo, arguments.json)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = _Parser(prog="fastrnn-bench", description="Benchmarks of fastrnn.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run_help = "time layers against torch.nn, results checked first"
    _add_run(commands.add_parser("run", help=run_help, description=run_help))
    kernels_help = "compile the GPU kernels with no GPU present, and report what they use"
    _add_kernels(commands.add_parser("kernels", help=kernels_help, description=kernels_help))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.call(arguments)
    except KeyboardInterrupt:
        print(f"{arguments.parser.prog}: interrupted; the rows printed are all there are", file=sys.stderr)
        return 130
    return code
