"""Which records of the Materials Project satisfy a query: their ids first, in an order that does not change.

The conditions are those of mp-api's `search` methods. Two of its ways are avoided: without any condition it reads the
whole table from object storage instead of the interface (so ``deprecated=False`` is always said, or one page asked
for), and with several ids a page number makes it lose all after the first hundred (so ids are asked for in pieces).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import Query
from cgcnn_ase.sources.materials_project.records import Document, routes_of

if TYPE_CHECKING:
    from mp_api.client import MPRester


class Ask(Protocol):
    """Calls a `search` of the client, in words where it fails and again where that may help."""

    def __call__(self, search: Callable[..., Any], /, **conditions: Any) -> list[Document]:
        """The documents."""
        ...


#: ids of a page of the list, the most that the interface gives at once
_LISTED = 1000
#: ids that are asked for at once: they must fit into one address
AT_ONCE = 250

#: our property -> the summary's condition
_SUMMARY_RANGES: Mapping[str, str] = {
    "band_gap": "band_gap",
    "efermi": "efermi",
    "total_magnetization": "total_magnetization",
    "magnetization_per_formula_unit": "total_magnetization_normalized_formula_units",
    "K_VRH": "k_vrh",
    "G_VRH": "g_vrh",
    "poisson": "poisson_ratio",
    "volume": "volume",
    "density": "density",
}
#: our property -> the condition of thermo documents
_THERMO_RANGES: Mapping[str, str] = {
    "formation_energy_per_atom": "formation_energy",
    "energy_above_hull": "energy_above_hull",
    "energy_per_atom": "total_energy",
    "uncorrected_energy_per_atom": "uncorrected_energy",
}

_ELECTRODE_FIELDS = ["material_ids", "working_ion", "id_discharge", "thermo_type", "average_voltage", "capacity_grav"]


def material_ids(rester: "MPRester", ask: Ask, query: Query, fields: Sequence[str], thermo_type: str) -> list[str]:
    """Ids of the materials that satisfy a query, sorted by their numbers."""
    conditions: dict[str, Any] = {
        name: list(getattr(query, name))
        for name in ("formula", "chemsys", "elements", "exclude_elements")
        if getattr(query, name)
    }
    conditions |= {_SUMMARY_RANGES[name]: tuple(query.ranges[name]) for name in query.ranges if name in _SUMMARY_RANGES}
    if "is_metal" in query.ranges:
        conditions["is_metal"] = _flag("is_metal", query.ranges["is_metal"])
    if query.max_atoms is not None:
        conditions["num_sites"] = (1, query.max_atoms)
    needed = sorted(_only_routes(fields, query) & {"elasticity", "magnetism"})
    if needed:
        conditions["has_props"] = needed
    ids = list(_listed(rester, ask, query, conditions))
    twice = len(ids) - len(set(ids))
    if twice:
        raise FetchError(
            f"the Materials Project gave {twice} ids twice: its list changed while it was read; try again later"
        )
    ids = sorted(ids, key=_by_number)
    narrower: dict[str, Any] = {
        _THERMO_RANGES[name]: tuple(query.ranges[name]) for name in query.ranges if name in _THERMO_RANGES
    }
    if query.stable is not None or "is_stable" in query.ranges:
        narrower["is_stable"] = (
            query.stable if query.stable is not None else _flag("is_stable", query.ranges["is_stable"])
        )
    return _of_thermo(rester, ask, ids, narrower, thermo_type) if narrower else ids


def electrodes(rester: "MPRester", ask: Ask, query: Query) -> dict[str, Document]:
    """Documents of the insertion electrodes that satisfy a query, by their ids, sorted."""
    from emmet.core.mpid import AlphaID

    conditions: dict[str, Any] = {name: tuple(bounds) for name, bounds in query.ranges.items()}
    for name in ("formula", "elements", "exclude_elements"):
        if getattr(query, name):
            conditions[name] = list(getattr(query, name))
    result: dict[str, Document] = {}

    def add(documents: Iterable[Document]) -> None:
        for document in documents:
            ids = [AlphaID(each) for each in document.get("material_ids") or () if not str(each).startswith("mvc")]
            if not ids or not document.get("working_ion"):
                raise FetchError("the Materials Project: an electrode has no material ids or no working ion")
            name = f"{min(ids).string}_{document['working_ion']}"
            if name in result:
                raise FetchError(f"the Materials Project gave the electrode {name} twice; try again later")
            result[name] = document

    search = rester.materials.insertion_electrodes.search
    if query.ids:
        for ids in pieces(query.ids, AT_ONCE):
            more = {**conditions, "battery_ids": list(ids), "chunk_size": len(ids), "num_chunks": 1}
            add(ask(search, **more, fields=_ELECTRODE_FIELDS))
    else:
        for page in _pages_of(search, ask, conditions, _ELECTRODE_FIELDS):
            add(page)
    return {name: result[name] for name in sorted(result, key=_by_number)}


def canonical(name: str) -> str:
    """One name for the two forms of an id, ``mp-149`` and ``mp-aaaaaaft``; raises `ValueError` if it is neither."""
    from mp_api.client.core.utils import validate_ids

    try:
        return str(validate_ids([name])[0])
    except ValueError as error:
        raise ValueError(f"{name!r} is no id of the Materials Project, as mp-149") from error


def id_of(document: Document) -> str:
    """Which material a document is of; raises `FetchError` where it does not say."""
    result = document.get("material_id")
    if not isinstance(result, str):
        raise FetchError("the Materials Project: a document has no material_id; this server speaks another interface")
    return canonical(result)


def pieces(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The items in pieces of at most `size`."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _only_routes(fields: Sequence[str], query: Query) -> set[str]:
    """Routes without which a record would be of no use: those of a range, and that of all fields if it is one."""
    of_fields = routes_of(fields) - {"structure"}
    return routes_of(query.ranges) | (of_fields if len(of_fields) == 1 else set())


def _listed(rester: "MPRester", ask: Ask, query: Query, conditions: Mapping[str, Any]) -> Iterator[str]:
    search = rester.materials.summary.search
    common = {**conditions, "deprecated": False}
    if not query.ids:
        for page in _pages_of(search, ask, {**common, "_sort_fields": "material_id"}, ["material_id"]):
            yield from map(id_of, page)
        return
    ids = sorted({canonical(name) for name in query.ids})
    for some in pieces(ids, AT_ONCE):
        more = {**common, "material_ids": list(some), "chunk_size": len(some), "num_chunks": 1}
        documents = ask(search, **more, fields=["material_id"])
        yield from map(id_of, documents)


def _pages_of(
    search: Callable[..., Any], ask: Ask, conditions: Mapping[str, Any], fields: list[str]
) -> Iterator[list[Document]]:
    """Page after page until one is empty: a server may give fewer at once than it is asked for."""
    page = 1
    while True:
        more = {**conditions, "_page": page, "chunk_size": _LISTED, "num_chunks": 1, "fields": fields}
        documents = ask(search, **more)
        if not documents:
            return
        yield documents
        page += 1


def _of_thermo(
    rester: "MPRester", ask: Ask, ids: Sequence[str], conditions: Mapping[str, Any], thermo_type: str
) -> list[str]:
    """Those of the ids whose thermo documents satisfy the conditions, in their order."""
    search = rester.materials.thermo.search
    kept: list[str] = []
    for some in pieces(ids, AT_ONCE):
        more = {**conditions, "material_ids": list(some), "chunk_size": len(some), "num_chunks": 1}
        documents = ask(search, **more, thermo_types=[thermo_type], fields=["material_id"])
        there = set(map(id_of, documents))
        kept += [name for name in some if name in there]
    return kept


def _flag(name: str, bounds: tuple[float | None, float | None]) -> bool:
    if bounds not in ((0.0, 0.0), (1.0, 1.0)):
        raise ValueError(f"range of {name}: it is 0 or 1, so 0:0 or 1:1 is allowed")
    return bounds[0] == 1.0


def _by_number(name: str) -> tuple[str, int, str]:
    """mp-2 before mp-10; ids of letters after those of numbers."""
    prefix, _, rest = name.partition("-")
    number, _, more = rest.partition("_")
    return (prefix, int(number), more) if number.isdigit() else (f"{prefix}~", 0, rest)
