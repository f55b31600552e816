"""A query in OPTIMADE's filter language, and the check that an answer keeps to it.

Servers exist that ignore a filter, or a part of it in brackets, and send the whole database: every record is compared
with the query, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import gcd

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.errors import FetchError, MissingExtraError
from cgcnn_ase.sources.client import Bounds, FetchedRecord, Query
from cgcnn_ase.sources.optimade.server import ProviderProperty
from cgcnn_ase.sources.properties import check_fields, conversion

# a compound within so many eV/atom of the hull is on it
ON_HULL = 1e-6

# relative difference up to which a bound counts as kept: servers compare decimal text, we doubles
_ROUNDING = 1e-9


def optimade_filter(query: Query, properties: Mapping[str, ProviderProperty]) -> str:
    """Write the query as an OPTIMADE filter string (specification 1.2, "The Filter Language"); empty for all records.

    Conditions that the provider's server cannot compare are left out (`QueryMatcher.checked_here` names them): values
    inside dictionaries, and those that we divide by the number of atoms. A range of a property that the provider does
    not have is a `ValueError`.

    Examples
    --------
    >>> optimade_filter(Query(elements=("Li", "O"), exclude_elements=("H",), max_atoms=20), {})
    'elements HAS ALL "Li","O" AND NOT elements HAS ANY "H" AND nsites<=20'
    >>> optimade_filter(Query(chemsys=("Li-Ni-O",)), {})
    'elements HAS ALL "Li","Ni","O" AND nelements=3'
    """
    systems = [sorted(set(system.split("-"))) for system in query.chemsys]
    alternatives = [
        [f"id={_quoted(id)}" for id in query.ids],
        [f'chemical_formula_reduced="{reduced_formula(formula)}"' for formula in query.formula],
        [f"elements HAS ALL {_list(system)} AND nelements={len(system)}" for system in systems],
    ]
    conditions = [[f"elements HAS ALL {_list(query.elements)}"]] if query.elements else []
    conditions += [[f"NOT elements HAS ANY {_list(query.exclude_elements)}"]] if query.exclude_elements else []
    conditions += [[f"nsites<={query.max_atoms}"]] if query.max_atoms is not None else []
    conditions += [[bound] for bound in _bounds(query, properties)]
    groups = [group for group in (*alternatives, *conditions) if group]
    # AND binds tighter than OR, so a single group needs no brackets
    return " AND ".join(
        f"({' OR '.join(group)})" if len(group) > 1 and len(groups) > 1 else " OR ".join(group) for group in groups
    )


def _bounds(query: Query, properties: Mapping[str, ProviderProperty]) -> Iterator[str]:
    """The ranges that the server can compare, in its names and units."""
    for name, (low, high) in ranges_of(query, properties).items():
        known = properties[name]
        if not _comparable(name, known):
            continue
        factor = conversion(name, known.unit).factor
        if low is not None and (known.at_least is None or low > known.at_least):
            yield f"{known.field}>={low / factor:.12g}"
        if high is not None:
            yield f"{known.field}<={high / factor:.12g}"


def ranges_of(query: Query, properties: Mapping[str, ProviderProperty]) -> dict[str, Bounds]:
    """All bounds of a query, with `stable` as one of the hull distance; an unknown property is a `ValueError`."""
    ranges = dict(query.ranges)
    if query.stable is not None:
        check_fields(["energy_above_hull"], properties, "property (of --stable)")
        low, high = ranges.get("energy_above_hull", (None, None))
        if query.stable:
            high = ON_HULL if high is None else min(high, ON_HULL)
        else:
            low = ON_HULL if low is None else max(low, ON_HULL)
        ranges["energy_above_hull"] = (low, high)
    check_fields(ranges, properties, "range of")
    return ranges


def check_filter(text: str) -> None:
    """Parse a filter with the grammar of the reference implementation; a wrong one is a `ValueError`."""
    try:
        from optimade.exceptions import BadRequest
        from optimade.filterparser import LarkParser
    except ImportError as error:
        raise MissingExtraError("an OPTIMADE provider", "optimade") from error
    try:
        LarkParser().parse(text)
    except BadRequest as error:
        raise ValueError(f"the query is no OPTIMADE filter: {' '.join(str(error.detail).split())[:300]}") from None


def reduced_formula(formula: str) -> str:
    """Write a formula as OPTIMADE does: elements by alphabet, whole numbers without a common divisor, no 1.

    >>> reduced_formula("Li2(NiO2)2"), reduced_formula("Al2O3")
    ('LiNiO2', 'Al2O3')

    Anything else, or amounts that are not whole, is a `ValueError`.
    """
    from pymatgen.core import Composition

    try:
        amounts = Composition(formula).get_el_amt_dict()
    except (ValueError, KeyError) as error:
        raise ValueError(f"formula {formula!r}: {error}") from None
    counts = {symbol: round(amount) for symbol, amount in amounts.items()}
    unknown = sorted(set(counts) - set(symbols()[1:]))
    if unknown:
        raise ValueError(f"formula {formula!r}: {unknown[0]!r} is no element")
    if not counts or any(abs(amounts[symbol] - count) > 1e-8 or not count for symbol, count in counts.items()):
        raise ValueError(f"formula {formula!r}: needed are whole numbers of atoms, as LiNiO2")
    divisor = gcd(*counts.values())
    amount = {symbol: count // divisor for symbol, count in counts.items()}
    return "".join(f"{symbol}{'' if amount[symbol] == 1 else amount[symbol]}" for symbol in sorted(amount))


class QueryMatcher:
    """Checks that records keep to the query."""

    def __init__(self, query: Query, properties: Mapping[str, ProviderProperty]) -> None:
        self.query = query
        self.formulas = {reduced_formula(formula) for formula in query.formula}
        self.systems = {frozenset(system.split("-")) for system in query.chemsys}
        self.ranges = ranges_of(query, properties)
        # bounds that are kept here: the server cannot compare the property, or compares values that ours do not follow
        self.checked_here = {
            name
            for name in self.ranges
            if not _comparable(name, properties[name]) or properties[name].at_least is not None
        }

    def __call__(self, record: FetchedRecord) -> bool:
        """Check that a record satisfies the query; one without a value that is bounded does not.

        A `FetchError` is raised if it does not, though the server was asked for such records only.
        """
        broken = self._broken(record)
        if broken is not None:
            raise FetchError(f"the server sends {record.id}, which {broken}: it does not keep to its own filter")
        for name, (low, high) in self.ranges.items():
            value = record.values.get(name)
            if value is not None and _within(value, low, high):
                continue
            if value is None or name in self.checked_here:
                return False
            raise FetchError(
                f"the server sends {record.id} with {name} {value:g}, though {_words(low, high)} was asked for: "
                "it does not keep to its own filter"
            )
        return True

    def _broken(self, record: FetchedRecord) -> str | None:
        """The condition on the structure that does not hold, in words."""
        query, atoms = self.query, record.atoms
        elements = set(atoms.get_chemical_symbols())
        if query.ids and record.id not in query.ids:
            return "is none of the ids asked for"
        if self.formulas and (formula := reduced_formula(atoms.get_chemical_formula())) not in self.formulas:
            return f"is {formula}"
        if (
            (self.systems and frozenset(elements) not in self.systems)
            or not elements >= set(query.elements)
            or elements & set(query.exclude_elements)
        ):
            return f"is of the elements {', '.join(sorted(elements))}"
        if query.max_atoms is not None and len(atoms) > query.max_atoms:
            return f"has {len(atoms)} atoms"
        return None


def _comparable(name: str, known: ProviderProperty) -> bool:
    """True where the server can compare the property with a bound."""
    return known.top == known.field and conversion(name, known.unit).power == 0


def _within(value: float, low: float | None, high: float | None) -> bool:
    slack = _ROUNDING * max(1.0, abs(value))
    return (low is None or value >= low - slack) and (high is None or value <= high + slack)


def _words(low: float | None, high: float | None) -> str:
    return f"{'' if low is None else f'{low:g}'}:{'' if high is None else f'{high:g}'}"


def _list(elements: Sequence[str]) -> str:
    return ",".join(f'"{element}"' for element in elements)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
