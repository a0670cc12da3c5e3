"""PyTorch's own module tests: its table of samples and errors for each recurrent module, with our class swapped in.

The checks are those of PyTorch's test/test_modules.py. What that file expects to fail (cuDNN's missing second
derivatives and batching rules) is not excused here.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import itertools
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

import fastrnn


def _load_common_modules() -> Any:
    """PyTorch's table, imported without what that import does to a process.

    It wants a package that only PyTorch's expected-output tests use, and it forbids setting the flags of
    torch.backends from then on, which other test modules do.
    """
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("expecttest") is None:
            stub = types.ModuleType("expecttest")
            stub.TestCase = unittest.TestCase  # type: ignore[attr-defined]
            patch.setitem(sys.modules, "expecttest", stub)
        patch.setattr(torch.backends, "disable_global_flags", lambda: None)
        from torch.testing._internal import common_modules
    return common_modules


common_modules = _load_common_modules()
LAYERS = ("LSTM", "GRU", "RNN")
NAMES = (*LAYERS, "LSTMCell", "GRUCell", "RNNCell")
INFOS = {name: next(i for i in common_modules.module_db if i.module_cls is getattr(nn, name)) for name in NAMES}
DTYPES = [torch.float32, torch.float64]
BACKENDS = ["auto", "reference", "stepwise"]


def _samples(name: str, dtype: torch.dtype, requires_grad: bool = False, device: str = "cpu") -> list[Any]:
    """The samples of one module, fresh; with the packed ones, which PyTorch keeps for other tests of the table."""
    options: dict[str, Any] = {"device": device, "dtype": dtype, "requires_grad": requires_grad, "training": True}
    if name in ("GRU", "RNN"):
        options["with_packed_sequence"] = True
    return list(INFOS[name].module_inputs_func(INFOS[name], **options))


def _errors(name: str, dtype: torch.dtype) -> list[Any]:
    info = INFOS[name]
    return list(
        info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True),
    )


def _describe_inputs(args: Sequence[Any]) -> str:
    if isinstance(args[0], PackedSequence):
        return "packed " + "+".join(map(str, args[0].batch_sizes.tolist()))
    return "x" + "x".join(map(str, args[0].shape)) + (" with hx" if len(args) > 1 else "")


def _describe(sample: Any) -> str:
    """What sets a sample apart: options that are not torch's defaults, and the inputs. The table has no names."""
    parts = []
    for key, value in sample.constructor_input.kwargs.items():
        if key == "bias" and value is False:
            parts.append("no bias")
        elif key == "nonlinearity":
            parts.append(value)
        elif value is True:
            parts.append(key)
        elif key in ("hidden_size", "proj_size") and value:
            parts.append(f"{key.removesuffix('_size')} {value}")
    return ", ".join([*parts, _describe_inputs(sample.forward_input.args)])


@dataclass(frozen=True)
class Case:
    """One sample of the table, by its position: the tensors are made anew for each test."""

    name: str
    index: int
    label: str

    def sample(self, dtype: torch.dtype, requires_grad: bool = False, device: str = "cpu") -> Any:
        return _samples(self.name, dtype, requires_grad, device)[self.index]

    def build(self, sample: Any, dtype: torch.dtype, backend: str = "auto", device: str = "cpu") -> nn.Module:
        """Our module for `sample`, which is this case's."""
        given = sample.constructor_input
        module: nn.Module = getattr(fastrnn, self.name)(*given.args, **given.kwargs, backend=backend)
        return module.to(device).to(dtype)

    def build_torchs(self, sample: Any, dtype: torch.dtype, ours: nn.Module) -> nn.Module:
        """torch.nn's, with the same weights."""
        given = sample.constructor_input
        module: nn.Module = getattr(nn, self.name)(*given.args, **given.kwargs)
        module.load_state_dict(ours.state_dict())
        return module.to(dtype)


CASES = [Case(name, i, _describe(s)) for name in NAMES for i, s in enumerate(_samples(name, torch.float64))]
# Each module's sample with the most options on, found by its description: positions may change with torch's version.
RICHEST = {
    name: max((c for c in CASES if c.name == name and "packed" not in c.label), key=lambda c: len(c.label))
    for name in NAMES
}


