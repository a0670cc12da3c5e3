"""The recurrent product of a program whose slice of R stays where it is: of an operand on the wire, or of its own.

R stays in registers, as far as there are any: of the wire's chunks the first HELD, the others in shared memory, where
each thread has its own numbers side by side.

SOLO: the program has all of R and the whole operand, which its warps hand each other through shared memory: `[units,
K]` by `[K, rows]`, each warp's units its own, so that 8 rows will do. Else the operand is on the wire, K is split over
the warps, `[WARPS, rows, 16]` by `[WARPS, 16, units]` chunk by chunk, and the sum over the warps goes through shared
memory once.
"""

from fastrnn.kernels.gluon.flags import fetch
from fastrnn.kernels.gluon.indices import along
from fastrnn.kernels.gluon.language import barrier, gl, gluon, mma_v2
from fastrnn.kernels.gluon.wire import BLOCK, packed, wired


@gluon.jit
def operand(tile, DTYPE: gl.constexpr):
    """`tile` as a factor of products: in DTYPE, and where that is float32 rounded to TF32. Matrix units would cut the
    rest off, up to twice as much, and always toward zero."""
    if DTYPE.primitive_bitwidth == 16:
        return tile.to(DTYPE)
    else:
        return gl.inline_asm_elementwise(
            "{ .reg .b32 rounded; cvt.rna.tf32.f32 rounded, $1; mov.b32 $0, rounded; }",
            "=f,f", [tile], dtype=gl.float32, is_pure=True, pack=1,
        )  # fmt: skip


@gluon.jit
def allocate(COUNT: gl.constexpr, DTYPE: gl.constexpr, SHAPE: gl.constexpr, LAYOUT: gl.constexpr):
    """Shared memory for COUNT tiles: each its own, or the compiler would have barriers between them."""
    tiles = ()
    for _ in gl.static_range(COUNT):
        tiles = tiles + (gl.allocate_shared_memory(DTYPE, SHAPE, LAYOUT),)
    return tiles


