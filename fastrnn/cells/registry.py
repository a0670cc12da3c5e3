"""The cells that there are, by name: operators, whose arguments are data, name the cell that they run."""

from __future__ import annotations

from fastrnn.cells.cell import Cell

_CELLS: dict[str, Cell] = {}


def register(cell: Cell) -> Cell:
    """`cell`, to be found by its name. One of that name before it computed the same, and gives way."""
    _CELLS[cell.name] = cell
    return cell


def named(name: str) -> Cell:
    """The cell of this name.

    Raises:
        KeyError: there is none, as in a program that was stored, if nothing imported what defines its cell.
    """
    cell = _CELLS.get(name)
    if cell is None:
        raise KeyError(
            f"there is no cell {name!r} in this process: import the module that defines it, as it was when the program "
            "was stored"
        )
    return cell
