"""Reference structures and properties from any OPTIMADE server, page by page.

The requests are made here, with ``requests``: `optimade.client.OptimadeClient` keeps all pages in memory, gives up at
a server's failure or a body cut off, and cannot go on after a break. Its filter grammar is used.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import Attribution, CursorError, Page, Query, Retry, as_mapping, with_retries
from cgcnn_ase.sources.optimade.filter import QueryMatcher, check_filter, optimade_filter
from cgcnn_ase.sources.optimade.server import (
    OptimadeServer,
    Provider,
    ProviderProperty,
    check_units,
    find_provider,
    stated_licence,
    stated_provider,
    stated_version,
)
from cgcnn_ase.sources.optimade.structures import STRUCTURE_FIELDS, read_records
from cgcnn_ase.sources.properties import UNITS, check_fields, conversion

if TYPE_CHECKING:
    from cgcnn_ase.sources.client import SourceOptions

# seconds between two requests at most, whatever the server asks for
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Position:
    """Position in an answer: the query string of the next page, none at the end, and what came before."""

    part: int  # of a question with many ids
    next: str
    sent: int = 0  # of this part
    kept: int = 0  # of all parts

    def text(self) -> str:
        """As a cursor."""
        return json.dumps([self.part, self.next, self.sent, self.kept])

    @classmethod
    def read(cls, cursor: str) -> "Position":
        """From a cursor, or a `CursorError`."""
        try:
            part, following, sent, kept = json.loads(cursor)
            return cls(int(part), str(following), int(sent), int(kept))
        except (ValueError, TypeError):
            raise CursorError(f"cursor {cursor!r} is none of an OPTIMADE answer") from None


@dataclass(frozen=True)
class QueryResult:
    """The answer to one question, in one part or several (of many ids)."""

    server: OptimadeServer
    provider: Provider
    query: Query
    fields: tuple[str, ...]  # our properties that the records shall hold
    matcher: QueryMatcher
    parts: Sequence[str]  # query string of the first page of each
    retry: Retry
    sleep: Callable[[float], None]
    own_limit: bool  # whether the page size is the user's, and not to be changed

    def pages(self, at: Position, *, resumed: bool) -> Iterator[Page]:
        """The pages from a position on; `resumed` says that an earlier reading reached it."""
        pause, limit = 0.0, self.query.limit
        warned: set[str] = set()
        while at.next:
            if pause:
                self.sleep(pause)
            body = self._page(at, resumed=resumed)
            resumed = False
            data, meta = _structures(body), as_mapping(body.get("meta"))
            self._pass_on(meta.get("warnings"), warned)
            records, refused = read_records(data, self.provider, self.fields, self.matcher)
            if limit is not None:
                records = records[: limit - at.kept]
            returned, delay = meta.get("data_returned"), meta.get("request_delay")
            total = returned if isinstance(returned, int) else None
            before = at
            at = Position(at.part, self.server.next(body), at.sent + len(data), at.kept + len(records))
            if limit is not None and at.kept >= limit:
                at = replace(at, next="")
            elif not at.next or not data:
                self._check_end(at.sent, total, bool(meta.get("more_data_available")) and bool(data))
                following = at.part + 1
                at = Position(following, self.parts[following] if following < len(self.parts) else "", 0, at.kept)
            elif at.next == before.next:
                raise FetchError(f"{self.provider.url}: the link to the next page leads to the same page again")
            yield Page(tuple(records), tuple(refused), at.text(), self._total(total))
            pause = min(float(delay) if isinstance(delay, int | float) else 0.0, _LONGEST_PAUSE)

    def _page(self, at: Position, *, resumed: bool) -> Mapping[str, object]:
        """The answer at a position; a link of an earlier day that the server refuses is a `CursorError`."""

        def ask() -> Mapping[str, object]:
            try:
                return self.server.get("structures", at.next)
            except FetchError as error:
                if resumed and not error.again:
                    raise CursorError(f"{error}: it cannot go on where it was") from error
                if error.again or self.own_limit or "page_limit" not in str(error):
                    raise
                parts = [part for part in at.next.split("&") if not part.startswith("page_limit=")]
                return self.server.get("structures", "&".join(parts))  # as many as the server likes

        body = self.retry(ask)
        if not isinstance(body.get("data"), list):
            raise FetchError(f"{self.provider.url}: the answer holds no list of structures")
        return body

    def _pass_on(self, told: object, warned: set[str]) -> None:
        """Warn of what the server warns of, each once: a part of the filter that it does not know, for one."""
        for each in map(as_mapping, told if isinstance(told, list) else ()):
            words = " ".join(str(each.get("detail") or each.get("title")).split())[:300]
            if words not in warned:
                warned.add(words)
                warnings.warn(f"{self.provider.name}: the server warns: {words}", stacklevel=3)

    def _check_end(self, sent: int, total: int | None, more: bool) -> None:
        """Refuse an answer that is shorter than the server announced."""
        if more:
            raise FetchError(
                f"{self.provider.url}: the server says there is more than {sent} records, but gives no link to it"
            )
        if total is not None and sent < total:
            raise FetchError(f"{self.provider.url}: the server announced {total} records and sent {sent}; fetch again")

    def _total(self, told: int | None) -> int | None:
        """Records in the whole answer, from what the server told of one part."""
        if told is None or len(self.parts) > 1:
            return None
        return told if self.query.limit is None else min(told, self.query.limit)


def _structures(body: Mapping[str, object]) -> list[object]:
    """The resources of an answer that was seen to hold a list of them."""
    data = body["data"]
    assert isinstance(data, list)
    return data


# the specification and the network of servers
_OPTIMADE = "Andersen et al., Sci. Data 8, 217 (2021), doi:10.1038/s41597-021-00974-z"

# ids in one question: servers take addresses of about 8,000 characters
_MOST_IDS = 100


class Optimade:
    """A client of one OPTIMADE server; a `ReferenceClient`.

    Parameters
    ----------
    provider
        Name of a provider (`cgcnn_ase.sources.optimade.server.PROVIDERS`), or the base URL of any OPTIMADE server,
        such as that of an own AiiDA database.
    url
        Another address of the same database, a mirror of it.
    properties
        More or other properties: ``{"band_gap": ("_prefix_gap", "eV")}``, our name to the server's and its unit; a dot
        steps into a dictionary.
    page_limit
        Records asked for at once; by default a number that the provider takes, or else the server's own.
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
        url: str | None = None,
        properties: Mapping[str, tuple[str, str]] | None = None,
        page_limit: int | None = None,
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        known = provider if isinstance(provider, Provider) else find_provider(provider)
        extra = {name: _described(name, *spec) for name, spec in (properties or {}).items()}
        address = known.url if url is None else find_provider(url).url
        self.provider = replace(known, url=address, properties={**known.properties, **extra})
        self._own_limit = page_limit is not None
        self.page_limit = known.page_limit if page_limit is None else page_limit
        if self.page_limit < 1:
            raise ValueError(f"page_limit={page_limit}: at least 1 is needed")
        self.sleep = sleep
        self._server = OptimadeServer(self.provider.url, timeout=timeout)
        self._stated_licence = ""
        self._stated_by: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the provider."""
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
        """State of the database that answers: its version if it states one, and how many records it has.

        OPTIMADE has no version of the data that all servers state; a record more or fewer makes another one of this. A
        server that states another unit for a property than we know is a `FetchError`.
        """
        query = urlencode({"page_limit": 1, "response_fields": "id"})
        meta = as_mapping(retry(lambda: self._server.get("structures", query)).get("meta"))
        if not self.provider.licence and not self._stated_licence:
            self._stated_licence = stated_licence(retry(lambda: self._server.get("info")))
        check_units(retry(self._info_of_structures), self.provider)
        self._stated_by = stated_provider(meta)
        return stated_version(meta)

    def pages(
        self, query: Query, fields: Sequence[str], *, after: str | None = None, retry: Retry = with_retries
    ) -> Iterator[Page]:
        """The answer page by page; see `ReferenceClient.pages`.

        The server's filter does the choosing; every record is compared with the query as well. A record that no atoms
        can hold (partial occupancy, ...) is among the refused. A server that sends other records than asked for, or
        fewer than it announces, is a `FetchError`.
        """
        names = check_fields(fields, self.units)
        matcher = QueryMatcher(query, self.provider.properties)
        # what is chosen here needs full pages, few of a page may remain
        limit = self.page_limit if query.limit is None or matcher.checked_here else min(self.page_limit, query.limit)
        parts = [self._first(part, (*names, *matcher.ranges), limit) for part in _parts(query)]
        answer = QueryResult(
            self._server, self.provider, query, names, matcher, parts, retry, self.sleep, self._own_limit
        )
        at = Position(0, parts[0]) if after is None else Position.read(after)
        return answer.pages(at, resumed=after is not None)

    def credit(self, fields: Sequence[str]) -> Attribution:  # noqa: ARG002  all is of one provider
        """Provider, licence and citations; of a server given by its URL they are known after `version`."""
        from importlib.metadata import version as installed

        return Attribution(
            provider=self.provider.title,
            licence=self.provider.licence or self._stated_licence or "not known",
            citations=(*(self.provider.citation or self._stated_by), _OPTIMADE),
            client=f"cgcnn-ase {installed('cgcnn-ase')} (optimade {installed('optimade')})",
        )

    def _info_of_structures(self) -> Mapping[str, object]:
        """The server's list of its properties; some servers do not, and then their units cannot be checked."""
        try:
            return self._server.get("info/structures")
        except FetchError as error:
            if error.again:
                raise
            warnings.warn(f"{self.name}: the units could not be compared with the server's ({error})", stacklevel=2)
            return {}

    def _first(self, query: Query, names: Sequence[str], limit: int) -> str:
        """The query string of the first page."""
        text = optimade_filter(query, self.provider.properties)
        if text:
            check_filter(text)
        asked = {self.provider.properties[name].top: None for name in names}
        fields = {"response_fields": ",".join((*STRUCTURE_FIELDS, *asked)), "page_limit": limit}
        return urlencode({"filter": text, **fields} if text else fields)


