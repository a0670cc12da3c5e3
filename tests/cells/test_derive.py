"""What is derived of a step: what it is refused for, what is saved, and that what was committed is what is derived."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastrnn
from fastrnn.cells import CATALOGUE, CELLS, Cell, generate
from fastrnn.derive.derived import derive
from fastrnn.derive.expressions import Builder, Expression, Value
from fastrnn.derive.linear import coefficients
from fastrnn.derive.signature import Signature
from fastrnn.kernels.counts import COUNTS

ROOT = Path(__file__).parents[2]
State = tuple[Tensor, ...]


@pytest.fixture(scope="module")
def derived() -> dict[str, str]:
    return generate.files()


def test_what_was_committed_is_current(derived: dict[str, str]) -> None:
    """`python -m fastrnn.cells.generate` would change nothing."""
    stale = [path for path, text in derived.items() if (ROOT / path).read_text() != text]
    if torch.__version__.startswith("2.13."):  # which printed them: another may take an operator apart in another way
        assert not stale
    assert "kernels/derived/table.py" not in stale
    folders = ("kernels/derived", "fastrnn/cells/derived")
    there = {str(p.relative_to(ROOT)) for folder in folders for p in (ROOT / folder).glob("*.py")}
    assert there == {*derived}
    assert {*COUNTS} == {*CELLS, *CATALOGUE}


@pytest.mark.parametrize("name", [*CELLS, *CATALOGUE])
def test_counts_are_the_cells(name: str) -> None:
    cell = {**CELLS, **CATALOGUE}[name]
    assert {f: getattr(cell, f) for f in vars(COUNTS[name])} == vars(COUNTS[name])


def test_as_few_are_saved_as_by_hand() -> None:
    """The counts that the steps written by hand had, and no sum of more than what is needed."""
    saved = {name: COUNTS[name].saved for name in COUNTS}
    by_hand = {"lstm": 4, "gru": 4, "gru_textbook": 3, "rnn_tanh": 0, "rnn_relu": 0}
    assert {name: saved[name] for name in by_hand} == by_hand
    assert saved["slstm"] == 4
    assert saved["cifg"] == 3
    assert {name: COUNTS[name].split_gates for name in COUNTS if COUNTS[name].splits_bias} == {"gru": (2,), "nas": (3,)}


def test_which_units_stay_at_zero() -> None:
    """One that divides by a state, or whose states begin elsewhere, does not; nor does what a constant multiplies."""
    assert {name for name in COUNTS if not COUNTS[name].rests} == {"cfc", "lstm_decay", "slstm"}

    def divides(x: State, r: State, state: State) -> State:
        return x[0] + r[0], (state[0] + x[0]) / state[1]

    def steep(x: State, r: State, state: State) -> Tensor:
        return (x[0] + r[0]).abs().sqrt()  # 0, and its slope infinite

    def begins(x: State, r: State, state: State) -> Tensor:
        return torch.tanh(x[0] + r[0]) + state[0]

    assert not fastrnn.cell(gates=1, states=2)(divides).rests
    assert not fastrnn.cell(gates=1)(steep).rests
    assert fastrnn.cell(gates=1)(begins).rests
    assert not fastrnn.cell(gates=1, initial=(1.0,))(begins).rests


# Refusals: what was found, and the line of it.

CAPTURED = torch.rand(3)
LAYER = torch.rand(128)
NUMBER = torch.nn.Parameter(torch.tensor(1.0))


def _sum(x: State, r: State, state: State) -> Tensor:
    return x[0] + r[0].sum()


def _norm(x: State, r: State, state: State) -> Tensor:
    return F.layer_norm(x[0] + r[0], (3,))


def _product(x: State, r: State, state: State) -> Tensor:
    return x[0] + r[0] @ torch.eye(3, dtype=torch.float64)


def _branch(x: State, r: State, state: State) -> Tensor:
    if (x[0] > 0).all():
        return x[0]
    return r[0]


def _in_place(x: State, r: State, state: State) -> Tensor:
    x[0].add_(r[0])
    return x[0]


def _captured(x: State, r: State, state: State) -> Tensor:
    return x[0] + r[0] * CAPTURED


def _captured_of_a_layer(x: State, r: State, state: State) -> Tensor:
    return x[0] + r[0] * LAYER


def _captured_number(x: State, r: State, state: State) -> Tensor:
    return x[0] + r[0] * NUMBER


def _made_of_others(x: State, r: State, state: State) -> Tensor:
    return torch.logit(x[0] + r[0])


def _unknown(x: State, r: State, state: State) -> Tensor:
    return torch.lgamma(x[0] + r[0])


def _random(x: State, r: State, state: State) -> Tensor:
    return x[0] + torch.rand_like(r[0])


def _dropped(x: State, r: State, state: State) -> Tensor:
    return F.dropout(x[0]) + r[0]


def _moved(x: State, r: State, state: State) -> Tensor:
    return torch.roll(x[0], 1, -1) + r[0]


def _two(x: State, r: State, state: State) -> State:
    return x[0], r[0]


def _wide(x: State, r: State, state: State) -> Tensor:
    return x[0].expand(5, 2, 3)


def _gate_too_many(x: State, r: State, state: State) -> Tensor:
    return x[1]


def _number(x: State, r: State, state: State) -> Any:
    return 1.0


REFUSED: dict[Callable[..., Any], str] = {
    _sum: r"_sum calls sum in line \d+: return x\[0\] \+ r\[0\]\.sum\(\): it combines units",
    _norm: r"_norm calls \S+ in line \d+: .*it combines units",
    _product: r"_product calls \S*mm\S* in line \d+: .*product of matrices.*inner=1",
    _branch: r"_branch takes a number out of a tensor in line \d+: if \(x\[0\] > 0\).all\(\):.*torch.where",
    _in_place: r"_in_place writes in place to what it was given in line \d+: x\[0\]\.add_",
    _captured: r"_captured uses a tensor of shape \(3,\) that it was not given in line \d+: .*vectors=.*constants=",
    _captured_of_a_layer: r"_captured_of_a_layer uses a tensor of shape \(128,\) that it was not given in line \d+: ",
    _captured_number: r"_captured_number uses a tensor of shape \(\) that it was not given in line \d+: ",
    _made_of_others: r"_made_of_others calls logit in line \d+: .*no kernel for it",
    _unknown: r"_unknown calls lgamma in line \d+: .*no kernel for it.*sigmoid",
    _random: r"_random calls rand_like in line \d+: .*random numbers.*constants=",
    _dropped: r"_dropped calls \S+ in line \d+: .*random numbers",
    _moved: r"_moved calls roll in line \d+: .*moves numbers from unit to unit",
    _two: r"_two should return 1 states, a tensor each, got \(Tensor, Tensor\)",
    _wide: r"_wide should return states shaped like its gates, \(2, 3\): \(5, 2, 3\)",
    _gate_too_many: r"_gate_too_many could not be run with 1 gates and 1 states in line \d+: return x\[1\]",
    _number: r"_number should return 1 states, a tensor each",
}


@pytest.mark.parametrize("step", REFUSED, ids=lambda step: step.__name__.strip("_"))
def test_what_a_step_cannot_be(step: Callable[..., Any]) -> None:
    with pytest.raises((ValueError, TypeError, IndexError), match=REFUSED[step]) as caught:
        fastrnn.cell(gates=1)(step)
    if " in line " in str(caught.value):
        line = int(str(caught.value).split(" in line ")[1].split(":")[0])
        lines, first = inspect.getsourcelines(step)
        assert first < line < first + len(lines)


def test_an_inner_gate_is_asked_for_once() -> None:
    with pytest.raises(ValueError, match=r"should call inner\(\) 1 times, called it 0 times"):
        fastrnn.cell(gates=2, inner=1)(lambda_free)
    with pytest.raises(ValueError, match="leave at least one outer gate"):
        fastrnn.cell(gates=1, inner=1)(lambda_free)


def lambda_free(x: State, r: State, state: State, inner: Callable[[Tensor], Tensor]) -> Tensor:
    return x[0] + r[0] + x[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": 0}, "gates should be a number from 1 to 16, got 0"),
        ({"gates": 1, "states": 17}, "states should be a number from 1 to 16, got 17"),
        ({"gates": 1, "initial": (0.0, 1.0)}, "initial should have a number for each of 1 states, got 2"),
        ({"gates": 1, "vectors": ("x",)}, "'x' cannot be the name"),
        ({"gates": 1, "vectors": ("a",), "constants": ("a",)}, "'a' cannot be the name"),
        ({"gates": 1, "constants": ("lengths",)}, "'lengths' cannot be the name"),
        ({"gates": 1, "vectors": ("two words",)}, "'two words' cannot be the name"),
    ],
)
def test_declarations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastrnn.cell(**options)(_unknown)


def test_a_cell_is_made_of_a_function() -> None:
    with pytest.raises(TypeError, match="takes a function, got int"):
        fastrnn.cell(gates=1)(3)


# Expressions.


def _x(builder: Builder) -> Expression:
    return builder.input("x", 0)


def _same(build: Callable[..., Value], x: Expression) -> list[tuple[Value, Value]]:
    y = build("neg", x)
    return [
        (build("add", x, 0.0), x),
        (build("mul", 1.0, x), x),
        (build("neg", y), x),
        (build("sub", 0.0, x), y),
        (build("add", 2.0, y), build("sub", 2.0, x)),
        (build("mul", y, y), build("mul", x, x)),
        (build("add", x, 3.0), build("add", 3.0, x)),
        (build("where", True, x, y), x),
        (build("where", build("gt", x, 0.0), x, x), x),
        (build("exp", 0.0), 1.0),
    ]


def test_what_is_equal_for_every_number_is_built_once() -> None:
    builder = Builder()
    for found, expected in _same(builder.build, _x(builder)):
        assert found is expected or found == expected
    x = _x(builder)
    assert builder.build("mul", x, 0.0) != 0.0  # of infinity it is not
    assert builder.build("sub", x, x) != 0.0


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "exp": torch.exp, "expm1": torch.expm1, "exp2": torch.exp2,
    "sin": torch.sin, "cos": torch.cos, "erf": torch.erf, "abs": torch.abs, "relu": torch.relu, "silu": F.silu,
    "sign": lambda a: torch.sign(a) * a, "floor": lambda a: a - torch.floor(a), "gelu": F.gelu, "mish": F.mish,
    "softplus": F.softplus, "logsigmoid": F.logsigmoid, "elu": F.elu, "celu": F.celu, "selu": F.selu,
    "leaky_relu": F.leaky_relu, "hardtanh": F.hardtanh, "hardsigmoid": F.hardsigmoid, "hardswish": F.hardswish,
    "relu6": F.relu6, "softsign": F.softsign, "tanhshrink": F.tanhshrink,
    "log": lambda a: torch.log(a * a + 1), "log2": lambda a: torch.log2(a * a + 1),
    "log1p": lambda a: torch.log1p(a * a), "sqrt": lambda a: torch.sqrt(a * a + 1),
    "rsqrt": lambda a: torch.rsqrt(a * a + 1), "reciprocal": lambda a: (a * a + 1).reciprocal(),
    "division": lambda a: a / (a * a + 1), "one over": lambda a: 1 / (a * a + 1), "cube": lambda a: a**3,
    "power -2": lambda a: (a * a + 1) ** -2, "power 1.5": lambda a: (a * a + 1) ** 1.5,
    "power of two": lambda a: (a * a + 1) ** 0.5, "square": torch.square,
    "clamp": lambda a: a.clamp(-0.7, 0.7), "clamp below": lambda a: a.clamp(min=-0.3),
    "clamp above": lambda a: torch.clamp(a, max=a * a), "maximum": lambda a: torch.maximum(a, -a / 2),
    "minimum": lambda a: torch.minimum(a, 0.1 * a * a), "where": lambda a: torch.where(a > 0.1, a, 0.5),
    "two literals": lambda a: torch.where(a > 0.1, 0.25, 0.75) * a, "comparison": lambda a: (a < 0.2) * a,
    "not": lambda a: torch.where(~(a < 0.2), a, -a), "and": lambda a: torch.where((a < 1) & (a > -1), a, 1.0),
    "or": lambda a: torch.where((a > 1) | (a < -1), 2 * a, a), "equal": lambda a: torch.where(a == a, a, 0.0),
    "to a number": lambda a: (a > 0).to(a.dtype) * a, "lerp": lambda a: torch.lerp(a, a * a, 0.3),
    "addcmul": lambda a: torch.addcmul(a, a, a, value=0.5), "rsub": lambda a: 1 - a,
    "alpha": lambda a: a.sub(a * a, alpha=2),
    "a number made a tensor": lambda a: a * torch.tensor(2.0, dtype=a.dtype),
    "logaddexp": lambda a: torch.logaddexp(a, 2 * a),
}  # fmt: skip


def test_what_is_not_linear() -> None:
    builder = Builder()
    build, x, d, e = builder.build, _x(builder), builder.input("dstate", 0), builder.input("dstate", 1)
    linear = build("sub", build("where", build("gt", x, 0.0), build("mul", x, d), 0.0), build("div", e, x))
    found = coefficients(builder, [linear, x, 0.0, d], [d, e])
    slope, none = build("where", build("gt", x, 0.0), x, 0.0), 0.0
    assert found == [[slope, build("neg", build("div", 1.0, x))], [none, none], [none, none], [1.0, none]]
    no_gradients = {
        "add": build("add", d, x), "mul": build("mul", d, e), "div": build("div", x, d), "exp": build("exp", d),
        "gt": build("where", build("gt", d, 0.0), d, 0.0), "where": build("where", build("gt", x, 0.0), d, x),
    }  # fmt: skip
    for operator, value in no_gradients.items():
        with pytest.raises(ValueError, match=f"linear in what comes to it, and {operator} is not"):
            coefficients(builder, [value], [d, e])


def _of(f: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def step(x: State, r: State, state: State) -> Tensor:
        return torch.tanh(f(x[0] + 0.5 * r[0]) + 0.1 * state[0])

    return step


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_in_torch(name: str) -> None:
    """Forward and backward as derived, in torch, against autograd through the function."""
    step = _of(OPERATORS[name])
    cell = fastrnn.cell(gates=1)(step)
    assert isinstance(cell, Cell)
    x, r, h = (torch.randn(2000, dtype=torch.float64, requires_grad=True) for _ in range(3))
    expected = step((x,), (r,), (h,))
    (found,), saved = cell.step((x.detach(),), (r.detach(),), (h.detach(),), (), lambda v: v)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-13, atol=1e-13)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (x, r, h), upstream)
    values = [t.detach() for t in saved]
    (dx,), (dr,), (dh,), _ = cell.step_backward(
        (upstream,), (None,) * len(values), tuple(values), (h.detach(),), (found,), (), lambda v: v
    )
    # torch's own kernel of the one multiplies by a sixth in float32, whatever the dtype.
    error = 1e-7 if name == "hardsigmoid" else 1e-11
    for ours, theirs in zip((dx, dr, dh), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=error, atol=error)


def test_of_two_that_differ_the_names_do() -> None:
    """A notebook's cell, run again with another body, is another."""

    def step(x: State, r: State, state: State) -> Tensor:
        return torch.tanh(x[0] + r[0])

    first = fastrnn.cell(gates=1)(step)

    def other(x: State, r: State, state: State) -> Tensor:
        return torch.tanh(x[0] - r[0])

    other.__name__ = "step"
    second = fastrnn.cell(gates=1)(other)
    again = fastrnn.cell(gates=1)(step)
    assert first.name != second.name
    assert first.name == again.name
    assert first.source.replace(first.name, "") != second.source.replace(second.name, "")


def test_what_is_derived_does_not_depend_on_the_run() -> None:
    step, of = CATALOGUE["nas"].function, Signature(8, 2)
    assert derive(step, of, "a") == derive(step, of, "a")
