"""OPTIMADE providers by name, from ``providers.yaml``, and any server by its URL; requests to it.

Failures come in words; what a server's answers state about itself is read, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import yaml

from cgcnn_ase.core.errors import FetchError, MissingExtraError, unknown_name
from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.sources.client import as_mapping, retry_after, worth_another
from cgcnn_ase.sources.properties import conversion, same_unit

if TYPE_CHECKING:
    from requests import Response, Session

Evidence = Literal["documented", "seen", "assumed", "user"]


@dataclass(frozen=True)
class ProviderProperty:
    """Name and unit that a provider has for one of our properties."""

    field: str  # its name there, ``_prefix_name``; ``.`` steps into a dictionary
    unit: str  # its unit there, as `cgcnn_ase.sources.properties.conversion` reads it
    evidence: Evidence = "assumed"  # how we know
    # smaller values of the provider mean this one of ours: OQMD computes negative distances to the hull for compounds
    # on it, the distance to the hull of all others
    at_least: float | None = None

    @property
    def top(self) -> str:
        """The property of the response that holds it."""
        return self.field.partition(".")[0]


@dataclass(frozen=True)
class Provider:
    """One database behind an OPTIMADE server."""

    # name, title, url: name on the command line, full name, base URL (without ``/v1``)
    name: str
    title: str
    url: str
    # licence, citation: of the data; an empty licence is asked of the server
    licence: str = ""
    citation: tuple[str, ...] = ()
    properties: Mapping[str, ProviderProperty] = field(default_factory=dict)  # by our names
    # what is the same for all its records: functional, corrections
    words: Mapping[str, str] = field(default_factory=dict)
    page_limit: int = 100  # records asked for at once
    missing: tuple[float | str, ...] = ()  # values that stand for "not computed"

    def __post_init__(self) -> None:
        """Check that every unit can be converted."""
        for name, known in self.properties.items():
            conversion(name, known.unit)


def find_provider(name: str) -> Provider:
    """The provider of a name, or one that is known by the URL of its server only.

    A `ValueError` lists them if there is none, or says that the URL is none, or holds a user, a key or a filter.
    """
    if "://" in name:
        return _at(name)
    if name in PROVIDERS:
        return PROVIDERS[name]
    raise unknown_name("provider", name, [*PROVIDERS, "a URL"])


def _at(url: str) -> Provider:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(
            f"provider {parts.scheme}://{parts.hostname or ''}{parts.path}: needed is the base URL of an OPTIMADE "
            "server, http(s)://host/path and nothing else"
        )
    base = parts.netloc + parts.path.rstrip("/").removesuffix("/structures").removesuffix("/v1")
    return Provider(name=base, title=base, url=f"{parts.scheme}://{base}")


def _load() -> dict[str, Provider]:
    text = files("cgcnn_ase.sources.optimade").joinpath("providers.yaml").read_text(encoding="utf-8")
    described: dict[str, dict[str, object]] = yaml.safe_load(text)
    return {name: parse_settings(Provider, {"name": name, **values}) for name, values in described.items()}


# the providers by name
PROVIDERS: dict[str, Provider] = _load()


# seconds to connect
_CONNECT = 10.0


class OptimadeServer:
    """Server behind a base URL (without ``/v1``); `timeout` is that of a request, in seconds without any answer."""

    def __init__(self, url: str, *, timeout: float) -> None:
        self.url = url
        self.timeout = timeout

    @cached_property
    def _session(self) -> "Session":
        try:
            import requests
        except ImportError as error:
            raise MissingExtraError("an OPTIMADE provider", "optimade") from error
        session = requests.Session()
        session.headers["User-Agent"] = f"cgcnn-ase/{version('cgcnn-ase')}"
        return session

    def get(self, endpoint: str, query: str = "") -> Mapping[str, object]:
        """The JSON answer of ``/v1/endpoint?query``; a `FetchError` is ``again`` where another attempt may succeed."""
        session = self._session
        import requests

        url = f"{self.url}/v1/{endpoint}"
        try:
            response = session.get(url, params=query, timeout=(_CONNECT, self.timeout))
        except requests.Timeout:
            raise FetchError(f"{url}: no answer for {self.timeout:g} s", again=True) from None
        except (
            requests.ConnectionError,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as error:
            raise FetchError(f"{url}: the connection failed or broke off ({_reason(error)})", again=True) from error
        except requests.RequestException as error:
            raise FetchError(f"{url}: {_reason(error)}") from error
        if response.status_code != requests.codes.ok:
            status = response.status_code
            raise FetchError(
                f"{url}: the server answers {status}, {_words(response)}",
                again=worth_another(status),
                after=retry_after(response.headers.get("Retry-After")),
            )
        try:
            body = response.json()
        except requests.JSONDecodeError:
            raise FetchError(f"{url}: the answer is no JSON or is cut off", again=True) from None
        if not isinstance(body, dict) or "data" not in body:
            raise FetchError(f"{url}: the answer is none of an OPTIMADE server (no data in it)")
        return body

    def next(self, body: Mapping[str, object]) -> str:
        """The query string of the link to the next page, empty where there is none.

        Only the query is taken and asked of the same server: links of servers behind a proxy often name a host that
        cannot be reached, or http in place of https. A link to something else than structures is a `FetchError`.
        """
        link = _address(as_mapping(body.get("links")).get("next"))
        if not link:
            return ""
        parts = urlsplit(str(link))
        if not parts.query or (parts.path and not parts.path.rstrip("/").endswith("/structures")):
            raise FetchError(f"{self.url}: the link to the next page is {str(link)!r}, no page of structures")
        return parts.query


def _words(response: "Response") -> str:
    """The server's own words about an error: OPTIMADE's list of errors, or the beginning of the text."""
    import requests

    try:
        errors = response.json().get("errors") or []
        told = "; ".join(f"{error.get('title') or ''}: {error.get('detail') or ''}" for error in errors)
    except (requests.JSONDecodeError, AttributeError):
        told = response.text
    return " ".join(told.split())[:300] or response.reason or "nothing else"


def _reason(error: Exception) -> str:
    """A foreign error on one line."""
    return " ".join(str(error).split())[:200]


def stated_version(meta: Mapping[str, object]) -> str:
    """A name for the state of a database, from the ``meta`` of an answer to a question for all structures.

    >>> stated_version({"data_available": 17, "implementation": {"name": "X", "version": "2"}, "api_version": "1.2.0"})
    '17 records, X 2, OPTIMADE 1.2.0'
    """
    implementation = as_mapping(meta.get("implementation"))
    parts = [
        as_mapping(meta.get("database")).get("version"),
        f"{meta['data_available']} records" if isinstance(meta.get("data_available"), int) else None,
        " ".join(str(implementation[key]) for key in ("name", "version") if implementation.get(key)),
        f"OPTIMADE {meta['api_version']}" if meta.get("api_version") else None,
    ]
    return ", ".join(str(part) for part in parts if part)


def stated_provider(meta: Mapping[str, object]) -> tuple[str, ...]:
    """Owner of a server, name and home page, from the ``meta`` of an answer; empty where it is not stated.

    >>> stated_provider({"provider": {"name": "X", "homepage": {"href": "https://x.org"}}})
    ('X, https://x.org',)
    """
    provider = as_mapping(meta.get("provider"))
    text = ", ".join(str(part) for part in (provider.get("name"), _address(provider.get("homepage"))) if part)
    return (text,) if text else ()


def stated_licence(info: Mapping[str, object]) -> str:
    """Licence in ``/info``: SPDX identifiers, or a link; empty where it states none."""
    attributes = as_mapping(as_mapping(info.get("data")).get("attributes"))
    names = attributes.get("available_licenses") or attributes.get("available_licenses_for_entries")
    known = " or ".join(map(str, names)) if isinstance(names, list) else ""
    return known or str(_address(attributes.get("license")) or "")


def check_units(info: Mapping[str, object], provider: Provider) -> None:
    """Compare the units in ``/info/structures`` with those we know; those of a user's own properties are not checked.

    A server that states another unit is a `FetchError`.
    """
    listed = as_mapping(as_mapping(info.get("data")).get("properties"))
    for name, known in provider.properties.items():
        described = as_mapping(listed.get(known.field))
        unit = described.get("unit") or described.get("x-optimade-unit")
        if unit in (None, "inapplicable") or known.evidence == "user" or same_unit(str(unit), known.unit):
            continue
        raise FetchError(
            f"{provider.name}: the server states the unit {unit!r} for {known.field}, we know {known.unit!r}; "
            f"say yourself which it is: {name}={known.field}:UNIT"
        )


def _address(link: object) -> object:
    """The address in a link, which is text or an object."""
    return link.get("href") if isinstance(link, Mapping) else link
