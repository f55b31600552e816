"""An OPTIMADE structure resource as ASE atoms, or why it cannot be one.

The resources are read as servers send them, not as the specification's full model wants them: clients ask for a few
properties only, and several providers leave out others (a species list where the names are elements, for one).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import FetchedRecord, as_mapping
from cgcnn_ase.sources.optimade.filter import QueryMatcher
from cgcnn_ase.sources.optimade.server import Provider
from cgcnn_ase.sources.properties import conversion
from cgcnn_ase.structures import StructureError, check_atoms

if TYPE_CHECKING:
    from ase import Atoms


# properties of a structure resource that `to_atoms` needs; `structure_features` tells of assemblies
STRUCTURE_FIELDS = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species",
    "species_at_sites",
    "dimension_types",
    "structure_features",
)

# a site is fully occupied if no more than this is missing
_FULL = 1e-3

# features of the specification that plain atoms cannot hold, and what they mean
_FEATURES = {
    "assemblies": "its sites are occupied in groups by chance (assemblies)",
    "disorder": "has partially occupied sites",
    "implicit_atoms": "has atoms without positions (implicit_atoms)",
    "site_attachments": "has atoms attached to sites without positions of their own (site_attachments)",
    "unknown_positions": "has atoms of unknown position",
}


def read_records(
    data: Sequence[object], provider: Provider, fields: Sequence[str], matcher: QueryMatcher
) -> tuple[list[FetchedRecord], list[tuple[str, str]]]:
    """Read the records of a page that satisfy the query, and the ids of those that cannot be used, each with the
    reason.

    A resource without an id, or one that was not asked for, is a `FetchError`.
    """
    records: list[FetchedRecord] = []
    refused: list[tuple[str, str]] = []
    for resource in data:
        if not isinstance(resource, dict) or "id" not in resource:
            raise FetchError(f"{provider.url}: the answer holds a structure without an id")
        record = _record(
            str(resource["id"]), as_mapping(resource.get("attributes")), provider, (*fields, *matcher.ranges)
        )
        if isinstance(record, str):
            refused.append((str(resource["id"]), record))
        elif matcher(record):
            records.append(replace(record, values={n: record.values[n] for n in fields if n in record.values}))
    return records, refused


def _record(id: str, attributes: Mapping[str, object], provider: Provider, names: Sequence[str]) -> FetchedRecord | str:
    """One record, or the reason why there is none."""
    try:
        atoms = to_atoms(id, attributes)
        values = {}
        for name in dict.fromkeys(names):
            value = _value(id, attributes, provider, name, len(atoms))
            if value is not None:
                values[name] = value
    except StructureError as error:
        return error.reason
    return FetchedRecord(id, atoms, values, dict(provider.words))


def _value(id: str, attributes: Mapping[str, object], provider: Provider, name: str, n_atoms: int) -> float | None:
    """A property in our unit, or None where the provider has no value."""
    known = provider.properties[name]
    value: object = attributes
    for step in known.field.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if value is None or value in provider.missing:
        return None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise StructureError(id, f"its {known.field} is {value!r}, no finite number")
    ours = conversion(name, known.unit)(float(value), n_atoms)
    return ours if known.at_least is None else max(ours, known.at_least)


def to_atoms(id: str, attributes: Mapping[str, object]) -> "Atoms":
    """Make the structure of a resource from its ``attributes``; positions and cell in Å (specification 1.2,
    "Structures").

    Where `dimension_types` is missing, all three directions are periodic; where `species` is missing, the names at the
    sites must be elements. A `StructureError` says why there is no structure: sites that are partially occupied,
    vacant, of unknown element or without position, or that exclude one another (assemblies); a cell or positions that
    are none.
    """
    from ase import Atoms

    for feature in _names(attributes.get("structure_features")):
        if feature in _FEATURES:
            raise StructureError(id, _FEATURES[feature])
    if attributes.get("assemblies"):
        raise StructureError(id, _FEATURES["assemblies"])
    names = _names(attributes.get("species_at_sites"))
    if not names:
        raise StructureError(id, "the server sends no species_at_sites")
    elements = _elements(id, attributes.get("species"))
    positions = _array(id, attributes, "cartesian_site_positions", (len(names), 3))
    pbc = attributes.get("dimension_types")
    pbc = [1, 1, 1] if pbc is None else pbc
    if not isinstance(pbc, Sequence) or len(pbc) != 3 or any(p not in (0, 1) for p in pbc):
        raise StructureError(id, f"its dimension_types are {pbc!r}; allowed are three of 0 and 1")
    atoms = Atoms(
        [_element(id, name, elements) for name in names],
        positions=positions,
        cell=_cell(id, attributes.get("lattice_vectors"), pbc),
        pbc=[bool(p) for p in pbc],
    )
    return check_atoms(atoms, id)


def _names(value: object) -> list[str]:
    """A list of strings, empty where there is none."""
    return [str(name) for name in value] if isinstance(value, list) else []


def _elements(id: str, species: object) -> dict[str, str]:
    """The element that stands behind each name of a species; refuse sites that are not one whole atom."""
    elements: dict[str, str] = {}
    for kind in map(as_mapping, species if isinstance(species, list) else ()):
        name, chemical = str(kind.get("name")), _names(kind.get("chemical_symbols"))
        stated = kind.get("concentration")
        shares = [float(share) for share in stated] if isinstance(stated, list) else [1.0] * len(chemical)
        if len(shares) != len(chemical) or not chemical:
            raise StructureError(id, f"species {name!r} has {len(chemical)} elements and {len(shares)} concentrations")
        attached = kind.get("nattached")
        if isinstance(attached, list) and any(attached):
            raise StructureError(id, _FEATURES["site_attachments"])
        occupied = {symbol: share for symbol, share in zip(chemical, shares, strict=True) if share > _FULL}
        if "vacancy" in occupied:
            raise StructureError(id, f"species {name!r} is a vacancy to {occupied['vacancy']:g}")
        if len(occupied) != 1 or abs(sum(occupied.values()) - 1) > _FULL:
            parts = " ".join(f"{symbol} {share:g}" for symbol, share in occupied.items()) or "nothing"
            raise StructureError(id, f"has partially occupied sites: species {name!r} is {parts}")
        elements[name] = next(iter(occupied))
    return elements


def _element(id: str, name: str, elements: Mapping[str, str]) -> str:
    """The element at a site."""
    symbol = elements.get(name, name)
    if symbol == "X":
        raise StructureError(id, f"species {name!r} is of unknown element (X)")
    if symbol not in symbols()[1:]:
        why = "is none of its species and no element" if name not in elements else f"is {symbol!r}, no element"
        raise StructureError(id, f"species {name!r} {why}")
    return symbol


def _array(id: str, attributes: Mapping[str, object], name: str, shape: tuple[int, int]) -> Floats:
    """Numbers of a given shape."""
    value = attributes.get(name)
    if value is None:
        raise StructureError(id, f"the server sends no {name}")
    try:
        rows = [list(row) for row in value] if isinstance(value, Sequence) else value
        array = np.array(rows, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise StructureError(id, f"its {name} are no table of numbers") from None
    if array.shape != shape:
        raise StructureError(id, f"its {name} are of shape {array.shape}; needed is {shape}, a row for each site")
    if not np.isfinite(array).all():
        raise StructureError(id, f"its {name} are not all known")
    return array


def _cell(id: str, vectors: object, pbc: Sequence[int]) -> Floats:
    """The cell in Å; vectors of directions that are not periodic may be missing (null), and become zero."""
    if vectors is None and not any(pbc):
        return np.zeros((3, 3))
    if not isinstance(vectors, list) or len(vectors) != 3:
        raise StructureError(id, "the server sends no lattice_vectors")
    known = [
        [0.0, 0.0, 0.0] if not periodic and (row is None or all(x is None for x in row)) else row
        for row, periodic in zip(vectors, pbc, strict=True)
    ]
    if any(row is None for row in known):
        raise StructureError(id, "its lattice_vectors are not all known")
    return _array(id, {"lattice_vectors": known}, "lattice_vectors", (3, 3))
