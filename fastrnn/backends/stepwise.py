"""One launch per step of the same kernels: nothing waits for anything, so it runs wherever Triton does."""

from __future__ import annotations

from fastrnn.backends import fused
from fastrnn.backends.kernels import Kernels
from fastrnn.scan.problem import Problem


class _Stepwise(Kernels):
    name = "stepwise"

    def supports(self, problem: Problem) -> str | None:
        reason = fused.unmet_requirement(problem)
        if reason is not None:
            return reason
        if any(plan is None for plan in fused.planned(problem, self.name)):
            return f"no launch of {problem.hidden} hidden units fits this GPU"
        return None


BACKEND = _Stepwise()
