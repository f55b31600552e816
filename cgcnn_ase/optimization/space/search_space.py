"""The search space: named variables, shares that add up to one, and only points that a supercell can realise.

Points that cover it, and points next to a point of it, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import prod
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import MissingExtraError
from cgcnn_ase.optimization.space.variables import NONE, Point, Simplex, Value, Variable, as_number

# a space of more points is sampled, never listed
MOST_CANDIDATES = 200_000


class SearchSpace:
    """Points of several variables, some of which may add up to one.

    Parameters
    ----------
    variables
        In the order in which points have them.
    sum_to_one
        Names of the variables whose sum is 1 in every point: shares of the same number of sites. They are filled one
        after the other within what the rest leaves, so no point is ever thrown away.

    Raises
    ------
    ValueError
        If a name is unknown or twice there, or no point is possible.

    Examples
    --------
    >>> space = SearchSpace.from_dict({
    ...     "variables": {
    ...         "ni_content": {"low": 0.5, "high": 1.0, "sites": 4},
    ...         "co_content": {"low": 0.0, "high": 0.5, "sites": 4},
    ...         "li_vacancy_ratio": {"low": 0.0, "high": 0.5, "sites": 4},
    ...     },
    ...     "sum_to_one": ["ni_content", "co_content"],
    ... })
    >>> space.count
    9
    >>> space.point(3)
    {'ni_content': 0.75, 'co_content': 0.25, 'li_vacancy_ratio': 0.0}
    >>> space.snap({"ni_content": 0.81, "co_content": 0.1, "li_vacancy_ratio": 0.3})
    {'ni_content': 0.75, 'co_content': 0.25, 'li_vacancy_ratio': 0.25}
    >>> space.features([space.point(3)])
    array([[0.5, 0.5, 0. ]])
    """

    def __init__(self, variables: Sequence[Variable], sum_to_one: Sequence[str] = ()) -> None:
        self.variables = tuple(variables)
        self.names = tuple(variable.name for variable in self.variables)
        self.sum_to_one = tuple(sum_to_one)
        if not self.variables:
            raise ValueError("a search space needs at least one variable")
        for names, what in ((self.names, "variables"), (self.sum_to_one, "sum_to_one")):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what}: {', '.join(twice)} is there twice")
        by_name = {variable.name: variable for variable in self.variables}
        if unknown := [name for name in self.sum_to_one if name not in by_name]:
            raise ValueError(f"sum_to_one: unknown {', '.join(unknown)}; the variables are {', '.join(self.names)}")
        # the shares that add up to 1, the variables that name them (by the share), and those that stand alone
        self.shares = tuple(by_name[name] for name in self.sum_to_one)
        self.names_of = {v.of: v for v in self.variables if v.of is not None}
        inside = {*self.sum_to_one, *(v.name for v in self.names_of.values())}
        self.alone = tuple(v for v in self.variables if v.name not in inside)
        if twice := [v.name for v in self.alone if v.of is not None]:
            raise ValueError(f"{', '.join(twice)}: a share can have names by one variable only")
        self._check_shares()

    @classmethod
    def from_dict(cls, config: Mapping[str, object]) -> "SearchSpace":
        """Read a space of a configuration: ``variables`` (options by name) and ``sum_to_one`` (names).

        The options of a variable are ``low`` and ``high``; with ``sites``, where it is a whole number of atoms out of
        so many sites; with ``integer: true``; or ``categories`` (with ``of``: the share they are the names of, e.g. of
        a dopant; where the share is 0 the name is ``none``); or ``seeds``: so many orderings of each composition.
        """
        if unknown := sorted(set(config) - {"variables", "sum_to_one"}):
            raise ValueError(f"space: unknown {', '.join(unknown)}; allowed: variables, sum_to_one")
        variables = config.get("variables")
        if not isinstance(variables, Mapping) or not all(isinstance(each, Mapping) for each in variables.values()):
            raise ValueError(f"space: variables must give the options of each variable by its name, not {variables!r}")
        sum_to_one = cast("Sequence[str]", config.get("sum_to_one") or ())
        return cls([Variable.from_dict(name, options) for name, options in variables.items()], sum_to_one)

    # how many, and which

    @cached_property
    def count(self) -> int | None:
        """Number of points; None where a variable can be any number in a range."""
        counts = [self._simplex.count, *(v.count for v in self.alone)]
        known = [n for n in counts if n is not None]
        return prod(known) if len(known) == len(counts) else None

    def __len__(self) -> int:
        return self._counted()

    def __bool__(self) -> bool:
        return True  # a space is never empty, and need not be countable

    @property
    def has_replicas(self) -> bool:
        """True where structures of the same features differ, by the seed of their ordering."""
        return any(v.kind == "seed" and v.count != 1 for v in self.variables)

    def point(self, index: int) -> Point:
        """Return the point with a number, 0 to `count` - 1; the last variables change first."""
        if not 0 <= index < self._counted():
            raise IndexError(f"point {index}: there are {self.count}")
        result: Point = {}
        for variable in reversed(self.alone):
            assert variable.count is not None
            index, k = divmod(index, variable.count)
            result[variable.name] = variable.value(k)
        return self.ordered(result | self._point_of_shares(self._simplex[index]))

    def candidates(self) -> list[Point]:
        """Return all points; a ValueError where there are more than 200,000, counted before any is made."""
        if (n := self._counted()) > MOST_CANDIDATES:
            raise ValueError(f"the space has {n:,} points, more than {MOST_CANDIDATES:,}: sample it")
        return list(self)

    def __iter__(self) -> Iterator[Point]:
        return (self.point(index) for index in range(self._counted()))

    def sample(self, n: int, seed: int | Sequence[int]) -> list[Point]:
        """Draw n different points, all equally probable, without listing the others; all where there are no more."""
        rng = np.random.default_rng(seed)
        if self.count is None:
            return self.from_unit(rng.random((n, self.n_unit)))
        if self.count < 2**62:
            return [self.point(int(index)) for index in rng.choice(self.count, min(n, self.count), replace=False)]
        result: dict[str, Point] = {}
        while len(result) < n:
            (point,) = self.from_unit(rng.random((1, self.n_unit)))
            result.setdefault(self.key(point), point)
        return list(result.values())

    # to and from numbers

    @property
    def n_unit(self) -> int:
        """Number of coordinates of the unit cube that a point is made from."""
        return len(self.shares) + len(self.alone)

    def from_unit(self, coordinates: npt.ArrayLike) -> list[Point]:
        """Make points of (n, n_unit) coordinates between 0 and 1; of uniform ones all points are equally frequent.

        What samplers of the unit cube give (Sobol, Latin hypercube, a grid) so becomes realisable points.
        """
        rows = np.asarray(coordinates, dtype=float).tolist()
        n = len(self.shares)
        return [
            self.ordered(
                self._point_of_shares(self._simplex.from_unit(row[:n]))
                | {v.name: v.from_unit(u) for v, u in zip(self.alone, row[n:], strict=True)}
            )
            for row in rows
        ]

    def snap(self, point: Mapping[str, Value]) -> Point:
        """Return the nearest realisable point; errors as of :meth:`checked_key`."""
        self.checked_key(point)
        result: Point = {v.name: v.snap(point[v.name]) for v in self.alone}
        amounts = [as_number(v.name, point[v.name]) * v.sites for v in self.shares]
        for share, k in zip(self.shares, self._simplex.nearest(amounts), strict=True):
            result[share.name] = k / share.sites
            if (label := self.names_of.get(share.name)) is not None:
                result[label.name] = label.snap(point[label.name]) if k else NONE
        return self.ordered(result)

    def key(self, point: Mapping[str, Value]) -> str:
        """Name a point, the same in every run: its values by the names of the variables in order.

        >>> space = SearchSpace([Variable("x", "real", 0.0, 1.0), Variable("ordering_seed", "seed", 0, 4)])
        >>> space.key({"x": 1 / 3, "ordering_seed": 2})
        'ordering_seed=2,x=0.333333333'
        """
        return ",".join(f"{name}={_word(point[name])}" for name in sorted(self.names))

    def checked_key(self, point: Mapping[str, Value]) -> str:
        """Return the :meth:`key` of a point, which need not be realisable; a ValueError if it is none of this space."""
        if set(point) != set(self.names):
            raise ValueError(f"point of {', '.join(point) or 'nothing'}; the variables are {', '.join(self.names)}")
        for variable in self.variables:
            value = point[variable.name]
            if variable.kind != "category":
                as_number(variable.name, value)
            elif not (value == NONE and variable.of is not None and not point[variable.of]):
                variable.snap(value)
        return self.key(point)

    def features(self, points: Sequence[Mapping[str, Value]]) -> Floats:
        """(n, d) points as numbers between 0 and 1, for a Gaussian process.

        Numbers are scaled from their lowest to their highest possible value; a category is one feature for each name
        (times the share it is the name of, so that the name of nothing means nothing). Seeds are no feature.
        """
        columns: list[Floats] = []
        for variable in self.variables:
            values = [point[variable.name] for point in points]
            if variable.kind == "seed":
                continue
            if variable.kind == "category":
                size = np.ones(len(points)) if variable.of is None else self._scaled(variable.of, points)
                columns += [size * np.array([value == name for value in values], float) for name in variable.categories]
            else:
                columns.append(self._scaled(variable.name, points))
        return np.stack(columns, axis=1) if columns else np.zeros((len(points), 1))

    # parts

    @cached_property
    def _simplex(self) -> Simplex:
        bounds = [v.whole for v in self.shares]
        labels = tuple(len(self.names_of[v.name].categories) if v.name in self.names_of else 1 for v in self.shares)
        total = self.shares[0].sites if self.shares else 0
        return Simplex(tuple(low for low, _ in bounds), tuple(high for _, high in bounds), total, labels)

    @cached_property
    def _limits(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value that each number can have."""
        limits = {v.name: (v.low, v.high) for v in self.alone}
        limits |= {v.name: (v.whole[0] / v.sites, v.whole[1] / v.sites) for v in self.alone if v.kind == "share"}
        for share, (low, high) in zip(self.shares, self._simplex.reachable(), strict=True):
            limits[share.name] = (low / share.sites, high / share.sites)
        return limits

    def _scaled(self, name: str, points: Sequence[Mapping[str, Value]]) -> Floats:
        low, high = self._limits[name]
        values = np.array([point[name] for point in points], dtype=float)
        return (values - low) / (high - low) if high > low else np.zeros(len(points))

    def _point_of_shares(self, parts: Sequence[tuple[int, int]]) -> Point:
        result: Point = {}
        for share, (k, label) in zip(self.shares, parts, strict=True):
            result[share.name] = k / share.sites
            if (names := self.names_of.get(share.name)) is not None:
                result[names.name] = names.categories[label] if k else NONE
        return result

    def ordered(self, point: Mapping[str, Value]) -> Point:
        """Return the same point with its variables in the order of the space."""
        return {name: point[name] for name in self.names}

    def _counted(self) -> int:
        if self.count is None:
            names = ", ".join(v.name for v in self.alone if v.count is None)
            raise ValueError(f"{names} can be any number in a range: such points cannot be counted")
        return self.count

    def _check_shares(self) -> None:
        if others := [f"{v.name} of {v.of}" for v in self.names_of.values() if v.of not in self.sum_to_one]:
            raise ValueError(f"{', '.join(others)}: names can be of a share in sum_to_one only")
        if not self.shares:
            return
        if wrong := [v.name for v in self.shares if v.kind != "share"]:
            raise ValueError(f"sum_to_one: {', '.join(wrong)} must have low, high and sites")
        if len(sites := {v.sites for v in self.shares}) > 1:
            raise ValueError(f"sum_to_one: the shares must be of the same number of sites, not {sorted(sites)}")
        if (lowest := sum(v.low for v in self.shares)) > 1 + 1e-9:
            raise ValueError(f"sum_to_one: the lower bounds add up to {lowest:g}, more than 1")
        if (highest := sum(v.high for v in self.shares)) < 1 - 1e-9:
            raise ValueError(f"sum_to_one: the upper bounds add up to {highest:g}, less than 1")
        if not self._simplex.count:
            (n,) = sites
            raise ValueError(f"sum_to_one: no whole numbers of {n} sites within the bounds add up to 1")


