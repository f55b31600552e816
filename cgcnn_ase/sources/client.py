"""A reference database as this package sees it: the query, the records that come back, and the client between them.

Names and units are those of :mod:`cgcnn_ase.sources.properties` whatever the database calls them; a value that the
database does not have is absent, never NaN or zero. Requests are repeated through tenacity: exponential back-off with
seeded jitter, or as the server asks.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.errors import FetchError, MissingExtraError
from cgcnn_ase.sources.properties import UNITS, check_fields

if TYPE_CHECKING:
    from ase import Atoms
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


# what a record says in words of the scheme that its energies belong to
SCHEME = ("functional", "corrections")

Bounds = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Query:
    """Conditions on records. All must hold; of several ids, formulas or chemical systems, one.

    Raises
    ------
    ValueError
        If a value is not allowed; the message names it and what is.
    """

    ids: tuple[str, ...] = ()  # the database's own names of records
    formula: tuple[str, ...] = ()  # reduced formulas, as ``LiNiO2``
    chemsys: tuple[str, ...] = ()  # chemical systems, as ``Li-Ni-O``: these elements, all of them and no others
    # elements, exclude_elements: symbols of elements that are all contained, and of those that are not
    elements: tuple[str, ...] = ()
    exclude_elements: tuple[str, ...] = ()
    # lower and upper bound (either may be None) of properties, in our names and units
    ranges: Mapping[str, Bounds] = field(default_factory=dict)
    stable: bool | None = None  # whether the record lies on the convex hull of the database
    max_atoms: int | None = None  # most atoms in a cell
    limit: int | None = None  # most records

    def __post_init__(self) -> None:
        for name in ("ids", "formula", "chemsys", "elements", "exclude_elements"):
            _check_names(name, getattr(self, name))
        _check_symbols("elements", self.elements)
        _check_symbols("exclude_elements", self.exclude_elements)
        for system in self.chemsys:
            _check_symbols(f"chemsys {system!r}", system.split("-"))
        both = sorted(set(self.elements) & set(self.exclude_elements))
        if both:
            raise ValueError(f"{both[0]} is both in elements and in exclude_elements")
        check_fields(self.ranges, UNITS, "range")
        for name, bounds in self.ranges.items():
            _check_bounds(name, bounds)
        for name, number in (("max_atoms", self.max_atoms), ("limit", self.limit)):
            if number is not None and number < 1:
                raise ValueError(f"{name}={number}: at least 1 is needed")

    def as_dict(self) -> dict[str, object]:
        """The conditions, in a form that JSON can take and that is the same for the same question."""
        conditions: dict[str, object] = {
            name: sorted(set(getattr(self, name)))
            for name in ("ids", "formula", "elements", "exclude_elements")
            if getattr(self, name)
        }
        if self.chemsys:
            conditions["chemsys"] = sorted({"-".join(sorted(system.split("-"))) for system in self.chemsys})
        if self.ranges:
            conditions["ranges"] = {name: list(self.ranges[name]) for name in sorted(self.ranges)}
        for name in ("stable", "max_atoms", "limit"):
            if getattr(self, name) is not None:
                conditions[name] = getattr(self, name)
        return conditions


@dataclass(frozen=True)
class FetchedRecord:
    """One structure and what the database knows of it."""

    id: str  # its name in the database
    atoms: "Atoms"  # the structure, checked
    values: dict[str, float]  # our names and units; what the database does not have is absent
    words: dict[str, str]  # what else the database says, in words: ``functional``, ``corrections``, ..


@dataclass(frozen=True)
class Page:
    """Some records of an answer."""

    records: tuple[FetchedRecord, ...]  # in the order of the database
    refused: tuple[tuple[str, str], ...]  # ids of records that cannot be used, each with the reason in words
    cursor: str  # goes on after this page, for :meth:`ReferenceClient.pages`; only the client knows what it means
    total: int | None  # records in the whole answer, None where the database does not say


class Attribution(NamedTuple):
    """Owner of the data, and how to cite it."""

    provider: str
    licence: str
    citations: tuple[str, ...]
    client: str  # package and version


class CursorError(FetchError):
    """A cursor that the database no longer understands: the answer must be read again from its start."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Options that a source gets when its client is opened."""

    provider: str  # the name that the source is registered under, or the URL of an OPTIMADE server
    # what will be asked: a source refuses what it cannot answer before the network is touched
    query: Query = field(default_factory=Query)
    url: str | None = None  # another address of the same database, by default the source's own
    thermo_type: str | None = None  # functional and corrections of the energies, where the source has several
    # more properties: our name to the database's name and unit
    properties: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ask_key: Callable[[], str] | None = None  # asks a person for a key, where the source needs one and finds none


class ReferenceClient(Protocol):
    """A database of computed crystals. Its constructor does not touch the network."""

    @property
    def name(self) -> str:
        """Short name of the provider: ``mp``."""

    @property
    def url(self) -> str:
        """Address of the database."""

    @property
    def settings(self) -> Mapping[str, str]:
        """Everything beside the query that decides what comes back, as ``thermo_type``; never a key."""

    @property
    def units(self) -> Mapping[str, str]:
        """The properties that it knows, in our names, and their units."""

    def version(self, *, retry: Retry = with_retries) -> str:
        """Name of the state of the database that answers."""

    def pages(
        self, query: Query, fields: Sequence[str], *, after: str | None = None, retry: Retry = with_retries
    ) -> Iterator[Page]:
        """The answer page by page, each request repeated by `retry`.

        Parameters
        ----------
        query, fields
            The records, and those of their properties that are wanted.
        after
            The cursor of the last page that is there already.

        Raises
        ------
        CursorError
            If `after` does not belong to the answer of today.
        FetchError
            If the database does not answer, in words.
        ValueError
            If an unknown property is asked for; the message lists the known.
        """

    def credit(self, fields: Sequence[str]) -> Attribution:
        """Owner, licence and citations of these properties; touches no network."""


def as_mapping(value: object) -> Mapping[str, object]:
    """An object of a JSON answer; an empty one where it is null, missing or anything else."""
    return value if isinstance(value, Mapping) else {}


def _check_names(name: str, values: object) -> None:
    if not isinstance(values, tuple) or not all(isinstance(each, str) for each in values):
        raise ValueError(f"{name}={values!r}: needed is a tuple of strings")
    for each in values:
        if not each.strip() or "," in each:
            raise ValueError(f"{name}: {each!r} is no name; give several as several, not with commas")


def _check_symbols(name: str, values: Sequence[str]) -> None:
    for symbol in values:
        if symbol not in symbols()[1:]:
            raise ValueError(f"{name}: {symbol!r} is no element")


def _check_bounds(name: str, bounds: Bounds) -> None:
    low, high = bounds
    if low is None and high is None:
        raise ValueError(f"range of {name}: needed is a lower bound, an upper bound, or both")
    if any(bound is not None and not math.isfinite(bound) for bound in bounds):
        raise ValueError(f"range of {name}: {low} to {high} holds a bound that is no finite number")
    if low is not None and high is not None and low > high:
        raise ValueError(f"range of {name}: {low} to {high} is empty")
