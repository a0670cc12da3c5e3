"""What other code touches of a layer besides calling it: its parameters, attributes, hooks and copies.

torch.nn's layer with the same weights says what is right. A layer that caches its parameters fails these tests.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import as_tuple
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import fastrnn

LAYERS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")
T, B, I, H = 3, 2, 4, 4  # noqa: E741  # the field's names; I == H lets both layers of a stack share weights

every_layer = pytest.mark.parametrize("name", LAYERS)
every_cell = pytest.mark.parametrize("name", CELLS)
every_module = pytest.mark.parametrize("name", [*LAYERS, *CELLS])


@pytest.fixture(params=["auto", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    """torch's kernels take the parameters in one list, ours one by one."""
    return str(request.param)


def make(name: str, backend: str = "auto", layers: int = 2, **options: Any) -> Any:
    if name in LAYERS:
        options["num_layers"] = layers
    return getattr(fastrnn, name)(I, H, dtype=torch.float64, backend=backend, **options)


def pair(name: str, backend: str = "auto", layers: int = 2, **options: Any) -> tuple[Any, Any]:
    """Ours, and torch.nn's with the same weights."""
    ours = make(name, backend, layers, **options)
    if name in LAYERS:
        options["num_layers"] = layers
    theirs = getattr(nn, name)(I, H, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def x() -> Tensor:
    return torch.randn(T, B, I, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def call(module: nn.Module, *args: Any, **kwargs: Any) -> list[Tensor]:
    """Output and final states, one list."""
    if not args and not kwargs:
        args = (x() if hasattr(module, "num_layers") else x()[0],)
    result = module(*args, **kwargs)
    if isinstance(result, Tensor):
        return [result]
    return [result[0], *as_tuple(result[1])]


def differ(a: list[Tensor], b: list[Tensor]) -> bool:
    return not torch.allclose(a[0], b[0], rtol=1e-3, atol=1e-3)


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    module.zero_grad()
    total = torch.stack([r.square().sum() for r in call(module)]).sum()
    total.backward()
    return {key: p.grad for key, p in module.named_parameters()}


def same(ours: nn.Module, theirs: nn.Module) -> None:
    """Same results and same gradients, the missing ones included."""
    assert_close(call(ours), call(theirs))
    mine, expected = gradients(ours), gradients(theirs)
    assert list(mine) == list(expected)
    for key, gradient in expected.items():
        assert (mine[key] is None) == (gradient is None), key
        if gradient is not None:
            assert_close(mine[key], gradient)


# Attributes


@every_layer
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"bidirectional": True}], ids=str)
def test_all_weights_are_the_parameters_nested_as_in_torch(name: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(name, **options)
    ids, theirs_ids = ({id(p): n for n, p in m.named_parameters()} for m in (ours, theirs))
    nested = [[ids[id(p)] for p in group] for group in ours.all_weights]
    assert nested == [[theirs_ids[id(p)] for p in group] for group in theirs.all_weights]


@every_layer
def test_flat_weights_are_the_parameters_in_torchs_order(name: str) -> None:
    ours, theirs = pair(name, bidirectional=True)
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert all(a is b for a, b in zip(ours._flat_weights, ours.parameters(), strict=True))


@every_layer
def test_flatten_parameters_changes_nothing(name: str) -> None:
    layer = make(name)
    before = call(layer)
    assert layer.flatten_parameters() is None
    assert_close(call(layer), before, rtol=0, atol=0)


@every_layer
def test_public_attributes_are_torchs(name: str) -> None:
    """Every public attribute of torch.nn's layer is there, with its value, and `backend` is the only other."""
    ours, theirs = pair(name, bidirectional=True, dropout=0.25, batch_first=True)

    def public(module: nn.Module) -> dict[str, Any]:
        return {key: value for key, value in vars(module).items() if not key.startswith("_")}

    assert public(ours) == {**public(theirs), "backend": "auto"}
    assert ours.mode == theirs.mode


@every_cell
def test_public_attributes_of_cells_are_torchs(name: str) -> None:
    ours, theirs = pair(name)
    for key, value in vars(theirs).items():
        if not key.startswith("_"):
            assert getattr(ours, key) == value


@every_module
def test_isinstance_of_torchs_base(name: str) -> None:
    assert isinstance(make(name), nn.RNNBase if name in LAYERS else nn.RNNCellBase)


@every_module
def test_named_parameters_order(name: str) -> None:
    options: dict[str, Any] = {"bidirectional": True} if name in LAYERS else {}
    ours, theirs = pair(name, **options)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert not list(ours.named_buffers())


def test_dropout_changed_between_calls(backend: str) -> None:
    layer = make("GRU", backend)
    plain = call(layer)
    layer.dropout = 1.0
    dropped = call(layer)
    assert differ(dropped, plain)
    layer.dropout = 0.0
    assert_close(call(layer), plain)


def test_dropout_draws_what_torch_draws() -> None:
    ours, theirs = pair("LSTM", dropout=0.5)
    torch.manual_seed(5)
    mine = call(ours)
    torch.manual_seed(5)
    assert_close(mine, call(theirs))


@every_layer
def test_batch_first_changed_between_calls(name: str, backend: str) -> None:
    layer = make(name, backend)
    output, *final = call(layer)
    layer.batch_first = True
    turned, *turned_final = call(layer, x().transpose(0, 1))
    assert_close(turned, output.transpose(0, 1))
    assert_close(turned_final, final)


def test_backend_changed_between_calls() -> None:
    layer = make("LSTM", "reference")
    before = call(layer)
    layer.backend = "aten"
    assert_close(call(layer), before)
    layer.backend = "none such"
    with pytest.raises(ValueError, match="backend should be one of"):
        call(layer)


# Parameters replaced


@every_module
def test_functional_call_uses_and_differentiates_the_replacements(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    torch.manual_seed(2)
    replacements: dict[str, Tensor] = {k: torch.randn_like(p).requires_grad_() for k, p in ours.named_parameters()}
    found = []
    for module in (ours, theirs):
        data = x() if name in LAYERS else x()[0]
        result = torch.func.functional_call(module, replacements, (data,))
        result = result if isinstance(result, Tensor) else result[0]
        found.append([result, *torch.autograd.grad(result.sin().sum(), list(replacements.values()))])
    assert_close(found[0], found[1])
    assert differ(call(ours), [found[0][0]])
    assert all(p.grad is None for p in ours.parameters())


@every_layer
def test_functional_call_with_some_of_the_parameters(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    some = {"weight_hh_l1": torch.zeros_like(ours.weight_hh_l1)}
    assert_close(torch.func.functional_call(ours, some, (x(),)), torch.func.functional_call(theirs, some, (x(),)))


@every_layer
def test_stateless_reparametrization(name: str, backend: str) -> None:
    layer = make(name, backend)
    before = call(layer)
    halves = {key: p.detach() / 2 for key, p in layer.named_parameters()}
    with torch.nn.utils.stateless._reparametrize_module(layer, halves):
        inside = call(layer)
    layer_of_halves = copy.deepcopy(layer)
    layer_of_halves.load_state_dict(halves)
    assert_close(inside, call(layer_of_halves))
    assert_close(call(layer), before, rtol=0, atol=0)


PARAMETRIZATIONS: dict[str, Callable[[nn.Module, str], Any]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
@every_module
def test_parametrized_recurrent_weight(name: str, kind: str, backend: str) -> None:
    key = "weight_hh_l0" if name in LAYERS else "weight_hh"
    ours, theirs = pair(name, backend)
    for module in (ours, theirs):
        torch.manual_seed(3)  # spectral_norm starts its power iteration from random vectors
        PARAMETRIZATIONS[kind](module, key)
        module.eval()
    same(ours, theirs)
    assert parametrize.is_parametrized(ours, key)
    with torch.no_grad():
        for module in (ours, theirs):
            first = next(module.parametrizations[key].parameters())
            first.copy_(torch.linspace(-1, 1, first.numel(), dtype=first.dtype).view_as(first).roll(1, 0))
    if kind != "orthogonal":  # whose parameter is not free: it has to stay a set of Householder reflectors
        same(ours, theirs)
    before = call(ours)
    parametrize.remove_parametrizations(ours, key)
    assert_close(call(ours), before)


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
@every_layer
def test_copy_of_a_parametrized_layer_is_independent(name: str, kind: str, backend: str) -> None:
    layer = PARAMETRIZATIONS[kind](make(name, backend), "weight_hh_l0").eval()
    before = call(layer)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(2)
        layer.bias_hh_l0.add_(1)
    assert_close(call(twin), before, rtol=0, atol=0)
    assert differ(call(layer), before)
    with torch.no_grad():
        twin.bias_hh_l0.add_(3)
    assert differ(call(twin), before)
    assert all(g is not None for g in gradients(twin).values())


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.* is deprecated:FutureWarning")  # what is tested
@every_layer
def test_old_weight_norm(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    for module in (ours, theirs):
        torch.nn.utils.weight_norm(module, "weight_hh_l0")
    same(ours, theirs)
    for module in (ours, theirs):
        with torch.no_grad():
            module.weight_hh_l0_g.mul_(3)
            module.weight_hh_l0_v[0].mul_(-2)
    same(ours, theirs)
    ours(x())
    # No deepcopy before this: torch refuses to copy the computed weight, which is no leaf, of its own layers too.
    for module in (ours, theirs):
        torch.nn.utils.remove_weight_norm(module, "weight_hh_l0")
    assert_close(call(ours), call(theirs))


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.* is deprecated:FutureWarning")  # what is tested
@every_layer
def test_copy_of_an_old_weight_norm_follows_its_own_parameters(name: str, backend: str) -> None:
    layer = make(name, backend)
    torch.nn.utils.weight_norm(layer, "weight_hh_l0")
    with torch.no_grad():
        before = call(layer)
        twin = copy.deepcopy(layer)
        layer.weight_hh_l0_g.mul_(3)
        assert_close(call(twin), before)
        assert differ(call(layer), before)
        twin.weight_hh_l0_g.mul_(-3)
        assert differ(call(twin), before)


@every_layer
def test_pruned_weight(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    for module in (ours, theirs):
        prune.l1_unstructured(module, "weight_hh_l0", amount=0.5)
    same(ours, theirs)
    masked = gradients(ours)["weight_hh_l0_orig"]
    assert masked is not None
    assert torch.equal(masked == 0, ours.weight_hh_l0_mask == 0)
    prune.remove(ours, "weight_hh_l0")
    assert_close(call(ours), call(theirs))


@every_layer
def test_tied_weights_within_a_layer(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    for module in (ours, theirs):
        module.weight_hh_l1 = module.weight_hh_l0
    assert ours.weight_hh_l1 is ours.weight_hh_l0
    same(ours, theirs)
    twin = copy.deepcopy(ours)
    assert twin.weight_hh_l1 is twin.weight_hh_l0


@every_layer
def test_one_parameter_shared_by_two_layers(name: str, backend: str) -> None:
    """The gradient is the sum of both uses."""
    ours, theirs = zip(*(pair(name, backend, layers=1) for _ in range(2)), strict=True)
    totals = []
    for a, b in (ours, theirs):
        b.weight_hh_l0 = a.weight_hh_l0
        (call(a)[0].sin().sum() + call(b)[0].cos().sum()).backward()
        totals.append(a.weight_hh_l0.grad)
        assert b.weight_hh_l0.grad is totals[-1]
    assert_close(totals[0], totals[1])


@every_layer
def test_forget_gate_bias_set_in_place(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    before = call(ours)
    for module in (ours, theirs):
        module.bias_hh_l0.data[H // 2 : H].fill_(1.0)
    assert differ(call(ours), before)
    same(ours, theirs)


@every_layer
def test_data_replaced(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    call(ours)
    value = torch.randn_like(ours.weight_ih_l0)
    for module in (ours, theirs):
        module.weight_ih_l0.data = value.clone()
    same(ours, theirs)


@every_layer
def test_storage_replaced_by_set(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    call(ours)
    value = torch.randn_like(ours.weight_hh_l0)
    with torch.no_grad():
        for module in (ours, theirs):
            module.weight_hh_l0.set_(value.clone())
    same(ours, theirs)


@every_layer
def test_parameter_deleted_and_registered_again(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    value = torch.randn_like(ours.weight_hh_l1)
    for module in (ours, theirs):
        del module.weight_hh_l1
        module.register_parameter("weight_hh_l1", nn.Parameter(value.clone()))
    same(ours, theirs)


@every_layer
def test_deleted_parameter_is_missed(name: str, backend: str) -> None:
    layer = make(name, backend)
    del layer.weight_hh_l1
    with pytest.raises(AttributeError, match="weight_hh_l1"):
        call(layer)


@every_layer
def test_parameter_computed_by_the_user(name: str, backend: str) -> None:
    """A hypernetwork's way: the parameter deleted, a tensor with a history in its place."""
    layer = make(name, backend)
    source = torch.randn_like(layer.weight_hh_l0).requires_grad_()
    del layer.weight_hh_l0
    layer.weight_hh_l0 = source.tanh()
    gradient = torch.autograd.grad(call(layer)[0].sum(), source)[0]
    again = make(name, backend)
    again.load_state_dict({**layer.state_dict(), "weight_hh_l0": source.detach().tanh()})
    expected = torch.autograd.grad(call(again)[0].sum(), again.weight_hh_l0)[0]
    assert_close(gradient, expected * (1 - source.detach().tanh().square()))


@every_layer
def test_frozen_biases(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    for module in (ours, theirs):
        for key, parameter in module.named_parameters():
            parameter.requires_grad_("bias" not in key)
    same(ours, theirs)
    assert ours.bias_hh_l0.grad is None
    assert ours.weight_hh_l0.grad is not None


@pytest.mark.parametrize("free", ["weight_ih_l0", "weight_hh_l1", "bias_ih_l0", "bias_hh_l1"])
@every_layer
def test_all_but_one_frozen(name: str, free: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    for module in (ours, theirs):
        module.requires_grad_(False)
        getattr(module, free).requires_grad_(True)
    same(ours, theirs)


@every_layer
def test_everything_frozen_has_no_history(name: str, backend: str) -> None:
    layer = make(name, backend).requires_grad_(False)
    assert not any(r.requires_grad for r in call(layer))
    assert call(layer, x().requires_grad_())[0].requires_grad


# State, copies and files


def _round_trip(value: Any, **options: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


@every_module
def test_state_dict_goes_both_ways(name: str) -> None:
    ours, theirs = pair(name)
    fresh = make(name)
    assert str(fresh.load_state_dict(theirs.state_dict(), strict=True)) == "<All keys matched successfully>"
    theirs.load_state_dict(ours.state_dict(), strict=True)
    same(fresh, theirs)


@every_module
def test_missing_and_unexpected_keys_are_reported_as_by_torch(name: str) -> None:
    ours, theirs = pair(name)
    state = dict(ours.state_dict())
    state["stranger"] = state.pop(next(iter(state)))
    messages = []
    for module in (ours, theirs):
        with pytest.raises(RuntimeError, match="Missing key") as caught:
            module.load_state_dict(state, strict=True)
        messages.append(str(caught.value))
        assert module.load_state_dict(state, strict=False).unexpected_keys == ["stranger"]
    assert messages[0] == messages[1]


@every_layer
def test_load_state_dict_with_assign(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    state = {key: nn.Parameter(torch.randn_like(p)) for key, p in ours.named_parameters()}
    ours.load_state_dict(state, assign=True)
    theirs.load_state_dict(state)
    assert ours.weight_hh_l0 is state["weight_hh_l0"]
    same(ours, theirs)


@every_module
def test_saved_state_dict_loads_with_weights_only(name: str) -> None:
    layer, fresh = make(name), make(name)
    fresh.load_state_dict(_round_trip(layer.state_dict(), weights_only=True))
    assert_close(call(fresh), call(layer), rtol=0, atol=0)


@pytest.mark.parametrize(
    "duplicate",
    [lambda m: _round_trip(m, weights_only=False), lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy],
    ids=["torch.save", "pickle", "deepcopy"],
)
@every_module
def test_duplicates_follow_their_own_parameters(name: str, duplicate: Callable[[Any], Any], backend: str) -> None:
    module = make(name, backend)
    before = call(module)
    twin = duplicate(module)
    assert type(twin) is type(module)
    assert twin.backend == backend
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert_close(call(twin), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.sub_(1)
    assert differ(call(twin), before)
    assert differ(call(twin), call(module))
    assert all(g is not None for g in gradients(twin).values())


@every_module
def test_shallow_copy_shares_its_parameters(name: str, backend: str) -> None:
    module = make(name, backend)
    twin = copy.copy(module)
    assert [id(p) for p in twin.parameters()] == [id(p) for p in module.parameters()]
    before = call(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert differ(call(twin), before)
    assert_close(call(twin), call(module), rtol=0, atol=0)


@every_module
def test_share_memory(name: str) -> None:
    module = make(name)
    before = call(module)
    assert module.share_memory() is module
    assert all(p.is_shared() for p in module.parameters())
    assert_close(call(module), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_skip_init(name: str) -> None:
    """It looks for `device` among a constructor's named arguments, which torch.nn's own layers hide."""
    module = torch.nn.utils.skip_init(getattr(fastrnn, name), I, H, dtype=torch.float64)
    source = make(name, layers=1)
    assert [(n, p.shape, p.device.type) for n, p in module.named_parameters()] == [
        (n, p.shape, "cpu") for n, p in source.named_parameters()
    ]
    module.load_state_dict(source.state_dict())
    assert_close(call(module), call(source), rtol=0, atol=0)


@every_module
def test_from_meta_to_empty(name: str, backend: str) -> None:
    module, source = make(name, backend, device="meta"), make(name, backend)
    module.to_empty(device="cpu").load_state_dict(source.state_dict())
    assert_close(call(module), call(source), rtol=0, atol=0)
    torch.manual_seed(4)
    module.reset_parameters()
    torch.manual_seed(4)
    source.reset_parameters()
    assert_close(call(module), call(source), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@every_module
def test_dtype_changed_after_a_call(name: str, dtype: torch.dtype, backend: str) -> None:
    module = make(name, backend)
    call(module)
    module.to(dtype)
    given = (x() if name in LAYERS else x()[0]).to(dtype)
    results = call(module, given)
    exact = call(module.double(), given.double())
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-5)
    for result, truth in zip(results, exact, strict=True):
        assert result.dtype == dtype
        assert_close(result.double(), truth, rtol=tolerance, atol=tolerance)


@every_module
def test_half_and_double(name: str) -> None:
    module = make(name)
    assert {p.dtype for p in module.half().parameters()} == {torch.float16}
    assert {p.dtype for p in module.double().parameters()} == {torch.float64}
    call(module)


# Use


@every_layer
def test_subclass_with_its_own_arguments_and_forward(name: str, backend: str) -> None:
    base: Any = getattr(fastrnn, name)

    class Scaled(base):  # type: ignore[misc]  # the base is chosen at run time
        def __init__(self, *args: Any, scale: float, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.scale = scale
            self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, input: Tensor, hx: Any = None) -> Any:
            output, final = super().forward(input * self.scale, hx)
            return output * self.gain, final

    layer = Scaled(I, H, 2, scale=2.0, dtype=torch.float64, backend=backend)
    plain = make(name, backend)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "gain"})
    assert_close(call(layer), call(plain, 2 * x()))
    assert gradients(layer)["gain"] is not None


@every_layer
def test_subclass_that_fixes_the_sizes(name: str) -> None:
    base: Any = getattr(fastrnn, name)

    class Fixed(base):  # type: ignore[misc]  # the base is chosen at run time
        def __init__(self) -> None:
            super().__init__(I, H, batch_first=True)

    assert Fixed()(torch.randn(B, T, I))[0].shape == (B, T, H)


@every_cell
def test_subclassed_cell(name: str) -> None:
    base: Any = getattr(fastrnn, name)

    class Twice(base):  # type: ignore[misc]  # the base is chosen at run time
        def forward(self, input: Tensor, hx: Any = None) -> Any:
            return super().forward(input, super().forward(input, hx))

    cell = Twice(I, H, dtype=torch.float64)
    plain = make(name)
    plain.load_state_dict(cell.state_dict())
    assert_close(call(cell), call(plain, x()[0], plain(x()[0])))


@every_layer
def test_forward_hooks(name: str) -> None:
    layer = make(name)
    seen: list[Tensor] = []
    before = call(layer)
    with layer.register_forward_hook(lambda module, args, result: seen.append(result[0])):
        call(layer)
    assert_close(seen, before[:1])
    with layer.register_forward_hook(lambda module, args, result: (result[0] * 2, result[1])):
        assert_close(call(layer)[0], before[0] * 2)
    with layer.register_forward_pre_hook(lambda module, args: (args[0] * 0.5, *args[1:])):
        assert_close(call(layer, 2 * x()), before)
    with layer.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "input": x()}), with_kwargs=True
    ):
        assert_close(call(layer, input=torch.zeros_like(x())), before)
    assert_close(call(layer), before)


@every_module
def test_full_backward_hooks(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    seen: list[list[Any]] = []
    for module in (ours, theirs):
        calls: list[Any] = []
        module.register_full_backward_pre_hook(lambda module, above, calls=calls: calls.append(above))
        module.register_full_backward_hook(lambda module, below, above, calls=calls: calls.extend((below, above)))
        given = (x() if name in LAYERS else x()[0]).requires_grad_()
        call(module, given)[0].sin().sum().backward()
        seen.append([*calls, given.grad])
    assert len(seen[0]) == 4
    for a, b in zip(seen[0], seen[1], strict=True):
        assert_close(a, b)


@every_layer
def test_parameter_gradient_hooks(name: str, backend: str) -> None:
    layer = make(name, backend)
    plain = gradients(layer)["weight_hh_l0"]
    assert plain is not None
    layer.weight_hh_l0.register_hook(lambda gradient: gradient * 3)
    tripled = gradients(layer)["weight_hh_l0"]
    assert_close(tripled, plain * 3)


def _state(name: str, layers: int = 2) -> Any:
    h = torch.randn(layers, B, H, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return (h, h.flip(0)) if name == "LSTM" else h


@every_layer
def test_arguments_by_position_and_by_name(name: str) -> None:
    layer, hx = make(name), _state(name)
    expected = call(layer, x(), hx)
    assert differ(expected, call(layer))
    assert_close(call(layer, x(), hx=hx), expected, rtol=0, atol=0)
    assert_close(call(layer, input=x(), hx=hx), expected, rtol=0, atol=0)
    assert_close(call(layer, hx=None, input=x()), call(layer), rtol=0, atol=0)


@every_cell
def test_cells_arguments_by_position_and_by_name(name: str) -> None:
    cell, given = make(name), x()[0]
    hx = _state("LSTM" if name == "LSTMCell" else "GRU")
    hx = (hx[0][0], hx[1][0]) if name == "LSTMCell" else hx[0]
    expected = call(cell, given, hx)
    assert_close(call(cell, given, hx=hx), expected, rtol=0, atol=0)
    assert_close(call(cell, input=given, hx=hx), expected, rtol=0, atol=0)
    assert_close(call(cell, input=given), call(cell, given, None), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [list, tuple])
def test_lstm_state_as_list_or_tuple(kind: Callable[[Any], Any], backend: str) -> None:
    for ours, theirs, given, hx in (
        (*pair("LSTM", backend), x(), kind(_state("LSTM"))),
        (*pair("LSTM", backend), x()[:, 0], kind(h[:, 0] for h in _state("LSTM"))),
        (*pair("LSTM", backend), pack_sequence([x()[:, 0], x()[:2, 1]]), kind(_state("LSTM"))),
        (*pair("LSTMCell", backend), x()[0], kind(h[0] for h in _state("LSTM"))),
        (*pair("LSTMCell", backend), x()[0, 0], kind(h[0, 0] for h in _state("LSTM"))),
    ):
        (output, *final), (expected, *expected_final) = call(ours, given, hx), call(theirs, given, hx)
        for a, b in zip([*as_tuple(output), *final], [*as_tuple(expected), *expected_final], strict=True):
            assert_close(a, b)
    assert type(make("LSTM", backend)(x(), kind(_state("LSTM")))[1]) is tuple


@every_layer
def test_state_that_requires_grad(name: str, backend: str) -> None:
    found = []
    for layer in pair(name, backend):
        states = [h.clone().requires_grad_() for h in as_tuple(_state(name))]
        results = call(layer.requires_grad_(False), x(), tuple(states) if name == "LSTM" else states[0])
        found.append(torch.autograd.grad([r.sin().sum() for r in results], states))
    assert_close(found[0], found[1])


@every_layer
def test_state_fed_back_through_chunks(name: str, backend: str) -> None:
    """Truncated sequences in a row: the final state of one is the next one's initial state, gradients through it."""
    layer = make(name, backend)
    whole = gradients(layer)["weight_ih_l0"]
    layer.zero_grad()
    first, state = layer(x()[:1])
    rest, state = layer(x()[1:], state)
    torch.stack([r.square().sum() for r in (first, rest, *as_tuple(state))]).sum().backward()
    assert_close(layer.weight_ih_l0.grad, whole)


def test_in_containers(backend: str) -> None:
    """In a Sequential, behind a module that takes the output alone; in a ModuleList and a ModuleDict by name."""

    class Output(nn.Module):
        def forward(self, result: tuple[Tensor, Any]) -> Tensor:
            return result[0]

    found = []
    layers = [pair(name, backend, layers=1) for name in LAYERS]
    for stack in zip(*layers, strict=True):
        sequential = nn.Sequential(*(module for layer in stack for module in (layer, Output())))
        listed, named = nn.ModuleList(stack), nn.ModuleDict(dict(zip(LAYERS, stack, strict=True)))
        assert len(list(listed.parameters())) == len(list(named.parameters())) == 12
        result = sequential(x())
        result.sum().backward()
        found.append([result, *(p.grad for p in sequential.parameters())])
    assert_close(found[0], found[1])


@every_layer
def test_clip_grad_norm(name: str, backend: str) -> None:
    norms = []
    for module in pair(name, backend):
        gradients(module)
        norms.append(torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1))
        assert_close(torch.stack([p.grad.norm() for p in module.parameters()]).norm(), torch.tensor(0.1).double())
    assert_close(norms[0], norms[1])


@every_layer
def test_parameters_to_vector_and_back(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    vector = torch.nn.utils.parameters_to_vector(ours.parameters())
    assert_close(vector, torch.nn.utils.parameters_to_vector(theirs.parameters()), rtol=0, atol=0)
    for module in (ours, theirs):
        torch.nn.utils.vector_to_parameters(vector.detach() / 2, module.parameters())
    same(ours, theirs)


@every_layer
def test_optimizer_steps(name: str, backend: str) -> None:
    ours, theirs = pair(name, backend)
    for module in (ours, theirs):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        for _ in range(3):
            gradients(module)
            optimizer.step()
    same(ours, theirs)


@every_layer
def test_parameters_taken_over_from_torchs_layer(name: str, backend: str) -> None:
    """How a model is converted: its attribute replaced, the parameters taken over as the objects they are."""
    ours, theirs = pair(name, backend)
    for key, parameter in list(theirs.named_parameters()):
        setattr(ours, key, parameter)
    assert all(a is b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(a is b for a, b in zip(ours._flat_weights, theirs.parameters(), strict=True))
    with torch.no_grad():
        theirs.weight_hh_l0.mul_(2)
    assert_close(call(ours), call(theirs))
