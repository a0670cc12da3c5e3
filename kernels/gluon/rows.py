"""Which rows and units a program has, and which it reads: past the last the last once more, so that no load needs a
mask."""

from fastrnn.kernels.gluon.language import gl, gluon


@gluon.jit
def within_units(offs_h, H: gl.constexpr, BLOCK_H: gl.constexpr):
    """Units to read for `offs_h`: neighbours stay neighbours, two by two, where H is even."""
    if H % BLOCK_H == 0:
        units = offs_h
    elif H % 2 == 0:
        units = gl.max_contiguous(gl.multiple_of(gl.minimum(offs_h & -2, H - 2) | (offs_h & 1), 2), 2)
    else:
        units = gl.minimum(offs_h, H - 1)
    return units.to(gl.uint32)


@gluon.jit
def tile_of(batch0, B, H: gl.constexpr, BLOCK_B: gl.constexpr, BLOCK_H: gl.constexpr, OWN: gl.constexpr):
    """Of a program's tile, as its owners hold it.

    `in_tile` and `offs_h`, the places of its rows and units; `mask_h` and `mask`, those that there are; and of what is
    read in their place: `row0`, the first row; `at`, the rows from there on; `offs_b`, the rows; `units`.
    """
    in_tile = gl.arange(0, BLOCK_B, layout=gl.SliceLayout(1, OWN))
    offs_h = gl.program_id(0) * BLOCK_H + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(0, OWN))
    row0 = batch0 + gl.program_id(1) * BLOCK_B
    mask_h = offs_h < H
    mask = (row0 + in_tile < B)[:, None] & mask_h[None, :]
    at = gl.minimum(in_tile, B - 1 - row0)
    units = within_units(offs_h, H, BLOCK_H)
    return in_tile, offs_h, mask_h, mask, row0, at[:, None].to(gl.uint32), row0 + at, units
