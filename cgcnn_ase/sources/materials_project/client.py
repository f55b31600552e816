"""The Materials Project through its own client, mp-api: structures with energies, gaps, moduli, moments and voltages.

A. Jain et al., APL Materials 1, 011002 (2013). Energies come from the thermo documents of one ``thermo_type`` and never
from the summary, which takes whichever functional is best for each material; their structure is the one that this
energy was computed for, where the database gives it. Every other property is the summary's or its own route's.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, cast

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.sources.client import Attribution, CursorError, Page, Query, Retry, with_retries
from cgcnn_ase.sources.materials_project.http import (
    call_client,
    find_key,
    heartbeat,
    make_rester,
    make_session,
    missing,
)
from cgcnn_ase.sources.materials_project.listing import (
    AT_ONCE,
    PLACES,
    SCHEMES,
    Document,
    Search,
    canonical,
    electrodes,
    material_ids,
    routes_of,
)
from cgcnn_ase.sources.materials_project.records import Records
from cgcnn_ase.sources.properties import UNITS, check_fields

if TYPE_CHECKING:
    from requests import Session

    from cgcnn_ase.sources.client import SourceOptions

ENDPOINT = "https://api.materialsproject.org/"
LICENCE = "CC BY 4.0"
THERMO_TYPE = "GGA_GGA+U"

_CITATIONS = {
    "": "A. Jain et al., The Materials Project: a materials genome approach to accelerating materials innovation, "
    "APL Materials 1, 011002 (2013), doi:10.1063/1.4812323",
    "elasticity": "M. de Jong et al., Charting the complete elastic properties of inorganic crystalline compounds, "
    "Scientific Data 2, 150009 (2015), doi:10.1038/sdata.2015.9",
    "magnetism": "M. K. Horton et al., High-throughput prediction of the ground-state collinear magnetic order of "
    "inorganic materials using density functional theory, npj Computational Materials 5, 64 (2019), "
    "doi:10.1038/s41524-019-0199-7",
    "insertion_electrodes": "J.-X. Shen et al., A charge-density-based general cation insertion algorithm for "
    "generating new Li-ion cathode materials, npj Computational Materials 6, 161 (2020), "
    "doi:10.1038/s41524-020-00422-3",
}


class MaterialsProject:
    """The Materials Project as a :class:`cgcnn_ase.sources.client.ReferenceClient`.

    Parameters
    ----------
    api_key, ask_key
        By default the key that :func:`cgcnn_ase.sources.materials_project.http.find_key` finds when it is first needed;
        where there is none, `ask_key` asks a person.
    endpoint
        Address of the interface; ``MP_API_ENDPOINT`` or https://api.materialsproject.org by default.
    thermo_type
        Functionals and corrections of the energies: ``GGA_GGA+U`` (PBE and PBE+U with the MP2020 corrections),
        ``R2SCAN``, or ``GGA_GGA+U_R2SCAN`` (both, through the mixing scheme).
    timeout
        Seconds to wait for an answer.

    Raises
    ------
    ValueError
        If the endpoint is no address or the thermo type is unknown.
    """

    name = "mp"

    def __init__(
        self,
        api_key: str | None = None,
        endpoint: str | None = None,
        thermo_type: str = THERMO_TYPE,
        *,
        ask_key: Callable[[], str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        if thermo_type not in SCHEMES:
            raise unknown_name("thermo type", thermo_type, SCHEMES)
        address = endpoint or os.environ.get("MP_API_ENDPOINT") or ENDPOINT
        if not address.startswith(("https://", "http://")):
            raise ValueError(f"endpoint {address!r}: an address that begins with https:// is needed")
        self.url = address.rstrip("/") + "/"
        self.thermo_type = thermo_type
        self._given_key = api_key
        self._ask_key = ask_key
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}(endpoint={self.url!r}, thermo_type={self.thermo_type!r})"

    @property
    def settings(self) -> Mapping[str, str]:
        """The thermo type."""
        return {"thermo_type": self.thermo_type}

    @property
    def units(self) -> Mapping[str, str]:
        """All of our properties are known here."""
        return {name: UNITS[name] for name in PLACES}

    def version(self, *, retry: Retry = with_retries) -> str:
        """Version of the database, as ``2025.09.25``; raises `FetchError` or `NoKeyError`."""
        _ = self._key
        return retry(lambda: heartbeat(self._session, self.url))

    def pages(
        self, query: Query, fields: Sequence[str], *, after: str | None = None, retry: Retry = with_retries
    ) -> Iterator[Page]:
        """The records of a query, 250 a page, in the order of their ids.

        First all ids are listed, then each page is asked for by its ids: nothing is lost or doubled where a request
        fails, and a cursor is the position in the list together with the list's hash.
        See :class:`cgcnn_ase.sources.client.ReferenceClient`.
        """
        names = check_fields(fields, PLACES)
        of_electrodes = "insertion_electrodes" in routes_of(names)
        if of_electrodes or "insertion_electrodes" in routes_of(query.ranges):
            _check_electrodes(query, names)
        rester = retry(lambda: call_client(lambda: make_rester(self._key, self.url, self._session)))

        def ask(search: Search, /, **conditions: object) -> list[Document]:
            return cast("list[Document]", retry(lambda: call_client(lambda: search(**conditions))))

        getter = Records(rester, ask, self.thermo_type)
        if of_electrodes:
            by_id = electrodes(rester, ask, query)
            ids, missed = list(by_id), _not_found(query.ids, list(by_id))
        else:
            ids = material_ids(rester, ask, query, names, self.thermo_type)
            missed = _not_found([canonical(name) for name in query.ids], ids)
        ids = ids[: query.limit]
        digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
        if not ids and missed:
            yield Page((), tuple(missed), f"0:{digest}", 0)
        start = 0
        if after is not None:
            position, _, before = after.partition(":")
            if before != digest:
                raise CursorError("the Materials Project lists other records than before the interruption")
            start = int(position)
        for begin in range(start, len(ids), AT_ONCE):
            chunk = ids[begin : begin + AT_ONCE]
            if of_electrodes:
                records, refused = getter.electrodes(query, names, {name: by_id[name] for name in chunk})
            else:
                records, refused = getter.materials(query, names, chunk)
            if begin == 0:
                refused += missed
            yield Page(tuple(records), tuple(refused), f"{begin + len(chunk)}:{digest}", len(ids))

    def credit(self, fields: Sequence[str]) -> Attribution:
        """Licence CC BY 4.0, the Materials Project's citation and those of the builders whose data was taken."""
        routes = routes_of(fields)
        return Attribution(
            provider="the Materials Project",
            licence=LICENCE,
            citations=tuple(text for route, text in _CITATIONS.items() if not route or route in routes),
            client=f"cgcnn-ase {version_of('cgcnn-ase')} and mp-api {_version_of_client()}",
        )

    @cached_property
    def _key(self) -> str:
        return find_key(self._given_key, self._ask_key)

    @cached_property
    def _session(self) -> "Session":
        try:
            import mp_api.client  # noqa: F401
        except ImportError as error:
            raise missing() from error
        return make_session(self._timeout)