def _per_backend(step: int = 1, kernels: Sequence[str] = ("LSTM", "GRUCell")) -> pytest.MarkDecorator:
    """Parametrize over every case and backend; as slow, all but a case in `step`.

    In the interpreter a case takes seconds: of the kernels, all but the richest of each module in `kernels` is slow.
    """
    params = []
    for backend, case in itertools.product(BACKENDS, CASES):
        quick = case.index % step == 0
        if backend == "stepwise":
            quick = case is RICHEST[case.name] and case.name in kernels
        marks = [] if quick else [pytest.mark.slow]
        params.append(pytest.param(case, backend, id=f"{case.name} {case.label}-{backend}", marks=marks))
    return pytest.mark.parametrize(("case", "backend"), params)


every_module = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(autouse=True)
def _needs_triton(request: pytest.FixtureRequest) -> None:
    if "backend" in request.fixturenames and request.getfixturevalue("backend") == "stepwise":
        pytest.importorskip("triton")


def _of(name: str) -> list[Case]:
    return [case for case in CASES if case.name == name]


def _flat(tree: Any) -> list[Any]:
    return tree_flatten(tree)[0]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _flat(tree) if isinstance(leaf, Tensor)]


def _run(module: nn.Module, sample: Any) -> Any:
    return module(*sample.forward_input.args, **sample.forward_input.kwargs)


def _leaves(sample: Any, module: nn.Module) -> list[Tensor]:
    inputs = [t for t in _tensors((sample.forward_input.args, sample.forward_input.kwargs)) if t.requires_grad]
    return [*inputs, *module.parameters()]


def _gradients(results: Sequence[Tensor], leaves: Sequence[Tensor], upstream: Sequence[Tensor]) -> list[Tensor]:
    """Every leaf's gradient through all the results; none may be missing."""
    return list(torch.autograd.grad(results, leaves, upstream))


def _results(output: Any) -> list[Tensor]:
    """What can be differentiated: a PackedSequence's index tensors cannot."""
    return [t for t in _tensors(output) if t.is_floating_point()]


def _on_cpu_as(tensor: Tensor, dtype: torch.dtype) -> None:
    assert (tensor.device.type, tensor.dtype) == ("cpu", dtype)


# Values


@every_dtype
@_per_backend()
def test_forward(case: Case, backend: str, dtype: torch.dtype) -> None:
    """As torch.nn's module computes it, and as the table's reference does; in training and evaluation alike."""
    sample = case.sample(dtype)
    ours = case.build(sample, dtype, backend)
    theirs = case.build_torchs(sample, dtype, ours)
    for training in (True, False):
        output = _run(ours.train(training), sample)
        expected = _run(theirs.train(training), sample)
        assert tree_flatten(output)[1] == tree_flatten(expected)[1]
        assert_close(_tensors(output), _tensors(expected))
        # The table's reference adds a batch axis by hand, which a packed sample cannot take.
        if sample.reference_fn is not None and not isinstance(sample.forward_input.args[0], PackedSequence):
            reference = sample.reference_fn(theirs, *sample.forward_input.args, **sample.forward_input.kwargs)
            assert_close(_tensors(output), _tensors(reference))


@every_dtype
@every_module
def test_float_and_double_keep_the_module_running(name: str, dtype: torch.dtype) -> None:
    for case in _of(name):
        sample = case.sample(dtype)
        module = case.build(sample, dtype)
        expected = _run(module, sample)
        module = module.float() if dtype == torch.float32 else module.double()
        assert_close(_tensors(_run(module, sample)), _tensors(expected), rtol=0, atol=0)
        for parameter in module.parameters():
            _on_cpu_as(parameter, dtype)


def _interleaved(tree: Any) -> Any:
    """The same values with a gap after each."""

    def spread(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_(tensor.requires_grad)

    return tree_map_only(Tensor, spread, tree)


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float64], ids=["float32", "float64"]
)
@_per_backend()
def test_non_contiguous_tensors(case: Case, backend: str, dtype: torch.dtype) -> None:
    """Inputs and upstream gradients with gaps give what contiguous ones give."""
    sample = case.sample(dtype, requires_grad=True)
    module = case.build(sample, dtype, backend)
    given = sample.forward_input.args
    results = _results(module(*given))
    upstream = [torch.randn_like(r) for r in results]
    gradients = _gradients(results, _leaves(sample, module), upstream)
    spread = _interleaved(given)
    assert not all(t.is_contiguous() for t in _tensors(spread))
    pairs = [(spread, _interleaved(upstream))]
    if backend != "stepwise":
        pairs += [(given, pairs[0][1]), (spread, upstream)]
    for args, above in pairs:
        again = _results(module(*args))
        assert_close(again, results)
        leaves = [*(t for t in _tensors(args) if t.requires_grad), *module.parameters()]
        assert_close(_gradients(again, leaves, above), gradients, atol=1e-4, rtol=0)


