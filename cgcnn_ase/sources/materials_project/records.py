"""From documents of the Materials Project to records with our names and units, or to the reason why there is none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cgcnn_ase.sources.client import FetchedRecord, Query, as_mapping
from cgcnn_ase.sources.materials_project.listing import (
    PLACES,
    SCHEMES,
    Ask,
    Document,
    canonical,
    id_of,
    of_ids,
    routes_of,
)
from cgcnn_ase.structures.disorder import from_pymatgen
from cgcnn_ase.structures.record import RefusedError, StructureError, one_line
from cgcnn_ase.structures.validation import check_atoms

if TYPE_CHECKING:
    from ase import Atoms
    from mp_api.client import MPRester

# u/Å^3 in g/cm^3
_DENSITY = 1.66053906892

# asked of a route beside the properties
_ALSO: Mapping[str, list[str]] = {
    "thermo": ["thermo_type", "energy_type", "entries", "symmetry"],
    "summary": ["symmetry"],
    "elasticity": ["state"],
    "magnetism": ["ordering"],
}

# records that can be used, and the ids of the others with the reason
Sorted: TypeAlias = tuple[list[FetchedRecord], list[tuple[str, str]]]


@dataclass(frozen=True)
class Records:
    """Reader of records by their ids: those that can be used, and the others with the reason in words."""

    rester: "MPRester"
    ask: Ask
    thermo_type: str

    def materials(self, query: Query, fields: tuple[str, ...], ids: Sequence[str]) -> Sorted:
        """Records of materials; each route that is needed is asked once for all of them."""
        routes = routes_of([*fields, *query.ranges, *(["is_stable"] if query.stable is not None else [])])
        of_route = {
            route: self._documents(route, ids, _fields_of(route, fields, query))
            for route in sorted(routes - {"structure", "summary"})
        }
        thermo = of_route.get("thermo")
        without = [name for name in ids if thermo is None or (name in thermo and _entry(thermo[name]) is None)]
        if "summary" in routes or without:
            asked = _fields_of("summary", fields, query) + (["structure"] if without else [])
            of_route["summary"] = self._documents("summary", ids, asked)
        records: list[FetchedRecord] = []
        refused: list[tuple[str, str]] = []
        for name in ids:
            documents = {route: by_id[name] for route, by_id in of_route.items() if name in by_id}
            try:
                records.append(self._material(name, documents, fields, query, energies=thermo is not None))
            except RefusedError as error:
                refused.append((name, str(error)))
        return records, refused

    def _material(
        self, name: str, documents: Mapping[str, Document], fields: tuple[str, ...], query: Query, *, energies: bool
    ) -> FetchedRecord:
        words: dict[str, str] = {}
        structure = documents.get("summary", {}).get("structure")
        if energies:
            if "thermo" not in documents:
                raise RefusedError(f"the database has no energy of it with {self.thermo_type}")
            thermo = documents["thermo"]
            words |= self._scheme(thermo)
            entry = _entry(thermo)
            if entry is not None:
                structure = entry["structure"]
                words["geometry"] = words["run_type"]
            else:
                words["geometry"] = "summary"
        for document in documents.values():
            words |= _space_group(document)
        ordering = documents.get("magnetism", {}).get("ordering")
        if isinstance(ordering, str):
            words["magnetic_ordering"] = ordering
        atoms = _read_structure(name, structure)
        return _record(name, atoms, documents, fields=fields, query=query, words=words)

    def _scheme(self, document: Document) -> dict[str, str]:
        """Words about where the energies of a document come from; raises where it is another scheme."""
        stated = str(document.get("thermo_type"))
        if stated.upper() != self.thermo_type:
            raise RefusedError(f"its energies are of {stated}, not of {self.thermo_type}")
        functional, corrections = SCHEMES[self.thermo_type]
        words = {"functional": functional, "corrections": corrections, "thermo_type": self.thermo_type}
        run_type = document.get("energy_type")
        return words | ({"run_type": run_type} if isinstance(run_type, str) else {})

    def electrodes(self, query: Query, fields: tuple[str, ...], by_id: Mapping[str, Document]) -> Sorted:
        """Records of insertion electrodes, with the structure of the discharged host: the ion is in it."""
        hosts = {
            name: canonical(str(document["id_discharge"]))
            for name, document in by_id.items()
            if document.get("id_discharge")
        }
        ids = sorted(set(hosts.values()))
        summary = self._documents("summary", ids, ["structure", "symmetry"])
        records: list[FetchedRecord] = []
        refused: list[tuple[str, str]] = []
        for name, document in by_id.items():
            host = hosts.get(name, "")
            try:
                words = {**self._scheme(document), "working_ion": str(document["working_ion"]), "discharged": host}
                if host not in summary:
                    raise RefusedError(f"the database has no structure of its discharged host {host}")
                words |= _space_group(summary[host])
                atoms = _read_structure(name, summary[host].get("structure"))
                documents = {"insertion_electrodes": document}
                records.append(_record(name, atoms, documents, fields=fields, query=query, words=words))
            except RefusedError as error:
                refused.append((name, str(error)))
        return records, refused

    def _documents(self, route: str, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Document]:
        """Documents of one route by their ids; those that are not there are absent."""
        search = getattr(self.rester.materials, route).search
        more: dict[str, object] = {"thermo_types": [self.thermo_type]} if route == "thermo" else {}
        if route == "summary":
            more["deprecated"] = False
        documents = of_ids(search, self.ask, ids, more, ["material_id", *fields])
        return {id_of(document): document for document in documents}


def _fields_of(route: str, fields: Sequence[str], query: Query) -> list[str]:
    """The fields to ask a route for."""
    asked = [*fields, *query.ranges, *(["is_stable"] if query.stable is not None else [])]
    of_route = [PLACES[name].path[0] for name in asked if PLACES[name].route == route]
    return list(dict.fromkeys([*of_route, *_ALSO[route]]))


def _entry(thermo: Document) -> Document | None:
    """The entry whose energy a thermo document holds, if its structure is there."""
    entry = as_mapping(as_mapping(thermo.get("entries")).get(str(thermo.get("energy_type"))))
    return entry if isinstance(entry.get("structure"), dict) else None


def _read_structure(name: str, described: object) -> "Atoms":
    """A structure as a document holds it; raises `RefusedError`."""
    from pymatgen.core import Structure

    if not isinstance(described, dict):
        raise RefusedError("the database gives no structure")
    try:
        atoms = check_atoms(from_pymatgen(Structure.from_dict(described)), name)
    except RefusedError:
        raise
    except StructureError as error:
        raise RefusedError(error.reason) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedError(f"its structure cannot be read: {one_line(repr(error))}") from error
    return atoms


def _read_values(names: Iterable[str], documents: Mapping[str, Document], atoms: "Atoms") -> dict[str, float]:
    """The properties that are there, in our units; raises `RefusedError` for one that is no number."""
    values: dict[str, float] = {}
    for name in names:
        route, path, _ = PLACES[name]
        if name == "volume":
            values[name] = float(atoms.get_volume())
        elif name == "density":
            values[name] = float(atoms.get_masses().sum() / atoms.get_volume() * _DENSITY)
        elif (value := _number(name, documents.get(route, {}), path)) is not None:
            values[name] = value
    return values


def _record(
    name: str,
    atoms: "Atoms",
    documents: Mapping[str, Document],
    *,
    fields: tuple[str, ...],
    query: Query,
    words: Mapping[str, str],
) -> FetchedRecord:
    """A record with one of the values asked for, or a `RefusedError`; servers ignore conditions they do not know."""
    conditions = [*query.ranges, *(["is_stable"] if query.stable is not None else [])]
    values = _read_values(dict.fromkeys([*fields, *conditions]), documents, atoms)
    for bounded, (low, high) in query.ranges.items():
        if bounded not in values:
            raise RefusedError(f"has no {bounded}, which the query asks for")
        if (low is not None and values[bounded] < low) or (high is not None and values[bounded] > high):
            raise RefusedError(f"its {bounded} is {values[bounded]:g}, outside the range asked for")
    if query.stable is not None and values.get("is_stable") != float(query.stable):
        raise RefusedError("its stability is not the one asked for")
    _check_composition(atoms, query)
    kept = {field: values[field] for field in fields if field in values}
    if not kept:
        raise RefusedError(f"the database has no {' or '.join(fields)} of it")
    return FetchedRecord(name, atoms, kept, dict(words))


def _space_group(document: Document) -> dict[str, str]:
    """The space group that a document states, or nothing."""
    symbol = as_mapping(document.get("symmetry")).get("symbol")
    return {"space_group": symbol} if isinstance(symbol, str) else {}


def _number(name: str, document: Document, path: tuple[str, ...]) -> float | None:
    if document.get("state", "successful") not in ("successful", None):
        return None  # of a fit that failed
    value: object = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else value
    if value is None:
        return None
    if isinstance(value, (bool, int, float)):
        return float(value)
    raise RefusedError(f"its {name} is {one_line(repr(value), limit=60)}, no number")


def _check_composition(atoms: "Atoms", query: Query) -> None:
    there = set(atoms.get_chemical_symbols())
    systems = [set(system.split("-")) for system in query.chemsys]
    if not there.issuperset(query.elements) or there.intersection(query.exclude_elements):
        raise RefusedError(f"its elements are {', '.join(sorted(there))}, not those asked for")
    if systems and there not in systems:
        raise RefusedError(f"its chemical system is {'-'.join(sorted(there))}, not one asked for")
    if query.max_atoms is not None and len(atoms) > query.max_atoms:
        raise RefusedError(f"has {len(atoms)} atoms in its cell, more than {query.max_atoms}")
