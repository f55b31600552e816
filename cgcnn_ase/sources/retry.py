"""Repeat requests through tenacity: exponential back-off with seeded jitter, or as the server asks."""

import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from cgcnn_ase.core.errors import FetchError, MissingExtraError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

# answers that may be others a moment later, beside all of 500 and above
_TRANSIENT = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


class Retry(Protocol):
    """Repeats a request until it succeeds: :func:`with_retries`, or a partial of it."""

    def __call__(self, call: Callable[[], T], /) -> T:
        """Return the result of `call`."""


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

    One that raises a `FetchError` that says ``again`` is repeated, up to so many attempts; the error of the last is
    raised. `say` is told of each failure that is followed by another attempt, one line. The seed is that of the random
    part of the waits; a generator where many requests share one. The waits are in seconds; a ``Retry-After`` of the
    server is kept where it is longer, up to ten times `longest_wait`. Without tenacity an `ImportError` is raised.
    """
    if attempts < 1:
        raise ValueError(f"attempts={attempts}: at least 1 is needed")
    try:
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential
    except ImportError as error:
        raise MissingExtraError("fetching reference data", "tenacity") from error
    rng = np.random.default_rng(seed)
    backoff = wait_exponential(multiplier=first_wait, max=longest_wait)

    def wait(state: "RetryCallState") -> float:
        seconds = backoff(state) * float(rng.uniform(0.5, 1.0))
        asked = _failure(state).after
        return seconds if asked is None else min(max(seconds, asked), 10 * longest_wait)

    def tell(state: "RetryCallState") -> None:
        if say is not None:
            number = f"attempt {state.attempt_number + 1} of {attempts}"
            say(f"{_failure(state)}; {number} in {state.upcoming_sleep:.1f} s")

    def give_up(state: "RetryCallState") -> T:
        error = _failure(state)
        raise FetchError(f"{error} (given up after {attempts} attempts)") from error

    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, FetchError) and error.again),
        stop=stop_after_attempt(attempts),
        wait=wait,
        before_sleep=tell,
        sleep=sleep or time.sleep,
        retry_error_callback=give_up,
    )
    return retrying(call)


def _failure(state: "RetryCallState") -> FetchError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, FetchError)
    return error


def worth_another(status: int) -> bool:
    """True where a request that was answered with this HTTP status may succeed later.

    >>> [worth_another(status) for status in (400, 401, 404, 422, 429, 500, 503)]
    [False, False, False, False, True, True, True]
    """
    return status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR


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
