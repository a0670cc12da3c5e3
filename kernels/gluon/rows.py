"""Which rows and units a program reads: each of a tile's, and past the last the last once more, so that no load needs a
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
