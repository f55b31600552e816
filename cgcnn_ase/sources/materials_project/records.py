"""Documents of the Materials Project become records with our names and units, or are refused in words."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.sources.client import FetchedRecord, Query
from cgcnn_ase.structures.disorder import from_pymatgen
from cgcnn_ase.structures.record import RefusedError, StructureError, one_line
from cgcnn_ase.structures.validation import check_atoms

if TYPE_CHECKING:
    from ase import Atoms

Document = Mapping[str, Any]


class Place(NamedTuple):
    """Where a property stands: which route of the interface, and where in its documents."""

    route: str
    path: tuple[str, ...]


#: our property -> where it stands; all of them are in our units already
PLACES: Mapping[str, Place] = {
    "formation_energy_per_atom": Place("thermo", ("formation_energy_per_atom",)),
    "energy_above_hull": Place("thermo", ("energy_above_hull",)),
    "energy_per_atom": Place("thermo", ("energy_per_atom",)),
    "uncorrected_energy_per_atom": Place("thermo", ("uncorrected_energy_per_atom",)),
    "is_stable": Place("thermo", ("is_stable",)),
    "band_gap": Place("summary", ("band_gap",)),
    "efermi": Place("summary", ("efermi",)),
    "is_metal": Place("summary", ("is_metal",)),
    "total_magnetization": Place("magnetism", ("total_magnetization",)),
    "magnetization_per_formula_unit": Place("magnetism", ("total_magnetization_normalized_formula_units",)),
    "K_VRH": Place("elasticity", ("bulk_modulus", "vrh")),
    "G_VRH": Place("elasticity", ("shear_modulus", "vrh")),
    "poisson": Place("elasticity", ("homogeneous_poisson",)),
    "volume": Place("structure", ()),
    "density": Place("structure", ()),
    "average_voltage": Place("insertion_electrodes", ("average_voltage",)),
    "capacity_grav": Place("insertion_electrodes", ("capacity_grav",)),
}

#: thermo type -> functional and corrections: within one, energies can be compared
SCHEMES: Mapping[str, tuple[str, str]] = {
    "GGA_GGA+U": ("PBE and PBE+U", "MP2020"),
    "R2SCAN": ("r2SCAN", "none"),
    "GGA_GGA+U_R2SCAN": ("PBE, PBE+U and r2SCAN", "MP2020 and the r2SCAN mixing scheme"),
}

#: u/Å^3 in g/cm^3
_DENSITY = 1.66053906892


def routes_of(names: Iterable[str]) -> set[str]:
    """The routes that are asked for these properties."""
    return {PLACES[name].route for name in names}


def read_structure(name: str, result: object) -> "Atoms":
    """A structure as a document holds it; raises `RefusedError`."""
    from pymatgen.core import Structure

    if not isinstance(result, dict):
        raise RefusedError("the database gives no structure")
    try:
        atoms = check_atoms(from_pymatgen(Structure.from_dict(result)), name)
    except RefusedError:
        raise
    except StructureError as error:
        raise RefusedError(error.reason) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedError(f"its structure cannot be read: {one_line(repr(error))}") from error
    return atoms


def read_values(names: Iterable[str], documents: Mapping[str, Document], atoms: "Atoms") -> dict[str, float]:
    """The properties that are there, in our units; raises `RefusedError` for one that is no number."""
    values: dict[str, float] = {}
    for name in names:
        route, path = PLACES[name]
        if name == "volume":
            values[name] = float(atoms.get_volume())
        elif name == "density":
            values[name] = float(atoms.get_masses().sum() / atoms.get_volume() * _DENSITY)
        elif (value := _number(name, documents.get(route, {}), path)) is not None:
            values[name] = value
    return values


def record(
    name: str,
    atoms: "Atoms",
    documents: Mapping[str, Document],
    *,
    fields: tuple[str, ...],
    query: Query,
    words: Mapping[str, str],
) -> FetchedRecord:
    """A record, if it satisfies the query and has one of the values asked for; raises `RefusedError`.

    The conditions are tested again here: a server ignores those that it does not know.
    """
    conditions = [*query.ranges, *(["is_stable"] if query.stable is not None else [])]
    values = read_values(dict.fromkeys([*fields, *conditions]), documents, atoms)
    for wanted, (low, high) in query.ranges.items():
        if wanted not in values:
            raise RefusedError(f"has no {wanted}, which the query asks for")
        if (low is not None and values[wanted] < low) or (high is not None and values[wanted] > high):
            raise RefusedError(f"its {wanted} is {values[wanted]:g}, outside the range asked for")
    if query.stable is not None and values.get("is_stable") != float(query.stable):
        raise RefusedError("its stability is not the one asked for")
    _check_composition(atoms, query)
    kept = {field: values[field] for field in fields if field in values}
    if not kept:
        raise RefusedError(f"the database has no {' or '.join(fields)} of it")
    return FetchedRecord(name, atoms, kept, dict(words))


def space_group(document: Document) -> dict[str, str]:
    """The space group that a document states, or nothing."""
    symmetry = document.get("symmetry")
    symbol = symmetry.get("symbol") if isinstance(symmetry, dict) else None
    return {"space_group": symbol} if isinstance(symbol, str) else {}


def _number(name: str, document: Document, path: tuple[str, ...]) -> float | None:
    if document.get("state", "successful") not in ("successful", None):
        return None  # of a fit that failed
    result: object = document
    for key in path:
        result = result.get(key) if isinstance(result, dict) else result
    if result is None:
        return None
    if isinstance(result, (bool, int, float)):
        return float(result)
    raise RefusedError(f"its {name} is {one_line(repr(result), limit=60)}, no number")


def _check_composition(atoms: "Atoms", query: Query) -> None:
    there = set(atoms.get_chemical_symbols())
    systems = [set(system.split("-")) for system in query.chemsys]
    if not there.issuperset(query.elements) or there.intersection(query.exclude_elements):
        raise RefusedError(f"its elements are {', '.join(sorted(there))}, not those asked for")
    if systems and there not in systems:
        raise RefusedError(f"its chemical system is {'-'.join(sorted(there))}, not one asked for")
    if query.max_atoms is not None and len(atoms) > query.max_atoms:
        raise RefusedError(f"has {len(atoms)} atoms in its cell, more than {query.max_atoms}")
