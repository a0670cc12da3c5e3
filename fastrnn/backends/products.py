"""What the recurrent weights do in `aten_scan` and its gradient: full matrices, one for each head, or diagonals.

Tensors are of one direction, and of a step `(n, H)` for n rows; of heads `(n, heads, H)`. Gates come before the units:
`(n, GATES, H)`, `(n, heads, GATES, H)`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def own(steps: Tensor, d: int, heads: int) -> Tensor:
    """Direction d of a `(T, B, P, ...)` tensor, without its axis, or with one of its heads."""
    return steps[:, :, d] if heads == 1 else steps[:, :, d * heads : (d + 1) * heads]


def own_states(states: Tensor, d: int, heads: int) -> tuple[Tensor, ...]:
    """Direction d of a `(STATES, P, B, H)` tensor: views, `(B, H)` or `(B, heads, H)` each."""
    if heads == 1:
        return states[:, d].unbind(0)
    return states[:, d * heads : (d + 1) * heads].transpose(1, 2).unbind(0)


class Full:
    """Matrices, `(GATES, H, H)`, of which the last `inner` have an operand of their own.

    Of some steps' r or dr, views by step: `sums` is where `add` adds the outer gates' product, `parts` what `inner`
    adds its own to, and `rows` what `add_back` multiplies, its first axis the rows.
    """

    def __init__(self, weight: Tensor, inner: int) -> None:
        self.outer = weight.shape[-3] - inner
        self._split(weight, weight.shape[-1])

    def _split(self, weight: Tensor, H: int) -> None:
        self.weights, self.inner_weights = weight[: self.outer].reshape(-1, H), weight[self.outer :].reshape(-1, H)

    def forward(self) -> Full:
        """For `add` and `inner`; as it is, for the two that go back."""
        # Contiguous, since the product would otherwise pack them anew at every step.
        self.weights, self.inner_weights = self.weights.t().contiguous(), self.inner_weights.t().contiguous()
        return self

    def sums(self, r: Tensor) -> tuple[Tensor, ...]:
        return r[:, :, : self.outer].flatten(2).unbind(0)

    rows = sums

    def parts(self, r: Tensor) -> tuple[Tensor, ...]:
        return r[:, :, self.outer :].flatten(2).unbind(0)

    def add(self, place: Tensor, h: Tensor) -> None:
        place.addmm_(h, self.weights)

    def inner(self, part: Tensor, v: Tensor) -> Tensor:
        return torch.addmm(part, v, self.inner_weights)

    def add_back(self, place: Tensor, rows: Tensor) -> None:
        place.addmm_(rows, self.weights)

    def inner_back(self, d: Tensor) -> Tensor:
        return d @ self.inner_weights


class Heads(Full):
    """A matrix for each head, `(heads, GATES, H, H)`: one batched product for all of them."""

    def _split(self, weight: Tensor, H: int) -> None:
        heads = len(weight)
        self.weights = weight[:, : self.outer].reshape(heads, -1, H)
        self.inner_weights = weight[:, self.outer :].reshape(heads, -1, H)

    def forward(self) -> Full:
        self.weights = self.weights.transpose(1, 2).contiguous()
        self.inner_weights = self.inner_weights.transpose(1, 2).contiguous()
        return self

    def sums(self, r: Tensor) -> tuple[Tensor, ...]:
        return r[..., : self.outer, :].flatten(-2).transpose(1, 2).unbind(0)

    def rows(self, r: Tensor) -> tuple[Tensor, ...]:
        return r[..., : self.outer, :].flatten(-2).unbind(0)

    def parts(self, r: Tensor) -> tuple[Tensor, ...]:
        return r[..., self.outer :, :].flatten(-2).transpose(1, 2).unbind(0)

    def add(self, place: Tensor, h: Tensor) -> None:
        place.baddbmm_(h.transpose(0, 1), self.weights)

    def inner(self, part: Tensor, v: Tensor) -> Tensor:
        return torch.baddbmm(part, v.transpose(0, 1), self.inner_weights).transpose(0, 1)

    def add_back(self, place: Tensor, rows: Tensor) -> None:
        place.transpose(0, 1).baddbmm_(rows.transpose(0, 1), self.weights)

    def inner_back(self, d: Tensor) -> Tensor:
        return torch.bmm(d.transpose(0, 1), self.inner_weights).transpose(0, 1)


class Diagonal(Full):
    """The diagonals of matrices, `(GATES, H, 1)`: no product, but multiplications."""

    def _split(self, weight: Tensor, H: int) -> None:
        self.weights, self.inner_weights = weight[: self.outer, :, 0], weight[self.outer :, :, 0]

    def forward(self) -> Full:
        return self

    def sums(self, r: Tensor) -> tuple[Tensor, ...]:
        return r[:, :, : self.outer].unbind(0)

    rows = Full.sums

    def add(self, place: Tensor, h: Tensor) -> None:
        place.addcmul_(h.unsqueeze(1), self.weights)

    def inner(self, part: Tensor, v: Tensor) -> Tensor:
        return torch.addcmul(part, v, self.inner_weights)

    def add_back(self, place: Tensor, rows: Tensor) -> None:
        place.add_((rows.unflatten(-1, self.weights.shape) * self.weights).sum(1))

    def inner_back(self, d: Tensor) -> Tensor:
        return d * self.inner_weights


def of(weight: Tensor, d: int, heads: int, inner: int) -> Full:
    """Direction d's, of a scan's weights `(P, GATES, H, H)` or `(P, GATES, H, 1)`."""
    if heads > 1:
        return Heads(weight[d * heads : (d + 1) * heads], inner)
    kind = Full if weight.shape[-1] == weight.shape[-2] else Diagonal
    return kind(weight[d], inner)
