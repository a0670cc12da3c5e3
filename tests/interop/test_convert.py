"""`convert` and `revert`: what changes in a model, what must not, and what is refused before anything has changed."""

from __future__ import annotations

import copy
import io
import pickle
import pkgutil
from typing import Any

import pytest
import torch
from support import FLOAT64_ERROR, worst_error
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import fastrnn
from fastrnn import converted
from fastrnn.backends import reference
from fastrnn.interop.conversion import Conversion, convert, revert

KINDS = ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"]
BOTH_MODES = pytest.mark.parametrize("subclass", [True, False], ids=["subclass", "plain"])


def _class(kind: str, subclass: bool) -> type[nn.Module]:
    """What `convert` makes of torch.nn's layer or cell of that name."""
    return getattr(converted if subclass else fastrnn, kind)


class Model(nn.Module):
    """Layers and cells at several depths, one of them registered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.middle = nn.Sequential(nn.Linear(12, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 5)))
        self.shared = nn.GRU(5, 5)
        self.blocks = nn.ModuleDict({"again": self.shared, "rnn": nn.RNN(5, 8, nonlinearity="relu", bias=False)})
        self.cell = nn.GRUCell(8, 4)
        self.steps = nn.ModuleList([nn.LSTMCell(4, 4), nn.RNNCell(4, 4)])
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.encoder(x)
        x, _ = self.shared(self.middle(x))
        x, _ = self.blocks["again"](x)
        x, _ = self.blocks["rnn"](x)
        a = b = pair = None
        for step in x:
            a = self.cell(step, a)
            pair = self.steps[0](a, pair)
            b = self.steps[1](pair[0], b)
        assert isinstance(b, Tensor)
        return b


NAMES = ["encoder", "shared", "blocks.rnn", "cell", "steps.0", "steps.1"]


def _types(model: nn.Module) -> dict[str, type[nn.Module]]:
    return {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}


def _results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    output = model(x)
    output = output[0] if isinstance(output, tuple) else output
    output.sin().sum().backward()
    gradients = [x.grad, *(p.grad for p in model.parameters())]
    assert all(g is not None for g in gradients)
    return [output.detach(), *(g.clone() for g in gradients if g is not None)]


def _input() -> Tensor:
    return torch.randn(3, 5, 4, dtype=torch.float64)


@BOTH_MODES
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_results_stay(backend: str, subclass: bool) -> None:
    model, x = Model(), _input()
    before = _results(model, x)
    kinds = [type(model.get_submodule(name)).__name__ for name in NAMES]
    conversion = convert(model, backend, subclass=subclass)
    assert conversion == Conversion(NAMES, {})
    assert [type(model.get_submodule(name)) for name in NAMES] == [_class(kind, subclass) for kind in kinds]
    assert worst_error(_results(model, x), before) < FLOAT64_ERROR


@BOTH_MODES
@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_module_is_like_a_constructed_one(kind: str, subclass: bool) -> None:
    layer = getattr(nn, kind)(3, 4, bias=False)
    constructed = getattr(fastrnn, kind)(3, 4, bias=False)
    convert(layer, subclass=subclass)
    assert type(layer) is _class(kind, subclass)
    assert vars(layer).keys() == vars(constructed).keys()
    assert repr(layer) == repr(constructed)
    fastrnn.explain(layer, torch.randn(2, 3))
    fastrnn.warmup(layer, [(2, 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_relation_is_kept_unless_told_otherwise(kind: str) -> None:
    torchs, ours = getattr(nn, kind), getattr(fastrnn, kind)
    layers = torchs(3, 4), torchs(3, 4), ours(3, 4)
    convert(layers[0])
    convert(layers[1], subclass=False)
    convert(layers[2])
    assert [isinstance(layer, torchs) for layer in layers] == [True, False, False]
    assert all(isinstance(layer, ours) for layer in layers)
    assert type(layers[2]) is ours


@pytest.mark.parametrize("kind", KINDS)
def test_code_that_builds_another_layer_of_a_class_gets_one(kind: str) -> None:
    """As in `type(layer)(layer.input_size, ...)`."""
    layer = getattr(nn, kind)(3, 4)
    convert(layer)
    another = type(layer)(3, 4, bias=False, backend="reference")
    assert repr(another) == repr(getattr(fastrnn, kind)(3, 4, bias=False, backend="reference"))
    another.load_state_dict(getattr(nn, kind)(3, 4, bias=False).state_dict())
    assert revert(another) == [""]
    assert type(another) is getattr(nn, kind)


def test_a_layer_itself_can_be_the_model() -> None:
    model, x = nn.LSTM(4, 3, proj_size=2).double(), _input()
    before = _results(model, x)
    assert convert(model).converted == [""]
    assert type(model) is converted.LSTM
    assert worst_error(_results(model, x), before) < FLOAT64_ERROR
    assert revert(model) == [""]
    assert type(model) is nn.LSTM


def test_everything_else_about_the_model_stays() -> None:
    model = Model()
    model.eval()
    model.encoder.train()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    state, training = model.state_dict(), {name: m.training for name, m in modules.items()}
    convert(model)
    assert all(m is modules[name] for name, m in model.named_modules())
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert list(model.state_dict()) == list(state)
    assert {name: m.training for name, m in model.named_modules()} == training
    assert model.shared is model.blocks["again"]
    assert type(model.middle[0]) is nn.Linear
    model.load_state_dict(state)


def test_an_optimizer_made_before_moves_the_same_parameters() -> None:
    x = _input()
    models = [Model(), Model()]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in models]
    start = [p.detach().clone() for p in models[0].parameters()]
    convert(models[1])
    for _ in range(2):
        for model, optimizer in zip(models, optimizers, strict=True):
            _results(model, x)
            optimizer.step()
    moved = [list(m.parameters()) for m in models]
    assert not any(torch.equal(a, b) for a, b in zip(moved[1], start, strict=True))
    assert worst_error(moved[1], moved[0]) < FLOAT64_ERROR


def test_hooks_still_fire() -> None:
    model, calls = Model(), []
    for name in ("encoder", "cell"):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda module, args, name=name: calls.append(f"before {name}"))
        module.register_forward_hook(lambda module, args, output, name=name: calls.append(f"after {name}"))
        module.register_full_backward_hook(lambda module, gi, go, name=name: calls.append(f"backward {name}"))
    convert(model)
    _results(model, _input())
    forward = ["before encoder", "after encoder"] + ["before cell", "after cell"] * 3
    assert calls == forward + ["backward cell"] * 3 + ["backward encoder"]


def _through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def _through_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@BOTH_MODES
@pytest.mark.parametrize("duplicate", [copy.deepcopy, _through_pickle, _through_file])
def test_a_converted_model_can_be_copied(duplicate: Any, subclass: bool) -> None:
    model, x = Model(), _input()
    convert(model, "reference", subclass=subclass)
    before = _results(model, x)
    duplicated = duplicate(model)
    assert _types(duplicated) == _types(model)
    assert duplicated.cell.backend == "reference"
    assert duplicated.shared is duplicated.blocks["again"]
    assert duplicated.cell.weight_hh is not model.cell.weight_hh
    results = _results(duplicated, x)
    assert all(torch.equal(a, b) for a, b in zip(results, before, strict=True))


def test_the_backend_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    scan = reference.scan
    monkeypatch.setattr(reference, "scan", lambda *args: calls.append(args) or scan(*args))
    model, x = Model(), _input()
    convert(model)
    model(x)
    assert not calls
    convert(model, "reference")
    model(x)
    assert len(calls) == 14  # the LSTM's two layers, the GRU twice, the RNN, and three cells at three steps


def test_converting_again_changes_the_backend_alone() -> None:
    model = Model()
    convert(model)
    before = _types(model)
    assert convert(model) == Conversion([], {})
    assert convert(model, "reference") == Conversion(NAMES, {})
    assert _types(model) == before
    assert all(model.get_submodule(name).backend == "reference" for name in NAMES)
    assert "backend='reference'" in repr(model.encoder)


def test_converting_again_can_give_up_the_class_relation_and_does_not_restore_it() -> None:
    """A plain class may be one that was built by hand, for Dynamo's sake."""
    model = Model()
    convert(model)
    assert convert(model, subclass=False) == Conversion(NAMES, {})
    assert type(model.encoder) is fastrnn.LSTM
    assert convert(model) == Conversion([], {})
    assert convert(model, "reference") == Conversion(NAMES, {})
    assert type(model.encoder) is fastrnn.LSTM
    revert(model)
    assert convert(model) == Conversion(NAMES, {})
    assert type(model.encoder) is converted.LSTM


