"""What a benchmark provider is: a class in a file of this folder, and an entry in `table.PROVIDERS`."""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from fastrnn.bench.providers.own import is_own, make_recurrent
from fastrnn.bench.rows.cases import Case

State = dict[str, Tensor]


class Provider:
    """Someone to measure. The class itself is what is asked; it has no instances, unless they are modules (`Adapter`).

    Attributes:
        needs: the module that has to be installed, if any. It is imported when a module is built, and not before.
        install: how.
        cuda_only: whether it is measured on CUDA GPUs alone: elsewhere it has no kernels of its own.
        divides: whether the time of its calls divides, see `split.shares`.
    """

    needs: ClassVar[str | None] = None
    install: ClassVar[str] = ""
    cuda_only: ClassVar[bool] = False
    divides: ClassVar[bool] = False

    @classmethod
    def build(cls, case: Case, state: State) -> nn.Module:
        """The module of a case around weights with torch.nn's names, called as fastrnn's layers are."""
        raise NotImplementedError

    @classmethod
    def runs(cls, case: Case, module: nn.Module, x: Tensor, options: dict[str, Any]) -> tuple[str, str]:
        """Backend and tier of `module(x, **options)`, to be asked under the grad mode it runs in."""
        raise NotImplementedError

    @classmethod
    def lacks(cls, case: Case) -> str | None:
        """Why there is no such module for a case, or None."""
        return None

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed, or None."""
        if cls.needs is None or importlib.util.find_spec(cls.needs) is not None:
            return None
        return f"{cls.needs} is not installed; {cls.install}"

    @classmethod
    def unable(cls, case: Case, device: torch.device) -> str | None:
        """Why `case` cannot be measured on `device`, or None."""
        if cls.cuda_only and device.type != "cuda":
            return f"{cls.needs} is measured on CUDA GPUs only"
        return cls.missing() or cls.lacks(case)


class Adapter(nn.Module, Provider):
    """A provider whose instances are the modules; `ran` is what the record says of them."""

    ran: tuple[str, str]

    @classmethod
    def build(cls, case: Case, state: State) -> nn.Module:
        return cls(case, state)

    @classmethod
    def runs(cls, case: Case, module: nn.Module, x: Tensor, options: dict[str, Any]) -> tuple[str, str]:
        return cast(Adapter, module).ran


def make_layer(namespace: Any, case: Case, **options: Any) -> nn.Module:
    """A layer of torch.nn, or of what has layers of the same names and arguments."""
    name = case.cell.upper()
    if case.cell.startswith("rnn_"):
        name, options["nonlinearity"] = "RNN", case.cell.removeprefix("rnn_")
    elif case.cell == "gru_textbook":
        name = "GRU"
    layer: nn.Module = getattr(namespace, name)(
        case.I, case.H, case.layers, bidirectional=case.bidirectional, **options
    )
    return layer


def build_layer(namespace: Any, case: Case, state: State, **options: Any) -> nn.Module:
    """The same with given weights, where they are and as they are."""
    like = state["weight_ih_l0"]
    return loaded(make_layer(namespace, case, device=like.device, dtype=like.dtype, **options), state)


def loaded(layer: nn.Module, state: State) -> nn.Module:
    """`layer` with these weights."""
    layer.load_state_dict(state)
    return layer


def weight_shapes(case: Case) -> dict[str, torch.Size]:
    """The names and shapes of the weights of `case`."""
    layer = make_recurrent(case, device="meta") if is_own(case) else make_layer(nn, case, device="meta")
    return {name: weight.shape for name, weight in layer.state_dict().items()}
