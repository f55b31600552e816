"""Crystals with partially occupied sites: read as sites with several occupants, refused or ordered."""

import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.structures.cif import cell_of, columns, coordinates
from cgcnn_ase.structures.cif_symmetry import symmetry_of
from cgcnn_ase.structures.cif_values import (
    NULLS,
    PartialOccupancyError,
    UncertainError,
    element_of_label,
    element_of_symbol,
    element_words,
    formula_elements,
    formula_units,
    number,
    partial_words,
    plain,
)
from cgcnn_ase.structures.ordering import (
    DisorderedCrystal,
    Orbit,
    OrderDisordered,
    OrderingOptions,
    OrderingWarning,
    order_crystal,
)
from cgcnn_ase.structures.record import RefusedError, without_reader_warnings
from cgcnn_ase.structures.space_groups import merge_near

if TYPE_CHECKING:
    from ase import Atoms
    from gemmi import cif as gemmi_cif
    from pymatgen.core import DummySpecies, Element, Molecule, Species, Structure

    from cgcnn_ase.structures.arrangement import Occupant

# pymatgen's limit: occupancies may sum to this much before a site counts as over-full
_OCCUPANCY = 1.001
# rounded occupancies of one place may add up to this much; they are scaled to 1
_FULL_PLACE = 1.02
# an occupancy below this is none
_NONE = 1e-3
# rows whose images lie within this, Å, share one place
_SAME_PLACE = 0.3
# sites nearer than this, Å, cannot both be full
_OVERLAP = 0.5

# ``0.80(1)Ni + 0.10Co + 0.10Mn`` as a type symbol, and the charge behind an element
_TERM = re.compile(r"\s*(\d*\.?\d+)(?:\(\d+\))?\s*([A-Z][a-z]?[\d.]*[+-]?)\s*")
_CHARGE = re.compile(r"[A-Za-z]{1,2}(?:(\d*\.?\d*)([+-])|([+-])(\d+\.?\d*))")


def from_pymatgen(
    structure: "Structure | Molecule", *, order_disordered: OrderDisordered = False, source: str = ""
) -> "Atoms":
    """A pymatgen ``Structure`` or ``Molecule`` as `ase.Atoms`; oxidation states, spins and properties are left behind.

    Sites partially occupied, with no ordering asked for, are a `PartialOccupancyError`; one that cannot be ordered, or
    holds something that is no element, is a `ValueError`. Of several orderings it is the first.
    """
    return all_from_pymatgen(structure, order_disordered=order_disordered, source=source)[0]


def all_from_pymatgen(
    structure: "Structure | Molecule", *, order_disordered: OrderDisordered = False, source: str = ""
) -> "list[Atoms]":
    """As `from_pymatgen`, with all orderings where several are asked for."""
    from ase import Atoms
    from pymatgen.core import IStructure

    if not isinstance(structure, IStructure):
        if not structure.is_ordered:
            raise RefusedError("is a molecule with partially occupied sites")
        return [Atoms(numbers=[_number(site.specie) for site in structure], positions=structure.cart_coords)]
    if not structure.is_ordered:
        if not order_disordered:
            raise PartialOccupancyError(_partial(structure))
        return order_and_warn(crystal_of_pymatgen(structure), order_disordered, source)
    numbers = [_number(site.specie) for site in structure]
    lattice = structure.lattice
    return [Atoms(numbers=numbers, positions=structure.cart_coords, cell=lattice.matrix, pbc=list(lattice.pbc))]


def order_and_warn(crystal: DisorderedCrystal, order_disordered: OrderDisordered, source: str) -> "list[Atoms]":
    """The ordered structures; an `OrderingWarning` says how they were made."""
    options = order_disordered if isinstance(order_disordered, OrderingOptions) else OrderingOptions()
    ordered = _cached_ordering(crystal, options)
    warnings.warn(f"{source}: {ordered.note}" if source else ordered.note, OrderingWarning, stacklevel=2)
    return [atoms.copy() for atoms in ordered.structures]


# a file that is read again gives the same orderings, also where the time stopped their search
_cached_ordering = lru_cache(maxsize=512)(order_crystal)


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


