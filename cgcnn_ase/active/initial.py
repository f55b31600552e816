"""Where to begin: points that cover the space."""

from typing import Literal, get_args

from cgcnn_ase.active.dimensions import MISSING
from cgcnn_ase.active.space import SearchSpace
from cgcnn_ase.active.variables import Point

Initial = Literal["sobol", "random", "lhs", "grid"]

#: Latin hypercubes tried for the one whose nearest points are furthest apart
_HYPERCUBES = 100


def initial_points(space: SearchSpace, n: int, *, kind: Initial = "sobol", seed: int = 0) -> list[Point]:
    """Different points that cover the space, by one of scikit-optimize's samplers of the unit cube.

    Parameters
    ----------
    space
        The space.
    n
        How many; fewer come where the space has no more.
    kind
        ``sobol``: a shifted Sobol sequence; ``lhs``: a Latin hypercube; ``grid``: a regular grid; ``random``.
    seed
        Same seed, same points.

    Raises
    ------
    ValueError
        If the kind is none of these, or n negative.
    ImportError
        If scikit-optimize is not installed.
    """
    if kind not in get_args(Initial):
        raise ValueError(f"no initial points by {kind!r}; allowed: {', '.join(get_args(Initial))}")
    if n < 0:
        raise ValueError(f"the number of initial points must be 0 or more, not {n}")
    found: dict[str, Point] = {}
    if kind != "random" and n:
        for point in space.from_unit(_unit_cube(kind, n, space.n_unit, seed)):
            found.setdefault(space.key(point), point)
    if len(found) < n:  # several of the sampler's points became one
        for point in space.sample(2 * n, seed):
            found.setdefault(space.key(point), point)
    return list(found.values())[:n]


def _unit_cube(kind: Initial, n: int, dimension: int, seed: int) -> list[list[float]]:
    try:
        from skopt.sampler import Grid, Lhs, Sobol
    except ImportError as error:
        raise ImportError(MISSING) from error

    # a Sobol sequence is balanced for powers of two
    size = 1 << (n - 1).bit_length() if kind == "sobol" else n
    sampler = {"sobol": Sobol, "grid": Grid}[kind]() if kind != "lhs" else Lhs(iterations=_HYPERCUBES)
    points: list[list[float]] = sampler.generate([(0.0, 1.0)] * dimension, size, random_state=seed)
    return points[:n]
