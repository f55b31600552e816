"""The documents of the Materials Project that some ids have, route by route, put together to records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cgcnn_ase.sources.client import FetchedRecord, Query
from cgcnn_ase.sources.materials_project.listing import AT_ONCE, Ask, canonical, id_of, pieces
from cgcnn_ase.sources.materials_project.records import (
    PLACES,
    SCHEMES,
    Document,
    read_structure,
    record,
    routes_of,
    space_group,
)
from cgcnn_ase.structures.record import RefusedError

if TYPE_CHECKING:
    from mp_api.client import MPRester

#: what is asked of a route beside the properties
_ALSO: Mapping[str, list[str]] = {
    "thermo": ["thermo_type", "energy_type", "entries", "symmetry"],
    "summary": ["symmetry"],
    "elasticity": ["state"],
    "magnetism": ["ordering"],
}

Found = tuple[list[FetchedRecord], list[tuple[str, str]]]


@dataclass(frozen=True)
class Records:
    """Gets records by their ids: those that can be used, and the others with the reason in words."""

    rester: "MPRester"
    ask: Ask
    thermo_type: str

    def materials(self, query: Query, fields: tuple[str, ...], ids: Sequence[str]) -> Found:
        """Records of materials; each route that is needed is asked once for all of them."""
        routes = routes_of([*fields, *query.ranges, *(["is_stable"] if query.stable is not None else [])])
        of_route = {
            route: self._documents(route, ids, _fields_of(route, fields, query))
            for route in sorted(routes - {"structure", "summary"})
        }
        thermo = of_route.get("thermo")
        without = [name for name in ids if thermo is None or (name in thermo and _entry(thermo[name]) is None)]
        if "summary" in routes or without:
            wanted = _fields_of("summary", fields, query) + (["structure"] if without else [])
            of_route["summary"] = self._documents("summary", ids, wanted)
        records: list[FetchedRecord] = []
        refused: list[tuple[str, str]] = []
        for name in ids:
            documents = {route: result[name] for route, result in of_route.items() if name in result}
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
            words |= space_group(document)
        ordering = documents.get("magnetism", {}).get("ordering")
        if isinstance(ordering, str):
            words["magnetic_ordering"] = ordering
        atoms = read_structure(name, structure)
        return record(name, atoms, documents, fields=fields, query=query, words=words)

    def _scheme(self, document: Document) -> dict[str, str]:
        """Words about where the energies of a document come from; raises where it is another scheme."""
        result = str(document.get("thermo_type"))
        if result.upper() != self.thermo_type:
            raise RefusedError(f"its energies are of {result}, not of {self.thermo_type}")
        functional, corrections = SCHEMES[self.thermo_type]
        words = {"functional": functional, "corrections": corrections, "thermo_type": self.thermo_type}
        run_type = document.get("energy_type")
        return words | ({"run_type": run_type} if isinstance(run_type, str) else {})

    def electrodes(self, query: Query, fields: tuple[str, ...], result: Mapping[str, Document]) -> Found:
        """Records of insertion electrodes, with the structure of the discharged host: the ion is in it."""
        hosts = {
            name: canonical(str(document["id_discharge"]))
            for name, document in result.items()
            if document.get("id_discharge")
        }
        ids = sorted(set(hosts.values()))
        summary = self._documents("summary", ids, ["structure", "symmetry"])
        records: list[FetchedRecord] = []
        refused: list[tuple[str, str]] = []
        for name, document in result.items():
            host = hosts.get(name, "")
            try:
                words = {**self._scheme(document), "working_ion": str(document["working_ion"]), "discharged": host}
                if host not in summary:
                    raise RefusedError(f"the database has no structure of its discharged host {host}")
                words |= space_group(summary[host])
                atoms = read_structure(name, summary[host].get("structure"))
                documents = {"insertion_electrodes": document}
                records.append(record(name, atoms, documents, fields=fields, query=query, words=words))
            except RefusedError as error:
                refused.append((name, str(error)))
        return records, refused

    def _documents(self, route: str, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Document]:
        """Documents of one route by their ids; those that are not there are absent."""
        search = getattr(self.rester.materials, route).search
        if route == "thermo":
            more: dict[str, Any] = {"thermo_types": [self.thermo_type]}
        else:
            more = {"deprecated": False} if route == "summary" else {}
        documents: dict[str, Document] = {}
        for some in pieces(ids, AT_ONCE):
            wanted = {"material_ids": list(some), "chunk_size": len(some), "num_chunks": 1}
            for document in self.ask(search, **wanted, **more, fields=["material_id", *fields]):
                documents[id_of(document)] = document
        return documents


def _fields_of(route: str, fields: Sequence[str], query: Query) -> list[str]:
    """The fields to ask a route for."""
    asked = [*fields, *query.ranges, *(["is_stable"] if query.stable is not None else [])]
    names = [PLACES[name].path[0] for name in asked if PLACES[name].route == route]
    return list(dict.fromkeys([*names, *_ALSO[route]]))


def _entry(thermo: Document) -> Mapping[str, Any] | None:
    """The entry whose energy a thermo document holds, if its structure is there."""
    entries = thermo.get("entries")
    entry = entries.get(thermo.get("energy_type")) if isinstance(entries, dict) else None
    return entry if isinstance(entry, dict) and isinstance(entry.get("structure"), dict) else None
