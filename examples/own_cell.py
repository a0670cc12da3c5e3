"""A cell of one's own: `fastrnn.cell`, on events at irregular times, beside an LSTM that is told the times as inputs.

    python examples/own_cell.py    # errors of both, also where events are rarer than in training; seconds on a CPU

Each event adds its value to a sum that fades with time. The cell, `fading`, fades by the time since the event before,
at a rate of its own for each unit; its gradient and its kernels are derived of its two lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastrnn

State = tuple[Tensor, ...]
FADES_IN = 3.0  # the time in which the sum becomes 1 / e of itself


@fastrnn.cell(gates=2, constants=("gap",))
def fading(x: State, r: State, state: State, gap: Tensor) -> Tensor:
    """h' = exp(-gap softplus(rate)) h + n."""
    rate, n = (a + b for a, b in zip(x, r, strict=True))
    return torch.exp(-gap * F.softplus(rate)) * state[0] + n


class Reader(nn.Module):
    """The sum after each event, as it is read from the states of a layer."""

    def __init__(self, name: str, hidden: int) -> None:
        super().__init__()
        self.own = name == "fading"
        self.rnn = fastrnn.Recurrent(fading, 1, hidden) if self.own else fastrnn.LSTM(2, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, values: Tensor, gaps: Tensor) -> Tensor:
        """`(T, N)` of two such: what each event adds, and the time since the one before."""
        if self.own:
            output, _ = self.rnn(values.unsqueeze(-1), gap=gaps)
        else:
            output, _ = self.rnn(torch.stack((values, gaps), -1))
        read: Tensor = self.head(output)
        return read.squeeze(-1)


def draw(steps: int, rows: int, mean_gap: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Values, gaps and the fading sum after each event, `(T, N)` each."""
    values, gaps = torch.randn(steps, rows), torch.empty(steps, rows).exponential_(1 / mean_gap)
    total, totals = torch.zeros(rows), []
    for value, gap in zip(values, gaps, strict=True):
        total = torch.exp(-gap / FADES_IN) * total + value
        totals.append(total)
    return values.to(device), gaps.to(device), torch.stack(totals).to(device)


def learn(model: Reader, given: argparse.Namespace, device: torch.device) -> None:
    """Train on fresh sequences, whose gaps are 1 on average."""
    optimizer = torch.optim.Adam(model.parameters(), lr=given.lr)
    for _ in range(given.steps):
        values, gaps, totals = draw(given.length, given.rows, 1.0, device)
        loss = F.mse_loss(model(values, gaps), totals)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Train both; each one's mean squared errors, at training's gaps and at longer ones."""
    parser = argparse.ArgumentParser(description="A cell of one's own beside an LSTM, on events at irregular times.")
    parser.add_argument("--steps", type=int, default=150, help="updates of each model")
    parser.add_argument("--length", type=int, default=20, help="events of a sequence")
    parser.add_argument("--rows", type=int, default=32, help="sequences of an update")
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    errors: dict[str, list[float]] = {}
    if device.type == "cpu":
        torch.set_num_threads(1)  # tensors this small are not worth a second one
    for name in ("fading", "lstm"):
        torch.manual_seed(given.seed)
        model = Reader(name, given.hidden).to(device)
        learn(model, given, device)
        errors[name] = []
        for mean_gap in (1.0, 5.0):
            values, gaps, totals = draw(given.length, 256, mean_gap, device)
            with torch.no_grad():
                errors[name].append(F.mse_loss(model(values, gaps), totals).item())
        print(f"{name}: error {errors[name][0]:.4f}, with events five times as rare {errors[name][1]:.4f}")
    return errors


if __name__ == "__main__":
    main()
