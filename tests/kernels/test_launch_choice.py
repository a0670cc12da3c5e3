"""A launch whose kernel spills registers, or for which there is no room, gives way to the next at its first
compilation, for the rest of the process.

The interpreter compiles nothing, so what the compiler says is made up here.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from support import relative_error
from triton.runtime.errors import OutOfResources

import fastrnn
from fastrnn.backends import fused
from fastrnn.kernels.launch import kernel as which
from fastrnn.kernels.launch import scan as launch
from fastrnn.kernels.plan import choice
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.devices import DEVICES
from fastrnn.kernels.tensors import Inputs, Kept, Upstream

Verdict = Callable[[LaunchConfig, dict[str, Any]], int]


class Launches:
    """The launches that were tried, those that were made, and what `verdict` says that each spills."""

    def __init__(self, verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried: list[LaunchConfig] = []
        self.made: list[LaunchConfig] = []
        original = launch._launch

        def compile_first(kernel: Any, config: LaunchConfig, *args: Any) -> None:
            *rest, consts, spill_limit = args
            if spill_limit is not None:
                self.tried.append(config)
                if verdict(config, consts) > spill_limit:
                    raise choice.SpillsError(verdict(config, consts))
            self.made.append(config)
            original(kernel, config, *rest, consts, None)

        monkeypatch.setattr(launch, "_launch", compile_first)
        monkeypatch.setattr(fused, "launches", functools.cache(fused.launches.__wrapped__))


def _layer() -> tuple[fastrnn.RNN, torch.Tensor]:
    return fastrnn.RNN(2, 8, backend="stepwise").requires_grad_(False), torch.randn(2, 3, 2)


def _is_best(config: LaunchConfig) -> bool:
    """Whether `config` is what is tried first: for so few units, one program with all of them."""
    return config.tier == "solo"


def test_a_launch_that_spills_gives_way_for_good(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, x = _layer()
    expected = layer(x)[0]
    fastrnn.explain(layer, x)
    before = capsys.readouterr().out
    launches = Launches(lambda config, _: 7 * _is_best(config), monkeypatch)
    first, second = layer(x)[0], layer(x)[0]
    solo, other = launches.tried
    assert (solo.tier, other.tier) == ("solo", "streamed")
    assert launches.made == [other, other], "nothing was launched that spills, and nothing was tried again"
    assert torch.equal(first, second)
    assert relative_error(first, expected) < 1e-5
    fastrnn.explain(layer, x)
    assert solo.describe() in before
    assert other.describe() in capsys.readouterr().out


def test_backward_gives_way_apart_from_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = _layer()
    x.requires_grad_()
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    launches = Launches(lambda config, consts: 7 * (_is_best(config) and "BWD" in consts), monkeypatch)
    (grad,) = torch.autograd.grad(layer(x)[0].sum(), x)
    assert [config.tier for config in launches.made] == ["solo", "streamed"]
    assert relative_error(grad, expected) < 1e-5


def test_where_all_spill_the_least_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = _layer()
    order: list[LaunchConfig] = []

    def verdict(config: LaunchConfig, _: dict[str, Any]) -> int:
        if config not in order:
            order.append(config)
        return 100 - 10 * order.index(config) if order.index(config) < 3 else 90

    launches = Launches(verdict, monkeypatch)
    layer(x), layer(x)
    assert 3 < len(launches.tried) <= choice.TRIALS
    assert launches.made == [order[2], order[2]]


def test_a_variant_is_settled_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call computes, to the last bit, does not depend on which other calls came before it."""
    layer, x = _layer()
    launches = Launches(lambda config, consts: 7 * (_is_best(config) and consts["HAS_LENGTHS"]), monkeypatch)
    before = layer(x)[0]
    layer(x, lengths=torch.tensor([2, 1, 2]))
    after = layer(x)[0]
    assert [config.tier for config in launches.made] == ["solo", "streamed", "solo"]
    assert torch.equal(before, after)


SHAPE = ScanShape(4, False, 2, 16, 512, 1)