@every_dtype
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_module
def test_memory_format(name: str, training: bool, dtype: torch.dtype) -> None:
    """No tensor here has the rank of a channels-last one, so all that is left is that results come contiguous."""
    for case in _of(name)[::3]:
        sample = case.sample(dtype, requires_grad=True)
        module = case.build(sample, dtype).train(training)
        expected = _results(_run(module, sample))
        for memory_format in (torch.preserve_format, torch.contiguous_format):
            module.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stub lacks it
            results = _results(_run(module, sample))
            assert_close(results, expected)
            gradients = _gradients(results, _leaves(sample, module), [torch.ones_like(r) for r in results])
            assert all(t.is_contiguous() for t in (*results, *gradients)), case.label


@every_module
def test_if_train_and_eval_modes_differ(name: str) -> None:
    """Only a layer, which has dropout, may look at `training`."""
    case = RICHEST[name]
    sample = case.sample(torch.float64)
    module = case.build(sample, torch.float64)
    del module.training
    if INFOS[name].train_and_eval_differ:
        with pytest.raises(AttributeError, match="'training'"):
            _run(module, sample)
    else:
        _run(module, sample)


# Derivatives


def _as_function(module: nn.Module, sample: Any) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The module as a function of one vector, its inputs and parameters end to end, and the vector to start from.

    PyTorch's helper passes each tensor by itself; one vector costs gradcheck a single perturbation.
    """
    flat, spec = tree_flatten(sample.forward_input.args)
    positions = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor) and leaf.requires_grad]
    names, parameters = zip(*module.named_parameters(), strict=True)
    tensors = [*(flat[i] for i in positions), *parameters]

    def function(vector: Tensor) -> Tensor:
        pieces = [
            piece.view_as(t) for piece, t in zip(vector.split([t.numel() for t in tensors]), tensors, strict=True)
        ]
        leaves = list(flat)
        for position, piece in zip(positions, pieces, strict=False):
            leaves[position] = piece
        weights = dict(zip(names, pieces[len(positions) :], strict=True))
        output = torch.func.functional_call(module, weights, tree_unflatten(leaves, spec))
        return torch.cat([r.flatten() for r in _results(output)])

    return function, torch.cat([t.detach().flatten() for t in tensors]).requires_grad_()


def _batched(case: Case, backend: str) -> bool:
    """Whether to differentiate under vmap too: ten times the launches, so in the interpreter for the cells alone."""
    return backend != "stepwise" or case.name not in LAYERS


@_per_backend(kernels=("LSTMCell", "GRUCell"))  # a scan's: tests/scan/test_ops.py
def test_grad(case: Case, backend: str) -> None:
    """First derivatives, and the same through vmap, where PyTorch's table expects cuDNN to fail."""
    sample = case.sample(torch.float64, requires_grad=True)
    function, vector = _as_function(case.build(sample, torch.float64, backend), sample)
    assert torch.autograd.gradcheck(function, vector, fast_mode=True, check_batched_grad=_batched(case, backend))


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, marks=[pytest.mark.slow] if backend == "stepwise" and name in LAYERS else [])
        for name in NAMES
        for backend in BACKENDS
    ],
)
def test_grad_of_each_parameter_alone(name: str, backend: str) -> None:
    """What is frozen may not change the gradients of the rest."""
    case = RICHEST[name]
    sample = case.sample(torch.float64, requires_grad=True)
    module = case.build(sample, torch.float64, backend)
    leaves = _leaves(sample, module)
    results = _results(_run(module, sample))
    upstream = [torch.randn_like(r) for r in results]
    total = torch.autograd.grad(results, leaves, upstream)
    for leaf in leaves:
        leaf.requires_grad_(False)
    for leaf, expected in zip(leaves, total, strict=True):
        leaf.requires_grad_(True)
        alone = _results(_run(module, sample))
        # The first layer's final state does not depend on the second layer's parameters.
        pairs = [(r, u) for r, u in zip(alone, upstream, strict=True) if r.requires_grad]
        assert_close(torch.autograd.grad([r for r, _ in pairs], leaf, [u for _, u in pairs])[0], expected)
        leaf.requires_grad_(False)


