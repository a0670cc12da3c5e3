"""Triton's interpreter, less what it finds out anew at each call of a function: a third of the time of kernels in it.

Results are the same. Of a version that has no such functions nothing changes.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any


def hurry() -> None:
    """Let it remember which names of the language it replaces, and NumPy's dtype for each of Triton's."""
    import triton.language as tl
    from triton.runtime import interpreter

    @functools.cache
    def builtins(package: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]

    def patch_builtin(package: Any, *args: Any) -> None:
        for name in builtins(package):
            member = getattr(package, name)
            if tl.core.is_builtin(member):  # a function that is called by another finds them replaced
                interpreter._patch_attr(package, name, member, *args)

    known: dict[str, Any] = {}

    def get_np_dtype(of: Any) -> Any:
        scalar = of.element_ty if isinstance(of, tl.block_type) else of
        if scalar.name not in known:
            known[scalar.name] = original(scalar)
        return known[scalar.name]

    if hasattr(interpreter, "_patch_builtin") and hasattr(interpreter, "_patch_attr"):
        interpreter._patch_builtin = patch_builtin
    original = getattr(interpreter, "_get_np_dtype", None)
    if original is not None:
        interpreter._get_np_dtype = get_np_dtype