def crystal_of_pymatgen(structure: "Structure") -> DisorderedCrystal:
    """The sites of a disordered structure, those that symmetry makes equivalent together."""
    from cgcnn_ase.structures.arrangement import Occupant

    kinds: dict[object, int] = {}
    contents: list[dict[Occupant, float]] = []
    for site in structure:
        content: dict[Occupant, float] = {}
        for specie, occupancy in site.species.items():
            _number(specie)
            state = getattr(specie, "oxi_state", None)
            occupant = Occupant(str(specie.symbol), None if state is None else float(state))
            if occupancy > _NONE:
                content[occupant] = content.get(occupant, 0.0) + float(occupancy)
        contents.append(content)
    numbers = np.array([kinds.setdefault(tuple(sorted(map(str, c.items()))), len(kinds) + 1) for c in contents])
    frac = np.asarray(structure.frac_coords, dtype=np.float64)
    cell = np.asarray(structure.lattice.matrix, dtype=np.float64)
    equivalent = _equivalent_sites(cell, frac, numbers)
    orbits = [
        Orbit(str(structure[first].label), contents[first], frac[equivalent == first])
        for first in dict.fromkeys(equivalent.tolist())
        if contents[first]
    ]
    return DisorderedCrystal(cell, tuple(orbits))


def crystal_of_atoms(atoms: "Atoms") -> DisorderedCrystal:
    """The sites of an ordered structure, those that symmetry makes equivalent together."""
    from pymatgen.core import Structure

    symbols = atoms.get_chemical_symbols()
    return crystal_of_pymatgen(Structure(atoms.cell.array, symbols, atoms.positions, coords_are_cartesian=True))


def crystal_of_json(content: object) -> DisorderedCrystal:
    """The sites of the ``as_dict`` of a pymatgen ``Structure``."""
    from pymatgen.core import Structure

    if not isinstance(content, dict) or "sites" not in content or "lattice" not in content:
        raise RefusedError("is JSON, but not one pymatgen structure")
    with without_reader_warnings():
        return crystal_of_pymatgen(Structure.from_dict(content))


def crystal_of_cif(block: "gemmi_cif.Block") -> DisorderedCrystal:
    """As `crystal_of_block`, by pymatgen's reader where gemmi cannot be certain."""
    try:
        return crystal_of_block(block)
    except UncertainError:
        return crystal_of_pymatgen(_parsed(block.as_string())[0])


def read_cif_pymatgen(text: str, *, order_disordered: OrderDisordered = False, source: str = "") -> "list[Atoms]":
    """The structures of a CIF by pymatgen's reader (4 ms a file, hundred times slower than gemmi)."""
    result = []
    for structure in _parsed(text):
        if "implicit_hydrogens" in structure.site_properties:
            raise RefusedError("has implicit hydrogens (OH, water); write them as atoms")
        for atoms in all_from_pymatgen(structure, order_disordered=order_disordered, source=source):
            if not np.isfinite(atoms.positions).all():
                raise RefusedError("has a coordinate that is not a finite number")
            result.append(atoms)
    return result


def _parsed(text: str) -> "list[Structure]":
    from pymatgen.io.cif import CifParser

    with without_reader_warnings():
        parser = CifParser.from_str(text, occupancy_tolerance=_OCCUPANCY, check_cif=False)
        return parser.parse_structures(primitive=False, on_error="raise")


class _Row(NamedTuple):
    """One row of the atom list."""

    label: str
    occupants: "Mapping[Occupant, float]"


def has_mixtures(block: "gemmi_cif.Block") -> bool:
    """True where a type symbol of the block names several elements, as ``0.8Ni + 0.2Co``."""
    return any(len(_mixture(plain(symbol))) > 0 for symbol in block.find_values("_atom_site_type_symbol"))


def partial_occupancies(block: "gemmi_cif.Block") -> PartialOccupancyError:
    """The refusal of a block with partially occupied sites, by the labels of the file."""
    named = [(row.label, o.symbol, n) for row in _rows(block)[0] for o, n in row.occupants.items() if n < 1 - _NONE]
    return PartialOccupancyError(partial_words(named))


def read_disordered_block(
    block: "gemmi_cif.Block", order_disordered: OrderDisordered, source: str = ""
) -> "list[Atoms]":
    """The ordered structures of a CIF block with partially occupied sites."""
    return order_and_warn(crystal_of_cif(block), order_disordered, source)


