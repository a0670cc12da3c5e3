"""torch's own kernels on a GPU, cuDNN's: which algorithm PyTorch asks for, and what a step of it takes at its best.

The other side of `cost.step_cost`; `rule` has both, and hands over where a scan would take `MARGIN` times as long as
this says. Nothing here was measured by this project: the constants come from the published times in `PUBLISHED`, from
GPUs of several years, and every estimate stays below them, since what hands over should know the peer's best rather
than its average. All times are microseconds, all sizes bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.plan.devices import Device

# The cells that torch has kernels of.
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
# How many times as long as torch's kernels ours may take, by both models, or by how much in a pass: below that, models
# fitted to nothing measured cannot tell, and what ours do besides (the same bits always, second derivatives) counts.
MARGIN, SLACK_US = 1.5, 2.0
# cuDNN's bfloat16 RNNs, as PyTorch takes them; with an older one it loops over the steps itself.
BFLOAT16_CUDNN = 91300
# The least of a kernel that is launched at every step: two of them take 6.8 us forward, 9.0 backward (`PUBLISHED`).
_LAUNCH = {False: 3.4, True: 4.5}
# cuBLAS: a product's beginning and end, tiles with the share of the matrix units' rate that each reaches, and the rest.
_PRODUCT_US = 1.5
_TILES = ((128, 256, 1.0), (128, 128, 0.9), (128, 64, 0.7), (64, 64, 0.5))
_SPLITS = (1, 2, 4)
_LEAST_K = 256  # of a split product
_EXACT_SHARE = 0.8  # of the ordinary units' rate
_POINTWISE_US = 1.5
# The persistent algorithm beside the hop and the reading of h; backward it reads as if h were three times as wide.
_PERSISTENT_US, _PERSISTENT_READS = 0.27, {False: 1.0, True: 2.9}


@dataclass(frozen=True)
class Layer:
    """What torch's layer is asked for, as far as its time depends on it.

    Attributes:
        counts: the cell's.
        dtype: torch's name of it.
        batch, hidden, directions, layers, projection: sizes.
        training: whether forward saves what backward needs.
        exact: whether float32 products are to be exact ones, not TF32.
        single: whether it is one step of a cell module, which cuDNN has no part in: a product and a pointwise kernel.
    """

    counts: Counts
    dtype: str
    batch: int
    hidden: int
    directions: int = 1
    layers: int = 1
    projection: int = 0
    training: bool = True
    exact: bool = False
    single: bool = False

    @property
    def element_bytes(self) -> int:
        return 4 if self.dtype == "float32" else 2


@dataclass(frozen=True)
class Pass:
    """The small-H algorithm, up to `hidden` units: it takes `rows` rows at a time, and `us` for a step of them."""

    hidden: int
    us: float
    rows: int


# Below all times of PyTorch's pull request 62143, which end at 64 rows: beyond, this goes on as they do. 0 rows where
# one multiprocessor can hold the weights: 8 on each. By whether there are several gates, and by the pass.
_SMALL: dict[tuple[bool, bool], tuple[Pass, ...]] = {
    (False, False): (Pass(64, 0.26, 0), Pass(128, 0.4, 64), Pass(256, 0.53, 32), Pass(384, 3.5, 16)),
    (False, True): (Pass(64, 0.85, 0), Pass(128, 0.95, 64), Pass(256, 0.9, 32)),
    (True, False): (Pass(64, 0.55, 0), Pass(96, 0.8, 24), Pass(128, 2.2, 32), Pass(192, 5.4, 8)),
    (True, True): (Pass(64, 1.0, 0), Pass(96, 1.6, 24), Pass(128, 3.1, 32)),
}


def algorithm(layer: Layer, backward: bool, device: Device) -> str:
    """What PyTorch asks cuDNN for (aten/src/ATen/native/cudnn/RNN.cpp): `"small"`, `"persistent"` or `"standard"`.

    Whether the batch is a multiple of 8 and the input's width one of 128, which the persistent algorithm needs besides,
    is taken for granted: this is about torch's best.
    """
    if layer.single or layer.projection:
        return "standard"
    if layer.hidden <= _SMALL[layer.counts.gates > 1, backward][-1].hidden:
        return "small"
    several = layer.layers > 1 or layer.directions > 1
    if layer.dtype != "float16" or several or layer.hidden > 1024 or layer.hidden % 128 or layer.batch > 128:
        return "standard"
    # Not on GPUs of the lesser chips, nor for the GRU.
    large = device.capability[0] >= 8 and device.capability[1] != 6 and device.sms >= 98
    wide = layer.counts.gates == 1 and layer.batch >= 96 and layer.hidden >= 896
    return "persistent" if large and layer.counts.gates != 3 and not wide else "standard"


def _mac_rate(layer: Layer, device: Device) -> float:
    """Multiply-adds per microsecond of one SM; ordinary instructions, 32 each, where float32 is to be exact."""
    if layer.exact and layer.element_bytes == 4:
        return 32 * device.sm_issue_rate * _EXACT_SHARE
    return device.sm_mac_rate * 2 / layer.element_bytes


def _product(rows: int, columns: int, k: int, layer: Layer, device: Device) -> float:
    """`[rows, k] @ [k, columns]` by cuBLAS: the best tile, in whole waves, its operands through L2 or from memory.

    A third of the operands is taken to be saved by sharing, and split products to be added up through L2.
    """
    size, rate = layer.element_bytes, _mac_rate(layer, device)
    best = float("inf")
    for height, width, share in _TILES:
        for split in _SPLITS:
            if split > 1 and k // split < _LEAST_K:
                continue
            tiles = -(-rows // height) * -(-columns // width) * split
            multiply = height * width * (k / split) / (rate * share)
            fetch = min(device.sm_l2_rate, device.l2_rate / min(device.sms, tiles)) * 1.5
            time = -(-tiles // device.sms) * max(multiply, (height + width) * (k / split) * size / fetch)
            if split > 1:
                time += 1.0 + rows * columns * 4 * split / device.l2_rate
            best = min(best, time)
    moved = (rows * k + columns * k + rows * columns) * size
    return _PRODUCT_US + max(best, moved / (device.memory_rate if moved > 0.6 * device.l2_bytes else device.l2_rate))


def _far(layer: Layer, backward: bool) -> int:
    """Elements per row and unit that a pass at least reads from memory or writes there: the gates' input parts, states
    and what is saved; or that, h where it is nothing, dy, a cell, and gradients of the gates, of some in two parts."""
    counts = layer.counts
    if backward:
        return max(1, counts.saved) + counts.states + counts.gates + len(counts.split_gates)
    return counts.gates + (counts.states + counts.saved if layer.training else 1)


def _standard(layer: Layer, backward: bool, device: Device) -> float:
    """One product and one pointwise kernel a step, one more product with a projection."""
    B, H, G, S = layer.batch, layer.hidden, layer.counts.gates, layer.counts.states
    wide = layer.projection or H
    if backward:
        products = [_product(B, wide, G * H, layer, device)]
        # dh, dc in and out and half of d(gates) are read while L2 has them; gates, c, dy and d(gates) are not in it.
        near = 1 + 2 * (S - 1) + G / 2
    else:
        products = [_product(B, G * H, wide, layer, device)]
        near = G + S - 1
    if layer.projection:
        products.append(_product(B, *((H, wide) if backward else (wide, H)), layer, device))
    kept = 8 * B * H * layer.element_bytes < 0.6 * device.l2_bytes
    moved = _far(layer, backward) / device.memory_rate + near / (device.l2_rate if kept else device.memory_rate)
    pointwise = _POINTWISE_US + B * H * layer.element_bytes * moved
    return sum(max(_LAUNCH[backward], kernel) for kernel in (*products, pointwise))


def _persistent(layer: Layer, backward: bool, device: Device) -> float:
    """A hop, and h read by every multiprocessor, in tiles of 16 rows."""
    read = _PERSISTENT_READS[backward] * -(-layer.batch // 16) * 16 * layer.hidden * layer.element_bytes
    return device.barrier_us + _PERSISTENT_US + max(device.sms * read / device.l2_rate, read / device.sm_l2_rate)


def _small(layer: Layer, backward: bool, device: Device) -> float:
    """Passes over the rows, one after the other; a GRU, of which nothing is published, as an LSTM."""
    at = next(p for p in _SMALL[layer.counts.gates > 1, backward] if layer.hidden <= p.hidden)
    units = layer.batch * layer.hidden
    work = units * layer.counts.gates * layer.hidden / (device.sms * _mac_rate(layer, device))
    moved = units * _far(layer, backward) * layer.element_bytes / device.memory_rate
    return max(at.us * -(-layer.batch // (at.rows or 8 * device.sms)), work, moved)


def step_us(layer: Layer, backward: bool, device: Device) -> float:
    """Estimated time of one step of one layer's scan, its directions one after the other."""
    asked = algorithm(layer, backward, device)
    if asked == "standard":
        time = _standard(layer, backward, device)
    elif asked == "small":
        time = _small(layer, backward, device)
    else:
        # PyTorch asks for it where it was found to be as good as the standard one, or better.
        time = min(_persistent(layer, backward, device), _standard(layer, backward, device))
    return time * layer.directions


