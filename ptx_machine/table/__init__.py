"""The instructions, a chapter a file, in the order of the PTX manual's."""

from ptx_machine.table import (
    bitwise,
    comparison,
    control,
    floating,
    integer,
    loads,
    matrices,
    movement,
    synchronization,
    warpgroups,
    warps,
)

CHAPTERS = (
    integer,  # 9.7.1
    floating,  # 9.7.3 to 9.7.5
    comparison,  # 9.7.6, 9.7.7
    bitwise,  # 9.7.8, and fields of bits
    movement,  # 9.7.9: between registers, and conversions
    loads,  # 9.7.9: loads, stores, asynchronous copies; 9.7.13: atomics
    control,  # 9.7.12
    synchronization,  # 9.7.13: barriers, fences
    warps,  # 9.7.9 and 9.7.13: across the lanes of a warp
    matrices,  # 9.7.14
    warpgroups,  # 9.7.15
)
