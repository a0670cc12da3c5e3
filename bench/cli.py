"""The command line, `python -m bench` and `fastrnn-bench`: arguments only; `commands` acts on them.

Below are rooms, each of which imports from itself and those before it: `rows` (what a row is, and its files),
`providers` (who is measured), `showing` (tables and pictures), `measuring`, and `gpu` (kernels compiled, a GPU's
constants, a borrowed hour).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fastrnn.bench import commands
from fastrnn.bench.gpu import kernels
from fastrnn.bench.rows import cases, cells, files, modelled
from fastrnn.bench.rows.errors import BenchError, LostGPUError
from fastrnn.kernels.plan.devices import DEVICES

_FILES = f"results files (default: those in {files.FOLDER}, or those committed)"


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


def _add_cell(parser: argparse.ArgumentParser, help: str) -> None:
    known = f"{help}: {', '.join(cases.CELLS)}, or module:function, a cell of one's own"
    _several(parser, "--cell", known, type=cells.parse_cell, metavar="CELL")


def _add_commit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--commit", metavar="SHA", help="commit to record (default: the checkout's)")


def _add_rows(parser: argparse.ArgumentParser) -> None:
    """What chooses the rows."""
    _add_cell(parser, "cell")
    _several(parser, "--mode", "forward (inference) or train (forward and backward)", choices=cases.MODES)
    _several(parser, "--dtype", "dtype of weights and inputs", choices=cases.DTYPES)
    _several(parser, "--shape", "T,B,I,H or T,B,I,H,layers", type=cases.parse_shape, metavar="T,B,I,H[,layers]")
    parser.add_argument("--bidirectional", action="store_true", help="run the layers in both directions")
    parser.add_argument(
        "--lengths", choices=cases.LENGTHS, help="how long the rows are (default: full, without a lengths argument)"
    )
    parser.add_argument(
        "--reset-rate", type=cases.parse_rate, metavar="R", help="share of steps that start rows afresh (default: 0)"
    )
    parser.add_argument("--return-cells", action="store_true", help="return every cell state as well (lstm)")
    sets = parser.add_mutually_exclusive_group()
    sets.add_argument("--quick", action="store_true", help="the quick set: what runs if no option chooses rows")
    sets.add_argument("--full", action="store_true", help="all that is reported of a GPU")


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_rows(parser)
    who = "who is measured (default: fastrnn, and its peer in the row); all: everyone who is installed"
    _several(parser, "--provider", who, metavar="NAME")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="default: a GPU if there is")
    parser.add_argument("--repeat", type=_positive, default=1, metavar="N", help="measure all rows N times in turn")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help=f"where rows are kept (default: a file in {files.FOLDER}); a folder takes GPU-DATE.jsonl",
    )
    parser.add_argument("--csv", metavar="FILE", help="append the same as CSV")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on: leave out what is kept of this commit and machine; rows that failed are tried again, last",
    )
    parser.add_argument(
        "--pass-over-failed", action="store_true", help="with --resume: leave out the rows that failed, too"
    )
    parser.add_argument(
        "--base", metavar="REF", help="measure that commit's fastrnn too, in turn with this one, and compare the two"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and exit")
    _add_commit(parser)


def _add_compile(parser: argparse.ArgumentParser) -> None:
    _add_rows(parser)
    _several(
        parser, "--launches", "file of launches, as `pytest --record-launches` writes; then no rows", metavar="FILE"
    )
    parser.add_argument("--processes", type=_positive, metavar="N", help="default: one for each core")


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    _several(parser, "--arch", "GPU architecture to compile for (default: sm_90)", choices=list(DEVICES))
    _add_cell(parser, "cell (default: lstm, gru, rnn_tanh)")
    _several(parser, "--dtype", "dtype (default: bfloat16, float32)", choices=list(kernels.ELEMENT_BYTES))
    _several(parser, "--hidden", f"hidden size (default: {', '.join(map(str, kernels.HIDDEN))})", type=_positive)
    _several(parser, "--batch", "batch size (default: 16, 64)", type=_positive)
    parser.add_argument("--bidirectional", action="store_true", help="both directions in one launch")
    parser.add_argument("--schedule", choices=["persistent", "stepwise"], default="persistent")
    parser.add_argument(
        "--kind",
        choices=list(kernels.KINDS),
        default="all",
        help="launches to choose from: all (default); plain: not Gluon's; flag: Gluon's with data as their own flag",
    )
    besides = parser.add_mutually_exclusive_group()
    besides.add_argument(
        "--executed",
        action="store_true",
        help="count what a step executes, too, seconds to a minute a row; needs torch",
    )
    besides.add_argument("--path", action="store_true", help="how long a step is, in cycles, part by part")
    parser.add_argument("--json", metavar="FILE", help="append one JSON object per row")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", choices=list(DEVICES), default="sm_90", help="GPU, here or not (default: sm_90)")
    _add_cell(parser, "cell (default: lstm)")
    _several(parser, "--mode", "forward (inference) or train (forward and backward)", choices=cases.MODES)
    words = f"dtype; float32 has TF32 products, as torch's by default, {modelled.EXACT} exact ones (default: bfloat16)"
    _several(parser, "--dtype", words, choices=modelled.DTYPES)
    _several(parser, "--shape", "T,B,I,H or T,B,I,H,layers", type=cases.parse_shape, metavar="T,B,I,H[,layers]")
    parser.add_argument("--bidirectional", action="store_true", help="run the layers in both directions")
    sets = parser.add_mutually_exclusive_group()
    sets.add_argument(
        "--table", action="store_true", help="the rows of bench/model/; takes no option that chooses rows"
    )
    sets.add_argument("--grid", action="store_true", help="all that the choice is tested over, likewise; minutes")
    parser.add_argument("--json", metavar="FILE", help="write one JSON object per row, in place of what is there")
    _several(parser, "--page", "with --table: page whose parts are written anew", metavar="FILE")


def _add_packed(parser: argparse.ArgumentParser) -> None:
    _several(parser, "--time", "length of the longest row (default: 4 to 400)", type=_positive, metavar="T")
    _several(parser, "--batch", "batch size (default: 4 to 64)", type=_positive, metavar="B")
    _several(parser, "--hidden", "hidden size (default: 32 to 256)", type=_positive, metavar="H")
    parser.add_argument("--json", metavar="FILE", help="append one JSON object per row")
    _several(parser, "--fit", "print the constants of the model that chooses, from such a file", metavar="FILE")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help="results file of before")
    parser.add_argument("new", metavar="NEW", help="results file of now")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help=_FILES)
    parser.add_argument(
        "--readme",
        metavar="FILE",
        help="put what committed files say of GPUs between this one's bench:begin and bench:end",
    )
    parser.add_argument("--cpu-page", metavar="FILE", help="likewise, what they say of CPUs")


def _add_plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help=_FILES)
    parser.add_argument("--out", default=files.FOLDER, metavar="FOLDER", help="where pictures go (default: there)")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        metavar="FILE",
        help=f"where each constant is kept once it is measured (default: in {files.CONSTANTS})",
    )
    _add_commit(parser)


def _add_steps(parser: argparse.ArgumentParser) -> None:
    _several(parser, "--cell", "cell (default: lstm, gru)", choices=cells.BUILTIN)
    _several(parser, "--dtype", "dtype (default: bfloat16, float32)", choices=list(kernels.ELEMENT_BYTES))
    _several(parser, "--hidden", "hidden size (default: 256, 512, 768, 1024)", type=_positive)
    _several(parser, "--batch", "batch size (default: 16)", type=_positive)
    parser.add_argument("--bidirectional", action="store_true", help="both directions in one launch")
    parser.add_argument("--json", metavar="FILE", help="append one JSON object per launch")
    _add_commit(parser)


def _add_hour(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="gpu-hour", metavar="FOLDER", help="where results go (default: gpu-hour)")
    _several(parser, "--part", "a part to run, also if it is finished (default: all that are not)", metavar="NAME")
    parser.add_argument("--seconds", type=_positive, metavar="N", help="for all of this call; call again for the rest")
    parser.add_argument("--list", action="store_true", help="print the parts and exit")
    _add_commit(parser)


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    pass


# Each is the function of this name in `commands`.
_COMMANDS = (
    ("run", _add_run, "time layers against torch.nn, results checked first"),
    ("compare", _add_compare, "say which rows of two results files are faster, slower or the same"),
    ("report", _add_report, "print results as tables in Markdown"),
    ("plot", _add_plot, "draw results: time against H and B, the ratio over both, time against the model's limit"),
    ("kernels", _add_kernels, "compile the GPU kernels with no GPU present, and report what they use"),
    (
        "model",
        _add_model,
        "what the cost models give a layer on a GPU that need not be here: our time, torch's, the limit",
    ),
    ("packed", _add_packed, "time training on rows of unequal length on a CPU, by torch's layer and by the scan"),
    ("compile", _add_compile, "compile what rows will launch beforehand, on all cores"),
    ("machine", _add_machine, "measure the constants of the cost model on this GPU"),
    ("steps", _add_steps, "check and time a step of each kind of launch on this GPU: chosen, plain Triton's, flags"),
    ("hour", _add_hour, "all that a GPU is borrowed for: compile, tests, benchmarks, constants; in bounded parts"),
    ("env", _add_nothing, "print the versions and the hardware, for a bug report"),
)
_NEEDS = dict.fromkeys(("run", "packed", "compile", "machine", "steps", "hour", "env"), "torch")
_NEEDS |= {"plot": "matplotlib"}
_HINTS = {"matplotlib": "; pip install 'fastrnn[bench]', or matplotlib alone"}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = _Parser(prog="fastrnn-bench", description="Benchmarks of fastrnn.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add, text in _COMMANDS:
        added = subparsers.add_parser(name, help=text, description=text)
        added.set_defaults(command=name, parser=added)
        add(added)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0, 1 for a failure, 2 for a command line that is wrong, 3 for a GPU that this
    process can use no more, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    try:
        needed = _NEEDS.get(arguments.command)
        if needed is not None and importlib.util.find_spec(needed) is None:
            raise BenchError(f"{needed} is not installed{_HINTS.get(needed, '')}")
        code: int = getattr(commands, arguments.command)(arguments)
    except KeyboardInterrupt:
        kept = "the rows printed are all there are"
        if arguments.command == "run" and arguments.json is not None:
            kept = f"finished rows are in {arguments.json}; run again with --resume to go on"
        if arguments.command == "hour":
            kept = f"what was found is in {arguments.out}; run again to go on"
        print(f"{arguments.parser.prog}: interrupted; {kept}", file=sys.stderr)
        return 130
    except BenchError as error:
        print(f"{arguments.parser.prog}: error: {error}", file=sys.stderr)
        return 3 if isinstance(error, LostGPUError) else 1
    except BrokenPipeError:  # as under `| head`
        # Python flushes stdout once more when it exits, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return code
