"""Write what is derived of the cells of this package: `python -m fastrnn.cells.generate`, in a checkout.

Committed, so that who installs fastrnn waits for no tracing, and reads what runs; a test finds what is out of date.
"""

from __future__ import annotations

from pathlib import Path

from fastrnn.cells.builtin import CELLS
from fastrnn.cells.catalogue import CATALOGUE
from fastrnn.cells.cell import Cell
from fastrnn.derive.derived import derive
from fastrnn.derive.operators import POINTWISE

_HEADER = '''"""Derived of `fastrnn.cells.{name}` by `python -m fastrnn.cells.generate`: change that, then run this."""
'''
_TRITON = f"""
import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import {", ".join(POINTWISE)}

"""
_TORCH = """
import torch

"""
_TABLE = '''"""The counts of the cells whose steps are here, by `python -m fastrnn.cells.generate`."""

from typing import Any

TABLE: dict[str, dict[str, Any]] = {
'''


def every() -> list[Cell]:
    """The cells of this package."""
    return [*CELLS.values(), *CATALOGUE.values()]


def files() -> dict[str, str]:
    """What there is to be in the checkout, by path."""
    found, table = {}, _TABLE
    for cell in every():
        derived = derive(cell.function, cell.signature, cell.name)
        header = _HEADER.format(name=cell.name)
        found[f"kernels/derived/{cell.name}.py"] = header + _TRITON + "\n" + derived.triton
        imports = _TORCH + "\n" if "torch." in derived.torch else "\n\n"
        found[f"fastrnn/cells/derived/{cell.name}.py"] = header + imports + derived.torch
        row = {"gates": cell.gates, "states": cell.states, "saved": derived.saved, "split_gates": derived.split_gates}
        row |= {"inner": cell.inner, "rests": derived.rests}
        row |= {
            name: getattr(cell, name)
            for name in ("vectors", "constants", "initial", "float32_states")
            if getattr(cell, name)
        }
        table += f'    "{cell.name}": {row},\n'.replace("'", '"')
    found["kernels/derived/table.py"] = table + "}\n"
    return found


def main() -> None:
    """Write them."""
    for path, text in files().items():
        (Path(__file__).parents[2] / path).write_text(text)


if __name__ == "__main__":
    main()
