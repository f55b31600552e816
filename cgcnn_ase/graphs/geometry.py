"""What the graph builder reads of a structure."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ase import Atoms


class Geometry(NamedTuple):
    """A structure as plain arrays, no ASE needed."""

    numbers: npt.NDArray[np.int64]  #: (N,)
    positions: npt.NDArray[np.float64]  #: (N, 3) Å
    cell: npt.NDArray[np.float64]  #: (3, 3) Å, rows
    pbc: npt.NDArray[np.bool_]  #: (3,)


def geometry(atoms: "Atoms") -> Geometry:
    """The arrays of an ``ase.Atoms``."""
    return Geometry(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
