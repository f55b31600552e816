"""Reference structures and properties from any OPTIMADE server, page by page.

The requests are made here, with ``requests``: `optimade.client.OptimadeClient` keeps all pages in memory, gives up at
a server's failure or a body cut off, and cannot go on after a break. Its filter grammar is used.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from cgcnn_ase.data.errors import FetchError
from cgcnn_ase.data.optimade_filter import Kept, check_filter, optimade_filter
from cgcnn_ase.data.optimade_server import OptimadeServer
from cgcnn_ase.data.optimade_structures import STRUCTURE_FIELDS, to_atoms
from cgcnn_ase.data.property_units import conversion, same_unit
from cgcnn_ase.data.providers import Provider, ProviderProperty, provider
from cgcnn_ase.data.reference import UNITS, CursorError, FetchedRecord, Page, Provenance, Query, check_fields
from cgcnn_ase.data.retry import Retry, with_retries
from cgcnn_ase.structures import StructureError

#: the specification and the network of servers
_OPTIMADE = "Andersen et al., Sci. Data 8, 217 (2021), doi:10.1038/s41597-021-00974-z"

#: seconds between two requests at most, whatever the server asks for
_LONGEST_PAUSE = 60.0


class Optimade:
    """A client of one OPTIMADE server; a `ReferenceClient`.

    Parameters
    ----------
    provider
        Name of a provider (`cgcnn_ase.data.providers.PROVIDERS`), or the base URL of any OPTIMADE server, as that of
        an own AiiDA database.
    properties
        More or other properties: ``{"band_gap": ("_prefix_gap", "eV")}``, our name to the server's and its unit; a dot
        steps into a dictionary.
    page_limit
        Records asked for at once; the provider's own number by default.
    timeout
        Seconds without any answer after which a request counts as failed.
    sleep
        What waits between requests where the server asks for it, seconds.

    Raises
    ------
    ValueError
        If there is no such provider, the URL is none, or a unit cannot be converted.

    References
    ----------
    Andersen et al., Sci. Data 8, 217 (2021); Evans et al., Digital Discovery 3, 1509 (2024).
    """

    def __init__(
        self,
        provider: str | Provider,
        *,
        properties: Mapping[str, tuple[str, str]] | None = None,
        page_limit: int | None = None,
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        known = provider if isinstance(provider, Provider) else _provider(provider)
        own = {name: _own_property(name, *given) for name, given in (properties or {}).items()}
        self.provider = replace(known, properties={**known.properties, **own})
        self.page_limit = known.page_limit if page_limit is None else page_limit
        if self.page_limit < 1:
            raise ValueError(f"page_limit={page_limit}: at least 1 is needed")
        self.sleep = sleep
        self._server = OptimadeServer(self.provider.url, timeout=timeout)
        self._licence = ""

    @property
    def name(self) -> str:
        """Of the provider."""
        return self.provider.name

    @property
    def url(self) -> str:
        """Base URL, without ``/v1``."""
        return self.provider.url

    @property
    def settings(self) -> Mapping[str, str]:
        """The server's name and unit of each property."""
        return {name: f"{known.field} ({known.unit or '1'})" for name, known in self.provider.properties.items()}

    @property
    def units(self) -> Mapping[str, str]:
        """The properties that the server is known to have, in our names and units."""
        return {name: UNITS[name] for name in self.provider.properties}

    def version(self, *, retry: Retry = with_retries) -> str:
        """Which state of the database answers: its version if it states one, and how many records it has.

        OPTIMADE has no version of the data that all servers state; a record more or fewer makes another one of this.
        The units that the server states are compared with ours.

        Raises
        ------
        FetchError
            If the server does not answer, or states another unit for a property than we know.
        """
        meta = retry(lambda: self._server.get("structures", urlencode({"page_limit": 1, "response_fields": "id"})))
        meta = meta.get("meta") or {}
        if not self.provider.licence and not self._licence:
            self._licence = _licence(retry(lambda: self._server.get("info")))
        self._check_units(retry)
        implementation = meta.get("implementation") or {}
        parts = [
            (meta.get("database") or {}).get("version"),
            f"{meta['data_available']} records" if isinstance(meta.get("data_available"), int) else None,
            " ".join(str(implementation[key]) for key in ("name", "version") if implementation.get(key)),
            f"OPTIMADE {meta['api_version']}" if meta.get("api_version") else None,
        ]
        return ", ".join(str(part) for part in parts if part)

    def pages(
        self, query: Query, fields: Sequence[str], *, after: str | None = None, retry: Retry = with_retries
    ) -> Iterator[Page]:
        """The answer page by page; see `ReferenceClient.pages`.

        The server's filter does the choosing; every record is compared with the query as well. A record that no atoms
        can hold (partial occupancy, ...) is among the refused, with the reason.

        Raises
        ------
        CursorError
            If the server no longer takes the link in `after`.
        FetchError
            If the server does not answer, sends other records than asked for, or fewer than it announces.
        ValueError
            If a property is asked for that the provider does not have.
        """
        wanted = check_fields(fields, self.units)
        text = optimade_filter(query, self.provider.properties)
        if text:
            check_filter(text)
        kept = Kept(query, self.provider.properties)
        at = _Place.read(after) if after is not None else _Place(self._first(query, text, (*wanted, *kept.ranges)))
        return self._pages(query, wanted, kept, at, retry, resumed=after is not None)

    def provenance(
        self,
        query: Query,
        fields: Sequence[str],
        *,
        version: str,
        retrieved: str,
        n_records: int,
        n_refused: int,
        n_doubled: int = 0,
    ) -> Provenance:
        """What to write beside the records; see `ReferenceClient.provenance`."""
        from importlib.metadata import version as installed

        return Provenance(
            provider=self.provider.title,
            url=self.url,
            database_version=version,
            licence=self.provider.licence or self._licence or "not known",
            citations=(*self.provider.citation, _OPTIMADE),
            settings=self.settings,
            query=query.as_dict(),
            fields=tuple(fields),
            units={name: self.units[name] for name in fields},
            client=f"cgcnn-ase {installed('cgcnn-ase')} (optimade {installed('optimade')})",
            retrieved=retrieved,
            n_records=n_records,
            n_refused=n_refused,
            n_doubled=n_doubled,
        )

    def _first(self, query: Query, text: str, names: Sequence[str]) -> str:
        """The query string of the first page."""
        asked = {self.provider.properties[name].top: None for name in names}
        limit = self.page_limit if query.limit is None else min(self.page_limit, query.limit)
        parts = {"filter": text} if text else {}
        return urlencode({**parts, "response_fields": ",".join((*STRUCTURE_FIELDS, *asked)), "page_limit": limit})

    def _pages(
        self, query: Query, fields: tuple[str, ...], kept: Kept, at: "_Place", retry: Retry, *, resumed: bool
    ) -> Iterator[Page]:
        pause = 0.0
        while at.next:
            if pause:
                self.sleep(pause)
            body = self._page(at, retry, resumed=resumed)
            resumed = False
            data, meta = body["data"], body.get("meta") or {}
            records, refused = self._records(data, fields, kept)
            if query.limit is not None:
                records = records[: query.limit - at.kept]
            total = meta.get("data_returned") if isinstance(meta.get("data_returned"), int) else None
            before = at
            at = _Place(self._server.next(body), at.sent + len(data), at.kept + len(records))
            if query.limit is not None and at.kept >= query.limit:
                at = replace(at, next="")
            elif not at.next or not data:
                self._check_end(at.sent, total, bool(meta.get("more_data_available")) and bool(data))
                at = replace(at, next="")
            elif at.next == before.next:
                raise FetchError(f"{self.url}: the link to the next page leads to the same page again")
            if total is not None and query.limit is not None:
                total = min(total, query.limit)
            yield Page(tuple(records), tuple(refused), at.text(), total)
            pause = min(float(meta.get("request_delay") or 0.0), _LONGEST_PAUSE)

    def _page(self, at: "_Place", retry: Retry, *, resumed: bool) -> dict[str, Any]:
        try:
            body = retry(lambda: self._server.get("structures", at.next))
        except FetchError as error:
            if resumed and not error.again:
                raise CursorError(f"{error}: it cannot go on where it was") from error
            raise
        if not isinstance(body.get("data"), list):
            raise FetchError(f"{self.url}: the answer holds no list of structures")
        return body

    def _check_end(self, sent: int, total: int | None, more: bool) -> None:
        """Nothing is lost: the server sent what it announced."""
        if more:
            raise FetchError(f"{self.url}: the server says there is more than {sent} records, but gives no link to it")
        if total is not None and sent < total:
            raise FetchError(f"{self.url}: the server announced {total} records and sent {sent}; fetch again")

    def _records(
        self, data: Sequence[object], fields: tuple[str, ...], kept: Kept
    ) -> tuple[list[FetchedRecord], list[tuple[str, str]]]:
        """The records of a page, and those that cannot be used."""
        records, refused = [], []
        for resource in data:
            if not isinstance(resource, dict) or "id" not in resource:
                raise FetchError(f"{self.url}: the answer holds a structure without an id")
            id, attributes = str(resource["id"]), resource.get("attributes") or {}
            try:
                atoms = to_atoms(id, attributes)
                values = self._values(id, attributes, (*fields, *kept.ranges), len(atoms))
            except StructureError as error:
                refused.append((id, error.reason))
                continue
            record = FetchedRecord(id, atoms, values, dict(self.provider.words))
            if kept(record):
                records.append(replace(record, values={name: values[name] for name in fields if name in values}))
        return records, refused

    def _values(self, id: str, attributes: Mapping[str, Any], names: Sequence[str], n_atoms: int) -> dict[str, float]:
        """The properties in our units; what the server does not have is left out."""
        values = {}
        for name in dict.fromkeys(names):
            known = self.provider.properties[name]
            value = _inside(attributes, known.field)
            if value is None or value in self.provider.missing:
                continue
            if isinstance(value, str) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise StructureError(id, f"its {known.field} is {value!r}, no finite number")
            ours = conversion(name, known.unit)(float(value), n_atoms)
            values[name] = ours if known.at_least is None else max(ours, known.at_least)
        return values

    def _check_units(self, retry: Retry) -> None:
        """Compare the units that the server states with those we know; the user's own are his to know."""
        try:
            stated = retry(lambda: self._server.get("info/structures")).get("data") or {}
        except FetchError as error:
            if error.again:
                raise
            warnings.warn(f"{self.name}: the units could not be checked ({error})", stacklevel=2)
            return
        listed = stated.get("properties") or {}
        for name, known in self.provider.properties.items():
            described = listed.get(known.field) or {}
            unit = described.get("unit") or described.get("x-optimade-unit")
            if unit in (None, "inapplicable") or known.evidence == "user" or same_unit(str(unit), known.unit):
                continue
            raise FetchError(
                f"{self.name}: the server states the unit {unit!r} for {known.field}, we know {known.unit!r}; "
                f"give properties {name}={known.field}:UNIT to decide"
            )


