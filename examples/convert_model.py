"""A published model whose LSTM takes most of the time, before and after `fastrnn.convert()`: same numbers, both timed.

    python examples/convert_model.py            # Open-Unmix, a separator of music: three bidirectional LSTM layers
    python examples/convert_model.py --train    # forward and backward

Needs `pip install openunmix`, and the torchaudio that belongs to the torch at hand. Weights are random: nothing is
downloaded, and speed does not depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn

ALLOWED = 1e-3  # sums in another order, which batch norm then magnifies; a wrong gate gives 0.1 and more


def load_model(bins: int, hidden: int) -> nn.Module:
    """Open-Unmix's separator with random weights; ends the program with a message where it is not installed."""
    try:
        from openunmix.model import OpenUnmix
    except (ImportError, OSError) as error:  # OSError: a torchaudio built for another torch
        print(f"Skipped: openunmix cannot be imported ({error}). pip install openunmix")
        raise SystemExit(0) from None
    torch.manual_seed(0)
    model: nn.Module = OpenUnmix(nb_bins=bins, nb_channels=2, hidden_size=hidden)
    return model


def call(model: nn.Module, spectrogram: Tensor, train: bool) -> list[Tensor]:
    """The output and, in training, the gradient of every parameter."""
    if not train:
        with torch.inference_mode():
            return [model(spectrogram)]
    model.zero_grad()
    output = model(spectrogram)
    output.square().mean().backward()
    return [output.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def seconds(model: nn.Module, spectrogram: Tensor, train: bool, repeats: int) -> float:
    """The median time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call(model, spectrogram, train)
        if spectrogram.is_cuda:
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


def explain_lstm(model: nn.Module, spectrogram: Tensor, train: bool) -> None:
    """Say which kernels run the model's LSTM in a call of the whole model."""

    def show(layer: nn.Module, args: tuple[Any, ...]) -> None:
        fastrnn.explain(layer, *args)

    hook = model.get_submodule("lstm").register_forward_pre_hook(show)
    call(model, spectrogram, train)
    hook.remove()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time Open-Unmix before and after fastrnn.convert().")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=255, help="time steps; 255 are about six seconds of music")
    parser.add_argument("--bins", type=int, default=2049)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train", action="store_true", help="forward and backward, instead of inference")
    given = parser.parse_args(argv)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # at every time step threads wait for each other, for long where cores are shared
    model = load_model(given.bins, given.hidden).to(device)
    model.eval()
    if given.train:
        # Batch norm as in training; dropout off, since two runs draw different masks.
        model.train()
        model.get_submodule("lstm").dropout = 0.0  # type: ignore[assignment]
    spectrogram = torch.rand(given.batch, 2, given.bins, given.frames, device=device)

    with exact():
        before = call(model, spectrogram, given.train)
    before_s = seconds(model, spectrogram, given.train, given.repeats)
    print(fastrnn.convert(model))
    with exact():
        after = call(model, spectrogram, given.train)
    after_s = seconds(model, spectrogram, given.train, given.repeats)

    error = difference(after, before)
    what = "forward and backward" if given.train else "inference"
    print(f"{what}, {given.frames} frames, batch {given.batch}, on {device.type}")
    print(f"  torch.nn  {before_s * 1e3:10.2f} ms")
    print(f"  fastrnn   {after_s * 1e3:10.2f} ms    relative difference of results {error:.1e}")
    explain_lstm(model, spectrogram, given.train)
    if device.type == "cpu":
        print("Without a GPU fastrnn leaves such a layer to torch's own kernels: expect the same times.")
    if not error <= ALLOWED:
        sys.exit(f"The results differ by {error:.1e}, more than {ALLOWED:.0e}.")


if __name__ == "__main__":
    main()
