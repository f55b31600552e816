"""Points that cover a space, and points next to a point of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from cgcnn_ase.core.errors import MissingExtraError
from cgcnn_ase.optimization.space.search_space import SearchSpace
from cgcnn_ase.optimization.space.variables import NONE, Point, Value, Variable, as_number

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
