"""Turning the recurrent layers of a model that exists into fastrnn's, and back, in place.

A layer keeps its identity and only changes its class: parameters, hooks, names, optimizers and references to it stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from fastrnn import cell_modules, modules
from fastrnn.dispatch import check_name

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: modules.LSTM,
    nn.GRU: modules.GRU,
    nn.RNN: modules.RNN,
    nn.LSTMCell: cell_modules.LSTMCell,
    nn.GRUCell: cell_modules.GRUCell,
    nn.RNNCell: cell_modules.RNNCell,
}
_TORCHS = {ours: theirs for theirs, ours in _OURS.items()}

# By name, since neither torch.ao nor torch._dynamo need be imported to tell that nothing is of theirs.
_QUANTIZED = ("torch.ao.nn.quantized.dynamic.", "torch.ao.nn.quantizable.modules.rnn")
_COMPILED = "torch._dynamo.eval_frame.OptimizedModule"


@dataclass(frozen=True, repr=False)
class Conversion:
    """What `convert` did.

    Attributes:
        converted: names of the modules it changed, as in `model.named_modules()`; the model itself is `""`.
        skipped: name of each recurrent module that it left to torch, and why.
    """

    converted: list[str]
    skipped: dict[str, str]

    def __repr__(self) -> str:
        lines = [f"  converted: {', '.join(map(_quoted, self.converted)) or 'nothing'}"]
        lines += [f"  skipped: {_quoted(name)}, {reason}" for name, reason in self.skipped.items()]
        return "\n".join(["Conversion(", *lines, ")"])


def convert(model: nn.Module, backend: str = "auto") -> Conversion:
    """Make fastrnn run every LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell of torch.nn in `model`, itself included.

    Layers are changed in place, by their class: `isinstance(layer, torch.nn.LSTM)` is false afterwards, and everything
    else about them stays. Parametrized layers (`torch.nn.utils.parametrizations`) stay parametrized. Layers that are
    fastrnn's already only take on `backend`, so that calling this again with another one changes it everywhere. Left
    alone are subclasses, since what they override may rely on torch's forward, and layers whose forward was replaced.

    Args:
        model: the model, not yet scripted, compiled or quantized.
        backend: as in `fastrnn.LSTM`, for every layer.

    Returns:
        The names of the modules that were changed, and of those skipped with the reason for each.

    Raises:
        TypeError: `model` is no module, or part of it is scripted, compiled or quantized. Nothing has been changed.
        ValueError: `backend` is no backend's name.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.LSTM(8, 16), torch.nn.Identity())
        >>> fastrnn.convert(model)
        Conversion(
          converted: '0'
        )
    """
    check_name(backend)
    _check_model(model, "convert")
    for name, module in model.named_modules():
        _refuse(name, module)
    converted, skipped = [], {}
    for name, module in model.named_modules():
        reason = _reason_to_skip(module)
        if reason is not None:
            skipped[name] = reason
        elif _change_class(module, _OURS) or (_kind(module) in _TORCHS and module.backend != backend):
            module.backend = backend
            converted.append(name)
    return Conversion(converted, skipped)


def revert(model: nn.Module) -> list[str]:
    """Undo `convert`: turn every fastrnn layer and cell in `model`, itself included, into torch.nn's, in place.

    Layers that were made as fastrnn's are turned as well. Left alone are subclasses of fastrnn's, and GRUs with
    `reset_after=False`, which torch has not.

    Args:
        model: the model.

    Returns:
        The names of the modules that were changed, as in `model.named_modules()`.

    Raises:
        TypeError: `model` is no module.

    Example:
        >>> model = torch.nn.Sequential(fastrnn.LSTM(8, 16))
        >>> fastrnn.revert(model)
        ['0']
    """
    _check_model(model, "revert")
    reverted = []
    for name, module in model.named_modules():
        if _change_class(module, _TORCHS):
            del module.backend
            vars(module).pop("reset_after", None)
            reverted.append(name)
    return reverted


def _quoted(name: str) -> str:
    return repr(name) if name else "the model itself"


def _check_model(model: object, function: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}() takes a torch.nn.Module, got {type(model).__module__}.{type(model).__name__}")


def _kind(module: nn.Module) -> type[nn.Module]:
    """The module's class, or what it was before torch.nn.utils.parametrize put a class of its own on top."""
    return parametrize.type_before_parametrizations(module)


def _refuse(name: str, module: nn.Module) -> None:
    """Raise TypeError for a module whose code is no longer that of its class."""
    bases = [f"{base.__module__}.{base.__qualname__}" for base in type(module).__mro__]
    if isinstance(module, torch.jit.ScriptModule):
        state, remedy = "scripted", "scripting"
    elif _COMPILED in bases or getattr(module, "_compiled_call_impl", None) is not None:
        state, remedy = "compiled", "compiling"
    elif any(base.startswith(_QUANTIZED) for base in bases):
        state, remedy = "quantized", "quantizing"
    else:
        return
    where = f"module {name!r}" if name else "the model itself"
    raise TypeError(f"convert() cannot change a {state} model: {where} is a {bases[0]}. Convert before {remedy}.")


def _reason_to_skip(module: nn.Module) -> str | None:
    """Why a recurrent module is left to torch; None for one that is not, and for modules of other kinds."""
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return None
    kind = _kind(module)
    if kind not in _OURS and kind not in _TORCHS:
        known = {*_OURS, *_TORCHS, nn.RNNBase, nn.RNNCellBase}
        base = next(base for base in kind.__mro__ if base in known)
        home = "fastrnn" if base in _TORCHS else "torch.nn"
        return f"subclass {kind.__name__} of {home}.{base.__name__}"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    return None


def _change_class(module: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> bool:
    """Give the module the class that `classes` has for its own; False if there is none."""
    kind = _kind(module)
    if kind not in classes or not getattr(module, "reset_after", True):
        return False
    cls = classes[kind]
    if parametrize.is_parametrized(module):
        # The parametrized tensors are properties of a class derived for this module; copies of it share that class, so
        # the new one is derived afresh, likewise with the plain class as its first base, where torch looks for it.
        own = {name: value for name, value in vars(type(module)).items() if name not in ("__dict__", "__weakref__")}
        cls = type(f"Parametrized{cls.__name__}", (cls,), own)
    module.__class__ = cls
    return True
