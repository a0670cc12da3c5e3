"""A published model before and after `fastrnn.convert()`: same numbers, both timed.

    python examples/convert_model.py                          # Stanza's tokenizer: bidirectional LSTMs on packed rows
    python examples/convert_model.py --train                  # forward and backward
    python examples/convert_model.py --train --length 1000    # rows ten times as long, which show what packing costs
    python examples/convert_model.py --model openunmix        # a separator of music, with three bidirectional layers

Needs `pip install stanza`; Open-Unmix needs `pip install openunmix`, and the torchaudio that belongs to the torch at
hand. Weights and input are random: nothing is downloaded, and speed does not depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastrnn

ALLOWED = 1e-3  # sums in another order, which batch norm then magnifies; a wrong gate gives 0.1 and more


class Published(NamedTuple):
    """A model with random weights, what to call it with, and the size of that in words."""

    model: nn.Module
    inputs: tuple[Any, ...]
    size: str


@contextlib.contextmanager
def needs(package: str) -> Iterator[None]:
    """Ends the program with one line if what is imported inside does not load."""
    try:
        yield
    except (ImportError, OSError) as error:  # OSError: a torchaudio built for another torch
        raise SystemExit(f"{package} cannot be imported ({error}): pip install {package}") from None


def stanza_tokenizer(given: argparse.Namespace, device: torch.device) -> Published:
    """Characters to a bidirectional LSTM on packed rows, its output to a second one; Stanza's own sizes by default."""
    with needs("stanza"):
        from stanza.models.tokenization.model import Tokenizer
        from stanza.models.tokenizer import build_argparse
    settings = vars(build_argparse().parse_args([]))
    settings["feat_dim"] = 5  # Stanza counts its default features of a character: a digit, a capital, ...
    batch, length = given.batch or settings["batch_size"], given.length or settings["max_seqlen"]
    hidden, symbols = given.hidden or settings["hidden_dim"], 200
    dropouts = settings["dropout"], settings["feat_dropout"]
    model: nn.Module = Tokenizer(settings, symbols, settings["emb_dim"], hidden, *dropouts)
    # Longest first, as its loader sorts a text's paragraphs. (In training Stanza lengthens the rows to be equal.)
    lengths = torch.randint((length + 1) // 2, length + 1, (batch,)).sort(descending=True).values
    lengths[0] = length
    characters = torch.randint(1, symbols, (batch, length), device=device)
    features = torch.rand(batch, length, settings["feat_dim"], device=device)
    size = f"batch {batch}, rows of {int(lengths[-1])} to {length} characters"
    return Published(model, (characters, features, lengths.tolist()), size)


def open_unmix(given: argparse.Namespace, device: torch.device) -> Published:
    """A spectrogram to a bidirectional LSTM of three layers and a mask; by default six seconds of music."""
    with needs("openunmix"):
        from openunmix.model import OpenUnmix
    batch, length, hidden, bins = given.batch or 1, given.length or 255, given.hidden or 512, 2049
    model: nn.Module = OpenUnmix(nb_bins=bins, nb_channels=2, hidden_size=hidden)
    spectrogram = torch.rand(batch, 2, bins, length, device=device)
    return Published(model, (spectrogram,), f"batch {batch}, {length} frames")


MODELS: dict[str, Callable[[argparse.Namespace, torch.device], Published]] = {
    "stanza": stanza_tokenizer,
    "openunmix": open_unmix,
}


def without_dropout(model: nn.Module) -> None:
    """Two runs draw different masks, and could not be compared."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0


def call(model: nn.Module, inputs: tuple[Any, ...], train: bool) -> list[Tensor]:
    """The output and, in training, the gradient of every parameter."""
    if not train:
        with torch.inference_mode():
            return [model(*inputs)]
    model.zero_grad()
    output = model(*inputs)
    output.square().mean().backward()
    return [output.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def seconds(model: nn.Module, inputs: tuple[Any, ...], train: bool, repeats: int) -> float:
    """The median time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call(model, inputs, train)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest of the tensors' relative differences."""
    return max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in zip(ours, theirs, strict=True))


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """TF32, cuDNN's default and so fastrnn's, would hide small mistakes: off, to compare."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def explanations(model: nn.Module, names: list[str], inputs: tuple[Any, ...], train: bool) -> dict[str, str]:
    """By layer, which kernels run it in a call of the whole model, as `fastrnn.explain` prints it."""
    found: dict[str, str] = {}

    def ask(name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            fastrnn.explain(layer, *args)
        found[name] = printed.getvalue()

    hooks = [model.get_submodule(name).register_forward_pre_hook(functools.partial(ask, name)) for name in names]
    call(model, inputs, train)
    for hook in hooks:
        hook.remove()
    return found


def expectation(explanation: str) -> str | None:
    """What the kernels that run a layer let expect of the two times; None where only the clock can tell."""
    runs = explanation.partition("runs: ")[2].partition("\n")[0]
    if runs in ("torch's own kernels", "cuDNN through torch"):
        return f"{runs} before and after, so expect the same times"
    if "quadratic in T" in runs:
        return "torch.nn's backward takes time quadratic in the length, fastrnn's linear: --length shows it"
    return None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time a published model before and after fastrnn.convert().")
    parser.add_argument("--model", choices=list(MODELS), default="stanza")
    parser.add_argument("--batch", type=int, help="rows; this and what follows: the published model's, unless given")
    parser.add_argument("--length", type=int, help="time steps of the longest row")
    parser.add_argument("--hidden", type=int, help="units of each LSTM")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train", action="store_true", help="forward and backward, instead of inference")
    given = parser.parse_args(argv)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # at every time step threads wait for each other, for long where cores are shared
    torch.manual_seed(0)
    model, inputs, size = MODELS[given.model](given, device)
    model.to(device).train(given.train)
    without_dropout(model)

    with exact():
        before = call(model, inputs, given.train)
    before_s = seconds(model, inputs, given.train, given.repeats)
    conversion = fastrnn.convert(model)
    print(conversion)
    with exact():
        after = call(model, inputs, given.train)
    after_s = seconds(model, inputs, given.train, given.repeats)

    error = difference(after, before)
    what = "forward and backward" if given.train else "inference"
    print(f"{given.model}, {what}, {size}, on {device.type}")
    print(f"  torch.nn  {before_s * 1e3:10.2f} ms")
    print(f"  fastrnn   {after_s * 1e3:10.2f} ms    relative difference of results {error:.1e}")
    found = explanations(model, conversion.converted, inputs, given.train)
    for name, explanation in found.items():
        print(f"{name}: {explanation}", end="")
    for name, explanation in found.items():
        if (expected := expectation(explanation)) is not None:
            print(f"{name}: {expected}")
    if not error <= ALLOWED:
        sys.exit(f"The results differ by {error:.1e}, more than {ALLOWED:.0e}.")


if __name__ == "__main__":
    main()
