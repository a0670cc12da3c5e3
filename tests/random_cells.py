"""Random cells, as source text: what a user could have written, and values that stay tame.

Each expression is drawn with bounds on its value, whatever the gates are, and an estimate of its slope. Those keep
logarithms, roots and divisions away from zero, results and their gradients small over many steps, and a float64
comparison sharp. A function with a kink or a jump is applied to its argument plus a number of three digits, so that no
argument is exactly at one: zero states, too, are drawn often.
"""

from __future__ import annotations

import linecache
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

INF = math.inf
STATE = 2.5  # no state is larger
WIDE = 4.0  # for a slope, what a value without bounds is taken to be
STEEPEST = 4.0  # no expression's slope is estimated higher, and no result's higher than 1.5


@dataclass(frozen=True)
class Value:
    """An expression's name, its bounds, and how fast it may change with x, r and the states."""

    name: str
    low: float
    high: float
    slope: float = 1.0

    @property
    def size(self) -> float:
        return max(abs(self.low), abs(self.high))


class Drawn(NamedTuple):
    text: str
    low: float
    high: float
    slope: float


Unary = Callable[["_Writer", Value], "Drawn | None"]


def _increasing(text: str, f: Callable[[float], float], slope: float) -> Unary:
    """A function of any argument; `{}` stands for it."""
    return lambda w, a: Drawn(text.format(a.name), f(a.low), f(a.high), slope * a.slope)


def _kinked(text: str, f: Callable[[float], float], slope: float = 1.0) -> Unary:
    def draw(w: _Writer, a: Value) -> Drawn:
        shift = w.literal()
        return Drawn(text.format(f"{a.name} + {shift}"), f(a.low + shift), f(a.high + shift), slope * a.slope)

    return draw


def _above(text: str, least: float, f: Callable[[float], float], steepness: Callable[[float], float]) -> Unary:
    """A function of arguments of at least `least`, steepest there; of others, of a function that is."""

    def draw(w: _Writer, a: Value) -> Drawn:
        if a.low < least:
            shift = abs(w.literal()) + 0.5
            positive, high = w.rng.choice(
                (
                    ("torch.square({})", a.size**2),
                    ("torch.exp({})", _exp(a.high)),
                    ("F.softplus({})", _softplus(a.high)),
                )
            )
            # Each but the square is at most as steep as it is high, and the whole where it is low.
            slope = a.slope * (2 * min(a.size, WIDE) if "square" in positive else min(high, WIDE))
            a = Value(f"({positive.format(a.name)} + {shift:.3f})", shift, high + shift, slope)
        ends = f(a.low), f(a.high)
        return Drawn(text.format(a.name), min(ends), max(ends), steepness(a.low) * a.slope)

    return draw


def _below(text: str, most: float, f: Callable[[float], float]) -> Unary:
    """An exponential, of arguments of at most `most`."""
    return lambda w, a: (
        Drawn(text.format(a.name), f(a.low), f(a.high), math.exp(a.high) * a.slope) if (a.high <= most) else None
    )


def _wave(text: str) -> Unary:
    return lambda w, a: Drawn(text.format(a.name), -1.0, 1.0, a.slope)


def _power(w: _Writer, a: Value) -> Drawn | None:
    n = w.rng.choice((2, 3, 4))
    if a.size > 2:
        return None
    low = -(a.size**n) if n % 2 else 0.0
    text = w.rng.choice(("{} ** {}", "torch.pow({}, {})", "{}.pow({})")).format(a.name, n)
    return Drawn(text, low, a.size**n, n * a.size ** (n - 1) * a.slope)


def _square(w: _Writer, a: Value) -> Drawn:
    return Drawn(w.rng.choice(("torch.square({})", "{0} * {0}")).format(a.name), 0.0, a.size**2, w.steep(a, 2, a))


