"""How the programs that share a batch tile hand each other what they computed: the exchange.

Every time step, each program of a batch tile and direction needs the rows that all the others just wrote. `EXCHANGE` is

* `"none"`: whoever wrote is known to have finished (an earlier launch), so a plain load is right;
* `"flag"`: the data is its own flag. Every step writes to its own slot, all slots were filled with the all-ones bit
  pattern, which no result has (`tiles.store_exchanged`), and a reader reloads its tile until the pattern is gone. One
  trip through L2, no fence, nothing to reset between launches. Each element vouches for itself, so torn vectors and
  reordered stores are harmless;
* `"barrier"`: one counter per batch tile and direction; a release add after the stores, an acquire poll before the
  loads. Two trips and a fence. The counter only grows and is zeroed by the launcher.

Both need every program of the grid to be resident, which a cooperative launch guarantees or refuses. Both give up after
`SPIN_LIMIT` polls, some tens of seconds, with a trap: an error, never a hung GPU.
"""

import triton
import triton.language as tl

SPIN_LIMIT = tl.constexpr(1 << 24)
COUNTER_STRIDE = tl.constexpr(32)  # int32 counters, one per 128-byte line


@triton.jit
def trap_if(condition):
    if condition:
        # The operand only exists because an asm block must have one.
        tl.inline_asm_elementwise(
            "{ trap; mov.b32 $0, $1; }", "=r,r", [tl.full([1], 0, tl.int32)], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def unwritten(tile):
    """Which elements still hold the all-ones pattern the buffer was filled with."""
    if tile.dtype.primitive_bitwidth == 16:
        return tile.to(tl.int16, bitcast=True) == -1
    elif tile.dtype.primitive_bitwidth == 32:
        return tile.to(tl.int32, bitcast=True) == -1
    else:
        return tile.to(tl.int64, bitcast=True) == -1


@triton.jit
def load_volatile(ptrs, masks, COUNT: tl.constexpr):
    tiles = ()
    for i in tl.static_range(COUNT):
        tiles = tiles + (tl.load(ptrs[i], mask=masks[i], other=0.0, volatile=True),)
    return tiles


@triton.jit
def any_unwritten(tiles, written, COUNT: tl.constexpr):
    pending = unwritten(tiles[0])
    for i in tl.static_range(1, COUNT):
        pending = pending | unwritten(tiles[i])
    return tl.max((pending & ~written).to(tl.int32)) != 0


@triton.jit
def load_exchanged(ptrs, masks, written, COUNT: tl.constexpr, EXCHANGE: tl.constexpr):
    """The COUNT tiles at `ptrs`, once all of them are there. All are in flight together and checked by one reduction.

    `masks` bound the tiles; `written` (broadcastable to them) is true where an element was complete before this launch,
    an initial state say, and may hold any bit pattern.
    """
    if EXCHANGE == "flag":
        tiles = load_volatile(ptrs, masks, COUNT)
        polls = 0
        while any_unwritten(tiles, written, COUNT):
            tiles = load_volatile(ptrs, masks, COUNT)
            polls += 1
            trap_if(polls > SPIN_LIMIT)
    else:
        tiles = ()
        for i in tl.static_range(COUNT):
            tiles = tiles + (tl.load(ptrs[i], mask=masks[i], other=0.0, cache_modifier=".cg"),)
    return tiles


@triton.jit
def arrive(counter_ptr, EXCHANGE: tl.constexpr):
    """Say that this program's stores of one step are done."""
    if EXCHANGE == "barrier":
        tl.debug_barrier()
        tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter_ptr, count, EXCHANGE: tl.constexpr):
    """Until `count` arrivals were counted."""
    if EXCHANGE == "barrier":
        polls = 0
        while tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu") < count:
            polls += 1
            trap_if(polls > SPIN_LIMIT)
        tl.debug_barrier()