@_per_backend(step=3, kernels=("LSTMCell",))
def test_gradgrad(case: Case, backend: str) -> None:
    """Second derivatives, and the same through vmap; PyTorch's table does not ask for them of cuDNN."""
    sample = case.sample(torch.float64, requires_grad=True)
    function, vector = _as_function(case.build(sample, torch.float64, backend), sample)
    assert torch.autograd.gradgradcheck(function, vector, fast_mode=True, check_batched_grad=_batched(case, backend))


# The module as an object


@every_dtype
@every_module
def test_factory_kwargs(name: str, dtype: torch.dtype) -> None:
    for case in _of(name):
        given = case.sample(dtype).constructor_input
        for device in ("cpu", "meta"):
            module = getattr(fastrnn, name)(*given.args, **given.kwargs, device=device, dtype=dtype)
            assert {(t.device.type, t.dtype) for t in module.state_dict().values()} == {(device, dtype)}


@every_module
def test_device_ctx_init(name: str) -> None:
    """Under `torch.device`, as with the keyword; sizes and strides are those of a real module."""
    for case in _of(name):
        given = case.sample(torch.float32).constructor_input
        real = getattr(fastrnn, name)(*given.args, **given.kwargs)
        with torch.device("meta"):
            meta = getattr(fastrnn, name)(*given.args, **given.kwargs)
        for a, b in zip(meta.parameters(), real.parameters(), strict=True):
            assert a.is_meta
            assert (a.shape, a.stride(), a.dtype, a.requires_grad) == (b.shape, b.stride(), b.dtype, b.requires_grad)


@every_module
def test_repr(name: str) -> None:
    for case in _of(name):
        sample = case.sample(torch.float64)
        module = case.build(sample, torch.float64)
        assert repr(module) == str(module) == repr(case.build_torchs(sample, torch.float64, module))


