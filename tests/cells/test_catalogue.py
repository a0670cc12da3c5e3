"""The catalogue's functions are their papers' equations, and random cells are worth testing with."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import literal
import pytest
import random_cells
import torch
from torch import Tensor, nn

from fastrnn.cells import CATALOGUE, CELLS, Cell

EVERY = {**CELLS, **CATALOGUE}
State = tuple[Tensor, ...]
T, B, N, H = 6, 5, 3, 4
LENGTHS = torch.tensor([6, 0, 4, 1, 5])
# At a first step, twice in a row, just past a length (row 2) and at the last step of one (row 4).
RESETS = torch.tensor(
    [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 1], [0, 1, 0, 0, 1]]
).bool()
MASKS = {"none": (None, None), "lengths": (LENGTHS, None), "resets": (None, RESETS), "both": (LENGTHS, RESETS)}
# Both sides are float64 and differ by the order of sums alone; the sLSTM's literal form goes through exp(m) and back.
TOLERANCE = 1e-11


def options_of(cell: Cell) -> dict[str, Any]:
    """What it was declared with, of what is not there by default."""
    options = {"gates": cell.gates, "states": cell.states, "inner": cell.inner}
    return options | {"vectors": cell.vector_names, "constants": cell.constant_names}


def drawn(options: Mapping[str, Any], heads: int = 1, bias: bool = True) -> tuple[dict[str, Tensor], State]:
    """Random parameters and states."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    G = options["gates"]
    params = {"weight_ih": normal(G * H, N), "weight_hh": normal(G * H, H // heads)}
    if bias:
        params |= {"bias_ih": normal(G * H), "bias_hh": normal(G * H)}
    params |= {name: normal(H) for name in options.get("vectors", ())}
    return params, tuple(normal(B, H) for _ in range(options["states"]))


def looped(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    input: Tensor,
    params: Mapping[str, Tensor],
    hx: State,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    constants: Mapping[str, Tensor] | None = None,
    heads: int = 1,
    reverse: bool = False,
    initial: tuple[float, ...] | None = None,
) -> tuple[Tensor, State, list[State]]:
    """`literal.run` of a cell's function, all rows at once and masked."""
    steps, rows, H = len(input), len(hx[0]), hx[0].shape[1]
    G, outer = options["gates"], options["gates"] - options.get("inner", 0)
    zero = input.new_zeros(G * H)
    x = (input @ params["weight_ih"].T + params.get("bias_ih", zero)).view(steps, rows, G, H)
    weight = params["weight_hh"].view(G, heads, H // heads, H // heads)
    bias = params.get("bias_hh", zero).view(G, H)
    start = tuple(input.new_full((1, 1), value) for value in initial or (0.0,) * len(hx))
    given: dict[str, Any] = {name: params[name] for name in options.get("vectors", ())}

    def recurrent(g: int, v: Tensor) -> Tensor:
        return torch.einsum("kuv,bkv->bku", weight[g], v.view(rows, heads, -1)).reshape(rows, H) + bias[g]

    if options.get("inner"):
        given["inner"] = lambda v: recurrent(outer, v)
    state, every = hx, [hx] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        first = t + reverse  # the step that may start a sequence
        if resets is not None and first < steps:
            cut = resets[first] if lengths is None else resets[first] & (first < lengths)
            state = tuple(torch.where(cut[:, None], a, s) for a, s in zip(start, state, strict=True))
        now = {name: value[t, :, None] for name, value in (constants or {}).items()}
        new = function(x[t].unbind(1), tuple(recurrent(g, state[0]) for g in range(outer)), state, **given, **now)
        new = new if isinstance(new, tuple) else (new,)
        present = torch.full((rows, 1), True) if lengths is None else (t < lengths)[:, None]
        state = tuple(torch.where(present, n, s) for n, s in zip(new, state, strict=True))
        every[t] = tuple(torch.where(present, n, torch.zeros_like(n)) for n in new)
    return torch.stack([states[0] for states in every]), state, every


def assert_close(ours: tuple[Tensor, State, list[State]], theirs: tuple[Tensor, State, list[State]]) -> None:
    for a, b in zip((ours[0], *ours[1], *sum(ours[2], ())), (theirs[0], *theirs[1], *sum(theirs[2], ())), strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", EVERY)
def test_the_catalogue_is_the_papers(name: str, reverse: bool, mask: str) -> None:
    options = options_of(EVERY[name])
    lengths, resets = MASKS[mask]
    for heads, bias, initial in ((1, True, None), (2, False, None), (H, True, (0.5, -0.25, 1.0, 0.125))):
        params, hx = drawn(options, heads, bias)
        if name == "slstm":
            hx = (*hx[:2], hx[2].abs() + 0.1, hx[3])  # a normaliser is positive
        constants = {name: torch.rand(T, B, dtype=torch.float64) for name in options.get("constants", ())}
        arguments: dict[str, Any] = {
            "lengths": lengths,
            "resets": resets,
            "constants": constants,
            "heads": heads,
            "reverse": reverse,
            "initial": initial and initial[: options["states"]],
        }
        x = torch.randn(T, B, N, dtype=torch.float64)
        expected = literal.run(name, x, params, hx, **arguments)
        assert_close(looped(EVERY[name], options, x, params, hx, **arguments), expected)
        zeros = tuple(torch.zeros_like(h) for h in hx)
        expected = literal.run(name, x, params, zeros, **arguments)
        assert_close(looped(EVERY[name], options, x, params, zeros, **arguments), expected)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_literal_is_torchs_layer(name: str, reverse: bool) -> None:
    options = {"nonlinearity": name.removeprefix("rnn_")} if name.startswith("rnn") else {}
    layer = getattr(nn, {"lstm": "LSTM", "gru": "GRU"}.get(name, "RNN"))(N, H, dtype=torch.float64, **options)
    params = {key.removesuffix("_l0"): value for key, value in layer.named_parameters()}
    _, hx = drawn(options_of(EVERY[name]))
    x = torch.randn(T, B, N, dtype=torch.float64)
    given = tuple(h[None] for h in hx)
    output, final = layer(x.flip(0) if reverse else x, given if len(given) > 1 else given[0])
    ours = literal.run(name, x, params, hx, reverse=reverse)
    torch.testing.assert_close(ours[0], output.flip(0) if reverse else output, rtol=TOLERANCE, atol=TOLERANCE)
    for a, b in zip(ours[1], final if isinstance(final, tuple) else (final,), strict=True):
        torch.testing.assert_close(a, b[0], rtol=TOLERANCE, atol=TOLERANCE)


def test_indrnn_is_a_diagonal() -> None:
    params, hx = drawn({"gates": 1, "states": 1}, heads=H)
    x = torch.randn(T, B, N, dtype=torch.float64)
    u = params["weight_hh"].flatten()
    h = hx[0]
    for t in range(T):
        h = torch.relu(x[t] @ params["weight_ih"].T + params["bias_ih"] + params["bias_hh"] + u * h)
    torch.testing.assert_close(literal.run("indrnn", x, params, hx, heads=H)[1][0], h, rtol=TOLERANCE, atol=TOLERANCE)


def by_slstm(x: Tensor, dtype: torch.dtype) -> Tensor:
    """h of every step of the catalogue's sLSTM, from zero, for gates `x`, `(T, 4, N)`."""
    state = tuple(torch.zeros(x.shape[2], dtype=dtype) for _ in range(4))
    steps = []
    for gates in x.to(dtype):
        state = CATALOGUE["slstm"](tuple(gates), tuple(torch.zeros_like(gates)), state)
        steps.append(state[0])
    return torch.stack(steps)


def test_the_stabiliser_changes_nothing() -> None:
    """h is that of c' = f c + exp(i) z, n' = f n + exp(i), and its gradient too."""
    x = (2 * torch.randn(12, 4, 50, dtype=torch.float64)).requires_grad_()
    c = n = torch.zeros(50, dtype=torch.float64)
    steps = []
    for i, f, z, o in x:
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        steps.append(torch.sigmoid(o) * c / n)
    expected, ours = torch.stack(steps), by_slstm(x, torch.float64)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    gradients = [torch.autograd.grad(h, x, upstream)[0] for h in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("i", [-1e4, -1e3, 0.0, 1e3, 1e4])
@pytest.mark.parametrize("f", [-1e4, 0.0, 1e4])
def test_nothing_in_the_slstm_overflows(i: float, f: float, dtype: torch.dtype) -> None:
    x = torch.randn(5, 4, 8, dtype=dtype)
    x[:, 0] += i
    x[:, 1] += f
    x.requires_grad_()
    h = by_slstm(x, dtype)
    (gradient,) = torch.autograd.grad(h.sum(), x)
    assert h.abs().max() <= 1
    assert gradient.isfinite().all()
    # The first step remembers its input alone, whatever i is.
    torch.testing.assert_close(h[0], torch.sigmoid(x[0, 3]) * torch.tanh(x[0, 2]))


def read_by_results(function: Callable[..., Any]) -> set[str]:
    """Which of a cell's arguments, `x[0]`, `state[1]`, `dt`, its results depend on."""
    (definition,) = ast.parse(inspect.getsource(function)).body
    assert isinstance(definition, ast.FunctionDef)
    _, *lines, last = definition.body
    assert isinstance(last, ast.Return)
    assert last.value is not None
    made = {ast.unparse(line.targets[0]): line.value for line in lines if isinstance(line, ast.Assign)}
    seen: set[str] = set()
    waiting: list[ast.AST] = [last.value]
    while waiting:
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Name | ast.Subscript) and ast.unparse(node) not in seen:
                seen.add(ast.unparse(node))
                waiting.extend([made[ast.unparse(node)]] if ast.unparse(node) in made else [])
    return seen


def needed(options: Mapping[str, Any]) -> set[str]:
    G, inner = options["gates"], options.get("inner", 0)
    names = {f"x[{g}]" for g in range(G)} | {f"r[{g}]" for g in range(G - inner)}
    names |= {f"state[{k}]" for k in range(options["states"])} | ({"inner"} if inner else set())
    return names | set(options.get("vectors", ())) | set(options.get("constants", ()))


def test_random_cells_are_tame() -> None:
    counts: dict[str, Counter[Any]] = {name: Counter() for name in ("nodes", "gates", "states", "with", "operations")}
    steepest, flat = 0.0, 0
    for seed in range(200):
        function, options = random_cells.random_cell(seed)
        assert needed(options) <= read_by_results(function), f"seed {seed} leaves something unused"
        source, _, operations = random_cells.write(seed)
        assert inspect.getsource(function) == source
        params, hx = drawn(options)
        hx = tuple(2 * torch.tanh(h) for h in hx)  # as small as the states that follow
        x = torch.randn(5, B, N, dtype=torch.float64)
        constants = {name: torch.rand(5, B, dtype=torch.float64) for name in options.get("constants", ())}
        leaves = [t.requires_grad_() for t in (x, *params.values(), *hx)]
        output, final, every = looped(
            function, options, x, params, hx, resets=RESETS[:5], constants=constants, initial=options.get("initial")
        )
        results = [output, *final, *sum(every, ())]
        gradients = torch.autograd.grad([r.sum() for r in results], leaves, materialize_grads=True)
        assert all(r.isfinite().all() and r.abs().max() <= 2.5 for r in results), f"seed {seed}"
        assert all(g.isfinite().all() for g in gradients), f"seed {seed}"
        steepest = max(steepest, *(float(g.abs().max()) for g in gradients))
        flat += not any(g.any() for g in gradients)
        counts["nodes"][len(operations)] += 1
        counts["gates"][options["gates"]] += 1
        counts["states"][options["states"]] += 1
        counts["with"].update(key for key in ("vectors", "constants", "inner", "initial") if key in options)
        counts["operations"].update(operations)
    for name, counter in counts.items():
        print(f"{name}: {dict(sorted(counter.items(), key=lambda item: str(item[0]).zfill(3)))}")
    print(f"largest gradient {steepest:.3g}, cells without any {flat}")
    assert len(counts["nodes"]) > 15
    assert set(counts["gates"]) == {1, 2, 3, 4, 5, 6}
    assert set(counts["states"]) == {1, 2, 3, 4}
    assert set(counts["operations"]) == {*random_cells.UNARY, *random_cells.BINARY}
    assert steepest < 1e4
    assert flat == 0


def test_random_cells_are_the_same_each_time() -> None:
    assert [random_cells.write(seed) for seed in range(50)] == [random_cells.write(seed) for seed in range(50)]
