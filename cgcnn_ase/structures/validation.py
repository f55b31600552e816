"""Conditions of every structure, wherever it came from: known elements, finite numbers, a real cell, no overlaps."""

from collections.abc import Callable
from functools import cache
from math import isfinite, sqrt
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Bools, Floats, Ints
from cgcnn_ase.core.elements import MAX_NUMBER, UnknownElementError, check_numbers, symbols
from cgcnn_ase.structures.record import StructureError

if TYPE_CHECKING:
    from ase import Atoms


# two atoms nearer than this are an error in the file, Å (the shortest bond, of H2, is 0.74 Å)
OVERLAP = 0.5

# a cell thinner than this is no cell, Å
THINNEST = 0.01

# up to so many atoms all pairs are compared; beyond, those that are near are searched
_ALL_PAIRS = 96


def check_atoms(atoms: "Atoms", source: str = "<memory>") -> "Atoms":
    """Return the structure, called `source` in messages, or say what is wrong with it.

    Its periodic directions may be three (crystal), some (slab, wire) or none (molecule). A `StructureError` is raised
    if it has no atoms, an element beyond Z = 100, a coordinate that is not finite, a cell of no volume, or two atoms
    (periodic images included) within 0.5 Å of one another.
    """
    reason = validation_error(atoms)
    if reason is not None:
        raise StructureError(source, reason)
    return atoms


def validation_error(atoms: "Atoms", site_names: Callable[[], list[str]] | None = None) -> str | None:
    """The fault of the structure in words, or None; `site_names` gives what its source calls the atoms."""
    numbers, positions, pbc = atoms.numbers, atoms.positions, atoms.pbc
    if len(numbers) == 0:
        return "has no atoms"
    if int(numbers.min()) < 1 or int(numbers.max()) > MAX_NUMBER:
        return _unknown_element(numbers)
    if not isfinite(float(positions.sum())) and not np.isfinite(positions).all():
        bad = int(np.argmin(np.isfinite(positions).all(axis=1)))
        return f"atom {bad + 1} has a coordinate that is not a finite number"
    periodic = pbc.tolist()
    cell = completed_cell(atoms.cell.array, pbc) if any(periodic) else np.eye(3)
    heights, inverse = heights_and_inverse(cell)
    if not all(height > THINNEST for height, axis in zip(heights, periodic, strict=True) if axis):
        return _cell_words(atoms.cell.array, pbc)
    pair = nearest_overlap(positions, cell, pbc, heights, inverse)
    return None if pair is None else _overlap_words(numbers, *pair, None if site_names is None else site_names())


def _unknown_element(numbers: Ints) -> str:
    if (numbers == 0).any():
        return f"atom {int(np.argmax(numbers == 0)) + 1} is a dummy (X), not an element"
    try:
        check_numbers(numbers)
    except UnknownElementError as error:
        return str(error)
    raise AssertionError("only called for unknown numbers")


def completed_cell(cell: Floats, pbc: Bools) -> Floats:
    """The cell with unit vectors normal to the others where it is not periodic, as its own mean nothing there."""
    if pbc.all():
        return cell
    full = np.where(pbc[:, None], cell, 0.0)
    right = np.linalg.svd(full)[2]
    rank = int(pbc.sum())
    free = np.flatnonzero(~pbc)
    full[free] = right[rank:][: len(free)]
    return full


def heights_and_inverse(cell: Floats) -> tuple[tuple[float, ...], Floats]:
    """The distances between opposite faces of the cell, Å, and its inverse; heights are 0 where it has no volume.

    Written out, as it runs once a structure and NumPy's call overhead would be most of it.
    """
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    normals = (
        (e * i - f * h, f * g - d * i, d * h - e * g),
        (h * c - i * b, i * a - g * c, g * b - h * a),
        (b * f - c * e, c * d - a * f, a * e - b * d),
    )
    x, y, z = normals[0]
    volume = a * x + b * y + c * z
    if not volume:
        return (0.0, 0.0, 0.0), np.zeros((3, 3))
    heights = tuple(abs(volume) / sqrt(x * x + y * y + z * z) for x, y, z in normals)
    return heights, np.array(normals).T / volume