def _saved_and_loaded(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert isinstance(loaded, nn.Module)
    return loaded


@every_dtype
@pytest.mark.parametrize("duplicate", [_saved_and_loaded, copy.deepcopy], ids=["pickle", "deepcopy"])
@every_module
def test_pickle(name: str, duplicate: Callable[[nn.Module], nn.Module], dtype: torch.dtype) -> None:
    """After a forward pass, so that whatever a module remembers of one travels too, and away from the original."""
    for case in _of(name)[::3]:
        sample = case.sample(dtype)
        module = case.build(sample, dtype)
        output = _tensors(_run(module, sample))
        twin = duplicate(module)
        assert type(twin) is type(module)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        assert_close(_tensors(_run(twin, sample)), output, rtol=0, atol=0)


@pytest.mark.parametrize("set_grad", [True, False], ids=["with gradients", "without gradients"])
@pytest.mark.parametrize("swap", [True, False], ids=["swapped", "assigned"])
@every_module
def test_to(name: str, swap: bool, set_grad: bool) -> None:
    """dtype and device move values and gradients; swapped parameters stay the objects they were."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for case in (_of(name)[0], RICHEST[name]):
            sample = case.sample(torch.float32, requires_grad=True)
            module = case.build(sample, torch.float32)
            if set_grad:
                results = _results(_run(module, sample))
                torch.autograd.backward(results, [torch.ones_like(r) for r in results])
            values = {name: p.detach().clone() for name, p in module.named_parameters()}
            identities = [id(p) for p in module.parameters()]
            module.to(torch.float64)
            assert not swap or [id(p) for p in module.parameters()] == identities
            for key, parameter in module.named_parameters():
                _on_cpu_as(parameter, torch.float64)
                assert_close(parameter.detach(), values[key].double(), rtol=0, atol=0)
                assert (parameter.grad is not None) is set_grad
                assert parameter.grad is None or parameter.grad.dtype == torch.float64
            _run(module, case.sample(torch.float64))
            module.to("meta")
            assert all(p.is_meta and (p.grad is None or p.grad.is_meta) for p in module.parameters())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.parametrize("swap", [True, False], ids=["swapped", "assigned"])
@every_module
def test_to_empty(name: str, swap: bool) -> None:
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        case = RICHEST[name]
        sample = case.sample(torch.float32)
        source = case.build(sample, torch.float32)
        given = sample.constructor_input
        module = getattr(fastrnn, name)(*given.args, **given.kwargs, device="meta").to_empty(device="cpu")
        for parameter in module.parameters():
            _on_cpu_as(parameter, torch.float32)
        with torch.no_grad():  # load_state_dict would swap too, which torch.nn's base, holding weakrefs, cannot
            for parameter, value in zip(module.parameters(), source.parameters(), strict=True):
                parameter.copy_(value)
        assert_close(_tensors(_run(module, sample)), _tensors(_run(source, sample)), rtol=0, atol=0)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@every_module
def test_multiple_device_transfer(name: str) -> None:
    """From the CPU to meta, where only shapes are computed, and back."""
    for case in (c for c in _of(name) if "packed" not in c.label):
        sample = case.sample(torch.float32)
        module = case.build(sample, torch.float32)
        expected = _tensors(_run(module, sample))
        module.to("meta")
        shapes = _tensors(module(*tree_map_only(Tensor, lambda t: t.to("meta"), sample.forward_input.args)))
        assert all(t.is_meta for t in shapes)
        assert [t.shape for t in shapes] == [t.shape for t in expected]
        module.to_empty(device="cpu")
        module.load_state_dict(case.build(sample, torch.float32).state_dict())
        assert [t.shape for t in _tensors(_run(module, sample))] == [t.shape for t in expected]


# Errors


ERRORS = [(name, i, e.error_regex) for name in NAMES for i, e in enumerate(_errors(name, torch.float64))]


@every_dtype
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "index"), [e[:2] for e in ERRORS], ids=[f"{e[0]} {e[1]} {e[2][:40]}" for e in ERRORS])
def test_errors(name: str, index: int, backend: str, dtype: torch.dtype) -> None:
    """The type and the words that the table asks for, and exactly those that torch.nn uses."""
    error = _errors(name, dtype)[index]
    given, forward = error.module_error_input.constructor_input, error.module_error_input.forward_input
    at_construction = error.error_on == common_modules.ModuleErrorEnum.CONSTRUCTION_ERROR
    raised = []
    for make in (
        lambda: getattr(nn, name)(*given.args, **given.kwargs),
        lambda: getattr(fastrnn, name)(*given.args, **given.kwargs, backend=backend),
    ):
        if at_construction:
            with pytest.raises(error.error_type, match=error.error_regex) as caught:
                make()
        else:
            module = make()
            with pytest.raises(error.error_type, match=error.error_regex) as caught:
                module(*forward.args, **forward.kwargs)
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]


# With a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["auto", "stepwise", "aten"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.label}")
def test_cpu_gpu_parity(case: Case, backend: str) -> None:
    """Outputs and gradients as on the CPU in float64, at the tolerance PyTorch takes for float32 without TF32."""
    sample = case.sample(torch.float32, requires_grad=True)
    cpu = case.build(sample, torch.float32, "reference").double()
    gpu = case.build(sample, torch.float32, backend, "cuda")
    gpu.load_state_dict(cpu.state_dict())

    def moved(tensor: Tensor) -> Tensor:
        return tensor.detach().to("cuda").requires_grad_(tensor.requires_grad)

    args = sample.forward_input.args
    # A PackedSequence keeps its batch sizes on the CPU, and its own `to` knows that.
    on_gpu = tuple(
        PackedSequence(moved(a.data), a.batch_sizes)
        if isinstance(a, PackedSequence)
        else tree_map_only(Tensor, moved, a)
        for a in args
    )
    exact = tree_map_only(Tensor, lambda t: t.detach().double().requires_grad_() if t.requires_grad else t, args)
    expected, results = _results(cpu(*exact)), _results(gpu(*on_gpu))
    upstream = [torch.randn_like(r) for r in expected]
    expected_gradients = _gradients(
        expected, [*(t for t in _tensors(exact) if t.requires_grad), *cpu.parameters()], upstream
    )
    gradients = _gradients(
        results,
        [*(t for t in _tensors(on_gpu) if t.requires_grad), *gpu.parameters()],
        [u.to("cuda").float() for u in upstream],
    )
    for a, b in zip([*results, *gradients], [*expected, *expected_gradients], strict=True):
        assert_close(a.detach().cpu().double(), b.detach(), atol=5e-2, rtol=0)


@pytest.mark.gpu
@every_module
def test_multiple_device_transfer_on_gpu(name: str) -> None:
    for case in (c for c in _of(name) if "packed" not in c.label):
        module = case.build(case.sample(torch.float32), torch.float32)
        for device in ("cuda", "cpu", "cuda"):
            module.to(device)
            output = _tensors(_run(module, case.sample(torch.float32, device=device)))
            assert {t.device.type for t in (*output, *module.parameters())} == {device}