def crystal_of_block(block: "gemmi_cif.Block") -> DisorderedCrystal:
    """The sites of a CIF block with their occupants; rows at one place are one site.

    `UncertainError` is raised where gemmi cannot be certain of the symmetry, and a `ValueError` in words where the
    occupancies of a place add up to more than 1.
    """
    matrix = cell_of(block)
    rows, frac = _rows(block)
    symmetry = symmetry_of(block, matrix)
    identity = (np.eye(3)[None], np.zeros((1, 3)))
    choices = [
        _crystal(rows, frac, identity if reading.operations is None else reading.operations[:2], matrix)
        for reading in symmetry.readings
    ]
    if symmetry.doubt is None and len(choices) == 1:
        return choices[0]
    good = [crystal for crystal in choices if not _overlaps(crystal) and _has_stated_contents(block, crystal)]
    if symmetry.doubt is None and not good:
        good = [crystal for crystal in choices if not _overlaps(crystal)]
    if len(good) == 1:
        return good[0]
    labels = " or ".join(reading.label for reading in symmetry.readings)
    raise RefusedError(symmetry.doubt or f"has a space group of two origins: write {labels}, or the operations")


def _has_stated_contents(block: "gemmi_cif.Block", crystal: DisorderedCrystal) -> bool:
    """Say whether formula and Z of the block give the contents of the cell."""
    units = formula_units(block)
    if units is None:
        return False
    amounts: dict[str, float] = {}
    for orbit in crystal.orbits:
        for occupant, share in orbit.occupancies.items():
            amounts[occupant.symbol] = amounts.get(occupant.symbol, 0.0) + share * len(orbit.frac)
    return all(abs(amounts.get(s, 0.0) - n) <= 0.02 * sum(units.values()) for s, n in units.items())


def _rows(block: "gemmi_cif.Block") -> tuple[list[_Row], Floats]:
    """The rows of the atom list that hold something, and their (n, 3) coordinates."""
    tags = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z", "_atom_site_type_symbol",
            "_atom_site_label", "_atom_site_occupancy")  # fmt: skip
    x, y, z, types, labels, occupancies = columns(block, tags)
    states, formula = _stated_charges(block), formula_elements(block)
    names = [plain(name) for name in labels or types]
    rows = []
    for k, name in enumerate(names):
        text = plain(occupancies[k]) if occupancies else "."
        occupancy = 1.0 if text in NULLS else number(text, f"the occupancy of {name}")
        if not -_NONE <= occupancy <= _FULL_PLACE:
            raise RefusedError(f"the occupancy of {name} is {occupancy:g}, not between 0 and 1")
        rows.append(_Row(name, _occupants(types[k] if types else "", name, min(occupancy, 1.0), states, formula)))
    kept = [k for k, row in enumerate(rows) if row.occupants]
    if not kept:
        raise RefusedError("has no atoms: every site is empty (occupancy 0)")
    return [rows[k] for k in kept], coordinates(x, y, z, labels or types)[kept]


def _occupants(
    kind: str, label: str, occupancy: float, states: Mapping[str, float], formula: frozenset[str] | None
) -> "dict[Occupant, float]":
    """The occupants that a row puts on its site."""
    from cgcnn_ase.structures.arrangement import Occupant

    text = plain(kind)
    terms = _mixture(text) or [(text, 1.0)]
    result: dict[Occupant, float] = {}
    for symbol, share in terms:
        atomic_number = element_of_symbol(symbol) if symbol else element_of_label(label, formula)
        occupant = Occupant(_symbol(atomic_number), _charge(symbol, states))
        if share * occupancy > _NONE:
            result[occupant] = result.get(occupant, 0.0) + share * occupancy
    return result


def _symbol(atomic_number: int) -> str:
    from cgcnn_ase.core.elements import symbols

    return symbols()[atomic_number]


def _mixture(text: str) -> list[tuple[str, float]]:
    """Elements and shares of a type symbol that names several; empty for any other."""
    if "+ " not in text and " +" not in text:
        return []
    matches = [_TERM.fullmatch(term) for term in re.split(r"\s\+\s|\+\s|\s\+(?=[\d.])", text)]
    return [(match[2], float(match[1])) for match in matches if match] if all(matches) else []


