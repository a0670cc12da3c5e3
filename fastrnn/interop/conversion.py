"""Turning the recurrent layers of a model that exists into fastrnn's, and back, in place.

A layer keeps its identity and only changes its class: parameters, hooks, names, optimizers and references to it stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from fastrnn import converted
from fastrnn.layers import cells, rnn
from fastrnn.scan.choice import check_name

# torch.nn's class, fastrnn's, and the one that derives from both.
_CLASSES: tuple[tuple[type[nn.Module], type[nn.Module], type[nn.Module]], ...] = (
    (nn.LSTM, rnn.LSTM, converted.LSTM),
    (nn.GRU, rnn.GRU, converted.GRU),
    (nn.RNN, rnn.RNN, converted.RNN),
    (nn.LSTMCell, cells.LSTMCell, converted.LSTMCell),
    (nn.GRUCell, cells.GRUCell, converted.GRUCell),
    (nn.RNNCell, cells.RNNCell, converted.RNNCell),
)
_TO_BOTH = {torchs: both for torchs, _, both in _CLASSES}
_TO_PLAIN = {kind: plain for torchs, plain, both in _CLASSES for kind in (torchs, both)}
_TO_TORCHS = {kind: torchs for torchs, plain, both in _CLASSES for kind in (plain, both)}

# By name, since neither torch.ao nor torch._dynamo need be imported to tell that nothing is of theirs.
_QUANTIZED = ("torch.ao.nn.quantized.dynamic.", "torch.ao.nn.quantizable.modules.rnn")
_COMPILED = "torch._dynamo.eval_frame.OptimizedModule"


@dataclass(frozen=True, repr=False)
class Conversion:
    """What `convert` did.

    Attributes:
        converted: names of the modules it changed, as in `model.named_modules()`; the model itself is `""`.
        skipped: name of each recurrent module that it left to torch, and of each scripted one, and why.
    """

    converted: list[str]
    skipped: dict[str, str]

    def __repr__(self) -> str:
        lines = [f"  converted: {', '.join(map(_quoted, self.converted)) or 'nothing'}"]
        lines += [f"  skipped: {_quoted(name)}, {reason}" for name, reason in self.skipped.items()]
        return "\n".join(["Conversion(", *lines, ")"])


def convert(model: nn.Module, backend: str = "auto", *, subclass: bool = True) -> Conversion:
    """Make fastrnn run every LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell of torch.nn in `model`, itself included.

    Layers are changed in place, by their class, which derives from torch.nn's too: `isinstance(layer, torch.nn.LSTM)`
    stays true, as does everything else about them. Parametrized layers (`torch.nn.utils.parametrizations`) stay
    parametrized. Left alone are subclasses, since what they override may rely on torch's forward, layers whose forward
    was replaced, and what TorchScript has compiled.

    Layers that are fastrnn's already take on `backend`, so that calling this again with another one changes it
    everywhere, and with `subclass=False` they lose the relation to torch.nn's class. Those that never had it,
    `fastrnn.LSTM` as it is built by hand, do not gain it.

    Args:
        model: the model, not yet scripted, compiled or quantized.
        backend: as in `fastrnn.LSTM`, for every layer.
        subclass: whether converted layers are instances of torch.nn's classes. False makes them fastrnn's alone, which
            `torch.compile(fullgraph=True)` needs: Dynamo breaks its graph at whatever is a `torch.nn.LSTM`, `GRU` or
            `RNN`, unless `torch._dynamo.config.allow_rnn` is set.

    Returns:
        The names of the modules that were changed, and of those skipped with the reason for each.

    Raises:
        TypeError: `model` is no module or is scripted, or part of it is compiled or quantized. Nothing has been
            changed.
        ValueError: `backend` is no backend's name.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.LSTM(8, 16), torch.nn.Identity())
        >>> fastrnn.convert(model)
        Conversion(
          converted: '0'
        )
        >>> isinstance(model[0], torch.nn.LSTM), isinstance(model[0], fastrnn.LSTM)
        (True, True)
    """
    check_name(backend)
    _check_model(model, "convert")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(_refusal("", "scripted", "scripting", model))
    changeable = _outside_scripts(model)
    for name, module in changeable.items():
        _refuse(name, module)
    converted, skipped = [], {}
    for name, module in changeable.items():
        reason = _reason_to_skip(module)
        if reason is not None:
            skipped[name] = reason
            continue
        changed = _change_class(module, _TO_BOTH if subclass else _TO_PLAIN)
        if changed or (_kind(module) in _TO_TORCHS and module.backend != backend):
            module.backend = backend  # type: ignore[assignment]  # no parameter and no module
            converted.append(name)
    return Conversion(converted, skipped)


def revert(model: nn.Module) -> list[str]:
    """Undo `convert`: turn every fastrnn layer and cell in `model`, itself included, into torch.nn's, in place.

    Layers that were made as fastrnn's are turned as well. Left alone are subclasses of fastrnn's, and what torch
    has not: GRUs with `reset_after=False`, and layers with `heads`.

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
        if _change_class(module, _TO_TORCHS):
            del module.backend
            vars(module).pop("reset_after", None)
            vars(module).pop("heads", None)
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


def _outside_scripts(model: nn.Module) -> dict[str, nn.Module]:
    """`model.named_modules()` without what lies inside ScriptModules, which themselves are there."""
    found: dict[str, nn.Module] = {}
    scripts: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{script}.") for script in scripts):
            continue
        if isinstance(module, torch.jit.ScriptModule):
            scripts.append(name)
        found[name] = module
    return found


def _refusal(name: str, state: str, remedy: str, module: nn.Module) -> str:
    where = f"module {name!r}" if name else "the model itself"
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    return f"convert() cannot change a {state} model: {where} is a {kind}. Convert before {remedy}."


def _refuse(name: str, module: nn.Module) -> None:
    """Raise TypeError for a module whose code is no longer that of its class."""
    bases = [f"{base.__module__}.{base.__qualname__}" for base in type(module).__mro__]
    if _COMPILED in bases or getattr(module, "_compiled_call_impl", None) is not None:
        raise TypeError(_refusal(name, "compiled", "compiling", module))
    if any(base.startswith(_QUANTIZED) for base in bases):
        raise TypeError(_refusal(name, "quantized", "quantizing", module))


def _reason_to_skip(module: nn.Module) -> str | None:
    """Why a recurrent or scripted module is left alone; None for one that is not, and for modules of other kinds."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted, with all that it holds: convert before scripting"
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return None
    kind = _kind(module)
    if kind not in _TO_PLAIN and kind not in _TO_TORCHS:
        known = {*_TO_PLAIN, *_TO_TORCHS, nn.RNNBase, nn.RNNCellBase}
        base = next(base for base in kind.__mro__ if base in known)
        home = "fastrnn" if base in _TO_TORCHS else "torch.nn"
        return f"subclass {kind.__name__} of {home}.{base.__name__}"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    return None


def _change_class(module: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> bool:
    """Give the module the class that `classes` has for its own; False if there is none."""
    kind = _kind(module)
    if kind not in classes or not getattr(module, "reset_after", True) or getattr(module, "heads", 1) != 1:
        return False
    cls = classes[kind]
    if parametrize.is_parametrized(module):
        # The parametrized tensors are properties of a class derived for this module; copies of it share that class, so
        # the new one is derived afresh, likewise with the plain class as its first base, where torch looks for it.
        own = {name: value for name, value in vars(type(module)).items() if name not in ("__dict__", "__weakref__")}
        cls = type(f"Parametrized{cls.__name__}", (cls,), own)
    module.__class__ = cls
    return True