def _word(value: Value) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


Initial = Literal["sobol", "random", "lhs", "grid"]

# a number in a range is moved by this part of the range
_REAL_STEP = 0.02

# Latin hypercubes tried for the one whose nearest points are furthest apart
_HYPERCUBES = 100


def initial_points(space: SearchSpace, n: int, *, kind: Initial = "sobol", seed: int = 0) -> list[Point]:
    """Return n different points that cover the space, by one of scikit-optimize's samplers of the unit cube.

    `kind` is ``sobol``: a shifted Sobol sequence; ``lhs``: a Latin hypercube; ``grid``: a regular grid; or ``random``.
    Fewer come where the space has no more.
    """
    if kind not in get_args(Initial):
        raise ValueError(f"no initial points by {kind!r}; allowed: {', '.join(get_args(Initial))}")
    if n < 0:
        raise ValueError(f"the number of initial points must be 0 or more, not {n}")
    result: dict[str, Point] = {}
    if kind != "random" and n:
        for point in space.from_unit(_unit_cube(kind, n, space.n_unit, seed)):
            result.setdefault(space.key(point), point)
    if len(result) < n:  # several of the sampler's points became one
        for point in space.sample(2 * n, seed):
            result.setdefault(space.key(point), point)
    return list(result.values())[:n]


