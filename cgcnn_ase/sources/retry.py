"""Asking again: exponential back-off with seeded jitter, and the waiting time that the server itself asks for."""

import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Protocol, TypeVar

import numpy as np

from cgcnn_ase.core.errors import FetchError

T = TypeVar("T")

#: answers that may be others a moment later, beside all of 500 and above
_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


class Retry(Protocol):
    """What repeats a request until it succeeds: :func:`with_retries`, or a partial of it."""

    def __call__(self, call: Callable[[], T], /) -> T:
        """The result of `call`."""
        ...


def with_retries(
    call: Callable[[], T],
    /,
    *,
    attempts: int = 6,
    seed: int | np.random.Generator = 0,
    say: Callable[[str], None] | None = None,
    first_wait: float = 0.5,
    longest_wait: float = 60.0,
    sleep: Callable[[float], None] | None = None,
) -> T:
    """Call until it succeeds; between two calls wait twice as long as before, times a random 0.5 to 1.

    Parameters
    ----------
    call
        One request. It raises `FetchError`; where that says ``again``, the request is repeated.
    attempts
        So many calls at most.
    seed
        Of the random part of the waits; a generator where many requests share one.
    say
        Is told of each failure that is followed by another attempt, one line.
    first_wait, longest_wait
        Seconds. A ``Retry-After`` of the server is kept where it is longer, up to ten times `longest_wait`.
    sleep
        What waits, seconds; `time.sleep` by default.

    Raises
    ------
    FetchError
        What the last attempt raised.
    """
    if attempts < 1:
        raise ValueError(f"attempts={attempts}: at least 1 is needed")
    rng = np.random.default_rng(seed)
    attempt = 1
    while True:
        try:
            return call()
        except FetchError as error:
            if not error.again:
                raise
            if attempt == attempts:
                raise FetchError(f"{error} (given up after {attempts} attempts)") from error
            wait = min(longest_wait, first_wait * 2 ** (attempt - 1)) * float(rng.uniform(0.5, 1.0))
            if error.after is not None:
                wait = min(max(wait, error.after), 10 * longest_wait)
            reason = str(error)
        attempt += 1
        if say is not None:
            say(f"{reason}; attempt {attempt} of {attempts} in {wait:.1f} s")
        (sleep or time.sleep)(wait)


def worth_another(status: int) -> bool:
    """Whether a request that was answered with this HTTP status may succeed later.

    >>> [worth_another(status) for status in (400, 401, 404, 422, 429, 500, 503)]
    [False, False, False, False, True, True, True]
    """
    return status in _AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def retry_after(header: str | None) -> float | None:
    """Seconds in a ``Retry-After`` header, which gives seconds or a date (RFC 9110, 10.2.3); None if neither.

    >>> retry_after("3")
    3.0
    """
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
