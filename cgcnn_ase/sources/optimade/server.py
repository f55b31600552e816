"""One HTTP request to an OPTIMADE server, its failures in words."""

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.optimade.providers import Provider
from cgcnn_ase.sources.retry import retry_after, worth_another
from cgcnn_ase.sources.units import same_unit

if TYPE_CHECKING:
    from requests import Response, Session


def stated_version(meta: Mapping[str, Any]) -> str:
    """A name for the state of a database, from the ``meta`` of an answer to a question for all structures.

    >>> stated_version({"data_available": 17, "implementation": {"name": "X", "version": "2"}, "api_version": "1.2.0"})
    '17 records, X 2, OPTIMADE 1.2.0'
    """
    implementation = meta.get("implementation") or {}
    parts = [
        (meta.get("database") or {}).get("version"),
        f"{meta['data_available']} records" if isinstance(meta.get("data_available"), int) else None,
        " ".join(str(implementation[key]) for key in ("name", "version") if implementation.get(key)),
        f"OPTIMADE {meta['api_version']}" if meta.get("api_version") else None,
    ]
    return ", ".join(str(part) for part in parts if part)


def stated_provider(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Who stands behind a server, name and home page, from the ``meta`` of an answer; empty where it is not said.

    >>> stated_provider({"provider": {"name": "X", "homepage": {"href": "https://x.org"}}})
    ('X, https://x.org',)
    """
    provider = meta.get("provider") or {}
    page = provider.get("homepage")
    stated = (provider.get("name"), page.get("href") if isinstance(page, Mapping) else page)
    words = ", ".join(str(each) for each in stated if each)
    return (words,) if words else ()


def stated_licence(info: Mapping[str, Any]) -> str:
    """What ``/info`` says of the licence: SPDX identifiers, or a link; empty where it says nothing."""
    data = info.get("data")
    attributes = (data.get("attributes") if isinstance(data, Mapping) else None) or {}
    names = attributes.get("available_licenses") or attributes.get("available_licenses_for_entries") or []
    link = attributes.get("license") or ""
    return " or ".join(str(name) for name in names) or str(link.get("href") if isinstance(link, Mapping) else link)


def check_units(info: Mapping[str, Any], provider: Provider) -> None:
    """Compare the units in ``/info/structures`` with those we know; the user's own are his to know.

    Raises
    ------
    FetchError
        If the server states another unit.
    """
    data = info.get("data")
    listed = (data.get("properties") if isinstance(data, Mapping) else None) or {}
    for name, known in provider.properties.items():
        described = listed.get(known.field) or {}
        unit = described.get("unit") or described.get("x-optimade-unit")
        if unit in (None, "inapplicable") or known.evidence == "user" or same_unit(str(unit), known.unit):
            continue
        raise FetchError(
            f"{provider.name}: the server states the unit {unit!r} for {known.field}, we know {known.unit!r}; "
            f"say yourself which it is: {name}={known.field}:UNIT"
        )


#: seconds to connect
_CONNECT = 10.0


class OptimadeServer:
    """What is behind a base URL.

    Parameters
    ----------
    url
        Base URL, without ``/v1``.
    timeout
        Seconds without any answer after which a request counts as failed.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        self.url = url
        self.timeout = timeout

    @cached_property
    def _session(self) -> "Session":
        try:
            import requests
        except ImportError as error:
            raise ImportError('OPTIMADE needs `pip install "cgcnn-ase[mp]"`') from error
        session = requests.Session()
        session.headers["User-Agent"] = f"cgcnn-ase/{version('cgcnn-ase')}"
        return session

    def get(self, endpoint: str, query: str = "") -> dict[str, Any]:
        """The JSON answer of ``/v1/endpoint?query``.

        Raises
        ------
        FetchError
            If there is none, with ``again`` where another attempt may succeed.
        """
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

    def next(self, body: dict[str, Any]) -> str:
        """The query string of the link to the next page, empty where there is none.

        Only the query is taken and asked of the same server: links of servers behind a proxy often name a host that
        cannot be reached, or http in place of https.

        Raises
        ------
        FetchError
            If the link leads to something else than structures.
        """
        link = (body.get("links") or {}).get("next")
        if isinstance(link, dict):
            link = link.get("href")
        if not link:
            return ""
        parts = urlsplit(str(link))
        if not parts.query or (parts.path and not parts.path.rstrip("/").endswith("/structures")):
            raise FetchError(f"{self.url}: the link to the next page is {str(link)!r}, no page of structures")
        return parts.query


def _words(response: "Response") -> str:
    """What the server says of an error: OPTIMADE's list of errors, or the beginning of the text."""
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