@BOTH_MODES
def test_revert_restores_torchs_layers(subclass: bool) -> None:
    model, x = Model(), _input()
    before = _types(model), repr(model), [set(vars(m)) for m in model.modules()]
    results = _results(model, x)
    convert(model, "reference", subclass=subclass)
    _results(model, x)
    assert revert(model) == NAMES
    assert (_types(model), repr(model), [set(vars(m)) for m in model.modules()]) == before
    assert all(torch.equal(a, b) for a, b in zip(_results(model, x), results, strict=True))
    assert revert(model) == []


def test_revert_turns_what_was_made_as_fastrnns() -> None:
    model = nn.Sequential(fastrnn.GRU(4, 3, dtype=torch.float64, backend="reference"))
    x = _input()
    before = _results(model, x)
    assert revert(model) == ["0"]
    assert type(model[0]) is nn.GRU
    assert worst_error(_results(model, x), before) < FLOAT64_ERROR


class MyLSTM(nn.LSTM):
    pass


class MyOwn(nn.RNNBase):
    pass


class MyFast(fastrnn.GRU):
    pass


class MyFastAndTorchs(converted.GRU):
    pass


def test_subclasses_are_skipped() -> None:
    model = nn.ModuleDict({"a": MyLSTM(2, 3), "b": nn.GRU(2, 3), "c": MyOwn("GRU", 2, 3), "d": MyFast(2, 3)})
    model["e"] = MyFastAndTorchs(2, 3)
    before = _types(model)
    conversion = convert(model, "reference")
    assert conversion.converted == ["b"]
    assert conversion.skipped == {
        "a": "subclass MyLSTM of torch.nn.LSTM",
        "c": "subclass MyOwn of torch.nn.RNNBase",
        "d": "subclass MyFast of fastrnn.GRU",
        "e": "subclass MyFastAndTorchs of fastrnn.GRU",
    }
    assert model["d"].backend == "auto"
    assert _types(model) == {**before, "b": converted.GRU}
    assert revert(model) == ["b"]
    assert _types(model) == before