@gluon.jit
def allocate_partial(
    COUNT: gl.constexpr, WARPS: gl.constexpr, ROWS: gl.constexpr, UNITS: gl.constexpr, LAYOUT: gl.constexpr,
    FLAG: gl.constexpr,
):  # fmt: skip
    """What `share` takes, for COUNT sums."""
    if FLAG:
        return allocate(COUNT, gl.float32, [WARPS, ROWS // 2, 2 * UNITS], LAYOUT)
    else:
        return allocate(COUNT, gl.float32, [WARPS, ROWS, UNITS], LAYOUT)


@gluon.jit
def put(tile, KEPT: gl.constexpr):
    """An operand of R in shared memory, the numbers of a thread side by side: `[WARPS, loads, 32, numbers]`."""
    SHAPE: gl.constexpr = tile.shape
    memory = gl.allocate_shared_memory(tile.dtype, SHAPE, gl.SwizzledSharedLayout(1, 1, 1, order=[3, 2, 1, 0]))
    memory.store(gl.convert_layout(tile, KEPT, assert_trivial=True))
    return memory


@gluon.jit
def load_weights(
    ptr,  # of the program's group: gate g, unit n, input k at g * H * H + n * stride_n + k * stride_k
    first,  # the program's first unit
    stride_k,
    stride_n,
    H: gl.constexpr,
    GATES: gl.constexpr,
    UNITS: gl.constexpr,
    NUM_K: gl.constexpr,
    WARPS: gl.constexpr,
    HELD: gl.constexpr,
    MMA: gl.constexpr,
    KEPT: gl.constexpr,
):
    """The right operands `[WARPS, 16, UNITS]`, chunk-major, zero past H: those in registers, those in shared memory."""
    DTYPE: gl.constexpr = ptr.dtype.element_ty
    PACKED: gl.constexpr = packed(DTYPE)
    right: gl.constexpr = gl.DotOperandLayout(1, MMA, PACKED)
    warp = along(0, WARPS, 3, right)
    k = wired(along(1, 16, 3, right), DTYPE)
    n = first + along(2, UNITS, 3, right)
    held, kept = (), ()
    for i in gl.static_range(NUM_K):
        # Those for shared memory first, one chunk after the other, while registers are free.
        from_k = ((HELD + i) % NUM_K * WARPS + warp) * 16 + k
        mask = (from_k < H) & (n < H)
        for g in gl.static_range(GATES):
            tile = gl.load(ptr + g * H * H + n * stride_n + from_k * stride_k, mask=mask, other=0.0)
            tile = operand(tile, DTYPE)
            if (HELD + i) % NUM_K < HELD:
                held = held + (tile,)
            else:
                tile = tile.reshape([WARPS, 2 // PACKED, 2, 4, PACKED, UNITS // 8, 8]).permute(0, 1, 6, 3, 5, 2, 4)
                kept = kept + (put(tile.reshape([WARPS, 2 // PACKED, 32, UNITS // 4 * PACKED]), KEPT),)
        if (HELD + i) % NUM_K >= HELD:
            keep_order()
    return held, kept


@gluon.jit
def weights_of_chunk(
    held, kept, j: gl.constexpr, GATES: gl.constexpr, FIRST: gl.constexpr, COUNT: gl.constexpr, UNITS: gl.constexpr,
    WARPS: gl.constexpr, HELD: gl.constexpr, MMA: gl.constexpr, KEPT: gl.constexpr,
):  # fmt: skip
    """The right operands of COUNT gates, from FIRST on, of chunk j."""
    if j < HELD:
        return held[j * GATES + FIRST : j * GATES + FIRST + COUNT]
    else:
        PACKED: gl.constexpr = packed(kept[0].dtype)
        tiles = ()
        for g in gl.static_range(COUNT):
            tile = kept[(j - HELD) * GATES + FIRST + g].load(KEPT)
            tile = tile.reshape([WARPS, 2 // PACKED, 8, 4, UNITS // 8, 2, PACKED]).permute(0, 1, 5, 3, 6, 4, 2)
            tile = tile.reshape([WARPS, 16, UNITS])
            tiles = tiles + (gl.convert_layout(tile, gl.DotOperandLayout(1, MMA, PACKED), assert_trivial=True),)
        return tiles


@gluon.jit
def load_whole(
    ptr,  # as `load_weights` takes it
    stride_k,
    stride_n,
    H: gl.constexpr,
    GATES: gl.constexpr,
    UNITS: gl.constexpr,
    WARPS: gl.constexpr,
    HELD: gl.constexpr,
    MMA: gl.constexpr,
    KEPT: gl.constexpr,
):
    """All of R as left operands, `[UNITS, UNITS]` a gate, zero past H: HELD gates' in registers, the others' in shared
    memory."""
    DTYPE: gl.constexpr = ptr.dtype.element_ty
    PACKED: gl.constexpr = packed(DTYPE)
    left: gl.constexpr = gl.DotOperandLayout(0, MMA, PACKED)
    n = along(0, UNITS, 2, left)
    k = along(1, UNITS, 2, left)
    held, kept = (), ()
    for i in gl.static_range(GATES):
        # Those for shared memory first, while registers are free.
        at = ptr + (HELD + i) % GATES * H * H + n * stride_n + k * stride_k
        tile = operand(gl.load(at, mask=(k < H) & (n < H), other=0.0), DTYPE)
        if (HELD + i) % GATES < HELD:
            held = held + (tile,)
        else:
            tile = tile.reshape([WARPS, 2, 8, UNITS // (8 * PACKED), 2, 4, PACKED]).permute(0, 3, 2, 5, 4, 1, 6)
            kept = kept + (put(tile.reshape([WARPS, UNITS // (8 * PACKED), 32, 4 * PACKED]), KEPT),)
            keep_order()
    return held, kept


@gluon.jit
def weights_of_gate(
    held, kept, g: gl.constexpr, UNITS: gl.constexpr, WARPS: gl.constexpr, HELD: gl.constexpr, MMA: gl.constexpr,
    KEPT: gl.constexpr,
):  # fmt: skip
    """The left operand of gate g."""
    if g < HELD:
        return held[g]
    else:
        PACKED: gl.constexpr = packed(kept[0].dtype)
        tile = kept[g - HELD].load(KEPT)
        tile = tile.reshape([WARPS, UNITS // (8 * PACKED), 8, 4, 2, 2, PACKED]).permute(0, 5, 2, 1, 4, 3, 6)
        tile = tile.reshape([UNITS, UNITS])
        return gl.convert_layout(tile, gl.DotOperandLayout(0, MMA, PACKED), assert_trivial=True)


@gluon.jit
def multiply(left, weights, sums, FIRST: gl.constexpr, COUNT: gl.constexpr, LEFT: gl.constexpr, OUT: gl.constexpr):
    """`sums[g] += left[g] @ weights[g]` for every gate; a single `left` serves all of them, few sums serve in turn, the
    FIRST one's first."""
    for g in gl.static_range(COUNT):
        total = mma_v2(left[g % LEFT], weights[g], sums[(FIRST + g) % OUT], "tf32")
        sums = sums[: (FIRST + g) % OUT] + (total,) + sums[(FIRST + g) % OUT + 1 :]
    return sums


@gluon.jit
def wire_offsets(
    WARPS: gl.constexpr, ROWS: gl.constexpr, NUM_K: gl.constexpr, WIRE: gl.constexpr, DTYPE: gl.constexpr,
    FLAG: gl.constexpr,
):  # fmt: skip
    """Where each thread's numbers of a first chunk are on the wire, `[WARPS, ROWS / 16, loads, 32, 4 * PACKED]`; FLAG:
    where the chunk is, from which `fetch` has them."""
    if FLAG:
        return 0
    else:
        NUMBERS: gl.constexpr = 4 * packed(DTYPE)
        LOADS: gl.constexpr = 2 // packed(DTYPE)
        blocks = along(0, WARPS, 5, WIRE) + along(1, ROWS // 16, 5, WIRE) * (NUM_K * WARPS)
        lanes = along(2, LOADS, 5, WIRE) * 32 + along(3, 32, 5, WIRE)
        return blocks * BLOCK + lanes * NUMBERS + along(4, NUMBERS, 5, WIRE)


@gluon.jit
def load_operand(ptrs, MMA: gl.constexpr, WARPS: gl.constexpr, ROWS: gl.constexpr):
    """One chunk of the wire as a left operand, `[WARPS, ROWS, 16]`: 16 bytes a thread, load and 16 rows."""
    PACKED: gl.constexpr = packed(ptrs.dtype.element_ty)
    p = gl.load(ptrs, cache_modifier=".cg")
    p = p.reshape([WARPS, ROWS // 16, 2 // PACKED, 8, 4, 2, 2, PACKED]).permute(0, 1, 6, 3, 2, 5, 4, 7)
    p = p.reshape([WARPS, ROWS, 16])
    return gl.convert_layout(p, gl.DotOperandLayout(0, MMA, PACKED), assert_trivial=True)


@gluon.jit
def load_chunk(
    ptrs, j: gl.constexpr, LEFT: gl.constexpr, STRIDE: gl.constexpr, MMA: gl.constexpr, WARPS: gl.constexpr,
    ROWS: gl.constexpr,
):  # fmt: skip
    """The LEFT operands of chunk j, STRIDE elements apart."""
    parts = ()
    for i in gl.static_range(LEFT):
        parts = parts + (load_operand(ptrs + (i * STRIDE + j * (WARPS * BLOCK)), MMA, WARPS, ROWS),)
    return parts


@gluon.jit
def keep_order():
    """The assembler moves no load above this, which it would do until there are no registers left."""
    gl.inline_asm_elementwise(
        "{ bar.warp.sync 0xffffffff; mov.b32 $0, 0; }", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def share(
    partial,  # shared memory for OUT sums at the least, [WARPS, ROWS, UNITS] float32
    sums,
    OUT: gl.constexpr,
    ROWS: gl.constexpr,
    UNITS: gl.constexpr,
    WARPS: gl.constexpr,
    SUM: gl.constexpr,
    OWN: gl.constexpr,
    FLAG: gl.constexpr = False,
):
    """OUT sums of each warp, added up in the order of the warps, as their owners hold them: `[ROWS, UNITS]`.

    FLAG: row and row + 8, which one warp has, are side by side in `partial`, `[WARPS, ROWS / 2, 2 * UNITS]`.
    """
    for i in gl.static_range(OUT):
        each = sums[i]
        if FLAG:
            each = each.reshape([WARPS, ROWS // 16, 2, 8, UNITS]).permute(0, 1, 3, 2, 4)
            each = each.reshape([WARPS, ROWS // 2, 2 * UNITS])
        partial[i].store(each)
    barrier()
    out = ()
    for i in gl.static_range(OUT):
        total = gl.sum(partial[i].load(SUM), 0)
        if FLAG:
            total = total.reshape([ROWS // 16, 8, 2, UNITS]).permute(0, 2, 1, 3).reshape([ROWS, UNITS])
        out = out + (gl.convert_layout(total, OWN, assert_trivial=True),)
    return out


@gluon.jit
def contract_wire(
    ptrs,  # `wire_offsets` of the first operand
    partial,  # as `share` takes it
    held,  # `load_weights`, of GATES gates
    kept,
    GATES: gl.constexpr,
    FIRST: gl.constexpr,
    COUNT: gl.constexpr,
    LEFT: gl.constexpr,
    OUT: gl.constexpr,
    CHAINS: gl.constexpr,
    ROWS: gl.constexpr,
    UNITS: gl.constexpr,
    NUM_K: gl.constexpr,
    WARPS: gl.constexpr,
    HELD: gl.constexpr,
    IN_FLIGHT: gl.constexpr,
    MMA: gl.constexpr,
    KEPT: gl.constexpr,
    SUM: gl.constexpr,
    OWN: gl.constexpr,
    FLAG: gl.constexpr,
    WIRE: gl.constexpr,
):
    """COUNT gates' products, from FIRST on: OUT tiles `[ROWS, UNITS]` as their owners hold them, one for each gate or
    one for their sum, which is added up in CHAINS that need not wait for each other."""
    STRIDE: gl.constexpr = ROWS * 16 * NUM_K * WARPS  # from one operand to the next
    # As many chunks are on their way at a time as there are registers for.
    REGISTERS: gl.constexpr = 8 // packed(ptrs.dtype.element_ty) * LEFT * (ROWS // 16)
    WINDOW: gl.constexpr = min(NUM_K, max(1, IN_FLIGHT // REGISTERS))
    parts = ()
    if not FLAG:
        for j in gl.static_range(WINDOW):
            parts = parts + load_chunk(ptrs, j, LEFT, STRIDE, MMA, WARPS, ROWS)
    SIDE: gl.constexpr = OUT if OUT > 1 else CHAINS
    sums = ()
    for _ in gl.static_range(SIDE):
        sums = sums + (gl.zeros([WARPS, ROWS, UNITS], gl.float32, MMA),)
    for j in gl.static_range(NUM_K):
        if FLAG and j % WINDOW == 0:
            parts = parts + fetch(ptrs, j * LEFT, min(WINDOW, NUM_K - j) * LEFT, LEFT, ROWS, NUM_K, WARPS, WIRE, MMA)
        of_chunk = weights_of_chunk(held, kept, j, GATES, FIRST, COUNT, UNITS, WARPS, HELD, MMA, KEPT)
        sums = multiply(parts[j * LEFT : (j + 1) * LEFT], of_chunk, sums, j * COUNT, COUNT, LEFT, SIDE)
        if not FLAG and j + WINDOW < NUM_K:
            keep_order()
            parts = parts + load_chunk(ptrs, j + WINDOW, LEFT, STRIDE, MMA, WARPS, ROWS)
    if OUT == 1:
        for chain in gl.static_range(1, CHAINS):
            sums = (sums[0] + sums[chain],) + sums[1:]
    return share(partial, sums, OUT, ROWS, UNITS, WARPS, SUM, OWN, FLAG)


@gluon.jit
def hand_round(shared, tiles, COUNT: gl.constexpr):
    """COUNT tiles to all warps, by the shared memory of each."""
    for i in gl.static_range(COUNT):
        shared[i].store(tiles[i])
    barrier()


@gluon.jit
def contract_own(
    shared,  # shared memory for each of `tiles`, [ROWS, UNITS]
    tiles,  # LEFT of them, zero past H
    held,  # `load_whole`
    kept,
    FIRST: gl.constexpr,
    COUNT: gl.constexpr,
    LEFT: gl.constexpr,
    OUT: gl.constexpr,
    ROWS: gl.constexpr,
    UNITS: gl.constexpr,
    WARPS: gl.constexpr,
    HELD: gl.constexpr,
    MMA: gl.constexpr,
    KEPT: gl.constexpr,
    OWN: gl.constexpr,
):
    """The same of a program's own tiles."""
    hand_round(shared, tiles, LEFT)
    RIGHT: gl.constexpr = gl.DotOperandLayout(1, MMA, packed(tiles[0].dtype))
    right = ()
    for i in gl.static_range(LEFT):
        right = right + (shared[i].permute([1, 0]).load(RIGHT),)
    # Each gate has a sum of its own: a product that waits for another's takes four times as long.
    sums = ()
    for g in gl.static_range(COUNT):
        weights = weights_of_gate(held, kept, FIRST + g, UNITS, WARPS, HELD, MMA, KEPT)
        nothing = gl.zeros([UNITS, ROWS], gl.float32, MMA)
        sums = sums + (mma_v2(weights, right[g % LEFT], nothing, "tf32"),)
    if OUT == 1:
        for g in gl.static_range(1, COUNT):
            sums = (sums[0] + sums[g],) + sums[1:]
    out = ()
    for i in gl.static_range(OUT):
        out = out + (gl.convert_layout(sums[i].permute(1, 0), OWN, assert_trivial=True),)
    return out
