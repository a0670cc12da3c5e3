"""The whole sequence in one launch per wave, with the recurrent weights on chip: the fast path."""

from __future__ import annotations

from fastrnn.backends import fused
from fastrnn.backends.kernels import Kernels
from fastrnn.scan.problem import Problem


class _Persistent(Kernels):
    name = "persistent"

    def supports(self, problem: Problem) -> str | None:
        reason = fused.unmet_requirement(problem)
        if reason is not None:
            return reason
        plans = fused.planned(problem, self.name)
        if any(plan is None for plan in plans):
            return f"no launch of {problem.hidden} hidden units fits this GPU at once"
        if fused.interpreting() and any(plan is not None and plan.exchange != "none" for plan in plans):
            return "the interpreter runs programs one after another, so they cannot wait for each other"
        return None


BACKEND = _Persistent()
