"""Reference structures and properties from any OPTIMADE server, page by page.

The requests are made here, with ``requests``: `optimade.client.OptimadeClient` keeps all pages in memory, gives up at
a server's failure or a body cut off, and cannot go on after a break. Its filter grammar is used.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import Attribution, Page, Query, as_mapping
from cgcnn_ase.sources.optimade.filter import QueryMatcher, check_filter, optimade_filter
from cgcnn_ase.sources.optimade.pages import Position, QueryResult
from cgcnn_ase.sources.optimade.providers import Provider, ProviderProperty, find_provider
from cgcnn_ase.sources.optimade.server import (
    OptimadeServer,
    check_units,
    stated_licence,
    stated_provider,
    stated_version,
)
from cgcnn_ase.sources.optimade.structures import STRUCTURE_FIELDS
from cgcnn_ase.sources.properties import UNITS, check_fields, conversion
from cgcnn_ase.sources.retry import Retry, with_retries

if TYPE_CHECKING:
    from cgcnn_ase.sources.client import SourceOptions

# the specification and the network of servers
_OPTIMADE = "Andersen et al., Sci. Data 8, 217 (2021), doi:10.1038/s41597-021-00974-z"

# ids in one question: servers take addresses of about 8,000 characters
_MOST_IDS = 100


class Optimade:
    """A client of one OPTIMADE server; a `ReferenceClient`.

    Parameters
    ----------
    provider
        Name of a provider (`cgcnn_ase.sources.optimade.providers.PROVIDERS`), or the base URL of any OPTIMADE server,
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