def _unit_cube(kind: Initial, n: int, dimension: int, seed: int) -> list[list[float]]:
    with needs_skopt():
        from skopt.sampler import Grid, Lhs, Sobol

    # a Sobol sequence is balanced for powers of two
    size = 1 << (n - 1).bit_length() if kind == "sobol" else n
    sampler = {"sobol": Sobol, "grid": Grid}[kind]() if kind != "lhs" else Lhs(iterations=_HYPERCUBES)
    points: list[list[float]] = sampler.generate([(0.0, 1.0)] * dimension, size, random_state=seed)
    return points[:n]


@contextmanager
def needs_skopt() -> Iterator[None]:
    """Say what to install where scikit-optimize cannot be imported."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError("an optimisation", "skopt") from error


def neighbors(space: SearchSpace, point: Mapping[str, Value]) -> list[Point]:
    """Return points one step away: one atom exchanged for another kind, or the next value of one other variable.

    >>> space = SearchSpace.from_dict({"variables": {"n": {"low": 1, "high": 5, "integer": True}}})
    >>> neighbors(space, {"n": 3})
    [{'n': 4}, {'n': 2}]
    """
    moved = [{**point, v.name: value} for v in space.alone for value in _next_values(v, point[v.name])]
    counts = {v.name: round(as_number(v.name, point[v.name]) * v.sites) for v in space.shares}
    for more in space.shares:
        for less in space.shares:
            if more is less or counts[more.name] >= more.whole[1] or counts[less.name] <= less.whole[0]:
                continue
            exchanged = {
                more.name: (counts[more.name] + 1) / more.sites,
                less.name: (counts[less.name] - 1) / less.sites,
            }
            moved += _all_namings(space, {**point, **exchanged})
    for share, label in space.names_of.items():
        if point[share]:
            moved += [{**point, label.name: name} for name in label.categories if name != point[label.name]]
    return [space.ordered(near) for near in moved]


def _all_namings(space: SearchSpace, point: Point) -> list[Point]:
    """Return a point with every name that its shares can have, where they had none before or have none now."""
    result = [point]
    for share, label in space.names_of.items():
        if not point[share]:
            result = [{**each, label.name: NONE} for each in result]
        elif point[label.name] == NONE:
            result = [{**each, label.name: name} for each in result for name in label.categories]
    return result


def _next_values(variable: Variable, value: Value) -> list[Value]:
    if variable.kind == "category":
        return [name for name in variable.categories if name != value]
    number = as_number(variable.name, value)
    step = 1 / variable.sites if variable.sites else 1.0
    if variable.kind == "real":
        step = _REAL_STEP * (variable.high - variable.low)
    snapped = [variable.snap(number + step), variable.snap(number - step)]
    return [near for near in snapped if near != value]