def open_source(options: "SourceOptions") -> MaterialsProject:
    """Open the client for :data:`cgcnn_ase.sources.fetch.SOURCES`; described properties are a `ValueError`."""
    if options.properties:
        raise ValueError("--property is for OPTIMADE servers; those of the Materials Project are known")
    thermo_type = options.thermo_type or THERMO_TYPE
    return MaterialsProject(endpoint=options.url, thermo_type=thermo_type, ask_key=options.ask_key)


def _not_found(asked: Sequence[str], listed: Sequence[str]) -> list[tuple[str, str]]:
    """Ids that were asked for by name and are not listed."""
    why = "the database has no such record, or it does not satisfy the other conditions"
    return [(name, why) for name in sorted(set(asked) - set(listed))]


def _check_electrodes(query: Query, fields: Sequence[str]) -> None:
    """Electrodes are records of their own: of a framework and an ion, not of a material."""
    known = [name for name, entry in PLACES.items() if entry.route == "insertion_electrodes"]
    for name in (*fields, *query.ranges):
        if name not in known:
            raise ValueError(f"{name} and {known[0]} are of different records; of electrodes, {', '.join(known)} exist")
    if query.stable is not None:
        raise ValueError(f"stable: not known of electrodes, whose fields are {', '.join(known)}")
    if not fields:
        raise ValueError(f"a range of an electrode needs one of the fields {', '.join(known)}")


def _version_of_client() -> str:
    from importlib.metadata import PackageNotFoundError

    try:
        return version_of("mp-api")
    except PackageNotFoundError as error:
        raise missing() from error
