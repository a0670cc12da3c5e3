"""The numbers 0, 1, 2, ... along a dimension of a layout, for addresses and masks."""

from fastrnn.kernels.gluon.language import constexpr_function, gl, gluon


@constexpr_function
def _of_one(layout, dim, rank):
    """What `layout`, of `rank` dimensions, leaves of dimension `dim` alone."""
    for other in reversed(range(rank)):
        if other != dim:
            layout = gl.SliceLayout(other, layout)
    return layout


@gluon.jit
def along(DIM: gl.constexpr, SIZE: gl.constexpr, RANK: gl.constexpr, LAYOUT: gl.constexpr):
    """0 to SIZE - 1 in dimension DIM; the other RANK - 1 dimensions have size 1."""
    index = gl.arange(0, SIZE, layout=_of_one(LAYOUT, DIM, RANK))
    for other in gl.static_range(RANK):
        if other != DIM:
            index = gl.expand_dims(index, other)
    return index