def _abs(w: _Writer, a: Value) -> Drawn:
    shift = w.literal()
    text = w.rng.choice(("torch.abs({} + {})", "({} + {}).abs()")).format(a.name, shift)
    return Drawn(text, 0.0, a.size + abs(shift), a.slope)


def _clamp(w: _Writer, a: Value) -> Drawn:
    low, high = round(-abs(w.literal()) - 0.5, 3), round(abs(w.literal()) + 0.5, 3)
    kind = w.rng.randrange(4)
    if kind == 0:
        return Drawn(f"torch.clamp({a.name}, {low}, {high})", low, high, a.slope)
    if kind == 1:
        return Drawn(f"{a.name}.clamp(min={low})", max(low, a.low), max(low, a.high), a.slope)
    if kind == 2:
        return Drawn(f"torch.clamp({a.name}, max={high})", min(high, a.low), min(high, a.high), a.slope)
    return Drawn(f"F.hardtanh({a.name}, {low}, {high})", low, high, a.slope)


def _affine(w: _Writer, a: Value) -> Drawn:
    factor, shift = round(w.literal() * 2, 3), w.literal()
    ends = factor * a.low + shift, factor * a.high + shift
    text = w.rng.choice(("{0} * {1} + {2}", "{2} + {1} * {0}", "({0} + {2} / {1}) * {1}"))
    return Drawn(text.format(a.name, factor, shift), min(ends), max(ends), abs(factor) * a.slope)


def _softplus(a: float) -> float:
    return a if a > 30 else math.log1p(math.exp(a))


def _sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a > -700 else 0.0


def _exp(a: float) -> float:
    return math.exp(a) if a < 700 else INF


UNARY: dict[str, Unary] = {
    "neg": lambda w, a: Drawn(f"-{a.name}", -a.high, -a.low, a.slope),
    "one minus": lambda w, a: Drawn(f"1 - {a.name}", 1 - a.high, 1 - a.low, a.slope),
    "affine": _affine,
    "sigmoid": _increasing("torch.sigmoid({})", _sigmoid, 0.25),
    "tanh": _increasing("torch.tanh({})", math.tanh, 1.0),
    "sin": _wave("torch.sin({})"),
    "cos": _wave("torch.cos({})"),
    "softplus": _increasing("F.softplus({})", _softplus, 1.0),
    "logsigmoid": _increasing("F.logsigmoid({})", lambda a: -_softplus(-a), 1.0),
    "elu": _increasing("F.elu({})", lambda a: a if a > 0 else math.expm1(a), 1.0),
    "silu": lambda w, a: Drawn(f"F.silu({a.name})", min(0.0, max(a.low, -0.28)), max(a.high, 0.0), 1.1 * a.slope),
    "relu": _kinked("torch.relu({})", lambda a: max(a, 0.0)),
    "leaky_relu": _kinked("F.leaky_relu({}, 0.125)", lambda a: max(a, 0.125 * a)),
    "hardtanh": _kinked("F.hardtanh({})", lambda a: min(max(a, -1.0), 1.0)),
    "hardsigmoid": _kinked("F.hardsigmoid({})", lambda a: min(max(a / 6 + 0.5, 0.0), 1.0), 1 / 6),
    "abs": _abs,
    "clamp": _clamp,
    "square": _square,
    "pow": _power,
    "exp": _below("torch.exp({})", 1.2, _exp),
    "expm1": _below("torch.expm1({})", 1.2, lambda a: _exp(a) - 1),
    "reciprocal": _above("torch.reciprocal({})", 0.4, lambda a: 1 / a, lambda a: a**-2),
    "one over": _above("1 / {}", 0.4, lambda a: 1 / a, lambda a: a**-2),
    "inverse square": _above("{} ** -2", 0.6, lambda a: a**-2, lambda a: 2 * a**-3),
    "log": _above("torch.log({})", 0.3, math.log, lambda a: 1 / a),
    "log1p": _above("torch.log1p({})", -0.7, math.log1p, lambda a: 1 / (1 + a)),
    "sqrt": _above("torch.sqrt({})", 0.2, math.sqrt, lambda a: 0.5 * a**-0.5),
    "rsqrt": _above("torch.rsqrt({})", 0.4, lambda a: a**-0.5, lambda a: 0.5 * a**-1.5),
}
BINARY = ("add", "sub", "mul", "gated", "div", "signed", "maximum", "minimum", "where", "where both")
KINKED = ("relu", "leaky_relu", "hardtanh", "hardsigmoid", "abs", "clamp", *BINARY[5:])  # drawn more rarely
SQUASHES = ("tanh", "sigmoid", "sin", "cos", "hardtanh")


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


