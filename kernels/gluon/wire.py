"""The exchange of programs whose layouts are said: one lane counts, and data lies as its readers' registers want it.

The exchange of `fastrnn.kernels.triton.sync` under "barrier", but that one lane polls and another adds, so that a wait
and an arrival are one block-wide barrier each.

What is handed over, h or dr, lies apart from the results in *wire order*: of 16 rows and 16 of K, lane
`row % 8 * 4 + k // 4` of a warp has 8 numbers side by side, two neighbouring k of row and row + 8 for each half of its
four. They are the four registers of the left operand of a matrix instruction (PTX ISA, mma.m16n8k16), so that an
operand is one load of 16 bytes. Which k a register holds is free, as long as R's rows are permuted alike: `wired`.
In float32 a register has one number where it has two in 16 bits (`packed`), and a load is the operand of 8 of K
(TF32's mma.m16n8k8): there are two of them, one after the other.

The owner of a row's units hands over what the next step multiplies: a state that was cut where a sequence starts, a
gradient that stops there. So a reader masks nothing; rows past B and units past H are finite or nobody's business.
"""

from fastrnn.kernels.gluon.language import barrier, constexpr_function, gl, gluon

BLOCK = gl.constexpr(256)  # numbers of 16 rows and 16 of K


@constexpr_function
def packed(dtype):
    """How many numbers a register of 32 bits has."""
    return 32 // dtype.primitive_bitwidth


@gluon.jit
def arrive(counter_ptr, thread):
    """Say that this program's stores are done; `thread` does, not the one that polls: its warp would poll only once the
    fence is through."""
    barrier()
    gl.inline_asm_elementwise(
        """{ .reg .pred chosen; .reg .b32 me;
        mov.u32 me, %tid.x; setp.eq.u32 chosen, me, $2;
        @chosen red.release.gpu.global.add.u32 [$1], 1;
        mov.b32 $0, 0; }""",
        "=r,l,r", [counter_ptr, thread], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def poll(counter_ptr, count, thread):
    """`thread` goes on when `count` arrivals were counted, and gives up with a trap as `sync.py` does; in a loop of
    Gluon's own all threads would have what it found, at two barriers a poll."""
    gl.inline_asm_elementwise(
        """{ .reg .pred other, more; .reg .b32 me, seen, polls;
        mov.u32 me, %tid.x; setp.ne.u32 other, me, $3; mov.b32 polls, 0;
        @other bra ARRIVED;
        AGAIN: ld.acquire.gpu.global.u32 seen, [$1];
        add.u32 polls, polls, 1; setp.gt.u32 more, polls, 16777216; @more trap;
        setp.lt.u32 more, seen, $2; @more bra AGAIN;
        ARRIVED: mov.b32 $0, 0; }""",
        "=r,l,r,r", [counter_ptr, count, thread], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def wait(counter_ptr, count):
    """Until `count` arrivals were counted, all threads."""
    poll(counter_ptr, count, 0)
    barrier()


@gluon.jit
def place(row, k, WIDTH: gl.constexpr, DTYPE: gl.constexpr):
    """Where the wire has a row's number k, of WIDTH; 16 rows are one after the other."""
    PACKED: gl.constexpr = packed(DTYPE)
    LOAD: gl.constexpr = 8 * PACKED  # of K
    in_block = row & 15
    among = (in_block & 7) * (2 * LOAD) | (k % LOAD // PACKED * PACKED) * 2 | (in_block >> 3) * PACKED | k % PACKED
    return (row >> 4) * (16 * WIDTH) + (k // LOAD * (16 * LOAD) + among)


@gluon.jit
def wired(k, DTYPE: gl.constexpr):
    """Which k the wire has where the operand has its k-th: in 16 bits, of 16, lane k // 2 % 4, then register k // 8,
    then k % 2."""
    PACKED: gl.constexpr = packed(DTYPE)
    LOAD: gl.constexpr = 8 * PACKED
    lane, register = k // PACKED % 4, k // (4 * PACKED) % 2
    return k // LOAD * LOAD | lane * (2 * PACKED) | register * PACKED | k % PACKED
