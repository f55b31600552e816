"""Variables: a number in a range, a whole number of atoms, one of several names, the seed of an ordering.

Shares that add up to one are whole numbers of atoms: counted, numbered and drawn without any rejection.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor, isfinite
from typing import Literal

Value = float | int | str
# values of the named variables
Point = dict[str, Value]
Part = tuple[int, int]  # how many atoms, and which label they have

Kind = Literal["real", "share", "integer", "category", "seed"]

# the label of an atom that is not there
NONE = "none"
_ROUNDING = 1e-9

# the options of a variable that go together
_FORMS: dict[Kind, frozenset[str]] = {
    "real": frozenset({"low", "high"}),
    "share": frozenset({"low", "high", "sites"}),
    "integer": frozenset({"low", "high", "integer"}),
    "category": frozenset({"categories"}),
    "seed": frozenset({"seeds"}),
}
_ALLOWED = (
    "low and high (any number), low, high and sites (a whole number of atoms out of so many), low, high and "
    "integer: true, categories (and of: the content they are the names of), or seeds (how many)"
)


@dataclass(frozen=True)
class Variable:
    """One thing that can be varied.

    The kinds: ``real``: any number; ``share``: k / sites for whole k; ``integer``; ``category``: one of several names;
    ``seed``: 0, 1, ..., which tells structures apart that are otherwise described alike.
    """

    name: str
    kind: Kind
    low: float = 0.0  # the bounds, included
    high: float = 0.0
    sites: int = 0  # of a share: of how many sites it is a part
    categories: tuple[str, ...] = ()  # the names
    of: str | None = None  # the share that the categories are the names of: where it is 0 the name is ``none``

    @classmethod
    def from_dict(cls, name: str, options: Mapping[str, object]) -> "Variable":
        """Read a variable of a configuration; a ValueError where options do not go together, or a range is empty."""
        option_names = frozenset(key for key, value in options.items() if value is not None and value is not False)
        kinds = [kind for kind, form in _FORMS.items() if option_names - {"of"} == form]
        if not kinds or ("of" in option_names and kinds != ["category"]):
            raise ValueError(
                f"{name}: {', '.join(sorted(option_names)) or 'no option'} given; a variable has {_ALLOWED}"
            )
        kind = kinds[0]
        if kind == "category":
            names = _names(name, options["categories"])
            of = None if options.get("of") is None else str(options["of"])
            if of is not None and NONE in names:
                raise ValueError(f"{name}: {NONE!r} is the name where {of} is 0, and no category")
            return cls(name, kind, categories=names, of=of)
        if kind == "seed":
            n = _whole(name, "seeds", options["seeds"], at_least=1)
            return cls(name, kind, 0, n - 1)
        low, high = (_number(name, key, options[key]) for key in ("low", "high"))
        if low > high:
            raise ValueError(f"{name}: low {low:g} is above high {high:g}")
        if kind == "integer" and (low != int(low) or high != int(high)):
            raise ValueError(f"{name}: the bounds of an integer are whole numbers, not {low:g} and {high:g}")
        sites = _whole(name, "sites", options["sites"], at_least=1) if kind == "share" else 0
        result = cls(name, kind, low, high, sites)
        if kind == "share":
            result._check_share()
        return result

    def _check_share(self) -> None:
        """Raise a ValueError where no whole number of atoms is within the bounds, or a bound not within 0 and 1."""
        if self.low < 0 or self.high > 1:
            raise ValueError(f"{self.name}: a share is 0 to 1, not {self.low:g} to {self.high:g}")
        first, last = self.whole
        if first > last:
            raise ValueError(
                f"{self.name}: no whole number of {self.sites} sites is between {self.low:g} and {self.high:g}"
            )

    @property
    def whole(self) -> tuple[int, int]:
        """First and last whole number within the bounds; of a share, of atoms."""
        factor = self.sites or 1
        return ceil(self.low * factor - _ROUNDING), floor(self.high * factor + _ROUNDING)

    @property
    def count(self) -> int | None:
        """Number of values it can have; None for any number in a range."""
        if self.kind == "category":
            return len(self.categories)
        if self.kind == "real":
            return 1 if self.low == self.high else None
        first, last = self.whole
        return last - first + 1

    def value(self, index: int) -> Value:
        """Return the value with a number, 0 to `count` - 1."""
        if self.kind == "category":
            return self.categories[index]
        if self.kind == "real":
            return self.low
        k = self.whole[0] + index
        return k / self.sites if self.kind == "share" else k

    def from_unit(self, u: float) -> Value:
        """Return the value of a coordinate between 0 and 1; uniform coordinates give all values equally often."""
        n = self.count
        if n is None:
            return min(self.low + u * (self.high - self.low), self.high)
        return self.value(min(int(u * n), n - 1))

    def snap(self, value: Value) -> Value:
        """Return the nearest value that it can have; a ValueError for other names, or numbers that are not finite."""
        if self.kind == "category":
            if value not in self.categories:
                raise ValueError(f"{self.name} {value!r}; allowed: {', '.join(self.categories)}")
            return value
        number = as_number(self.name, value)
        if self.kind == "real":
            return min(max(number, self.low), self.high)
        first, last = self.whole
        k = min(max(round(number * (self.sites or 1)), first), last)
        return k / self.sites if self.kind == "share" else k


def as_number(name: str, value: Value) -> float:
    """Return the value of a variable that must be a finite number, or raise a ValueError."""
    return _number(name, "value", value)


def _number(name: str, what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{name}: {what} must be a finite number, not {value!r}")
    return float(value)


def _whole(name: str, what: str, value: object, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}: {what} must be a whole number of at least {at_least}, not {value!r}")
    return value


def _names(name: str, value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(each, str) and each for each in names) or len(set(names)) < len(names):
        raise ValueError(f"{name}: categories must be a list of different names, not {value!r}")
    return names


@dataclass(frozen=True)
class Simplex:
    r"""Whole numbers within bounds whose sum is given; a part that is not zero may have one of several labels.

    All follows from one table, of how many ways there are to fill the parts from the i-th on with r atoms:

    .. math:: W_i(r) = \sum_{v = l_i}^{h_i} w_i(v) \, W_{i+1}(r - v), \qquad w_i(0) = 1, \; w_i(v > 0) = n_i

    Examples
    --------
    >>> simplex = Simplex(lows=(1, 0), highs=(2, 2), total=2, labels=(1, 3))
    >>> simplex.count
    4
    >>> [simplex[k] for k in range(4)]
    [((1, 0), (1, 0)), ((1, 0), (1, 1)), ((1, 0), (1, 2)), ((2, 0), (0, 0))]
    """

    lows: tuple[int, ...]  # the bounds of each part, included
    highs: tuple[int, ...]
    total: int  # the sum
    labels: tuple[int, ...]  # the number of labels of each part; 1 where it has none to choose

    @property
    def count(self) -> int:
        """Number of arrangements."""
        return self._ways[0][self.total]

    def __getitem__(self, index: int) -> tuple[Part, ...]:
        """Return the parts with a number, 0 to `count` - 1, in lexical order."""
        if not 0 <= index < self.count:
            raise IndexError(f"number {index}: there are {self.count}")
        parts, left = [], self.total
        for i in range(len(self.lows)):
            part, index = self._pick(i, left, index)
            parts.append(part)
            left -= part[0]
        return tuple(parts)

    def from_unit(self, coordinates: Sequence[float]) -> tuple[Part, ...]:
        """Return the parts of a point of the unit cube; of uniform points all parts are equally frequent."""
        parts, left = [], self.total
        for i, u in enumerate(coordinates):
            ways = self._ways[i][left]
            part, _ = self._pick(i, left, min(int(u * ways), ways - 1))
            parts.append(part)
            left -= part[0]
        return tuple(parts)

    def nearest(self, amounts: Sequence[float]) -> tuple[int, ...]:
        """Return the whole numbers with the smallest sum of squared differences from amounts."""
        pairs = zip(self.lows, self.highs, strict=True)
        counts = [min(max(round(amount), low), high) for amount, (low, high) in zip(amounts, pairs, strict=True)]
        while (missing := self.total - sum(counts)) != 0:
            step = 1 if missing > 0 else -1
            bounds = self.highs if step > 0 else self.lows
            free = [i for i, count in enumerate(counts) if count != bounds[i]]
            cheapest = min(free, key=lambda i: (round(step * (counts[i] - amounts[i]), 9), i))
            counts[cheapest] += step
        return tuple(counts)

    def reachable(self) -> tuple[tuple[int, int], ...]:
        """Return the lowest and highest number that each part can have beside the others."""
        sum_low, sum_high = sum(self.lows), sum(self.highs)
        return tuple(
            (max(low, self.total - (sum_high - high)), min(high, self.total - (sum_low - low)))
            for low, high in zip(self.lows, self.highs, strict=True)
        )

    def _pick(self, i: int, left: int, index: int) -> tuple[Part, int]:
        """Return the i-th part in the arrangement with a number, and the number of the rest among their own."""
        for value, weight in self._values(i, left):
            rest = self._ways[i + 1][left - value]
            if index < weight * rest:
                return (value, index // rest), index % rest
            index -= weight * rest
        raise AssertionError("the table of ways is complete")

    def _values(self, i: int, left: int) -> Iterator[tuple[int, int]]:
        for value in range(self.lows[i], min(self.highs[i], left) + 1):
            yield value, self.labels[i] if value else 1

    @cached_property
    def _ways(self) -> list[list[int]]:
        table = [[0] * (self.total + 1) for _ in self.lows] + [[1] + [0] * self.total]
        for i in reversed(range(len(self.lows))):
            for left in range(self.total + 1):
                table[i][left] = sum(weight * table[i + 1][left - value] for value, weight in self._values(i, left))
        return table
