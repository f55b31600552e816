"""One ordered supercell in place of a crystal with partially occupied sites."""

from itertools import product
from typing import TYPE_CHECKING, cast

import numpy as np

from cgcnn_ase.structures.cif import partial_words
from cgcnn_ase.structures.cif_values import PartialOccupancyError, element_words
from cgcnn_ase.structures.record import RefusedError, without_reader_warnings

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Composition, DummySpecies, Element, Molecule, Species, Structure


# occupancies may sum to this much before a site counts as over-full
_OCCUPANCY = 1.001


def from_pymatgen(structure: "Structure | Molecule", *, order_disordered: bool = False) -> "Atoms":
    """A pymatgen ``Structure`` or ``Molecule`` as `ase.Atoms`; oxidation states, spins and properties are left behind.

    Sites partially occupied, with no ordering asked for, are a `PartialOccupancyError`; one that cannot be ordered, or
    holds something that is no element, is a `ValueError`.
    """
    from ase import Atoms
    from pymatgen.core import IStructure

    if not isinstance(structure, IStructure):
        if not structure.is_ordered:
            raise RefusedError("is a molecule with partially occupied sites")
        return Atoms(numbers=[_number(site.specie) for site in structure], positions=structure.cart_coords)
    if not structure.is_ordered:
        if not order_disordered:
            raise PartialOccupancyError(_partial(structure))
        with without_reader_warnings():
            structure = ordered(structure)
    numbers = [_number(site.specie) for site in structure]
    lattice = structure.lattice
    return Atoms(numbers=numbers, positions=structure.cart_coords, cell=lattice.matrix, pbc=list(lattice.pbc))


def _number(specie: "Element | Species | DummySpecies") -> int:
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
    result = []
    for structure in structures:
        if "implicit_hydrogens" in structure.site_properties:
            raise RefusedError("has implicit hydrogens (OH, water); write them as atoms")
        atoms = from_pymatgen(structure, order_disordered=order_disordered)
        if not np.isfinite(atoms.positions).all():
            raise RefusedError("has a coordinate that is not a finite number")
        result.append(atoms)
    return result


# the ordered supercell has at most this many atoms, and as many cells
LARGEST = 400
MOST_CELLS = 16

# an occupancy may be rounded by this much to fit the supercell
TOLERANCE = 0.01


def ordered(structure: "Structure") -> "Structure":
    """One ordered structure with the composition of a disordered one.

    The smallest and most cubic supercell in which every occupancy is a whole number of atoms (to 0.01 of an occupancy)
    is filled by pymatgen's ``OrderDisorderedStructureTransformation``: the arrangement of lowest Ewald energy where
    oxidation states can be guessed. The result is deterministic. No such supercell of at most 16 cells and 400 atoms is
    a `ValueError`.
    """
    from pymatgen.transformations.standard_transformations import OrderDisorderedStructureTransformation

    charged, known = _with_oxidation_states(structure)
    supercell = charged.make_supercell(_scaling(charged), in_place=False)
    supercell = _rounded(supercell)
    transformation = OrderDisorderedStructureTransformation(
        algo=OrderDisorderedStructureTransformation.ALGO_FAST,
        symmetrized_structures=False,
        no_oxi_states=not known,
        occ_tol=0.25,
    )
    try:
        return cast("Structure", transformation.apply_transformation(supercell))
    except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
        raise RefusedError(f"has partially occupied sites, and pymatgen could not order them ({error})") from error


def _with_oxidation_states(structure: "Structure") -> "tuple[Structure, bool]":
    """The structure with oxidation states, if there are any or they can be guessed; and whether it has them."""
    states = [getattr(specie, "oxi_state", None) for site in structure for specie in site.species]
    if all(state is not None for state in states) and any(states):
        return structure, True
    bare = structure.copy()
    bare.remove_oxidation_states()
    total = bare.composition.element_composition
    whole = total.get_integer_formula_and_factor(max_denominator=100)[0]
    from pymatgen.core import Composition

    try:
        guesses = Composition(whole).oxi_state_guesses(max_sites=-1)
    except ValueError:
        guesses = ()
    if not guesses:
        return bare, False
    bare.add_oxidation_state_by_element({symbol: float(state) for symbol, state in guesses[0].items()})
    return bare, True


def _scaling(structure: "Structure") -> tuple[int, int, int]:
    """The smallest supercell, the most cubic of its size, in which all occupancies are whole numbers of atoms."""
    groups: dict[Composition, int] = {}
    for site in structure:
        if not site.is_ordered:
            groups[site.species] = groups.get(site.species, 0) + 1
    lengths = np.array(structure.lattice.abc)
    for cells in range(1, MOST_CELLS + 1):
        if cells * len(structure) > LARGEST:
            break
        if all(_fits(amount, count * cells) for species, count in groups.items() for amount in species.values()):
            shapes = [s for s in product(range(1, cells + 1), repeat=3) if np.prod(s) == cells]
            a, b, c = min(shapes, key=lambda shape: (float(np.ptp(lengths * shape)), shape))
            return a, b, c
    named = ", ".join(str(species) for species in groups)
    raise RefusedError(
        f"has partially occupied sites ({named}) that no supercell of up to {MOST_CELLS} cells "
        f"and {LARGEST} atoms orders"
    )


def _fits(occupancy: float, count: int) -> bool:
    """Say whether so many sites can hold a whole number of atoms at this occupancy; a species never vanishes."""
    atoms = round(occupancy * count)
    return atoms > 0 and abs(atoms / count - occupancy) <= TOLERANCE


def _rounded(structure: "Structure") -> "Structure":
    """The same structure with each occupancy the nearest that is a whole number of atoms."""
    counts: dict[Composition, int] = {}
    for site in structure:
        counts[site.species] = counts.get(site.species, 0) + 1
    result = structure.copy()
    for i, site in enumerate(structure):
        if not site.is_ordered:
            count = counts[site.species]
            amounts = {specie: round(amount * count) / count for specie, amount in site.species.items()}
            total = sum(amounts.values())
            if total > 1 + 1e-9:
                largest = max(amounts, key=lambda specie: amounts[specie])
                amounts[largest] -= total - 1
            result.replace(i, amounts, properties=site.properties)
    return result
