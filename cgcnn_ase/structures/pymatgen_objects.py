"""pymatgen's structures, and the CIF blocks that only pymatgen's reader can take, as `ase.Atoms`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .cif import partial_words
from .cif_elements import element_words
from .cif_values import PartialOccupancyError
from .disorder import ordered
from .record import RefusedError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

#: occupancies may sum to this much before a site counts as over-full
_OCCUPANCY = 1.001


@contextmanager
def without_reader_warnings() -> Iterator[None]:
    """Silence what the readers say about repairs they made: what matters of it is checked afterwards."""
    with warnings.catch_warnings():
        for module in ("pymatgen", "ase", "spglib"):
            warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
        warnings.filterwarnings("ignore", message="Issues encountered while parsing CIF")
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        warnings.filterwarnings("ignore", message="No structure parsed for section")
        yield


def from_pymatgen(structure: Any, *, order_disordered: bool = False) -> "Atoms":
    """A pymatgen ``Structure`` or ``Molecule`` as `ase.Atoms`; oxidation states, spins and properties are left behind.

    Raises
    ------
    PartialOccupancyError
        If sites are partially occupied and no ordering is asked for.
    ValueError
        If the structure cannot be ordered, or holds something that is no element.
    """
    from ase import Atoms

    periodic = hasattr(structure, "lattice")
    if not structure.is_ordered:
        if not periodic:
            raise RefusedError("is a molecule with partially occupied sites")
        if not order_disordered:
            raise PartialOccupancyError(_partial(structure))
        with without_reader_warnings():
            structure = ordered(structure)
    numbers = [_number(site.specie) for site in structure]
    if not periodic:
        return Atoms(numbers=numbers, positions=structure.cart_coords)
    lattice = structure.lattice
    return Atoms(numbers=numbers, positions=structure.cart_coords, cell=lattice.matrix, pbc=list(lattice.pbc))


def _number(specie: Any) -> int:
    symbol = str(specie.symbol)
    number = getattr(specie, "Z", None)
    if number is None or symbol in ("D", "T") or type(specie).__name__ == "DummySpecies":
        raise RefusedError(element_words(symbol))
    return int(number)


def _partial(structure: "Structure") -> str:
    named: dict[tuple[str, str, float], None] = {}
    for site in structure:
        amounts = site.species.items()
        for specie, occupancy in amounts:
            if occupancy < 1 - 1e-8:
                named[site.label, str(getattr(specie, "symbol", specie)), round(float(occupancy), 6)] = None
    return partial_words(list(named))


def read_cif_pymatgen(text: str, *, order_disordered: bool = False) -> "list[Atoms]":
    """The structures of a CIF by pymatgen's reader (4 ms a file, hundred times slower than gemmi)."""
    from pymatgen.io.cif import CifParser

    with without_reader_warnings():
        parser = CifParser.from_str(text, occupancy_tolerance=_OCCUPANCY, check_cif=False)
        structures = parser.parse_structures(primitive=False, on_error="raise")
    found = []
    for structure in structures:
        if "implicit_hydrogens" in structure.site_properties:
            raise RefusedError("has implicit hydrogens (OH, water); write them as atoms")
        atoms = from_pymatgen(structure, order_disordered=order_disordered)
        if not np.isfinite(atoms.positions).all():
            raise RefusedError("has a coordinate that is not a finite number")
        found.append(atoms)
    return found