@dataclass(frozen=True)
class _Place:
    """Where an answer goes on: the query string of the next page (none at the end), and what came before."""

    next: str
    sent: int = 0
    kept: int = 0

    def text(self) -> str:
        return json.dumps([self.next, self.sent, self.kept])

    @classmethod
    def read(cls, cursor: str) -> "_Place":
        try:
            following, sent, kept = json.loads(cursor)
            return cls(str(following), int(sent), int(kept))
        except (ValueError, TypeError):
            raise CursorError(f"cursor {cursor!r} is none of an OPTIMADE answer") from None


def _provider(text: str) -> Provider:
    """A provider by name, or one that is known by its URL only."""
    if "://" not in text:
        return provider(text)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text}: needed is the base URL of an OPTIMADE server, http(s)://host/path and nothing else")
    path = parts.path.rstrip("/").removesuffix("/structures").removesuffix("/v1")
    return Provider(name=parts.netloc + path, title=parts.netloc + path, url=f"{parts.scheme}://{parts.netloc}{path}")


def _own_property(name: str, field: str, unit: str) -> ProviderProperty:
    """A property that the user describes."""
    if not field.strip():
        raise ValueError(f"property {name}: needed is the server's name of it, as _prefix_name")
    conversion(name, unit)
    return ProviderProperty(field, unit, "user")


def _inside(attributes: Mapping[str, Any], field: str) -> Any:
    """The value of a field; ``.`` steps into dictionaries, and what is not there is None."""
    value: Any = attributes
    for step in field.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _licence(info: Mapping[str, Any]) -> str:
    """What ``/info`` says of the licence, or nothing."""
    data = info.get("data")
    attributes = (data.get("attributes") if isinstance(data, Mapping) else None) or {}
    names = attributes.get("available_licenses") or attributes.get("available_licenses_for_entries") or []
    link = attributes.get("license") or ""
    return " or ".join(str(name) for name in names) or str(link.get("href") if isinstance(link, Mapping) else link)
