"""Tuples of tiles: masked loads and stores, selection between two states.

A scan carries its state, its gates and its gradients as tuples of `[BLOCK_B, BLOCK_H]` tiles. Every
helper here works on one such tuple; `COUNT` entries lie `stride` elements apart in memory.
"""

import triton
import triton.language as tl

PACK = tl.constexpr(4)  # how many tiles are loaded or stored as one, at the most


@triton.jit
def load(ptrs, mask):
    """Zero where masked; all of it where there is no mask."""
    if mask is None:
        return tl.load(ptrs)
    else:
        return tl.load(ptrs, mask=mask, other=0.0)


@triton.jit
def load_raw(ptrs, stride, mask, COUNT: tl.constexpr):
    """`COUNT` tiles as a tuple, in their dtype: whoever loads ahead does not wait for them yet."""
    tiles = ()
    for i in tl.static_range(COUNT):
        tiles = tiles + (load(ptrs + i * stride, mask),)
    return tiles


@triton.jit
def convert(tiles, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    out = ()
    for i in tl.static_range(COUNT):
        out = out + (tiles[i].to(DTYPE),)
    return out


@triton.jit
def load_tiles(ptrs, stride, mask, COUNT: tl.constexpr, ACC: tl.constexpr):
    """`load_raw`, converted to the accumulation dtype."""
    return convert(load_raw(ptrs, stride, mask, COUNT), COUNT, ACC)


@triton.jit
def store_tiles(ptrs, stride, tiles, mask, COUNT: tl.constexpr):
    for i in tl.static_range(COUNT):
        tl.store(ptrs + i * stride, tiles[i].to(ptrs.dtype.element_ty), mask=mask)


@triton.jit
def canonical(value, DTYPE: tl.constexpr):
    """`value` with every NaN the canonical one, once stored as DTYPE: the all-ones bit pattern means "not written yet"
    (sync.py), and a NaN with that payload, carried over from a user's tensor, would be waited for without end.

    A conversion from float32 to 16 bits makes every NaN 0x7FFF by itself (PTX's cvt): asked for besides, it was a fifth
    of the LSTM's backward loop.
    """
    if DTYPE.primitive_bitwidth == 16:
        return value
    else:
        return tl.where(value == value, value, float("nan"))


@triton.jit
def store_exchanged(ptrs, stride, tiles, mask, COUNT: tl.constexpr):
    """`store_tiles` for tiles that other programs wait for."""
    DTYPE: tl.constexpr = ptrs.dtype.element_ty
    for i in tl.static_range(COUNT):
        tl.store(ptrs + i * stride, canonical(tiles[i], DTYPE).to(DTYPE), mask=mask)


@triton.jit
def _tile(ptrs, stride, index: tl.constexpr):
    # Nothing is added for the first: the code of those that fit one group is to be as if there were no groups.
    if index == 0:
        return ptrs
    else:
        return ptrs + index * stride


@triton.jit
def join(tiles, COUNT: tl.constexpr):
    """2, 3 or the first 4 tiles [M, N] as one [M, N, 2 or 4], in order; a fourth beside 3 is the third again."""
    if COUNT == 2:
        return tl.join(tiles[0], tiles[1])
    elif COUNT == 3:
        joined = tl.join(tl.join(tiles[0], tiles[2]), tl.join(tiles[1], tiles[2]))
        return joined.reshape([tiles[0].shape[0], tiles[0].shape[1], 4])
    else:
        joined = tl.join(tl.join(tiles[0], tiles[2]), tl.join(tiles[1], tiles[3]))
        return joined.reshape([tiles[0].shape[0], tiles[0].shape[1], 4])


@triton.jit
def _load_group(ptrs, stride, mask, COUNT: tl.constexpr):
    """Of `COUNT` tiles the first four, or all."""
    if COUNT == 1:
        return tl.load(ptrs, mask=mask, other=0.0)
    else:
        WIDTH: tl.constexpr = 2 if COUNT == 2 else 4
        k = tl.arange(0, WIDTH)[None, None, :]
        return tl.load(ptrs[:, :, None] + k * stride, mask=mask[:, :, None] & (k < COUNT), other=0.0)


@triton.jit
def load_packed(ptrs, stride, mask, COUNT: tl.constexpr):
    """`COUNT` tiles as `unpack` takes them, in their dtype: whoever loads ahead does not wait for them yet.

    In groups of four and a rest: wider ones are the next power of two, half of it perhaps nothing.
    """
    groups = ()
    for first in tl.static_range(0, COUNT, PACK):
        groups = groups + (_load_group(_tile(ptrs, stride, first), stride, mask, COUNT - first),)
    return groups


@triton.jit
def _unpack_group(tile, COUNT: tl.constexpr):
    """What `_load_group` loaded."""
    if COUNT == 1:
        return (tile,)
    elif COUNT == 2:
        a, b = tl.split(tile)
        return a, b
    else:
        even, odd = tl.split(tile.reshape([tile.shape[0], tile.shape[1], 2, 2]))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        if COUNT == 3:
            return a, b, c
        else:
            return a, b, c, d


@triton.jit
def unpack(packed, COUNT: tl.constexpr, ACC: tl.constexpr):
    """The tuple of tiles that `load_packed` loaded, in the accumulation dtype."""
    tiles = ()
    for first in tl.static_range(0, COUNT, PACK):
        tiles = tiles + _unpack_group(packed[first // PACK].to(ACC), COUNT - first)
    return tiles


@triton.jit
def _store_group(ptrs, stride, tiles, mask, COUNT: tl.constexpr, EXCHANGED: tl.constexpr):
    """Of `COUNT` tiles the first four, or all."""
    if COUNT == 1:
        if EXCHANGED:
            store_exchanged(ptrs, stride, tiles, mask, COUNT)
        else:
            store_tiles(ptrs, stride, tiles, mask, COUNT)
    else:
        WIDTH: tl.constexpr = 2 if COUNT == 2 else 4
        k = tl.arange(0, WIDTH)[None, None, :]
        joined = join(tiles, COUNT)
        if EXCHANGED:
            joined = canonical(joined, ptrs.dtype.element_ty)
        tl.store(ptrs[:, :, None] + k * stride, joined.to(ptrs.dtype.element_ty), mask=mask[:, :, None] & (k < COUNT))


@triton.jit
def store_packed(ptrs, stride, tiles, mask, COUNT: tl.constexpr, EXCHANGED: tl.constexpr):
    """`store_tiles` or `store_exchanged` as one store of each group that `load_packed` takes: what moves tiles between
    threads on the way, moves them once."""
    for first in tl.static_range(0, COUNT, PACK):
        _store_group(_tile(ptrs, stride, first), stride, tiles[first:], mask, COUNT - first, EXCHANGED)


@triton.jit
def only_if(condition, mask):
    """`mask` where the scalar `condition` holds, else an empty one: Triton 3.9 interprets no `&` of the two."""
    return tl.where(condition, mask, False)


@triton.jit
def select(mask, yes, no, COUNT: tl.constexpr):
    """`yes` where `mask`, else `no`, tile by tile."""
    out = ()
    for i in tl.static_range(COUNT):
        out = out + (tl.where(mask, yes[i], no[i]),)
    return out


@triton.jit
def within(tile, mask_h, H: tl.constexpr, RESTS: tl.constexpr):
    """`tile` without what is past H, for a product: a cell that divides has NaN there, and so has 0 times NaN.

    Where zeros stay zeros (`Counts.rests`) there is nothing to leave out.
    """
    if RESTS or H == tile.shape[1]:
        return tile
    else:
        return tl.where(mask_h[None, :], tile, 0.0)


@triton.jit
def add_bias(tiles, bias, COUNT: tl.constexpr):
    """`tiles` plus a `[BLOCK_H]` vector each."""
    out = ()
    for i in tl.static_range(COUNT):
        out = out + (tiles[i] + bias[i][None, :],)
    return out


@triton.jit
def zeros(SHAPE: tl.constexpr, COUNT: tl.constexpr, ACC: tl.constexpr):
    out = ()
    for _ in tl.static_range(COUNT):
        out = out + (tl.zeros(SHAPE, dtype=ACC),)
    return out


@triton.jit
def step_given(
    vectors, constants_ptr, t, offs_b, mask_b, B, VECTORS: tl.constexpr, CONSTANTS: tl.constexpr, ACC: tl.constexpr
):
    """What a step takes besides its parts and states: `vectors`, as `[1, BLOCK_H]`, then the constants of time step t,
    from a (T, B, CONSTANTS) tensor, as `[BLOCK_B, 1]`."""
    given = ()
    for i in tl.static_range(VECTORS):
        given = given + (vectors[i][None, :],)
    if CONSTANTS:
        rows = constants_ptr + (tl.cast(t, tl.int64) * B + offs_b) * CONSTANTS
        for i in tl.static_range(CONSTANTS):
            given = given + (tl.load(rows + i, mask=mask_b, other=0.0).to(ACC)[:, None],)
    return given


@triton.jit
def keep(mask, tiles, COUNT: tl.constexpr):
    """`tiles` where `mask`, else zeros."""
    out = ()
    for i in tl.static_range(COUNT):
        out = out + (tl.where(mask, tiles[i], 0.0),)
    return out


@triton.jit
def add_tiles(sums, tiles, COUNT: tl.constexpr):
    """`sums` plus `tiles`, one by one."""
    out = ()
    for i in tl.static_range(COUNT):
        out = out + (sums[i] + tiles[i],)
    return out
