"""One HTTP request to an OPTIMADE server, its failures in words."""

from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cgcnn_ase.data.errors import FetchError
from cgcnn_ase.data.retry import retry_after, worth_another

if TYPE_CHECKING:
    from requests import Response, Session

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
