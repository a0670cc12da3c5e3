"""The wire when data are their own flag: one trip through L2 where the counter takes two and a fence.

16 bytes of the wire, 8 numbers, or 4 in float32, are stored and loaded as one: PTX's `.b128`, relaxed, which are the
atomic loads and stores of 16 bytes that libcu++ has from sm_70 on (its page of `cuda::atomic_ref`). Before they are
there they are all ones; the first word of results never is, for which two NaNs, or one in float32, give way to others.
A reader has all its loads on their way at once, and again, until none finds ones.

So that 16 bytes are ones before they are used again, there are SLOTS of the wire, and a step takes the next one. Who
is through with a step clears its own part of the slot of 2 * PERIOD steps ago. That everybody has read that, and that
all see it cleared before they look for what comes there next, a counter says: every PERIOD steps each program adds to
it, and waits for what the others added PERIOD steps ago, which they long have. With fewer slots than 4 * PERIOD + 1 one
would be looked at before that is known (tests/kernels/test_protocol.py).
"""

from fastrnn.kernels.gluon.indices import along
from fastrnn.kernels.gluon.language import constexpr_function, gl, gluon
from fastrnn.kernels.gluon.wire import BLOCK, arrive, packed, poll
from fastrnn.kernels.plan import gluon as plan
from fastrnn.kernels.plan.configs import power_of_two

PERIOD = gl.constexpr(plan.PERIOD)
SLOTS = gl.constexpr(plan.SLOTS)


@constexpr_function
def _several(layout, count):
    """`layout` of one operand on the wire with COUNT of them in its second dimension, registers all."""
    bases = [
        [[one[0], 0, *one[1:]] for one in some] for some in (layout.reg_bases, layout.lane_bases, layout.warp_bases)
    ]
    bases[0] += [[0, 1 << bit, *[0] * (len(layout.shape) - 1)] for bit in range(count.bit_length() - 1)]
    return gl.DistributedLinearLayout(*bases, [], [layout.shape[0], count, *layout.shape[1:]])


_least_power = constexpr_function(power_of_two)


@constexpr_function
def _constraints(places, numbers, letter):
    """Of `_load_all`, for `numbers` to a load."""
    return ",".join([f"=&{letter}"] * (4 * places) + ["l"] * (numbers * places))


@constexpr_function
def _load_all(offsets, places):
    """Assembly that loads 16 bytes at each of `offsets` bytes behind an address, all of them until none is ones; for
    tiles of `places` such loads a thread. (If only what was ones is loaded again, each operand is copied before its
    products.)"""
    n, address = len(offsets), 4 * places
    loads = [f"q{i}" for i in range(n)]
    lines = [f".reg .pred more; .reg .b32 polls, one, rest; .reg .b64 low, high; .reg .b128 {', '.join(loads)};"]
    lines += ["mov.b32 polls, 0; AGAIN: setp.ne.u32 more, polls, polls;"]
    lines += [f"ld.relaxed.gpu.global.b128 {loads[i]}, [${address}+{offsets[i]}];" for i in range(n)]
    for load in loads:
        lines += [f"mov.b128 {{low, high}}, {load}; mov.b64 {{one, rest}}, low;"]
        lines += ["setp.eq.or.u32 more, one, 0xffffffff, more;"]
    lines += [
        "@!more bra THERE; add.u32 polls, polls, 1; setp.gt.u32 more, polls, 16777216; @more trap; bra.uni AGAIN;"
    ]
    lines += ["THERE: bar.warp.sync 0xffffffff;"]
    for i in range(n):
        lines += [f"mov.b128 {{low, high}}, {loads[i]};"]
        for half, word in (("low", 4 * i), ("high", 4 * i + 2)):
            lines += [f"mov.b64 {{one, rest}}, {half}; mov.b32 ${word}, one; mov.b32 ${word + 1}, rest;"]
    lines += [f"mov.b32 ${word}, 0;" for word in range(4 * n, address)]
    return "{ " + " ".join(lines) + " }"