def _cell_words(cell: Floats, pbc: Bools) -> str:
    """Why the cell is none."""
    if not np.isfinite(cell).all():
        return "the cell holds a number that is not finite"
    lengths = np.linalg.norm(cell, axis=1)
    if (lengths[pbc] < THINNEST).any():
        axes = ", ".join("abc"[i] for i in np.flatnonzero(pbc & (lengths < THINNEST)))
        return f"is periodic but its cell has no volume (no length along {axes})"
    return "is periodic but its cell has no volume (its vectors lie in one plane)"


def _overlap_words(numbers: Ints, first: int, second: int, distance: float, site_names: list[str] | None) -> str:
    names = symbols()
    needed = f"(at least {OVERLAP} Å are needed)"
    words = [
        f"{k + 1} ({names[numbers[k]]})" if site_names is None else f"{site_names[k]} ({names[numbers[k]]})"
        for k in sorted((first, second))
    ]
    if first == second:
        return f"atom {words[0]} overlaps its own image, {distance:.3g} Å away {needed}"
    same = " (two images of one site)" if site_names is not None and site_names[first] == site_names[second] else ""
    return f"atoms {words[0]} and {words[1]} overlap{same}: they are {distance:.3g} Å apart {needed}"


def nearest_overlap(
    positions: Floats, cell: Floats, pbc: Bools, heights: tuple[float, ...], inverse: Floats
) -> tuple[int, int, float] | None:
    """The nearest two atoms, their indices and distance, if it is below `OVERLAP`; None otherwise.

    Where every periodic cell height exceeds 2 × `OVERLAP`, two atoms that overlap do so in the image that rounding of
    their fractional difference gives; elsewhere (thin or strongly skewed cells) all images are searched.
    """
    periodic = pbc.tolist()
    if any(height <= 2 * OVERLAP for height, axis in zip(heights, periodic, strict=True) if axis):
        return _search(positions, cell, pbc, OVERLAP)
    n = len(positions)
    if n == 1:
        return None
    if n > _ALL_PAIRS:
        return _search(positions, cell, pbc, _radius(positions @ inverse, cell, pbc))
    first, second = _pairs(n)
    frac = np.ascontiguousarray((positions @ inverse).T)
    delta = frac.take(first, axis=1)  # (3, pairs): long rows are quicker than short ones
    delta -= frac.take(second, axis=1)
    delta -= np.rint(delta) if all(periodic) else np.rint(delta) * pbc[:, None]
    delta = cell.T @ delta
    delta *= delta
    squared = delta[0] + delta[1] + delta[2]
    worst = int(squared.argmin())
    distance = sqrt(squared[worst])
    return None if distance >= OVERLAP else (int(first[worst]), int(second[worst]), distance)


@cache
def _pairs(n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    first, second = np.triu_indices(n, 1)
    return first, second


def _radius(frac: Floats, cell: Floats, pbc: Bools) -> float:
    """How far to search, at least 2 Å: the search sets up cubes of this edge, four an atom at most."""
    span = np.where(pbc, 1.0, np.ptp(frac, axis=0))
    volume = abs(float(np.linalg.det(cell))) * float(span.prod())
    return max(2.0, float((volume / (4 * len(frac))) ** (1 / 3)))


def _search(positions: Floats, cell: Floats, pbc: Bools, radius: float) -> tuple[int, int, float] | None:
    """As `nearest_overlap`, from all pairs of atoms and images within a radius."""
    first, second, distances = near_pairs(positions, cell, pbc, radius)
    if not len(distances):
        return None
    worst = int(distances.argmin())
    if distances[worst] >= OVERLAP:
        return None
    return int(first[worst]), int(second[worst]), float(distances[worst])


def near_pairs(positions: Floats, cell: Floats, pbc: Bools, radius: float) -> tuple[Ints, Ints, Floats]:
    """All atoms and images within a radius of one another, each pair from both ends: two indices and Å, (P,) each.

    The cell has a volume, as `completed_cell` gives it.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    points = np.ascontiguousarray(positions, dtype=np.float64)
    lattice = np.ascontiguousarray(cell, dtype=np.float64)
    first, second, images, distances = find_points_in_spheres(
        points, points, radius, np.ascontiguousarray(pbc, dtype=np.int64), lattice
    )
    other = (first != second) | images.any(axis=1)
    return first[other], second[other], distances[other]