def test_a_replaced_forward_is_skipped() -> None:
    model = nn.Sequential(nn.LSTM(2, 3), nn.LSTM(3, 3))
    model[0].forward = model[0].forward  # as libraries do that wrap it
    assert convert(model) == Conversion(["1"], {"0": "its forward was replaced on the instance"})
    assert type(model[0]) is nn.LSTM


def test_the_summary_is_readable() -> None:
    assert repr(convert(nn.Sequential(nn.LSTM(2, 3), nn.GRUCell(2, 3), MyLSTM(2, 3)))) == (
        "Conversion(\n  converted: '0', '1'\n  skipped: '2', subclass MyLSTM of torch.nn.LSTM\n)"
    )
    assert repr(convert(nn.RNN(2, 3))) == "Conversion(\n  converted: the model itself\n)"
    assert repr(convert(nn.Linear(2, 3))) == "Conversion(\n  converted: nothing\n)"


@BOTH_MODES
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_parametrized_layers_stay_parametrized(backend: str, subclass: bool) -> None:
    lstm = nn.LSTM(4, 3, num_layers=2).double()
    parametrizations.weight_norm(lstm, "weight_hh_l0")
    parametrizations.orthogonal(lstm, "weight_ih_l1")
    copied, x = copy.deepcopy(lstm), _input()
    before, names = _results(lstm, x), [name for name, _ in lstm.named_parameters()]
    assert "parametrizations.weight_hh_l0.original0" in names
    assert convert(lstm, backend, subclass=subclass) == Conversion([""], {})
    assert isinstance(lstm, fastrnn.LSTM)
    assert isinstance(lstm, nn.LSTM) is subclass
    assert type(lstm).__name__ == "ParametrizedLSTM"
    assert [name for name, _ in lstm.named_parameters()] == names
    assert worst_error(_results(lstm, x), before) < FLOAT64_ERROR
    # The class that torch derived is shared with copies; theirs must not have changed.
    assert isinstance(copied, nn.LSTM)
    assert not isinstance(copied, fastrnn.LSTM)
    assert worst_error(_results(copied, x), before) < FLOAT64_ERROR

    assert convert(lstm, backend, subclass=subclass) == Conversion([], {})
    assert revert(lstm) == [""]
    assert isinstance(lstm, nn.LSTM)
    assert not isinstance(lstm, fastrnn.LSTM)
    assert worst_error(_results(lstm, x), before) < FLOAT64_ERROR