@constexpr_function
def _offsets(first, count, left, stride, chunk, blocks, block, loads, load):
    """In bytes: of `count` operands from the `first` one on, `left` to a chunk, blocks of rows, and loads of each."""
    return [
        i % left * stride + i // left * chunk + b * block + part * load
        for i in range(first, first + count)
        for b in range(blocks)
        for part in range(loads)
    ]


@gluon.jit
def fetch(
    ptr,  # to the slot and its first operand
    FIRST: gl.constexpr,
    COUNT: gl.constexpr,
    LEFT: gl.constexpr,
    ROWS: gl.constexpr,
    NUM_K: gl.constexpr,
    WARPS: gl.constexpr,
    WIRE: gl.constexpr,
    MMA: gl.constexpr,
):
    """Left operands `[WARPS, ROWS, 16]`, once they are there: COUNT of them, from FIRST on, LEFT for each chunk."""
    DTYPE: gl.constexpr = ptr.dtype.element_ty
    PACKED: gl.constexpr = packed(DTYPE)
    LOADS: gl.constexpr = 2 // PACKED
    BLOCKS: gl.constexpr = ROWS // 16
    TILES: gl.constexpr = _least_power(COUNT)
    LAYOUT: gl.constexpr = _several(WIRE, TILES)
    BYTES: gl.constexpr = 4 // PACKED
    CHUNK: gl.constexpr = WARPS * BLOCK * BYTES
    PLACES: gl.constexpr = _offsets(
        FIRST, COUNT, LEFT, BLOCKS * NUM_K * CHUNK, CHUNK, BLOCKS, NUM_K * CHUNK, LOADS, 128 * PACKED * BYTES
    )
    EACH: gl.constexpr = TILES * BLOCKS * LOADS
    CODE: gl.constexpr = _load_all(PLACES, EACH)
    TYPES: gl.constexpr = _constraints(EACH, 4 * PACKED, "r" if PACKED == 2 else "f")
    at = (along(0, WARPS, 6, LAYOUT) * BLOCK + along(4, 32, 6, LAYOUT) * (4 * PACKED)) * BYTES
    at = ptr.to(gl.int64) + at.to(gl.int64) + gl.zeros([WARPS, TILES, BLOCKS, LOADS, 32, 4 * PACKED], gl.int64, LAYOUT)
    found = gl.inline_asm_elementwise(
        CODE, TYPES, [at], dtype=ptr.dtype.element_ty, is_pure=False, pack=EACH * 4 * PACKED
    )
    tiles = (found,)
    for _ in gl.static_range(TILES.bit_length() - 1):
        halves = ()
        for i in gl.static_range(len(tiles)):
            one = tiles[i]
            one = one.reshape([WARPS, 2, one.shape[1] // 2, BLOCKS, LOADS, 32, 4 * PACKED]).permute(0, 2, 3, 4, 5, 6, 1)
            low, high = gl.split(one)
            halves = halves + (low, high)
        tiles = halves
    parts = ()
    for i in gl.static_range(COUNT):
        p = tiles[i].reshape([WARPS, BLOCKS, LOADS, 8, 4, 2, 2, PACKED]).permute(0, 1, 6, 3, 2, 5, 4, 7)
        parts = parts + (
            gl.convert_layout(p.reshape([WARPS, ROWS, 16]), gl.DotOperandLayout(0, MMA, PACKED), assert_trivial=True),
        )
    return parts


@constexpr_function
def _store(packed, below):
    """Assembly with which a first thread stores its number and those that go with it: of neighbouring lanes, and of
    those `below` later, which have row + 8."""
    nan = "0x7fff7fff" if packed == 2 else "0x7fffffff"
    if packed == 2:
        gather = "shfl.sync.bfly.b32 w1, $1, 1, 31, 0xffffffff; prmt.b32 w0, $1, w1, 0x5410;"
    else:
        gather = "mov.b32 w0, $1;"
    gather += f"setp.eq.u32 ones, w0, 0xffffffff; selp.b32 w0, {nan}, w0, ones;"
    for word, lane in ((1, below), (2, packed), (3, below + packed)):
        gather += f"shfl.sync.down.b32 w{word}, w0, {lane}, 31, 0xffffffff;"
    return (
        "{ .reg .pred first, ones; .reg .b32 w0, w1, w2, w3; .reg .b64 low, high; .reg .b128 q;"
        + gather
        + "mov.b64 low, {w0, w1}; mov.b64 high, {w2, w3}; mov.b128 q, {low, high}; setp.ne.u32 first, $3, 0;"
        "@first st.relaxed.gpu.global.b128 [$2], q; mov.b32 $0, 0; }"
    )


@gluon.jit
def firsts(ROWS: gl.constexpr, UNITS: gl.constexpr, DTYPE: gl.constexpr, WARPS: gl.constexpr, OWN: gl.constexpr):
    """Who stores 16 bytes of a tile `[ROWS, UNITS]`: 1 for those threads. Where there are more threads than numbers,
    several have the same, and the first of them does."""
    TOGETHER: gl.constexpr = min(UNITS, 16) | 2 * packed(DTYPE) - 1
    first = gl.inline_asm_elementwise(
        "{ .reg .pred first; .reg .b32 me; mov.u32 me, %tid.x; setp.lt.u32 first, me, $1; and.b32 me, me, $2;"
        "setp.eq.and.u32 first, me, 0, first; selp.b32 $0, 1, 0, first; }",
        "=r,r,r", [min(32 * WARPS, ROWS * UNITS), TOGETHER], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip
    return first + gl.zeros([ROWS, UNITS], gl.int32, OWN)


@gluon.jit
def hand_over(ptrs, tile, first):
    """Store a tile `[rows, units]`, an operand, where the wire has it."""
    PACKED: gl.constexpr = packed(tile.dtype)
    if PACKED == 2:
        tile = tile.to(gl.int16, bitcast=True)
    bits = tile.to(gl.int32, bitcast=PACKED == 1)
    CODE: gl.constexpr = _store(PACKED, min(tile.shape[1], 16))
    gl.inline_asm_elementwise(CODE, "=r,r,l,r", [bits, ptrs, first], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def tell(ptrs, tile, first, counter_ptr, WARPS: gl.constexpr, FLAG: gl.constexpr):
    """Hand a tile over: as its own flag, or stored and counted."""
    if FLAG:
        hand_over(ptrs, tile, first)
    else:
        gl.store(ptrs, tile)
        arrive(counter_ptr, 32 * WARPS - 1)


@gluon.jit
def _clear(ptrs, first):
    gl.inline_asm_elementwise(
        "{ .reg .pred first; .reg .b64 ones; .reg .b128 q; setp.ne.u32 first, $2, 0; mov.b64 ones, -1;"
        "mov.b128 q, {ones, ones}; @first st.relaxed.gpu.global.b128 [$1], q; mov.b32 $0, 0; }",
        "=r,l,r", [ptrs, first], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def after(slot, SLOT: gl.constexpr, COUNT: gl.constexpr):
    """The slot COUNT steps after `slot`, SLOT numbers each."""
    later = slot + COUNT * SLOT
    return gl.where(later < SLOTS * SLOT, later, later - SLOTS * SLOT)


@gluon.jit
def settle(
    ptrs,  # to this program's first operand on the wire
    first,
    slot,  # that of step i
    counter_ptr,
    i,  # steps before this
    SLOT: gl.constexpr,
    OPERAND: gl.constexpr,  # from one operand to the next
    OPERANDS: gl.constexpr,
    WARPS: gl.constexpr,
):
    """Step i has been read, and what the next one needs been handed over: a barrier, and the slots' upkeep."""
    due = i % PERIOD == 0
    poll(counter_ptr, i // PERIOD * gl.num_programs(0), gl.where(due, 0, -1))
    arrive(counter_ptr, gl.where(due, 32 * WARPS - 1, -1))
    old = after(slot, SLOT, SLOTS - 2 * PERIOD)
    for operand in gl.static_range(OPERANDS):
        _clear(ptrs + (old + operand * OPERAND), first)
