"""Backward by parts: a program multiplies its own dr by its own rows of R, and sends every reader a part of its dh.

H numbers a row come and go, where gathered dr are GATES * H that come. A part has 16 rows and the 16 units of its
reader, as a warp holds a product: a thread's 8 numbers are one store and one load of 16 bytes, and a reader adds up
what it loads, a warp every WARPS-th writer's, as it adds up products: in float32, in the same order each time.

There are slots for each step's parity. READERS, and writers, are a multiple of WARPS: those past the last are zeros.
"""

from fastrnn.kernels.gluon.language import barrier, gl, gluon, mma_v2
from fastrnn.kernels.gluon.products import keep_order, put, share
from fastrnn.kernels.gluon.wire import BLOCK


@gluon.jit
def load_sent(
    ptr,  # of the program's group: gate g, unit n, input k at g * H * H + n * H + k
    first,  # the program's first unit
    H: gl.constexpr,
    GATES: gl.constexpr,
    READERS: gl.constexpr,
    WARPS: gl.constexpr,
    HELD: gl.constexpr,
    SEND: gl.constexpr,
    PART: gl.constexpr,
):
    """The program's rows of R, `[16, 16 * WARPS]` for each WARPS readers and gate: a warp has a reader's columns.
    The first HELD of the readers' in registers, the others in shared memory."""
    right: gl.constexpr = gl.DotOperandLayout(1, SEND, 2)
    n = first + gl.arange(0, 16, layout=gl.SliceLayout(1, right))[:, None]
    column = gl.arange(0, 16 * WARPS, layout=gl.SliceLayout(0, right))[None, :]
    k = (column // 8 % WARPS) * 16 + column // (8 * WARPS) * 8 + column % 8
    held, kept = (), ()
    TURNS: gl.constexpr = READERS // WARPS
    for i in gl.static_range(TURNS):
        to = (HELD + i) % TURNS * (16 * WARPS) + k  # those for shared memory first, while registers are free
        mask = (n < H) & (to < H)
        for g in gl.static_range(GATES):
            tile = gl.load(ptr + (g * H * H + n * H + to), mask=mask, other=0.0)
            if (HELD + i) % TURNS < HELD:
                held = held + (tile,)
            else:
                tile = tile.reshape([2, 4, 2, 2, WARPS, 8]).permute(4, 5, 1, 3, 0, 2).reshape([WARPS, 32, 8])
                kept = kept + (put(tile, PART),)
        if (HELD + i) % TURNS >= HELD:
            keep_order()
    return held, kept


@gluon.jit
def _sent(
    held, kept, i: gl.constexpr, WARPS: gl.constexpr, COUNT: gl.constexpr, SEND: gl.constexpr, PART: gl.constexpr
):
    """The i-th right operand, of which COUNT are in registers."""
    if i < COUNT:
        return held[i]
    else:
        tile = kept[i - COUNT].load(PART).reshape([WARPS, 8, 4, 2, 2, 2]).permute(4, 2, 5, 3, 0, 1)
        return gl.convert_layout(tile.reshape([16, 16 * WARPS]), gl.DotOperandLayout(1, SEND, 2), assert_trivial=True)


@gluon.jit
def part_offsets(WARPS: gl.constexpr, STRIDE: gl.constexpr, PART: gl.constexpr):
    """Where each thread's 8 numbers of a part are, for parts STRIDE apart, one a warp."""
    warp = gl.arange(0, WARPS, layout=gl.SliceLayout(1, gl.SliceLayout(2, PART)))[:, None, None]
    lane = gl.arange(0, 32, layout=gl.SliceLayout(0, gl.SliceLayout(2, PART)))[None, :, None]
    number = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, PART)))[None, None, :]
    return warp * STRIDE + lane * 8 + number


@gluon.jit
def send_parts(
    ptrs,  # `part_offsets` of the first readers' slots for this program
    dr,  # GATES tiles [16, 16], zero past H
    shared,  # shared memory for each
    held,  # `load_sent`
    kept,
    GATES: gl.constexpr,
    READERS: gl.constexpr,
    WARPS: gl.constexpr,
    HELD: gl.constexpr,
    SEND: gl.constexpr,
    PART: gl.constexpr,
):
    for g in gl.static_range(GATES):
        shared[g].store(dr[g])
    barrier()
    left = ()
    for g in gl.static_range(GATES):
        left = left + (shared[g].load(gl.DotOperandLayout(0, SEND, 2)),)
    for j in gl.static_range(READERS // WARPS):
        total = gl.zeros([16, 16 * WARPS], gl.float32, SEND)
        for g in gl.static_range(GATES):
            total = mma_v2(left[g], _sent(held, kept, j * GATES + g, WARPS, HELD * GATES, SEND, PART), total)
        if j >= HELD:
            keep_order()
        part = total.to(dr[0].dtype).reshape([2, 8, 2, WARPS, 4, 2]).permute(3, 1, 4, 2, 0, 5).reshape([WARPS, 32, 8])
        gl.store(ptrs + j * (WARPS * READERS * BLOCK), gl.convert_layout(part, PART, assert_trivial=True))


@gluon.jit
def sum_parts(
    ptrs,  # `part_offsets` of the first writers' slots for this program
    partial,
    READERS: gl.constexpr,
    WARPS: gl.constexpr,
    MMA: gl.constexpr,
    SUM: gl.constexpr,
    OWN: gl.constexpr,
):
    """What was sent to this program, `[16, 16]`, as its owners hold it."""
    TURNS: gl.constexpr = READERS // WARPS
    WINDOW: gl.constexpr = min(TURNS, 8)  # so many are on their way at a time as there are registers for
    parts = ()
    for j in gl.static_range(WINDOW):
        parts = parts + (gl.load(ptrs + j * (WARPS * BLOCK), cache_modifier=".cg"),)
    total = parts[0].to(gl.float32)
    for j in gl.static_range(1, TURNS):
        if j + WINDOW <= TURNS:
            keep_order()
            parts = parts + (gl.load(ptrs + (j + WINDOW - 1) * (WARPS * BLOCK), cache_modifier=".cg"),)
        total += parts[j].to(gl.float32)
    total = total.reshape([WARPS, 8, 4, 2, 2, 2]).permute(0, 4, 1, 3, 2, 5).reshape([WARPS, 16, 16])
    total = gl.convert_layout(total, MMA, assert_trivial=True)
    return share(partial, (total,), 1, 16, 16, WARPS, SUM, OWN)
