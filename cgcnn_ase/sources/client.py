"""The words that all reference databases share: what is asked for, and what comes back.

Names and units are those of this package whatever the database calls them; a value that the database does not have is
absent, never NaN or zero.
"""

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.retry import Retry, with_retries

if TYPE_CHECKING:
    from ase import Atoms


class Attribution(NamedTuple):
    """Whose data it is."""

    provider: str
    licence: str
    citations: tuple[str, ...]
    client: str  #: package and version


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a data set came from and how to credit it; no key is in it."""

    provider: str
    url: str
    database_version: str
    licence: str
    citations: tuple[str, ...]
    settings: Mapping[str, str]  #: how the client was set up, as its ``thermo_type``
    query: Mapping[str, Any]
    fields: tuple[str, ...]
    units: Mapping[str, str]  #: of the fields
    client: str  #: package and version
    retrieved: str  #: ISO 8601, UTC: when the first page came
    n_records: int
    n_refused: int
    n_doubled: int = 0  #: records that came more than once and were kept once

    def as_dict(self) -> dict[str, Any]:
        """All of it, in a form that JSON can take."""
        return asdict(self) | {"citations": list(self.citations), "fields": list(self.fields)}

    def write(self, folder: Path) -> None:
        """Write ``provenance.json`` for machines and ``README.md`` for people."""
        text = json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"
        (folder / "provenance.json").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(self._readme(), encoding="utf-8")

    def _readme(self) -> str:
        columns = [f"- `{name}`" + (f" ({self.units[name]})" if self.units[name] else "") for name in self.fields]
        settings = [f"{name} {value}" for name, value in self.settings.items()]
        state = ", ".join([f"database version {self.database_version}", *settings])
        refused = f"{self.n_refused} more could not be used (see `refused.csv`). " if self.n_refused else ""
        doubled = f"{self.n_doubled} came more than once and were kept once. " if self.n_doubled else ""
        return "\n".join(
            [
                f"# {self.n_records} structures from {self.provider}",
                "",
                f"Fetched from {self.url} ({state}) at {self.retrieved} with {self.client}. {refused}{doubled}",
                "",
                f"Query: `{json.dumps(dict(self.query), ensure_ascii=False)}`",
                "",
                f"Licence: {self.licence}. Cite:",
                "",
                *(f"- {citation}" for citation in self.citations),
                "",
                "`structures.npz` holds the structures, `properties.csv.gz` a row for each in the same order; an empty",
                "field means that the database has no value. `cgcnn-ase train` reads this folder. Columns:",
                "",
                *columns,
                "",
            ]
        )


#: our names of properties and their units ("" for a pure number)
UNITS: Mapping[str, str] = {
    "formation_energy_per_atom": "eV/atom",
    "energy_above_hull": "eV/atom",
    "energy_per_atom": "eV/atom",
    "uncorrected_energy_per_atom": "eV/atom",
    "is_stable": "",
    "band_gap": "eV",
    "efermi": "eV",
    "is_metal": "",
    "total_magnetization": "mu_B",
    "magnetization_per_formula_unit": "mu_B",
    "K_VRH": "GPa",
    "G_VRH": "GPa",
    "poisson": "",
    "volume": "Å^3",
    "density": "g/cm^3",
    "average_voltage": "V",
    "capacity_grav": "mAh/g",
}

#: what depends on the functional and on the scheme of corrections: never mixed
ENERGIES = (
    "formation_energy_per_atom",
    "energy_above_hull",
    "energy_per_atom",
    "uncorrected_energy_per_atom",
    "is_stable",
    "average_voltage",
)

#: the words of a record that say which scheme its energies belong to
SCHEME = ("functional", "corrections")


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which records are wanted. All conditions must hold; of several ids, formulas or chemical systems, one.

    Parameters
    ----------
    ids
        The database's own names of records.
    formula
        Reduced formulas, as ``LiNiO2``.
    chemsys
        Chemical systems, as ``Li-Ni-O``: these elements, all of them and no others.
    elements, exclude_elements
        Symbols of elements that are all contained, and of those that are not.
    ranges
        Lower and upper bound (either may be None) of properties, in our names and units.
    stable
        Whether the record lies on the convex hull of the database.
    max_atoms
        Most atoms in a cell.
    limit
        So many records at most.

    Raises
    ------
    ValueError
        If a value is not allowed; the message names it and what is.
    """

    ids: tuple[str, ...] = ()
    formula: tuple[str, ...] = ()
    chemsys: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()
    exclude_elements: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    stable: bool | None = None
    max_atoms: int | None = None
    limit: int | None = None

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

    def as_dict(self) -> dict[str, Any]:
        """What is asked for, in a form that JSON can take and that is the same for the same question."""
        conditions: dict[str, Any] = {
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
    """One structure and what the database knows of it.

    Attributes
    ----------
    id
        Its name in the database.
    atoms
        The structure, checked.
    values
        Our names and units; what the database does not have is absent.
    words
        What else the database says, in words: ``functional``, ``corrections``, ...
    """

    id: str
    atoms: "Atoms"
    values: dict[str, float]
    words: dict[str, str]


@dataclass(frozen=True)
class Page:
    """Some records of an answer.

    Attributes
    ----------
    records
        In the order of the database.
    refused
        Ids of records that cannot be used, each with the reason in words.
    cursor
        Goes on after this page, for :meth:`ReferenceClient.pages`; only the client knows what it means.
    total
        Records in the whole answer, None where the database does not say.
    """

    records: tuple[FetchedRecord, ...]
    refused: tuple[tuple[str, str], ...]
    cursor: str
    total: int | None


class CursorError(FetchError):
    """A cursor that the database no longer understands: the answer must be read again from its start."""


class ReferenceClient(Protocol):
    """A database of computed crystals. Its constructor does not touch the network."""

    @property
    def name(self) -> str:
        """Of the provider, short: ``mp``."""

    @property
    def url(self) -> str:
        """Where it is asked."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What beside the query decides what comes back, as ``thermo_type``; never a key."""

    @property
    def units(self) -> Mapping[str, str]:
        """The properties that it knows, in our names, and their units."""

    def version(self, *, retry: Retry = with_retries) -> str:
        """Which state of the database answers."""
        ...

    def pages(
        self, query: Query, fields: Sequence[str], *, after: str | None = None, retry: Retry = with_retries
    ) -> Iterator[Page]:
        """The answer page by page, each request repeated by `retry`.

        Parameters
        ----------
        query, fields
            Which records, and which of their properties; an unknown one is a `ValueError` that lists the known.
        after
            The cursor of the last page that is there already.

        Raises
        ------
        CursorError
            If `after` does not belong to the answer of today.
        FetchError
            If the database does not answer, in words.
        ValueError
            If something unknown is asked for.
        """
        ...

    def credit(self, fields: Sequence[str]) -> Attribution:
        """Whom to credit for these properties; touches no network."""
        ...


def check_fields(names: Iterable[str], allowed: Iterable[str], what: str = "field") -> tuple[str, ...]:
    """The names, each once, or a `ValueError` with the nearest and all of the allowed ones.

    >>> check_fields(["band_gab"], ["band_gap", "efermi"])
    Traceback (most recent call last):
        ...
    ValueError: unknown field 'band_gab'; did you mean band_gap? Allowed are band_gap, efermi
    """
    known = list(allowed)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f" did you mean {near[0]}? Allowed" if near else " allowed"
            raise ValueError(f"unknown {what} {name!r};{guess} are {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def _check_names(name: str, values: object) -> None:
    if not isinstance(values, tuple) or not all(isinstance(each, str) for each in values):
        raise ValueError(f"{name}={values!r}: needed is a tuple of strings")
    for each in values:
        if not each.strip() or "," in each:
            raise ValueError(f"{name}: {each!r} is no name; give several as several, not with commas")


def _check_symbols(name: str, symbol_names: Sequence[str]) -> None:
    for symbol in symbol_names:
        if symbol not in symbols()[1:]:
            raise ValueError(f"{name}: {symbol!r} is no element")


def _check_bounds(name: str, bounds: tuple[float | None, float | None]) -> None:
    low, high = bounds
    if low is None and high is None:
        raise ValueError(f"range of {name}: needed is a lower bound, an upper bound, or both")
    if any(bound is not None and not math.isfinite(bound) for bound in bounds):
        raise ValueError(f"range of {name}: {low} to {high} holds a bound that is no finite number")
    if low is not None and high is not None and low > high:
        raise ValueError(f"range of {name}: {low} to {high} is empty")
