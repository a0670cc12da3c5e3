"""One launch per step of the same kernels: nothing waits for anything, so it runs wherever Triton does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrnn.backends import fused, handover

if TYPE_CHECKING:
    from fastrnn.dispatch import Problem

NAME = "stepwise"


def supports(problem: Problem) -> str | None:
    reason = fused.unmet_requirement(problem)
    if reason is not None:
        return reason
    if any(plan is None for plan in fused.planned(problem, NAME)):
        return f"no launch of {problem.hidden} hidden units fits this GPU"
    return None


def declines(problem: Problem) -> str | None:
    return fused.declined() or handover.declined(problem)


def describe(problem: Problem) -> str:
    return fused.describe(problem, NAME)