def _stated_charges(block: "gemmi_cif.Block") -> dict[str, float]:
    """Oxidation numbers by type symbol, where the file lists them."""
    kinds = block.find_values("_atom_type_symbol")
    values = block.find_values("_atom_type_oxidation_number")
    if len(kinds) != len(values):
        return {}
    return {plain(k): number(v, f"the oxidation number of {plain(k)}") for k, v in zip(kinds, values, strict=True)
            if plain(v) not in NULLS}  # fmt: skip


def _charge(symbol: str, states: Mapping[str, float]) -> float | None:
    if symbol in states:
        return states[symbol]
    match = _CHARGE.fullmatch(symbol)
    if match is None:
        return None
    size = match[1] if match[2] else match[4]
    return float(size or 1) * (-1 if "-" in (match[2], match[3]) else 1)


def _crystal(rows: list[_Row], frac: Floats, operations: tuple[Floats, Floats], matrix: Floats) -> DisorderedCrystal:
    images, owner = merge_near(frac, *operations, matrix)
    orbits: list[Orbit] = []
    for k, row in enumerate(rows):
        row_images = images[owner == k] % 1.0
        same = next((n for n, orbit in enumerate(orbits) if _same_place(orbit.frac, row_images, matrix)), None)
        if same is None:
            orbits.append(Orbit(row.label, row.occupants, row_images))
            continue
        together = dict(orbits[same].occupancies)
        for occupant, share in row.occupants.items():
            together[occupant] = together.get(occupant, 0.0) + share
        orbits[same] = Orbit(f"{orbits[same].label}/{row.label}", together, orbits[same].frac)
    for orbit in orbits:
        total = sum(orbit.occupancies.values())
        if total > _FULL_PLACE:
            raise RefusedError(f"the occupancies of {orbit.label} add up to {total:.4g}, more than 1")
    crystal = DisorderedCrystal(matrix, tuple(orbits))
    return _with_symmetry(crystal) if len(operations[0]) == 1 else crystal


def _with_symmetry(crystal: DisorderedCrystal) -> DisorderedCrystal:
    """The same with equivalent sites of equal contents as one orbit, for a file that lists every site of the cell."""
    contents = [tuple(sorted((str(o), round(n, 6)) for o, n in orbit.occupancies.items())) for orbit in crystal.orbits]
    numbers = np.array([contents.index(content) + 1 for content in contents])
    frac = np.concatenate([orbit.frac for orbit in crystal.orbits])
    equivalent = _equivalent_sites(crystal.cell, frac, numbers)
    orbits = [
        Orbit(crystal.orbits[first].label, crystal.orbits[first].occupancies, frac[equivalent == first])
        for first in dict.fromkeys(equivalent.tolist())
    ]
    return DisorderedCrystal(crystal.cell, tuple(orbits))


def _equivalent_sites(cell: Floats, frac: Floats, numbers: Ints) -> Ints:
    """For each site the first one that is equivalent to it; sites of one number may be."""
    from cgcnn_ase.structures.space_groups import symmetry_dataset

    try:
        return np.asarray(symmetry_dataset(cell, frac, numbers).equivalent_atoms, dtype=np.int64)
    except ValueError:  # sites on top of each other: they are told apart by what they hold
        first = np.unique(numbers, return_index=True)[1]
        return np.asarray(first[np.searchsorted(np.unique(numbers), numbers)], dtype=np.int64)


def _same_place(first: Floats, second: Floats, matrix: Floats) -> bool:
    if len(first) != len(second):
        return False
    delta = first - second[0]
    delta -= np.rint(delta)
    return bool((np.linalg.norm(delta @ matrix, axis=1) < _SAME_PLACE).any())


def _overlaps(crystal: DisorderedCrystal) -> bool:
    """True where sites that are more than half full lie on top of each other."""
    frac = np.concatenate([o.frac for o in crystal.orbits if sum(o.occupancies.values()) > 0.5] or [np.zeros((0, 3))])
    delta = frac[:, None] - frac[None]
    delta -= np.rint(delta)
    distances = np.linalg.norm(delta @ crystal.cell, axis=2) + 10 * np.eye(len(frac))
    return bool((distances < _OVERLAP).any())