@BOTH_MODES
def test_parametrizations_can_be_removed_after_conversion(subclass: bool) -> None:
    lstm, x = nn.LSTM(4, 3).double(), _input()
    parametrizations.weight_norm(lstm, "weight_hh_l0")
    before = lstm(x)[0].detach()
    convert(lstm, subclass=subclass)
    parametrize.remove_parametrizations(lstm, "weight_hh_l0")
    assert type(lstm) is _class("LSTM", subclass)
    assert worst_error([lstm(x)[0]], [before]) < FLOAT64_ERROR
    parametrizations.weight_norm(lstm, "weight_ih_l0")
    assert worst_error([lstm(x)[0]], [before]) < FLOAT64_ERROR
    revert(lstm)
    parametrize.remove_parametrizations(lstm, "weight_ih_l0")
    assert type(lstm) is nn.LSTM


def test_a_parametrized_subclass_is_skipped() -> None:
    layer = MyLSTM(2, 3)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    assert convert(layer) == Conversion([], {"": "subclass MyLSTM of torch.nn.LSTM"})


def _scripted() -> nn.Module:
    return torch.jit.script(nn.Linear(2, 3))


def _compiled() -> nn.Module:
    compiled = torch.compile(nn.Linear(2, 3), backend="eager")
    assert isinstance(compiled, nn.Module)
    return compiled


def _compiled_in_place() -> nn.Module:
    layer = nn.Linear(2, 3)
    layer.compile(backend="eager")
    return layer


def _dynamically_quantized() -> nn.Module:
    return torch.ao.nn.quantized.dynamic.LSTM(2, 3)


def _quantizable() -> nn.Module:
    return torch.ao.nn.quantizable.LSTM(2, 3)


# Scripting and quantization are deprecated in torch; models that hold them are what is tested here.
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
@pytest.mark.parametrize("nested", [False, True], ids=["the model itself", "nested"])
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_compiled, "compiled"),
        (_compiled_in_place, "compiled"),
        (_dynamically_quantized, "quantized"),
        (_quantizable, "quantized"),
    ],
)
def test_refused_before_anything_changes(make: Any, word: str, nested: bool) -> None:
    culprit = make()
    model = nn.ModuleDict({"early": nn.LSTM(2, 3), "deep": nn.Sequential(nn.GRU(2, 3), culprit)})
    before = _types(model)
    where = "module 'deep.1'" if nested else "the model itself"
    found = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
    with pytest.raises(TypeError, match=rf"{word} model: {where} is a {found}. Convert before \w+ing"):
        convert(model if nested else culprit)
    assert _types(model) == before
    assert not hasattr(model["early"], "backend")


def test_a_scripted_model_is_refused() -> None:
    for make in (_scripted, lambda: torch.jit.trace(nn.Linear(2, 3), torch.randn(1, 2))):
        with pytest.raises(TypeError, match=r"scripted model: the model itself is a torch\.jit.*\. Convert before"):
            convert(make())


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


@BOTH_MODES
def test_a_scripted_part_is_skipped_and_named_once(subclass: bool) -> None:
    """With what it holds, though it holds an LSTM; the layers around it are converted, and reverted."""
    part = nn.Sequential(torch.jit.script(Calls()), nn.Linear(6, 4, dtype=torch.float64))
    traced = torch.jit.trace(nn.Linear(4, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64))
    model = nn.ModuleDict({"before": Calls(), "part": part, "traced": traced, "part2": Calls()})
    x = _input()

    def run(x: Tensor) -> Tensor:
        return model["part2"](model["traced"](part(x)))

    before = run(x)
    conversion = convert(model, subclass=subclass)
    assert conversion.converted == ["before.lstm", "part2.lstm"]
    reason = "scripted, with all that it holds: convert before scripting"
    assert conversion.skipped == {"part.0": reason, "traced": reason}
    assert worst_error([run(x)], [before]) < FLOAT64_ERROR
    assert revert(model) == ["before.lstm", "part2.lstm"]
    assert worst_error([run(x)], [before]) < FLOAT64_ERROR


def test_no_module_hides_a_function() -> None:
    """Importing a submodule sets the package's attribute of that name, function or not."""
    assert not {module.name for module in pkgutil.iter_modules(fastrnn.__path__)} & set(fastrnn.__all__)


def test_unknown_backend_changes_nothing() -> None:
    model = Model()
    before = _types(model)
    with pytest.raises(ValueError, match=r"backend should be one of 'auto', .*, got 'cudnn'"):
        convert(model, "cudnn")
    assert _types(model) == before


@pytest.mark.parametrize("function", [convert, revert])
@pytest.mark.parametrize("value", [None, nn.LSTM, [nn.LSTM(2, 3)]], ids=["None", "class", "list"])
def test_only_modules_are_taken(function: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) takes a torch.nn.Module, got builtins\.\w+"):
        function(value)
