"""Gluon's names that are not the same in all versions of Triton, 3.6.0 to 3.9.0: the one place that knows them."""

from triton import constexpr_function
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

__all__ = ["GluonASTSource", "barrier", "constexpr_function", "gl", "gluon", "mma_v2"]

if hasattr(gl, "thread_barrier"):  # 3.6

    @gluon.jit
    def barrier():
        """Of a program's threads; orders what they stored in shared and in global memory."""
        gl.thread_barrier()

else:

    @gluon.jit
    def barrier():
        """Of a program's threads; orders what they stored in shared and in global memory."""
        gl.barrier()
