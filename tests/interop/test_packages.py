"""What published packages do to recurrent layers, after `convert`: small stand-ins of their idioms.

Each names the package it is taken from; `test_published.py` runs the packages themselves, where they are installed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import FLOAT64_ERROR, worst_error
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn import converted


def _gradients(module: nn.Module, output: Tensor) -> list[Tensor]:
    module.zero_grad()
    output.square().sum().backward()
    return [output.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


class Dispatches(nn.Module):
    """torchrl: packs for torch.nn's LSTM; any other is taken for one of its own, which has a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, dtype=torch.float64)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if isinstance(self.lstm, nn.LSTM):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            output, _ = self.lstm(packed)
            return pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0]
        mask = torch.arange(x.shape[1]).unsqueeze(0) < lengths.unsqueeze(1)
        return self.lstm(x, mask=mask)[0]


def test_dispatch_in_the_middle_of_training() -> None:
    model, x, lengths = Dispatches(), torch.randn(3, 6, 3, dtype=torch.float64), torch.tensor([2, 6, 1])
    before = _gradients(model, model(x, lengths))
    fastrnn.convert(model)
    assert worst_error(_gradients(model, model(x, lengths)), before) < FLOAT64_ERROR
    fastrnn.convert(model, subclass=False)
    with pytest.raises(TypeError, match="mask"):
        model(x, lengths)


class Initialises(nn.Module):
    """kraken's way with layers, by class and by the parameters' number of axes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(4, 2)

    def initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 0.5)
        elif isinstance(module, nn.LSTM):
            for parameter in module.parameters():
                if parameter.dim() == 2:
                    nn.init.orthogonal_(parameter)
                else:
                    nn.init.constant_(parameter[len(parameter) // 4 : len(parameter) // 2], 1.0)
        elif isinstance(module, nn.GRU):
            for parameter in module.parameters():
                nn.init.constant_(parameter, 0.25)


def test_an_initialiser_finds_the_layer() -> None:
    model = Initialises(nn.LSTM(3, 4))
    fastrnn.convert(model)
    model.apply(model.initialise)
    weight = model.layer.weight_hh_l0
    torch.testing.assert_close(weight.t() @ weight, torch.eye(4))
    assert (model.layer.bias_ih_l0[4:8] == 1).all()
    model = Initialises(nn.GRU(3, 4))
    fastrnn.convert(model)
    model.apply(model.initialise)
    assert all((p == 0.25).all() for p in model.layer.parameters())


class PreTrained(nn.Module):
    """transformers: parameters get memory and no values; a checkpoint fills some, `_init_weights` the rest."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.rnn = fastrnn.LSTM(3, 4) if by_hand else nn.LSTM(3, 4)
        if not by_hand:
            fastrnn.convert(self)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                nn.init.xavier_uniform_(parameter) if "weight" in name else nn.init.zeros_(parameter)

    def load(self, checkpoint: dict[str, Tensor]) -> None:
        for parameter in self.parameters():
            nn.init.constant_(parameter, float("nan"))
        missing, _ = self.load_state_dict(checkpoint, strict=False)
        for module in {name.rpartition(".")[0] for name in missing}:
            self._init_weights(self.get_submodule(module))


