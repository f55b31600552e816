"""Records of the Materials Project that satisfy a query: their ids first, in an order that does not change.

The conditions are those of mp-api's `search` methods. Two of its ways are avoided: without any condition it reads the
whole table from object storage instead of the interface (so ``deprecated=False`` is always said, or one page asked
for), and with several ids a page number makes it lose all after the first hundred (so ids are asked for in pieces).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import Bounds, Query

if TYPE_CHECKING:
    from mp_api.client import MPRester

Document: TypeAlias = Mapping[str, object]
Search: TypeAlias = Callable[..., object]


class Place(NamedTuple):
    """Route of the interface that has a property, the way to it in the route's documents, and how it is limited."""

    route: str
    path: tuple[str, ...]
    condition: str = ""  # of the route thermo, or else of summary; empty where a range is no condition there


# our property -> where it stands; all of them are in our units already
PLACES: Mapping[str, Place] = {
    "formation_energy_per_atom": Place("thermo", ("formation_energy_per_atom",), "formation_energy"),
    "energy_above_hull": Place("thermo", ("energy_above_hull",), "energy_above_hull"),
    "energy_per_atom": Place("thermo", ("energy_per_atom",), "total_energy"),
    "uncorrected_energy_per_atom": Place("thermo", ("uncorrected_energy_per_atom",), "uncorrected_energy"),
    "is_stable": Place("thermo", ("is_stable",)),
    "band_gap": Place("summary", ("band_gap",), "band_gap"),
    "efermi": Place("summary", ("efermi",), "efermi"),
    "is_metal": Place("summary", ("is_metal",)),
    "total_magnetization": Place("magnetism", ("total_magnetization",), "total_magnetization"),
    "magnetization_per_formula_unit": Place(
        "magnetism", ("total_magnetization_normalized_formula_units",), "total_magnetization_normalized_formula_units"
    ),
    "K_VRH": Place("elasticity", ("bulk_modulus", "vrh"), "k_vrh"),
    "G_VRH": Place("elasticity", ("shear_modulus", "vrh"), "g_vrh"),
    "poisson": Place("elasticity", ("homogeneous_poisson",), "poisson_ratio"),
    "volume": Place("structure", (), "volume"),
    "density": Place("structure", (), "density"),
    "average_voltage": Place("insertion_electrodes", ("average_voltage",)),
    "capacity_grav": Place("insertion_electrodes", ("capacity_grav",)),
}

# thermo type -> functional and corrections: within one, energies can be compared
SCHEMES: Mapping[str, tuple[str, str]] = {
    "GGA_GGA+U": ("PBE and PBE+U", "MP2020"),
    "R2SCAN": ("r2SCAN", "none"),
    "GGA_GGA+U_R2SCAN": ("PBE, PBE+U and r2SCAN", "MP2020 and the r2SCAN mixing scheme"),
}


def routes_of(names: Iterable[str]) -> set[str]:
    """The routes that are asked for these properties."""
    return {PLACES[name].route for name in names}


class Ask(Protocol):
    """Calls a `search` of the client; failures are told in words, and repeated where that may help."""

    def __call__(self, search: Search, /, **conditions: object) -> list[Document]:
        """Return the documents."""


# ids of a page of the list, the most that the interface gives at once
_LISTED = 1000
# ids that are asked for at once: they must fit into one address
AT_ONCE = 250

_ELECTRODE_FIELDS = ["material_ids", "working_ion", "id_discharge", "thermo_type", "average_voltage", "capacity_grav"]


def material_ids(rester: "MPRester", ask: Ask, query: Query, fields: Sequence[str], thermo_type: str) -> list[str]:
    """Ids of the materials that satisfy a query, sorted by their numbers."""
    conditions: dict[str, object] = {
        name: list(getattr(query, name))
        for name in ("formula", "chemsys", "elements", "exclude_elements")
        if getattr(query, name)
    }
    conditions |= _ranges(query, of_thermo=False)
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
    narrower = _ranges(query, of_thermo=True)
    if query.stable is not None or "is_stable" in query.ranges:
        narrower["is_stable"] = (
            query.stable if query.stable is not None else _flag("is_stable", query.ranges["is_stable"])
        )
    return _of_thermo(rester, ask, ids, narrower, thermo_type) if narrower else ids


def _ranges(query: Query, *, of_thermo: bool) -> dict[str, object]:
    """The ranges as conditions of thermo documents, or of the summary."""
    return {
        PLACES[name].condition: tuple(bounds)
        for name, bounds in query.ranges.items()
        if PLACES[name].condition and (PLACES[name].route == "thermo") == of_thermo
    }


