"""Key and requests of the Materials Project's own client; failures in words, and whether to try again."""

import json
import os
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from cgcnn_ase.core.errors import FetchError, MissingExtraError
from cgcnn_ase.sources.client import retry_after, worth_another

if TYPE_CHECKING:
    from mp_api.client import MPRester
    from requests import PreparedRequest, Response, Session

T = TypeVar("T")

# letters and digits of a key of the present interface (the old one had shorter ones)
LENGTH = 32
_WHERE = "https://next-gen.materialsproject.org/api"
_WHO = "the Materials Project"

# the client itself splits a request that is answered so into smaller ones
_FOR_THE_CLIENT = (HTTPStatus.REQUEST_URI_TOO_LONG, HTTPStatus.UNPROCESSABLE_ENTITY)


class NoKeyError(ValueError):
    """There is no key that could be used; the message says where one is looked for."""


def find_key(explicit: str | None = None, ask: Callable[[], str] | None = None) -> str:
    """The key to use; a `NoKeyError` if there is none, or if it is none of this interface.

    Looked for in this order: `explicit`; ``MP_API_KEY`` in the environment; ``api_key`` in the section
    ``[materials-project]`` of ASE's configuration file; ``PMG_MAPI_KEY`` of pymatgen (``~/.config/.pmgrc.yaml``);
    `ask`, which may ask a person.
    """
    places: tuple[tuple[str, Callable[[], str | None]], ...] = (
        ("api_key", lambda: explicit),
        ("MP_API_KEY", lambda: os.environ.get("MP_API_KEY")),
        ("api_key in [materials-project] of ASE's configuration", _of_ase),
        ("PMG_MAPI_KEY of pymatgen", _of_pymatgen),
        ("the answer", ask or (lambda: None)),
    )
    for source, look in places:
        key = (look() or "").strip()
        if key:
            return _checked(key, source)
    raise NoKeyError(
        "the Materials Project needs a key: set MP_API_KEY, or api_key in [materials-project] of "
        f"~/.config/ase/config.ini, or PMG_MAPI_KEY in ~/.config/.pmgrc.yaml; get one at {_WHERE}"
    )


def _checked(key: str, source: str) -> str:
    if len(key) != LENGTH or not key.isascii() or not key.isalnum():
        raise NoKeyError(
            f"{source}: a key of the Materials Project has {LENGTH} letters and digits, this one {len(key)} "
            f"characters; get one at {_WHERE}"
        )
    return key


def _of_ase() -> str | None:
    from ase.config import cfg

    key: str | None = cfg.parser.get("materials-project", "api_key", fallback=None)
    return key


def _of_pymatgen() -> str | None:
    from pymatgen.core import SETTINGS

    key = SETTINGS.get("PMG_MAPI_KEY")
    return None if key is None else str(key)


def make_session(timeout: float) -> "Session":
    """Make a session that turns a failed answer into `FetchError` and repeats nothing itself; `timeout` is in seconds.

    The client's own repeats at most three times, at once, and hides which answer it got.
    """
    import requests
    from requests.adapters import HTTPAdapter

    class Patient(HTTPAdapter):
        def send(self, request: "PreparedRequest", *args: Any, **kwargs: Any) -> "Response":
            return super().send(request, *args, **{**kwargs, "timeout": timeout})

    session = requests.Session()
    session.hooks["response"] = [_refuse_failures]
    for scheme in ("http://", "https://"):
        session.mount(scheme, Patient(max_retries=0))
    return session


def make_rester(key: str, endpoint: str, session: "Session") -> "MPRester":
    """The Materials Project's own client. Unlike ours it asks for the database's state when it is made."""
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise missing() from error
    return MPRester(key, endpoint, session=session, use_document_model=False, mute_progress_bars=True)


def missing() -> ImportError:
    """The error to raise where the client is not installed."""
    return MissingExtraError("the Materials Project", "mp_api")


def call_client(call: Callable[[], T]) -> T:
    """The result of one request of the client; a failure is a `FetchError`, ``again`` where another may not fail."""
    from mp_api.client.core.exceptions import MPRestError
    from requests.exceptions import RequestException

    try:
        return call()
    except RequestException as error:
        raise _unanswered(error) from None
    except json.JSONDecodeError:
        raise FetchError(f"{_WHO}: an answer is cut off or no JSON", again=True) from None
    except MPRestError as error:
        if isinstance(error.__context__, RequestException):
            raise _unanswered(error.__context__) from None
        raise FetchError(f"{_WHO}: {' '.join(str(error).split())[:300]}") from None
    except KeyError as error:
        if error.args != ("data",):
            raise
        raise FetchError(f"{_WHO}: an answer has no 'data'; this server speaks another interface") from None


def heartbeat(session: "Session", endpoint: str) -> str:
    """Version of the database, from its heartbeat; raises `FetchError`."""
    answer = call_client(lambda: session.get(endpoint + "heartbeat").json())
    version = answer.get("db_version") if isinstance(answer, dict) else None
    if not isinstance(version, str) or not version:
        raise FetchError(f"{_WHO} ({endpoint}): its heartbeat names no version of the database")
    return version


def _refuse_failures(response: "Response", *_: object, **__: object) -> None:
    status = response.status_code
    if status < HTTPStatus.BAD_REQUEST or status in _FOR_THE_CLIENT:
        return
    after = retry_after(response.headers.get("Retry-After"))
    known: dict[int, str] = {
        HTTPStatus.UNAUTHORIZED: f"the key is not accepted; get one at {_WHERE}",
        HTTPStatus.FORBIDDEN: f"the key is not accepted; get one at {_WHERE}",
        HTTPStatus.NOT_FOUND: f"there is nothing at {response.url.partition('?')[0]}",
        HTTPStatus.TOO_MANY_REQUESTS: "too many requests",
    }
    words = known.get(status)
    if words is None:
        words = "the server failed" if worth_another(status) else f"the request is refused: {_detail(response)}"
    raise FetchError(f"{_WHO}: {words} (HTTP {status})", again=worth_another(status), after=after)


def _detail(response: "Response") -> str:
    """The server's own words about a bad request, on one line."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return response.reason
    return " ".join(str(detail).split())[:300]


def _unanswered(error: Exception) -> FetchError:
    from requests.exceptions import ChunkedEncodingError, ContentDecodingError, JSONDecodeError, Timeout

    if isinstance(error, Timeout):
        words = "no answer in time"
    elif isinstance(error, (ChunkedEncodingError, ContentDecodingError, JSONDecodeError)):
        words = "an answer is cut off"
    else:
        request = getattr(error, "request", None)
        where = f" at {request.url.partition('?')[0]}" if request is not None and request.url else ""
        words = f"the server cannot be reached{where}"
    return FetchError(f"{_WHO}: {words}", again=True)
