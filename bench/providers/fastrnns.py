"""fastrnn's own layers: as a user gets them, and the equations in plain torch, which define a right result."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor, nn

import fastrnn
from fastrnn.bench.providers.own import is_own, make_recurrent
from fastrnn.bench.providers.provider import Provider, State, build_layer, loaded
from fastrnn.bench.rows.cases import Case
from fastrnn.scan.choice import select


class Fastrnn(Provider):
    """fastrnn's layer."""

    divides = True
    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def build(cls, case: Case, state: State) -> nn.Module:
        if is_own(case):
            like = state["weight_ih_l0"]
            return loaded(make_recurrent(case, device=like.device, dtype=like.dtype, **cls.options), state)
        textbook = {"reset_after": False} if case.cell == "gru_textbook" else {}
        return build_layer(fastrnn, case, state, **cls.options, **textbook)

    @classmethod
    def runs(cls, case: Case, module: nn.Module, x: Tensor, options: dict[str, Any]) -> tuple[str, str]:
        layer = cast(Any, module)
        problem = layer._problem(x, **options)
        backend = select(problem, str(layer.backend))
        return backend.name, backend.describe(problem)


class Reference(Fastrnn):
    """The equations."""

    options: ClassVar[dict[str, Any]] = {"backend": "reference"}