class _Writer:
    """Draws one cell, line by line."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lines: list[str] = []
        self.open: dict[str, Value] = {}  # what nothing has read yet
        self.pool: list[Value] = []
        self.operations: list[str] = []

    def literal(self) -> float:
        """A number that no sum of others is, to all likelihood: an odd three digits, of either sign."""
        return self.rng.choice((-1, 1)) * (2 * self.rng.randrange(30, 300) + 1) / 1000

    @staticmethod
    def steep(a: Value, factor: float, b: Value) -> float:
        """The slope of factor a b, by a."""
        return factor * a.slope * (b.size if b.size < INF else WIDE)

    def take(self) -> Value:
        """An operand: rather one that nothing reads yet, or a late one."""
        if self.open and self.rng.random() < 0.65:
            return self.rng.choice(list(self.open.values()))
        late = self.pool[-6:] if self.rng.random() < 0.5 else self.pool
        return self.rng.choice(late)

    def add(self, value: Value) -> Value:
        self.pool.append(value)
        self.open[value.name] = value
        return value

    def write(self, drawn: Drawn, *read: Value, name: str | None = None) -> Value:
        name = name or f"v{len(self.lines)}"
        text = drawn.text
        scale = 1.0
        if drawn.slope > STEEPEST:
            scale = max(0.01, round(STEEPEST / drawn.slope, 2))
            text = f"{scale} * ({text})"
        self.lines.append(f"{name} = {text}")
        for value in read:
            self.open.pop(value.name, None)
        return self.add(Value(name, scale * drawn.low, scale * drawn.high, scale * drawn.slope))

    def unary(self, operation: str) -> Value | None:
        a = self.take()
        drawn = UNARY[operation](self, a)
        return None if drawn is None else self._written(operation, drawn, a)

    def _written(self, operation: str, drawn: Drawn, *read: Value) -> Value:
        self.operations.append(operation)
        return self.write(drawn, *read)

    def binary(self, operation: str) -> Value | None:
        a, b = self.take(), self.take()
        if a.name == b.name:
            return None
        slope = a.slope + b.slope
        if operation in ("add", "sub"):
            sign = 1 if operation == "add" else -1
            ends = (b.low, b.high) if sign == 1 else (-b.high, -b.low)
            drawn = Drawn(f"{a.name} {'+' if sign == 1 else '-'} {b.name}", a.low + ends[0], a.high + ends[1], slope)
        elif operation == "mul":
            if min(a.size, b.size) > STATE or max(a.size, b.size) > 8:
                return None
            drawn = self._product(a, b)
        elif operation == "gated":  # the gate that most cells have
            if a.size > STATE or b.size > STATE:
                return None
            drawn = Drawn(f"torch.sigmoid({a.name}) * {b.name}", -b.size, b.size, 0.25 * a.slope * b.size + b.slope)
        elif operation == "div":
            size = a.size if a.size < INF else WIDE
            if b.low >= 0.4 and self.rng.random() < 0.7:
                most = a.size / b.low
                drawn = Drawn(f"{a.name} / {b.name}", -most, most, a.slope / b.low + size * b.slope / b.low**2)
            else:
                below = self.rng.choice(("torch.square({})", "torch.exp(torch.tanh({}))", "torch.sigmoid({})"))
                drawn = Drawn(f"{a.name} / (1 + {below.format(b.name)})", -a.size, a.size, a.slope + size * b.slope)
        else:
            drawn = self._choice(operation, a, b)
        return self._written(operation, drawn, a, b)

    def _product(self, a: Value, b: Value) -> Drawn:
        ends = [_times(p, q) for p in (a.low, a.high) for q in (b.low, b.high)]
        return Drawn(f"{a.name} * {b.name}", min(ends), max(ends), self.steep(a, 1, b) + self.steep(b, 1, a))

    def _choice(self, operation: str, a: Value, b: Value) -> Drawn:
        low, high, slope = min(a.low, b.low), max(a.high, b.high), max(a.slope, b.slope)
        shift, other = self.literal(), self.literal()
        if operation in ("maximum", "minimum"):
            # Apart by a number: two states that start at zero would be equal.
            return Drawn(f"torch.{operation}({a.name}, {b.name} + {shift})", low - 0.7, high + 0.7, slope)
        c = self.take()  # and to be read elsewhere: its gradient is nothing here
        if operation == "signed":
            return Drawn(f"{a.name} + torch.sign({b.name} + {shift}) * {b.name}", -INF, INF, a.slope + b.slope)
        compare = self.rng.choice((">", "<", ">=", "<="))
        condition = f"{c.name} {compare} {shift}"
        if operation == "where both":
            join = self.rng.choice(("logical_and", "logical_or"))
            condition = f"torch.{join}({condition}, torch.logical_not({a.name} > {b.name} + {other}))"
        return Drawn(f"torch.where({condition}, {a.name}, {b.name})", low, high, slope)

    def step(self) -> None:
        """One more expression."""
        while True:
            one = self.rng.random() < 0.5
            operation = self.rng.choice(list(UNARY) if one else BINARY)
            if operation in KINKED and self.rng.random() < 0.6:
                continue
            if (self.unary(operation) if one else self.binary(operation)) is not None:
                return

    def tamed(self, value: Value) -> Value:
        """`value`, or, where it is not bounded as a state, a function of it that is."""
        if value.size > STATE:
            squash = self.rng.choice(SQUASHES)
            drawn = UNARY[squash](self, value)
            assert drawn is not None
            value = self._written(squash, drawn, value)
        if value.slope > 1.5:
            scale = round(1.5 / value.slope, 2)
            value = self.write(Drawn(f"{scale} * {value.name}", scale * value.low, scale * value.high, 1.5), value)
        return value

    def joined(self, values: list[Value]) -> Value:
        """One value of several, each bounded."""
        total = self.tamed(values[0])
        for value in values[1:]:
            value = self.tamed(value)
            if self.rng.random() < 0.4:
                total = self._written("mul", self._product(total, value), total, value)
            else:
                ends = total.low + value.low, total.high + value.high
                drawn = Drawn(f"{total.name} + {value.name}", *ends, total.slope + value.slope)
                total = self._written("add", drawn, total, value)
            total = self.tamed(total)
        return total


def _leaves(w: _Writer, options: dict[str, Any]) -> None:
    """What the function is given, and each gate's sum, or its two parts."""
    outer = options["gates"] - options.get("inner", 0)
    for k in range(options["states"]):
        w.add(Value(f"state[{k}]", -STATE, STATE))
    for g in range(outer):
        kind = w.rng.random()
        if kind < 0.75:
            w.write(Drawn(f"x[{g}] + r[{g}]", -INF, INF, 1.0), name=f"gate{g}")
        elif kind < 0.85:  # as in the GRU's candidate
            w.write(Drawn(f"x[{g}] + torch.sigmoid(state[0]) * r[{g}]", -INF, INF, 1.5), name=f"gate{g}")
        elif kind < 0.92:
            w.write(Drawn(f"torch.tanh(x[{g}]) * torch.tanh(r[{g}])", -1.0, 1.0, 1.0), name=f"gate{g}")
        else:
            w.add(Value(f"x[{g}]", -INF, INF))
            w.add(Value(f"r[{g}]", -INF, INF))
    if "inner" in options:
        gate = w.rng.choice([v for v in w.pool if v.name.startswith(("gate", "x["))])
        form = w.rng.choice(("torch.sigmoid({}) * state[0]", "state[0] - torch.tanh({})", "state[0] * torch.cos({})"))
        w.write(Drawn(form.format(gate.name), -STATE - 1, STATE + 1, 1.5), gate, name="inside")
        w.open.pop("inside")
        g = outer
        w.write(Drawn(f"x[{g}] + inner(inside)", -INF, INF, 1.5), name=f"gate{g}")
    for name in options.get("vectors", ()):
        w.write(Drawn(f"torch.tanh({name})", -1.0, 1.0, 0.0), name=f"{name}_bounded")
    for name in options.get("constants", ()):
        form = w.rng.choice(("torch.exp(-torch.abs({}))", "torch.sigmoid({})", "{} / (1 + torch.square({}))"))
        w.write(Drawn(form.replace("{}", name), -0.5 if "/" in form else 0.0, 1.0, 0.0), name=f"{name}_bounded")