class Trial:
    """The launches of a scan, and those that were tried; `refused` says which there is no room for, and all spill."""

    def __init__(self, refused: Callable[[LaunchConfig], bool]) -> None:
        self.launches = choice.Launches(SHAPE, DEVICES["sm_90"], "persistent")
        self.refused = refused
        self.tried: list[LaunchConfig] = []

    def run(self) -> LaunchConfig:
        return self.launches.run(self._call, ("a variant",))

    def _call(self, config: LaunchConfig, spill_limit: int | None) -> LaunchConfig:
        self.tried.append(config)
        if self.refused(config):
            raise choice.RefusedError(f"attempt {len(self.tried)}")
        if spill_limit is not None:
            raise choice.SpillsError(3)
        return config


def test_a_refused_launch_gives_way_for_good() -> None:
    order = choice.ranked(SHAPE, DEVICES["sm_90"], "persistent")
    trial = Trial(lambda config: config == order[0])
    assert trial.launches.best == order[0]
    assert list(trial.launches.ranked()) == order
    assert [trial.run(), trial.run()] == [order[1]] * 2, "of those that run, the first that spills least"
    assert trial.tried == [*order[: choice.TRIALS], order[1], order[1]]


def test_where_gluon_does_not_compile_triton_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one warning a process, and no second try for the same scan."""
    monkeypatch.setattr(choice, "_warned", [])
    assert choice.choose(SHAPE, DEVICES["sm_90"], "persistent").gluon  # type: ignore[union-attr]  # there is one
    tried: list[LaunchConfig] = []

    def call(config: LaunchConfig, spill_limit: int | None) -> LaunchConfig:
        tried.append(config)
        if config.gluon:
            raise choice.UncompiledError("AttributeError: no such name")
        return config

    launches = choice.Launches(SHAPE, DEVICES["sm_90"], "persistent")
    with pytest.warns(UserWarning, match="do not compile here, its Triton kernels run instead: AttributeError") as told:
        found = launches.run(call, ("a variant",))
    assert len(told) == 1
    assert (found.tier, [config.gluon for config in tried]) == ("grid", [True, False])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert launches.run(call, ("another",)) == found
        assert launches.run(call, ("a variant",)) == found


def test_only_what_gluon_cannot_compile_gives_way() -> None:
    """What goes wrong while another kernel is compiled is told as it is."""
    error = RuntimeError("no such register")
    kernel = SimpleNamespace(warmup=lambda **given: (_ for _ in ()).throw(error))
    plain = LaunchConfig("stepwise", "streamed", "none", 16, 16, 128, 1, 1, 4, 4, 1)
    with pytest.raises(RuntimeError, match="no such register") as caught:
        launch._compiled(kernel, plain, {})
    assert caught.value is error
    with pytest.raises(choice.UncompiledError, match="RuntimeError: no such register"):
        launch._compiled(kernel, dataclasses.replace(plain, tier="gluon grid"), {})


def test_where_all_are_refused_the_last_refusal_is_raised() -> None:
    trial = Trial(lambda config: True)
    for attempt in (choice.TRIALS, 2 * choice.TRIALS):  # nothing is settled by that
        with pytest.raises(choice.RefusedError, match=f"^attempt {attempt}$"):
            trial.run()
    assert not trial.launches.settled


def test_where_nothing_fits_nothing_is_tried() -> None:
    launches = choice.Launches(SHAPE, dataclasses.replace(DEVICES["sm_90"], shared_bytes=0), "persistent")
    assert launches.best is None
    with pytest.raises(RuntimeError, match=r"no persistent launch fits this device for ScanShape\(.*backend='aten'"):
        launches.run(lambda *_: pytest.fail("called"), ())


class Kernel:
    """What `_launch` needs of a jit function whose compiled kernels spill, or for which there is no room: which is said
    when they are loaded, or if not `loading` when they are launched."""

    def __init__(self, words: int, refusal: Exception | None = None, loading: bool = True) -> None:
        self.words, self.refusal, self.loading = words, refusal, loading
        self.launched = 0

    def warmup(self, *args: Any, grid: tuple[int, ...], **options: Any) -> Any:
        words, refusal = self.words, self.refusal if self.loading else None

        class Compiled:
            # As Triton's: the driver counts them when the kernel is loaded, which asking for `run` does.
            @property
            def run(self) -> None:
                if refusal is not None:
                    raise refusal
                self.n_spills = words

        return Compiled()

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launched(**given: Any) -> None:
            if self.refusal is not None:
                raise self.refusal
            self.launched += 1

        return launched


@pytest.mark.parametrize(("words", "limit", "launched"), [(0, 0, True), (3, 0, False), (3, 6, True), (3, None, True)])
def test_the_compiler_is_asked_before_the_launch(words: int, limit: int | None, launched: bool) -> None:
    kernel, tensor = Kernel(words), torch.zeros(4)
    config = LaunchConfig("stepwise", "streamed", "none", 16, 16, 128, 1, 1, 4, 4, 1)
    given = (kernel, config, {"x_ptr": tensor}, tensor, None, (1, 3, 1, 16), False, ("outer", "inner"), {}, limit)
    if launched:
        launch._launch(*given)
    else:
        with pytest.raises(choice.SpillsError, match="spills 6 registers"):
            launch._launch(*given)
    assert kernel.launched == 2 * launched


NO_ROOM = OutOfResources(300_000, 232_448, "shared memory")
REFUSED = RuntimeError("Triton Error [CUDA]: too many blocks in cooperative launch")
WAITING = LaunchConfig("persistent", "grid", "flag", 16, 16, 128, 1, 1, 4, 4, 1)


@pytest.mark.parametrize("limit", [0, None], ids=["tried", "settled"])
@pytest.mark.parametrize(
    ("error", "loading"), [(NO_ROOM, True), (NO_ROOM, False), (REFUSED, False)], ids=["loader", "launcher", "driver"]
)
def test_what_there_is_no_room_for_is_refused(error: Exception, loading: bool, limit: int | None) -> None:
    kernel, tensor = Kernel(0, error, loading), torch.zeros(4)
    with pytest.raises(choice.RefusedError, match=re.escape(str(error))) as caught:
        launch._launch(kernel, WAITING, {}, tensor, None, (1, 3, 1, 16), False, ("whole",), {}, limit)
    assert caught.value.__cause__ is error


def test_what_went_wrong_otherwise_gives_way_to_nothing() -> None:
    """Such as a fault of an earlier kernel, which the driver tells when it is asked next."""
    error = RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
    with pytest.raises(RuntimeError) as caught:
        launch._launch(Kernel(0, error), WAITING, {}, torch.zeros(4), None, (1, 3, 1, 16), False, ("whole",), {}, 0)
    assert caught.value is error


def test_a_layer_runs_where_there_is_no_room_for_its_best_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = _layer()
    expected = layer(x)[0]
    original, made = which.kernel_named("scan_fwd_kernel"), []

    class Loaded(Kernel):
        def warmup(self, *args: Any, **options: Any) -> Any:
            return super().warmup(*args, **options) if options["SOLO"] else None

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            made.append(grid)
            return original[grid]  # type: ignore[no-any-return]  # Triton's

    monkeypatch.setattr(which, "kernel_of", lambda config, backward: Loaded(0, NO_ROOM))
    monkeypatch.setattr(fused, "launches", functools.cache(fused.launches.__wrapped__))
    assert relative_error(layer(x)[0], expected) < 1e-5
    assert made, "the next launch was made"


def test_a_kernel_compiled_in_another_thread_is_waited_for() -> None:
    compiled = Kernel(5).warmup(grid=(1,))
    assert launch.spilled_words(SimpleNamespace(result=lambda: compiled)) == 5
    assert launch.spilled_words(None) == 0


def test_tensors_start_where_the_kernels_reckon_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels tell the compiler that rows of whole 16 bytes are aligned; a view need not be."""
    seen: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(launch, "_launch", lambda kernel, config, pointers, *rest: seen.append(pointers))
    config = LaunchConfig("stepwise", "streamed", "none", 16, 16, 128, 1, 1, 4, 4, 1)
    counts = fastrnn.cells.CELLS["rnn_tanh"]
    state = torch.zeros(8 * 3 + 1)[1:].view(1, 1, 3, 8)
    assert state.data_ptr() % 16
    x, weight = torch.zeros(2, 3, 1, 1, 8), torch.zeros(1, 1, 8, 8)
    output = launch.scan_fwd(Inputs(x, weight, None, state, None, None), counts, config, "ieee", True, False).output
    shifted = torch.zeros(output.numel() + 1)[1:].view_as(output)
    empty = output.new_empty(2, 3, 1, 0, 8)
    kept = Kept(weight, state, None, None, shifted, empty, empty)
    launch.scan_bwd(Upstream(None, state, None), kept, counts, config, "ieee")
    forward, backward = seen
    assert all(tensor.data_ptr() % 16 == 0 for tensor in (forward["h0_ptr"], backward["state_ptr"], backward["h_ptr"]))
