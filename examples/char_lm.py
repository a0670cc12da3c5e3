"""A character language model: an LSTM or GRU learns to write like this repository.

    python examples/char_lm.py                                     # on the GPU if there is one
    python examples/char_lm.py --cell gru --torch                  # the same with torch.nn's layer
    python examples/char_lm.py --out build/char_lm --steps 500     # keeps a checkpoint and a picture of the loss
    python examples/char_lm.py --out build/char_lm --resume        # goes on where that stopped
    torchrun --nproc-per-node 2 examples/char_lm.py --ddp          # one process per GPU, or per share of the CPU

Needs torch and fastrnn; rich, if it is there, draws the progress bar, and matplotlib the picture. The batch of a step
depends on the seed and the step alone, so (without dropout) a resumed run, or one over more processes, computes what a
plain one does.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import fastrnn

ROOT = Path(__file__).resolve().parent.parent
OWN_TEXT = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/**/*.md",
    "fastrnn/**/*.py",
    "kernels/**/*.py",
    "bench/**/*.py",
    "tests/**/*.py",
)


class CharLM(nn.Module):
    """Embedding, recurrent layers, and a linear map to the next character's logits."""

    def __init__(self, home: Any, cell: str, characters: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, hidden)
        kind = {"lstm": home.LSTM, "gru": home.GRU}[cell]
        self.rnn = kind(hidden, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.head = nn.Linear(hidden, characters)

    def forward(self, codes: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Logits `(N, L, characters)` for codes `(N, L)`, and the layers' state after them."""
        output, hx = self.rnn(self.embed(codes), hx)
        return self.head(output), hx


@dataclass(frozen=True)
class Text:
    """A text as numbers: the characters there are, and the two parts of it."""

    characters: str
    train: Tensor
    valid: Tensor

    @staticmethod
    def read(paths: Sequence[Path]) -> Text:
        """The files one after another; the last twentieth of each is held out."""
        texts = [path.read_text(encoding="utf-8") for path in paths]
        characters = "".join(sorted(set("".join(texts))))
        code = {c: i for i, c in enumerate(characters)}
        parts = [torch.tensor([code[c] for c in text], dtype=torch.long) for text in texts]
        cuts = [len(part) - len(part) // 20 for part in parts]
        train = torch.cat([part[:cut] for part, cut in zip(parts, cuts, strict=True)])
        return Text(characters, train, torch.cat([part[cut:] for part, cut in zip(parts, cuts, strict=True)]))


def windows(codes: Tensor, count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` random windows of `length` characters, and the characters that follow each: `(count, length)` twice."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(codes) - length, (count,), generator=generator)
    found = codes[starts.unsqueeze(1) + torch.arange(length + 1)]
    return found[:, :-1], found[:, 1:]


def bits(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean bits per character."""
    logits, _ = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()) / math.log(2)


@torch.no_grad()
def sample(model: CharLM, characters: str, prompt: str, count: int, temperature: float, seed: int) -> str:
    """`prompt` and `count` more characters, drawn one at a time."""
    device = model.head.weight.device
    generator = torch.Generator().manual_seed(seed)
    written = [c for c in prompt if c in characters] or [characters[0]]
    codes, hx = torch.tensor([[characters.index(c) for c in written]], device=device), None
    for _ in range(count):
        logits, hx = model(codes, hx)
        chances = (logits[0, -1].float().cpu() / temperature).softmax(-1)
        code = int(torch.multinomial(chances, 1, generator=generator))
        written.append(characters[code])
        codes = torch.tensor([[code]], device=device)
    return "".join(written)


@dataclass(frozen=True)
class Place:
    """Where this process computes, and which share of each batch is its own."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch, on its device."""
        return batch.chunk(self.world)[self.rank].to(self.device)

    def mean(self, value: Tensor) -> float:
        """The mean over all processes."""
        value = value.detach().clone()
        if self.world > 1:
            dist.all_reduce(value)
        return value.item() / self.world


@contextlib.contextmanager
def placed(ddp: bool) -> Iterator[Place]:
    """The process's place, with its group for as long as that is needed."""
    cuda = torch.cuda.is_available()
    if not ddp:
        yield Place(torch.device("cuda" if cuda else "cpu"))
        return
    if "LOCAL_RANK" not in os.environ:
        raise SystemExit("--ddp is for torchrun: torchrun --nproc-per-node 2 examples/char_lm.py --ddp")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Place(device, dist.get_rank(), dist.get_world_size())
        # gloo's threads drop the tensors that they reduced when they come to it, and need Python for that: one that
        # does so after the end of Python aborts the process. Here they get to run first.
        dist.barrier()
        time.sleep(0.2)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def progress(first: int, steps: int, wanted: bool) -> Iterator[Any]:
    """A function to call with each step's loss: a bar with rich on a terminal, else a line now and then."""
    if wanted and sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.progress import Progress

        with Progress() as bar:
            task = bar.add_task("training", total=steps, completed=first)
            yield lambda step, loss: bar.update(task, completed=step, description=f"{loss:.3f} bits/char")
        return

    begin = time.perf_counter()

    def line(step: int, loss: float) -> None:
        if wanted and (step == steps or step % max(1, steps // 10) == 0):
            rate = (step - first) / (time.perf_counter() - begin)
            print(f"step {step}/{steps}: {loss:.3f} bits per character, {rate:.1f} steps/s", flush=True)

    yield line


def picture(losses: Sequence[float], path: Path) -> None:
    """The curve of the loss, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("No picture of the loss: matplotlib is not installed.")
        return
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), layout="constrained")
    plot = axes.subplots()
    plot.plot(range(1, len(losses) + 1), losses)
    plot.set(xlabel="step", ylabel="bits per character", title="training loss")
    axes.savefig(path)
    print(f"wrote {path}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train a character language model, by default on this repository.")
    parser.add_argument("--cell", choices=("lstm", "gru"), default="lstm")
    parser.add_argument("--torch", action="store_true", help="torch.nn's layer instead of fastrnn's")
    parser.add_argument("--text", nargs="+", type=Path, metavar="FILE", help="what to learn (default: this repository)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32, help="rows per step, all processes together")
    parser.add_argument("--length", type=int, default=128, help="characters per row")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model, as one graph")
    parser.add_argument("--ddp", action="store_true", help="data parallel; start with torchrun")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the checkpoint and the picture here")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--sample", type=int, default=300, metavar="N", help="characters to write at the end")
    parser.add_argument("--prompt", default="def ", help="what the samples start with")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    commands = parser()
    given = commands.parse_args(argv)
    if given.resume and given.out is None:
        commands.error("--resume needs --out, where the checkpoint is")
    if given.resume and not (given.out / "checkpoint.pt").is_file():
        commands.error(f"there is no checkpoint in {given.out}")
    if given.text is None:
        given.text = sorted(path for pattern in OWN_TEXT for path in ROOT.glob(pattern))
    return given


def train(given: argparse.Namespace, place: Place, text: Text) -> tuple[CharLM, list[float], float]:
    """The trained model, the loss of every step so far, and the loss on what was held out."""
    if given.batch % place.world:
        raise SystemExit(f"--batch {given.batch} cannot be split evenly over {place.world} processes")
    torch.manual_seed(given.seed)
    home = nn if given.torch else fastrnn
    model = CharLM(home, given.cell, len(text.characters), given.hidden, given.layers, given.dropout).to(place.device)
    optimizer = torch.optim.AdamW(model.parameters(), given.lr)
    losses: list[float] = []
    if given.resume:
        kept = torch.load(given.out / "checkpoint.pt", map_location=place.device, weights_only=True)
        if kept["characters"] != text.characters:
            raise SystemExit("the checkpoint was trained on another text: its characters differ")
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        losses = kept["losses"]

    run: Any = model
    if place.world > 1:
        run = nn.parallel.DistributedDataParallel(run)
    if given.compile:
        run = torch.compile(run, fullgraph=place.world == 1)
    autocast = torch.autocast(place.device.type, torch.bfloat16, enabled=given.bf16)
    with progress(len(losses), given.steps, place.leads) as report:
        for step in range(len(losses), given.steps):
            inputs, targets = windows(text.train, given.batch, given.length, given.seed * 1_000_003 + step)
            with autocast:
                loss = bits(run, place.share(inputs), place.share(targets))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(place.mean(loss))
            report(step + 1, losses[-1])
    if given.out is not None and place.leads:
        given.out.mkdir(parents=True, exist_ok=True)
        kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
        torch.save(kept | {"characters": text.characters}, given.out / "checkpoint.pt")
        picture(losses, given.out / "loss.png")
    model.eval()
    with torch.no_grad(), autocast:
        held_out = bits(model, *(w.to(place.device) for w in windows(text.valid, given.batch, given.length, -1)))
    return model, losses, held_out.item()


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Run a command line; the loss of every step."""
    given = options(argv)
    text = Text.read(given.text)
    if min(len(text.train), len(text.valid)) <= given.length:
        raise SystemExit(f"too little text: {len(text.train)} characters to learn, {len(text.valid)} held out")
    with placed(given.ddp) as place:
        if place.leads:
            where = f"{place.device.type}, {place.world} process{'es' * (place.world > 1)}"
            print(f"{len(text.train):,} characters, {len(text.characters)} different ones; {where}")
        model, losses, held_out = train(given, place, text)
        if place.leads:
            print(f"held out: {held_out:.3f} bits per character")
            print(sample(model, text.characters, given.prompt, given.sample, 0.7, given.seed))
    return losses


if __name__ == "__main__":
    main()
