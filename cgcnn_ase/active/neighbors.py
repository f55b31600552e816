"""The points next to a point: what a search near the best known looks at."""

from collections.abc import Mapping

from cgcnn_ase.active.space import SearchSpace
from cgcnn_ase.active.variables import NONE, Point, Value, Variable, as_number

#: a number in a range is moved by this part of the range
_REAL_STEP = 0.02


def neighbors(space: SearchSpace, point: Mapping[str, Value]) -> list[Point]:
    """Points one step away: one atom exchanged for another kind, or the next value of one other variable.

    Parameters
    ----------
    space
        The space.
    point
        A point of it.

    Examples
    --------
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
            moved += _named(space, {**point, **exchanged})
    for share, label in space.names_of.items():
        if point[share]:
            moved += [{**point, label.name: name} for name in label.categories if name != point[label.name]]
    return [space.ordered(near) for near in moved]


def _named(space: SearchSpace, point: Point) -> list[Point]:
    """A point with every name that its shares can have, where they had none before or have none now."""
    found = [point]
    for share, label in space.names_of.items():
        if not point[share]:
            found = [{**each, label.name: NONE} for each in found]
        elif point[label.name] == NONE:
            found = [{**each, label.name: name} for each in found for name in label.categories]
    return found


def _next_values(variable: Variable, value: Value) -> list[Value]:
    if variable.kind == "category":
        return [name for name in variable.categories if name != value]
    number = as_number(variable.name, value)
    step = 1 / variable.sites if variable.sites else 1.0
    if variable.kind == "real":
        step = _REAL_STEP * (variable.high - variable.low)
    snapped = [variable.snap(number + step), variable.snap(number - step)]
    return [near for near in snapped if near != value]