def allowed_us(theirs: float, passes: int) -> float:
    """What ours may take where torch's kernels take `theirs` for as many passes (backward is one)."""
    return max(MARGIN * theirs, theirs + SLACK_US * passes)


@dataclass(frozen=True)
class Point:
    """A published time of one step of one layer of cuDNN's.

    Attributes:
        algorithm: which one ran.
        cell, dtype, hidden, batch, layers, backward: of what.
        us: microseconds a step and layer, products over all steps included.
        source: where it was published, and of which GPU.
    """

    algorithm: str
    cell: str
    dtype: str
    hidden: int
    batch: int
    layers: int
    backward: bool
    us: float
    source: str


_PULL = "github.com/pytorch/pytorch/pull/62143, its benchmark tables; the GPU is not said"
_BENCH = "baidu-research/DeepBench, results/train/DeepBench_NV_V100.xlsx, V100, cuDNN 7.6.2"
_H100 = "published for an H100, T=1024; backward is training less forward"


def _points(kind: str, source: str, *rows: tuple[str, str, int, int, int, bool, float]) -> tuple[Point, ...]:
    return tuple(Point(kind, *row, source) for row in rows)


PUBLISHED: tuple[Point, ...] = (
    *_points(
        "standard", _PULL,
        ("lstm", "float32", 40, 6, 1, False, 6.8), ("lstm", "float32", 72, 6, 1, False, 6.8),
        ("lstm", "float32", 128, 16, 1, False, 9.5), ("lstm", "float32", 160, 44, 1, False, 11.6),
        ("lstm", "float16", 168, 62, 1, False, 13.4), ("lstm", "float32", 40, 6, 1, True, 9.0),
        ("lstm", "float32", 128, 16, 1, True, 15.3), ("lstm", "float16", 168, 62, 1, True, 16.4),
        ("rnn_relu", "float16", 288, 4, 1, False, 7.8), ("rnn_relu", "float32", 288, 4, 1, True, 11.0),
        ("rnn_tanh", "float16", 264, 16, 1, True, 15.1),
    ),
    *_points(
        "standard", _BENCH,
        ("lstm", "float16", 256, 64, 1, False, 29.7), ("lstm", "float16", 512, 128, 1, False, 34.3),
        ("lstm", "float16", 1024, 128, 1, False, 65.1), ("lstm", "float16", 256, 64, 1, True, 36.2),
        ("lstm", "float16", 1024, 128, 1, True, 68.0),
    ),
    *_points(
        "persistent", _H100,
        ("lstm", "float16", 768, 16, 1, False, 1.96), ("lstm", "float16", 768, 16, 1, True, 3.11),
    ),
    *_points(
        "small", _PULL,
        ("lstm", "float16", 40, 6, 1, False, 0.66), ("lstm", "float16", 64, 5, 4, False, 0.57),
        ("lstm", "float16", 56, 47, 4, False, 0.84), ("lstm", "float16", 72, 6, 1, False, 0.85),
        ("lstm", "float16", 80, 45, 3, False, 1.86), ("lstm", "float16", 88, 47, 4, False, 1.96),
        ("lstm", "float16", 104, 8, 4, False, 2.37), ("lstm", "float16", 112, 55, 4, False, 4.97),
        ("lstm", "float16", 128, 16, 1, False, 2.62), ("lstm", "float16", 128, 8, 4, False, 2.40),
        ("lstm", "float16", 152, 1, 4, False, 5.59), ("lstm", "float16", 152, 45, 4, False, 33.0),
        ("lstm", "float16", 160, 44, 1, False, 32.8), ("lstm", "float16", 168, 62, 1, False, 75.1),
        ("lstm", "float16", 192, 12, 1, False, 13.6), ("lstm", "float16", 64, 5, 4, True, 1.04),
        ("lstm", "float16", 56, 47, 4, True, 1.62), ("lstm", "float16", 72, 6, 1, True, 1.65),
        ("lstm", "float16", 88, 47, 4, True, 3.59), ("lstm", "float16", 128, 16, 1, True, 3.63),
        ("lstm", "float16", 128, 8, 4, True, 3.17), ("lstm", "float16", 112, 55, 4, True, 7.59),
        ("rnn_relu", "float16", 32, 20, 3, False, 0.27), ("rnn_relu", "float16", 120, 34, 1, False, 0.57),
        ("rnn_relu", "float16", 152, 1, 4, False, 0.54), ("rnn_relu", "float16", 168, 62, 1, False, 1.50),
        ("rnn_relu", "float16", 224, 20, 3, False, 0.90), ("rnn_relu", "float16", 264, 16, 1, False, 3.61),
        ("rnn_relu", "float16", 360, 6, 1, False, 9.93), ("rnn_relu", "float16", 64, 20, 4, True, 0.97),
        ("rnn_relu", "float16", 152, 1, 4, True, 0.91), ("rnn_relu", "float16", 168, 62, 1, True, 2.67),
        ("rnn_relu", "float16", 224, 20, 3, True, 1.62),
    ),
)  # fmt: skip