def _options(rng: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {"gates": rng.randint(1, 6), "states": rng.randint(1, 4)}
    if rng.random() < 0.35:
        options["vectors"] = tuple(f"p{k}" for k in range(rng.randint(1, 3)))
    if rng.random() < 0.3:
        options["constants"] = tuple(("dt", "gap")[: rng.randint(1, 2)])
    if options["gates"] > 1 and rng.random() < 0.3:
        options["inner"] = 1
    if rng.random() < 0.2:
        options["initial"] = tuple(rng.choice((0.0, 1.0, -0.5)) for _ in range(options["states"]))
    return options


def write(seed: int) -> tuple[str, dict[str, Any], list[str]]:
    """The source of a random cell, its options, and the operations drawn."""
    rng = random.Random(seed)
    options = _options(rng)
    w = _Writer(rng)
    _leaves(w, options)
    for _ in range(rng.randint(3, 20)):
        w.step()
    states = options["states"]
    # All that nothing reads goes into a result, dealt out in turn, and so every gate, state and argument is used.
    ends = list(w.open.values())
    while len(ends) < states:
        ends.append(rng.choice([v for v in w.pool if v not in ends] or w.pool))
    rng.shuffle(ends)
    results = []
    for k in range(states):
        result = w.joined(ends[k::states])
        if result.slope == 0:  # of vectors and constants alone: not of a state's shape
            result = w.joined([result, w.pool[rng.randrange(states)]])
        results.append(result.name)
    if states > 1 and rng.random() < 0.1:
        results[-1] = f"0.4 * {results[-1]} * {results[0]}"
    text = ", ".join(results) if states > 1 else rng.choice((results[0], f"({results[0]},)"))
    arguments = ["x", "r", "state", *options.get("vectors", ()), *options.get("constants", ())]
    if "inner" in options:
        arguments.append("inner")
    body = [f'"""Random cell {seed}."""', *w.lines, f"return {text}"]
    source = "\n".join([f"def random_cell_{seed}({', '.join(arguments)}):", *(f"    {line}" for line in body), ""])
    return source, options, w.operations


def random_cell(seed: int) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A random cell as a function, whose source `inspect` finds, and the options that `fastrnn.cell` takes for it."""
    source, options, _ = write(seed)
    file = f"<random cell {seed}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space: dict[str, Any] = {"torch": torch, "F": F, "__name__": __name__}
    exec(compile(source, file, "exec"), space)
    function: Callable[..., Any] = space[f"random_cell_{seed}"]
    return function, options