def electrodes(rester: "MPRester", ask: Ask, query: Query) -> dict[str, Document]:
    """Documents of the insertion electrodes that satisfy a query, by their ids, sorted."""
    from emmet.core.mpid import AlphaID

    conditions: dict[str, object] = {name: tuple(bounds) for name, bounds in query.ranges.items()}
    for name in ("formula", "elements", "exclude_elements"):
        if getattr(query, name):
            conditions[name] = list(getattr(query, name))
    by_id: dict[str, Document] = {}

    def add(documents: Iterable[Document]) -> None:
        for document in documents:
            members = document.get("material_ids")
            names = map(str, members) if isinstance(members, list) else ()
            ids = [AlphaID(each) for each in names if not each.startswith("mvc")]
            if not ids or not document.get("working_ion"):
                raise FetchError("the Materials Project: an electrode has no material ids or no working ion")
            name = f"{min(ids).string}_{document['working_ion']}"
            if name in by_id:
                raise FetchError(f"the Materials Project gave the electrode {name} twice; try again later")
            by_id[name] = document

    search = rester.materials.insertion_electrodes.search
    if query.ids:
        add(of_ids(search, ask, query.ids, conditions, _ELECTRODE_FIELDS, key="battery_ids"))
    else:
        for page in _pages_of(search, ask, conditions, _ELECTRODE_FIELDS):
            add(page)
    return {name: by_id[name] for name in sorted(by_id, key=_by_number)}


def canonical(name: str) -> str:
    """One name for the two forms of an id, ``mp-149`` and ``mp-aaaaaaft``; raises `ValueError` if it is neither."""
    from mp_api.client.core.utils import validate_ids

    try:
        return str(validate_ids([name])[0])
    except ValueError as error:
        raise ValueError(f"{name!r} is no id of the Materials Project, as mp-149") from error


def id_of(document: Document) -> str:
    """Id of the material that a document describes; raises `FetchError` where it does not say."""
    name = document.get("material_id")
    if not isinstance(name, str):
        raise FetchError("the Materials Project: a document has no material_id; this server speaks another interface")
    return canonical(name)


def of_ids(
    search: Search,
    ask: Ask,
    ids: Sequence[str],
    conditions: Mapping[str, object],
    fields: list[str],
    *,
    key: str = "material_ids",
) -> Iterator[Document]:
    """Documents of so many ids, of which as many are asked for at once as fit into one address."""
    for begin in range(0, len(ids), AT_ONCE):
        some = list(ids[begin : begin + AT_ONCE])
        yield from ask(search, **{**conditions, key: some}, chunk_size=len(some), num_chunks=1, fields=fields)


def _only_routes(fields: Sequence[str], query: Query) -> set[str]:
    """Routes without which a record would be of no use: those of a range, and that of all fields if it is one."""
    of_fields = routes_of(fields) - {"structure"}
    return routes_of(query.ranges) | (of_fields if len(of_fields) == 1 else set())


def _listed(rester: "MPRester", ask: Ask, query: Query, conditions: Mapping[str, object]) -> Iterator[str]:
    search = rester.materials.summary.search
    common = {**conditions, "deprecated": False}
    if not query.ids:
        for page in _pages_of(search, ask, {**common, "_sort_fields": "material_id"}, ["material_id"]):
            yield from map(id_of, page)
        return
    ids = sorted({canonical(name) for name in query.ids})
    yield from map(id_of, of_ids(search, ask, ids, common, ["material_id"]))


def _pages_of(
    search: Search, ask: Ask, conditions: Mapping[str, object], fields: list[str]
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
    rester: "MPRester", ask: Ask, ids: Sequence[str], conditions: Mapping[str, object], thermo_type: str
) -> list[str]:
    """Those of the ids whose thermo documents satisfy the conditions, in their order."""
    search = rester.materials.thermo.search
    narrower = {**conditions, "thermo_types": [thermo_type]}
    there = set(map(id_of, of_ids(search, ask, ids, narrower, ["material_id"])))
    return [name for name in ids if name in there]


def _flag(name: str, bounds: Bounds) -> bool:
    if bounds not in ((0.0, 0.0), (1.0, 1.0)):
        raise ValueError(f"range of {name}: it is 0 or 1, so 0:0 or 1:1 is allowed")
    return bounds[0] == 1.0


def _by_number(name: str) -> tuple[str, int, str]:
    """mp-2 before mp-10; ids of letters after those of numbers."""
    prefix, _, rest = name.partition("-")
    number, _, more = rest.partition("_")
    return (prefix, int(number), more) if number.isdigit() else (f"{prefix}~", 0, rest)
