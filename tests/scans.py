"""A scan by the kernels and by the reference; imported by tests that skip where there is no Triton."""

from __future__ import annotations

import torch
from support import FLOAT64_ERROR, worst_error
from torch import Tensor

from fastrnn.backends import reference
from fastrnn.cells import Cell
from fastrnn.kernels.launch.scan import scan_bwd, scan_fwd
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.tensors import Inputs, Kept, Results, Upstream

_KINKED = ("rnn_relu", "indrnn", "ligru", "nas")


class Scan:
    """Random inputs of one scan, and the reference's results and gradients for them, in float64."""

    def __init__(
        self,
        cell: Cell,
        T: int,
        B: int,
        H: int,
        D: int,
        dtype: torch.dtype,
        lengths: bool | list[int] = False,
        resets: bool = False,
        heads: int = 1,
    ) -> None:
        """Of `heads` the H units are divided into; where they are of one unit each, R is diagonal."""

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(shape, dtype=torch.float64) * scale).to(dtype)

        self.cell, self.heads, K = cell, 1 if heads == H else heads, H // heads
        D, H = D * self.heads, H // self.heads
        self.x = draw(T, B, D, cell.gates, H)
        self.weight = draw(D, cell.gates, H, K, scale=K**-0.5)
        self.bias = draw(D, cell.gates, H) if cell.splits_bias else None
        self.state = draw(cell.states, D, B, H)
        self.lengths = None
        if lengths:
            drawn = torch.randint(0, T + 1, (B,)).tolist() if lengths is True else lengths
            self.lengths = torch.tensor(drawn, dtype=torch.int32)
        self.resets = torch.rand(T, B) < 0.4 if resets else None
        if cell.name in _KINKED:
            # Away from relu's kink: on it, a rounding changes a gradient from nothing to all, in any implementation.
            self.x, self.weight = 3 * self.x.sign() + 0.3 * self.x, 0.2 * self.weight
            self.bias = None if self.bias is None else self.bias.sign() + 0.3 * self.bias
        self.dout, self.dfinal = draw(T, B, D, H), draw(cell.states, D, B, H)
        self.dcells = draw(T, B, D, cell.states - 1, H)
        # Positive, as gaps of time are, and decays; constants are not rounded to 16 bits.
        self.vectors = draw(D, cell.vectors, H).abs() + 0.1 if cell.vectors else None
        self.constants = None
        if cell.constants:
            self.constants = torch.rand(T, B, cell.constants, dtype=torch.promote_types(dtype, torch.float32))
        if cell.name == "slstm":  # one of its states is a normaliser
            self.state = (torch.rand(self.state.shape, dtype=torch.float64) + 0.1).to(dtype)
        if cell.float32_states:
            kept = torch.promote_types(dtype, torch.float32)
            self.state, self.dfinal, self.dcells = (t.to(kept) for t in (self.state, self.dfinal, self.dcells))

    def by_reference(self, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
        """`[output, final, cells]` and `[dx, dstate, dr summed over steps, dvectors if any]` computed in `dtype`."""
        x, weight, state = (t.to(dtype, copy=True).requires_grad_() for t in (self.x, self.weight, self.state))
        bias = torch.zeros(self.x.shape[2:], dtype=dtype) if self.bias is None else self.bias.to(dtype, copy=True)
        bias.requires_grad_()
        vectors = None if self.vectors is None else self.vectors.to(dtype, copy=True).requires_grad_()
        constants = None if self.constants is None else self.constants.to(dtype)
        besides = self.lengths, self.resets, vectors, constants, self.heads
        results = reference.scan(Inputs(x, weight, bias, state, *besides), self.cell)[:3]
        upstream = [g.to(dtype) for g in (self.dout, self.dfinal, self.dcells)]
        grads = torch.autograd.grad(results, (x, state, bias, *([] if vectors is None else [vectors])), upstream)
        return [r.detach() for r in results], list(grads)

    def inputs(self) -> Inputs:
        besides = self.lengths, self.resets, self.vectors, self.constants, self.heads
        return Inputs(self.x, self.weight, self.bias, self.state, *besides)

    def kept(self, results: Results) -> Kept:
        of_results, besides = (results.output, results.cells, results.saved), (self.vectors, self.constants, self.heads)
        return Kept(self.weight, self.state, self.lengths, self.resets, *of_results, *besides)

    def by_kernels(self, config: LaunchConfig) -> tuple[list[Tensor], list[Tensor]]:
        """The same through the kernels."""
        results = scan_fwd(self.inputs(), self.cell, config, "ieee", True, True)
        upstream = Upstream(self.dout, self.dfinal, self.dcells)
        dx, dr, dstate, dvectors = scan_bwd(upstream, self.kept(results), self.cell, config, "ieee")
        dbias = dr.sum((0, 1), dtype=torch.promote_types(dr.dtype, torch.float32))
        return [results.output, results.final, results.cells], [
            dx, dstate, dbias, *([] if dvectors is None else [dvectors]),
        ]  # fmt: skip

    def check(self, config: LaunchConfig) -> None:
        """The kernels compute what the reference does."""
        outputs, grads = self.by_kernels(config)
        expected_outputs, expected_grads = self.by_reference()
        assert worst_error(outputs, expected_outputs) < FLOAT64_ERROR
        assert worst_error(grads, expected_grads) < FLOAT64_ERROR
