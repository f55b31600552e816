"""What the graph builder reads of a structure."""

from typing import TYPE_CHECKING, NamedTuple

from cgcnn_ase.core.arrays import Bools, Floats, Ints

if TYPE_CHECKING:
    from ase import Atoms


class Geometry(NamedTuple):
    """A structure as plain arrays, no ASE needed."""

    numbers: Ints  #: (N,)
    positions: Floats  #: (N, 3) Å
    cell: Floats  #: (3, 3) Å, rows
    pbc: Bools  #: (3,)


def geometry(atoms: "Atoms") -> Geometry:
    """The arrays of an ``ase.Atoms``."""
    return Geometry(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
