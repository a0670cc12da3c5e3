"""The whole sequence in one launch per wave, with the recurrent weights on chip: the fast path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrnn.backends import fused, handover

if TYPE_CHECKING:
    from fastrnn.dispatch import Problem

NAME = "persistent"


def supports(problem: Problem) -> str | None:
    reason = fused.unmet_requirement(problem)
    if reason is not None:
        return reason
    plans = fused.planned(problem, NAME)
    if any(plan is None for plan in plans):
        return f"no launch of {problem.hidden} hidden units fits this GPU at once"
    if fused.interpreting() and any(plan is not None and plan.exchange != "none" for plan in plans):
        return "the interpreter runs programs one after another, so they cannot wait for each other"
    return None


def declines(problem: Problem) -> str | None:
    return fused.declined() or handover.declined(problem)


def describe(problem: Problem) -> str:
    return fused.describe(problem, NAME)