def open_source(options: "SourceOptions") -> Optimade:
    """Open the client, as :data:`cgcnn_ase.sources.fetch.SOURCES` asks for it.

    A `ValueError` says why it cannot be: there is no such provider, it has one kind of energies only, or not what the
    query asks for.
    """
    if options.thermo_type is not None:
        raise ValueError(
            f"--thermo-type {options.thermo_type} is for --provider mp; of OPTIMADE take mp-optimade, "
            "mp-optimade-r2scan or mp-optimade-mixed"
        )
    client = Optimade(options.provider, url=options.url, properties=options.properties)
    if not client.units:
        raise ValueError(
            f"{client.name}: no property is known; give --property NAME=FIELD:UNIT, as its server has them"
        )
    optimade_filter(options.query, client.provider.properties)
    return client


def _parts(query: Query) -> list[Query]:
    """The query, or several of it with some of the ids each."""
    if len(query.ids) <= _MOST_IDS:
        return [query]
    return [replace(query, ids=query.ids[k : k + _MOST_IDS]) for k in range(0, len(query.ids), _MOST_IDS)]


def _described(name: str, field: str, unit: str) -> ProviderProperty:
    """A property that the user describes."""
    if not field.strip():
        raise ValueError(f"property {name}: needed is the server's name of it, as _prefix_name")
    conversion(name, unit)
    return ProviderProperty(field, unit, "user")