class PreTrainedByHand(PreTrained):
    """What the documentation says for layers built by hand."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.RNNBase):
            module.reset_parameters()


@pytest.mark.parametrize("by_hand", [False, True], ids=["converted", "by hand"])
def test_what_a_checkpoint_lacks_is_initialised(by_hand: bool) -> None:
    with torch.no_grad():
        model = PreTrainedByHand(True) if by_hand else PreTrained(False)
        model.load({})
    assert all(p.isfinite().all() for p in model.parameters())


class LanguageModel(nn.Module):
    """espnet2: states of a batch taken apart and put together again, by whether there is one tensor or two."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(3, 4, 2, batch_first=True, dtype=torch.float64)

    def score(self, x: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        given: Any = None
        if states[0] is not None and isinstance(self.rnn, nn.LSTM):
            given = torch.stack([h for h, _ in states], 1), torch.stack([c for _, c in states], 1)
        elif states[0] is not None:
            given = torch.stack(states, 1)
        output, final = self.rnn(x, given)
        if isinstance(self.rnn, nn.LSTM):
            return output, [(final[0][:, i], final[1][:, i]) for i in range(len(states))]
        return output, [final[:, i] for i in range(len(states))]


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_language_model_takes_the_branch_of_its_layer(kind: str) -> None:
    model, x = LanguageModel(kind), torch.randn(4, 2, 1, 3, dtype=torch.float64)

    def scores() -> list[Tensor]:
        states, found = [None, None], []
        for step in x:
            output, states = model.score(step, states)
            found.append(output)
        return found

    before = scores()
    fastrnn.convert(model)
    assert worst_error(scores(), before) < FLOAT64_ERROR


def test_tables_keyed_by_the_exact_class_do_not_find_it() -> None:
    """opacus: its validators and fixers. So the documentation says: fix first, then convert."""
    validators = {nn.LSTM: "use DPLSTM"}
    model = nn.Sequential(nn.LSTM(3, 4))
    assert type(model[0]) in validators
    fastrnn.convert(model)
    assert type(model[0]) not in validators
    fastrnn.revert(model)
    assert type(model[0]) in validators


class Packs(nn.Module):
    """speechbrain: relative lengths, flatten_parameters at every call; flair: the class by its name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(3, 4, bidirectional=True, batch_first=True, dtype=torch.float64)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        self.rnn.flatten_parameters()
        steps = (lengths * x.size(1)).cpu()
        output, _ = self.rnn(pack_padded_sequence(x, steps, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(output, batch_first=True)[0]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_packing_by_relative_lengths(kind: str) -> None:
    model, x = Packs(kind), torch.randn(3, 10, 3, dtype=torch.float64)
    lengths = torch.tensor([0.3, 1.0, 0.7])
    before = _gradients(model, model(x, lengths))
    fastrnn.convert(model)
    assert model.rnn._get_name() == kind
    assert hasattr(model.rnn, "_flat_weights_names")
    assert worst_error(_gradients(model, model(x, lengths)), before) < FLOAT64_ERROR


def test_hooks_see_what_torch_nns_would() -> None:
    """captum: attributions through a layer's outputs and gradients."""
    model = nn.LSTM(3, 4, dtype=torch.float64)
    seen: list[Tensor] = []
    model.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    x = torch.randn(5, 2, 3, dtype=torch.float64)

    def integrated() -> Tensor:
        total = torch.zeros_like(x)
        for alpha in (0.25, 0.5, 1.0):
            scaled = (alpha * x).requires_grad_()
            model(scaled)
            total += torch.autograd.grad(seen[-1][-1].sum(), scaled)[0]
        return total

    before = integrated()
    fastrnn.convert(model)
    assert worst_error([integrated()], [before]) < FLOAT64_ERROR


class TakesLengths:
    """pytorch-forecasting: one forward for torch.nn's layers, mixed into a subclass of each."""

    def forward(self, x: Any, hx: Any = None, lengths: Any = None) -> Any:
        if lengths is None:
            return super().forward(x, hx)  # type: ignore[misc]
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, hidden = super().forward(packed, hx)  # type: ignore[misc]
        return pad_packed_sequence(output, batch_first=True)[0], hidden


class TheirLSTM(TakesLengths, nn.LSTM):
    pass


class OurLSTM(TakesLengths, converted.LSTM):
    """The documentation's recipe: the same class, derived from what `convert` makes of torch.nn's."""


def test_the_recipe_for_subclasses_with_a_forward_of_their_own() -> None:
    model = nn.ModuleDict({"rnn": TheirLSTM(3, 4, batch_first=True, dtype=torch.float64)})
    rnn = model["rnn"]
    x, lengths = torch.randn(3, 6, 3, dtype=torch.float64), torch.tensor([2, 6, 1])
    before = [_gradients(rnn, rnn(x, lengths=lengths)[0]), _gradients(rnn, rnn(x)[0])]
    assert fastrnn.convert(model).skipped == {"rnn": "subclass TheirLSTM of torch.nn.LSTM"}
    for module in model.modules():
        if type(module) is TheirLSTM:
            module.__class__ = OurLSTM
    assert isinstance(rnn, fastrnn.LSTM)
    after = [_gradients(rnn, rnn(x, lengths=lengths)[0]), _gradients(rnn, rnn(x)[0])]
    for theirs, ours in zip(before, after, strict=True):
        assert worst_error(ours, theirs) < FLOAT64_ERROR
    fastrnn.explain(rnn, x)
    built = OurLSTM(3, 4, batch_first=True, dtype=torch.float64)
    built.load_state_dict(rnn.state_dict())
    assert worst_error([built(x)[0]], [rnn(x)[0]]) == 0


@pytest.mark.parametrize("kind", ["GRU", "LSTMCell", "GRUCell"])
def test_the_recipe_for_autocast_on_a_cpu(kind: str) -> None:
    """torch.nn's give float32 there, ours autocast's dtype; outside autocast both give float32."""
    theirs, ours = getattr(nn, kind)(3, 4), getattr(fastrnn, kind)(3, 4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 3) if kind.endswith("Cell") else torch.randn(6, 5, 3)

    def first(result: Any) -> Tensor:
        return result[0] if isinstance(result, tuple) else result

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert first(theirs(x)).dtype == torch.float32
        assert first(ours(x)).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            result = first(ours(x.float()))
    assert result.dtype == torch.float32
    assert worst_error([result], [first(theirs(x))]) < 1e-6


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (nn.LSTM, {}),
        (fastrnn.LSTM, {}),
        (fastrnn.GRU, {"resets": torch.zeros(6, 2, dtype=torch.bool)}),
        (fastrnn.RNN, {"resets": torch.zeros(6, 2, dtype=torch.bool)}),
    ],
    ids=["torch.nn.LSTM", "LSTM", "GRU", "RNN"],
)
def test_output_changed_in_place_before_backward_is_an_error(make: Any, options: dict[str, Any]) -> None:
    """As with torch.nn.LSTM, since backward needs the output; a new tensor is what to make of it."""
    layer, x = make(3, 4), torch.randn(6, 2, 3)
    output, _ = layer(x, **options)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.mul_(2).sum().backward()
    output, _ = layer(x, **options)
    (output * 2).sum().backward()
