"""Backward by parts: a program multiplies its own dr by its own rows of R, and sends every reader a part of its dh.

H numbers a row come and go, where gathered dr are GATES * H that come. A part has 16 rows and the 16 units of its
reader, as a warp holds a product: a thread's 8 numbers are a store and a load of 16 bytes, two in float32. A reader
adds up what it loads, a warp every WARPS-th writer's, as it adds up products: in float32, in the same order each time.

In 16 bits, adding up is a matrix unit's work: a load is its left operand as it is, and by a matrix of ones and zeros it
is added in float32 to what came before, with one instruction where conversions and additions are eight. But 0 times
what is not finite is NaN, and so would be its row's other 15 units: a sum that is NaN is added up again, number by
number.

There are slots for each step's parity. READERS, and writers, are a multiple of WARPS: those past the last are zeros.
"""

from fastrnn.kernels.gluon.indices import along
from fastrnn.kernels.gluon.language import gl, gluon, mma_v2
from fastrnn.kernels.gluon.products import hand_round, keep_order, operand, put, share
from fastrnn.kernels.gluon.wire import packed

SIZE = gl.constexpr(256)  # numbers of a part


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
    PACKED: gl.constexpr = packed(ptr.dtype.element_ty)
    right: gl.constexpr = gl.DotOperandLayout(1, SEND, PACKED)
    n = first + along(0, 16, 2, right)
    column = along(1, 16 * WARPS, 2, right)
    k = (column // 8 % WARPS) * 16 + column // (8 * WARPS) * 8 + column % 8
    held, kept = (), ()
    TURNS: gl.constexpr = READERS // WARPS
    for i in gl.static_range(TURNS):
        to = (HELD + i) % TURNS * (16 * WARPS) + k  # those for shared memory first, while registers are free
        mask = (n < H) & (to < H)
        for g in gl.static_range(GATES):
            tile = gl.load(ptr + (g * H * H + n * H + to), mask=mask, other=0.0)
            tile = operand(tile, ptr.dtype.element_ty)
            if (HELD + i) % TURNS < HELD:
                held = held + (tile,)
            else:
                tile = tile.reshape([2 // PACKED, 2, 4, PACKED, 2 // PACKED, PACKED, WARPS, 8])
                tile = tile.permute(6, 4, 7, 2, 5, 0, 1, 3).reshape([WARPS, 2 // PACKED, 32, 4 * PACKED])
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
        PACKED: gl.constexpr = packed(kept[0].dtype)
        tile = kept[i - COUNT].load(PART).reshape([WARPS, 2 // PACKED, 8, 4, PACKED, 2 // PACKED, 2, PACKED])
        tile = tile.permute(5, 6, 3, 7, 1, 4, 0, 2)
        right: gl.constexpr = gl.DotOperandLayout(1, SEND, PACKED)
        return gl.convert_layout(tile.reshape([16, 16 * WARPS]), right, assert_trivial=True)


@gluon.jit
def part_offsets(WARPS: gl.constexpr, STRIDE: gl.constexpr, PART: gl.constexpr, DTYPE: gl.constexpr):
    """Where each thread's 8 numbers of a part are, for parts STRIDE apart, one a warp."""
    NUMBERS: gl.constexpr = 4 * packed(DTYPE)
    lanes = along(1, 2 // packed(DTYPE), 4, PART) * 32 + along(2, 32, 4, PART)
    return along(0, WARPS, 4, PART) * STRIDE + lanes * NUMBERS + along(3, NUMBERS, 4, PART)


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
    DTYPE: gl.constexpr = dr[0].dtype
    PACKED: gl.constexpr = packed(DTYPE)
    hand_round(shared, dr, GATES)
    left = ()
    for g in gl.static_range(GATES):
        left = left + (shared[g].load(gl.DotOperandLayout(0, SEND, PACKED)),)
    for j in gl.static_range(READERS // WARPS):
        total = gl.zeros([16, 16 * WARPS], gl.float32, SEND)
        for g in gl.static_range(GATES):
            total = mma_v2(left[g], _sent(held, kept, j * GATES + g, WARPS, HELD * GATES, SEND, PART), total, "tf32")
        if j >= HELD:
            keep_order()
        part = total.to(DTYPE).reshape([2, 8, 2 // PACKED, PACKED, WARPS, 4, 2]).permute(4, 2, 1, 5, 3, 0, 6)
        part = part.reshape([WARPS, 2 // PACKED, 32, 4 * PACKED])
        gl.store(ptrs + j * (WARPS * READERS * SIZE), gl.convert_layout(part, PART, assert_trivial=True))


@gluon.jit
def add_again(total, slot_ptr, offsets):
    """`total`, or where that is NaN the sum of what lies `offsets` bytes, and whole parts, behind `slot_ptr`."""
    CONVERT: gl.constexpr = (
        "mov.b32 part, {nothing, one};" if slot_ptr.dtype.element_ty == gl.bfloat16 else "cvt.f32.f16 part, one;"
    )
    base = slot_ptr.to(gl.int64) + offsets.to(gl.int64) * 0
    count = gl.num_programs(0) + offsets * 0
    return gl.inline_asm_elementwise(
        """{ .reg .pred good, more; .reg .b32 left; .reg .b64 at; .reg .b16 one, nothing; .reg .f32 sum, part;
        mov.f32 sum, $1; setp.num.f32 good, sum, sum; @good bra SUMMED;
        mov.f32 sum, 0f00000000; mov.b16 nothing, 0; mov.b32 left, $4; cvt.s64.s32 at, $3; add.s64 at, at, $2;
        ADD: ld.global.cg.b16 one, [at]; """ + CONVERT + """
        add.f32 sum, sum, part; add.s64 at, at, 512; sub.s32 left, left, 1;
        setp.ne.s32 more, left, 0; setp.num.and.f32 more, sum, sum, more; @more bra ADD;
        SUMMED: mov.f32 $0, sum; }""",
        "=f,f,l,r,r", [total, base, offsets, count], dtype=gl.float32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def load_part(ptrs, j: gl.constexpr, WARPS: gl.constexpr):
    """Of a warp's writers the j-th one's."""
    return gl.load(ptrs + j * (WARPS * SIZE), cache_modifier=".cg")


@gluon.jit
def ones(WARPS: gl.constexpr, MMA: gl.constexpr, DTYPE: gl.constexpr):
    """What leaves a left operand as it is: ones where a row's number is the column's."""
    right: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    return (along(1, 16, 3, right) == along(2, 16, 3, right) + 0 * along(0, WARPS, 3, right)).to(DTYPE)


@gluon.jit
def add_part(total, part, one, WARPS: gl.constexpr, MMA: gl.constexpr):
    """`total`, `[WARPS, 16, 16]` in 16 bits, else as a part is, and one more."""
    if part.dtype.primitive_bitwidth == 32:
        return total + part
    else:
        left = part.reshape([WARPS, 8, 4, 2, 2, 2]).permute(0, 4, 1, 3, 2, 5).reshape([WARPS, 16, 16])
        return mma_v2(gl.convert_layout(left, gl.DotOperandLayout(0, MMA, 2), assert_trivial=True), one, total)


@gluon.jit
def sum_parts(
    slot_ptr,  # to the parts for this program
    thread,  # `part_offsets` of the first writers
    rows,  # of the tile, as its owners hold them: [16, 1]; and units [1, 16]
    units,
    partial,
    READERS: gl.constexpr,
    WARPS: gl.constexpr,
    MMA: gl.constexpr,
    SUM: gl.constexpr,
    OWN: gl.constexpr,
    PART: gl.constexpr,
):
    """What was sent to this program, `[16, 16]`, as its owners hold it."""
    DTYPE: gl.constexpr = slot_ptr.dtype.element_ty
    IN_16_BITS: gl.constexpr = DTYPE.primitive_bitwidth == 16
    ptrs = slot_ptr + thread
    TURNS: gl.constexpr = READERS // WARPS
    # As many parts are on their way at a time as there are registers for.
    WINDOW: gl.constexpr = min(TURNS, 4 * packed(DTYPE))
    parts = ()
    for j in gl.static_range(WINDOW):
        parts = parts + (load_part(ptrs, j, WARPS),)
    one = ()
    if IN_16_BITS:
        one = ones(WARPS, MMA, DTYPE)
        total = gl.zeros([WARPS, 16, 16], gl.float32, MMA)
    else:
        total = gl.zeros([WARPS, 2, 32, 4], gl.float32, PART)
    for j in gl.static_range(TURNS):
        if j > 0 and j + WINDOW <= TURNS:
            keep_order()
            parts = parts + (load_part(ptrs, j + WINDOW - 1, WARPS),)
        total = add_part(total, parts[j], one, WARPS, MMA)
    if not IN_16_BITS:
        total = total.reshape([WARPS, 2, 8, 4, 2, 2]).permute(0, 4, 2, 1, 3, 5).reshape([WARPS, 16, 16])
        total = gl.convert_layout(total, MMA, assert_trivial=True)
    (total,) = share(partial, (total,), 1, 16, 16, WARPS, SUM, OWN)
    if IN_16_BITS:
        lane = (rows & 7) * 4 + (units & 7) // 2
        number = (units >> 3) * 4 + (rows >> 3) * 2 + (units & 1)
        total = add_again(total, slot_ptr, (lane * 8 + number) * 2)
    return (total,)
