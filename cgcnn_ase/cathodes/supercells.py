"""Supercell of a cathode: it can hold the composition, has about the size asked for, and is compact."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.build import make_supercell
from ase.geometry import minkowski_reduce

from cgcnn_ase.cathodes.composition import Cathode, deviation, whole_numbers
from cgcnn_ase.cathodes.lattices import LITHIUM, METAL
from cgcnn_ase.core.arrays import Bools, Floats, Ints

# a supercell with no share further from the asked one than this is exact
_EXACT = 1e-9
# supercells within this factor of the size asked for are considered
_WINDOW = 2.0
# of more primitive cells there are too many shapes to try
_LARGEST = 128
# up to so many primitive cells it is said which supercell could hold the composition
_MOST_CELLS = 2000


class CathodeSupercell(NamedTuple):
    """The atoms, tagged as the lattice's are, and in words how they were made."""

    atoms: Atoms
    name: str


def cathode_supercell(
    cathode: Cathode, li_vacancy: float, *, repeats: int | tuple[int, int, int] | None, n_atoms: int, tolerance: float
) -> CathodeSupercell:
    """The supercell asked for, or the most compact one of about n_atoms that holds the composition.

    If it cannot, within the tolerance, a `ValueError` says which is the smallest that can.
    """
    primitive = cathode.lattice.atoms(primitive=True)
    if repeats is None:
        n_cells = _n_cells(cathode, li_vacancy, primitive, n_atoms, tolerance)
        matrix = compact_matrix(np.asarray(primitive.cell), n_cells)
        rows = "; ".join(" ".join(map(str, row)) for row in matrix.tolist())
        return CathodeSupercell(_sorted(make_supercell(primitive, matrix)), f"primitive x ({rows})")
    numbers = (repeats,) * 3 if isinstance(repeats, int) else tuple(repeats)
    if len(numbers) != 3 or any(n != int(n) or n < 1 for n in numbers):
        words = "x".join(map(str, numbers))
        raise ValueError(f"supercell {words}: the repeats are three whole numbers of at least 1")
    a, b, c = numbers
    atoms = cathode.lattice.atoms(primitive=False).repeat((a, b, c))
    name = f"{a}x{b}x{c}"
    if _off(cathode, li_vacancy, atoms, 1) > tolerance:
        raise ValueError(_cannot(cathode, li_vacancy, primitive, tolerance, f"the supercell {name}", atoms))
    return CathodeSupercell(_sorted(atoms), name)


def _n_cells(cathode: Cathode, li_vacancy: float, primitive: Atoms, n_atoms: int, tolerance: float) -> int:
    """The exact number of primitive cells nearest to the size asked for, else the nearest within the tolerance."""
    size = len(primitive)
    if n_atoms > _LARGEST * size:
        raise ValueError(
            f"n_atoms {n_atoms}: of {cathode.formula} at most {_LARGEST * size}; beyond, give the supercell"
        )
    low = max(1, int(n_atoms / _WINDOW / size))
    high = max(1, min(_LARGEST, int(n_atoms * _WINDOW / size)))
    errors = {n: _off(cathode, li_vacancy, primitive, n) for n in range(low, high + 1)}
    fitting = [n for n, off in errors.items() if off <= tolerance]
    if not fitting:
        what = f"a supercell of {n_atoms / _WINDOW:.0f} to {n_atoms * _WINDOW:.0f} atoms"
        raise ValueError(_cannot(cathode, li_vacancy, primitive, tolerance, what, None))
    return min(fitting, key=lambda n: (errors[n] > _EXACT, abs(n * size - n_atoms), n))


def _off(cathode: Cathode, li_vacancy: float, atoms: Atoms, n: int) -> float:
    tags = atoms.get_tags()
    metals, lithium = n * int((tags == METAL).sum()), n * int((tags == LITHIUM).sum())
    return deviation(cathode.fractions, li_vacancy, metals, lithium)


def _cannot(
    cathode: Cathode, li_vacancy: float, primitive: Atoms, tolerance: float, what: str, atoms: Atoms | None
) -> str:
    asked = cathode.formula + (f" with {li_vacancy:g} of its Li removed" if li_vacancy else "")
    text = f"{what} cannot hold {asked} within {tolerance:g}"
    if atoms is not None and cathode.fractions:
        n = int((atoms.get_tags() == METAL).sum())
        counts = whole_numbers(cathode.fractions, n)
        text += f" ({len(atoms)} atoms, {n} metal sites: nearest is {', '.join(f'{m} {k}' for m, k in counts.items())})"
    for cells in range(1, _MOST_CELLS + 1):
        if _off(cathode, li_vacancy, primitive, cells) <= tolerance:
            size = cells * len(primitive)
            return f"{text}; the smallest that can has {size} atoms ({cells} primitive cells): n_atoms={size}"
    return f"{text}; none of up to {_MOST_CELLS} primitive cells can"


def compact_matrix(cell: npt.ArrayLike, n_cells: int) -> Ints:
    """The supercell of n primitive cells whose periodic images are furthest apart.

    From the (3, 3) primitive vectors, Å, as rows; (3, 3) integers: the supercell's vectors, Minkowski reduced and
    right-handed, in units of the primitive ones.
    """
    vectors = np.asarray(cell, dtype=float)
    points, lengths = _lattice_points(vectors, n_cells)
    best = (0.0, 0.0)
    chosen = np.eye(3, dtype=np.int64)
    for matrix in _hermite(n_cells):
        inverse = np.linalg.inv(matrix)
        nearer = int(np.searchsorted(lengths, best[0] - 1e-6))
        if _on_lattice(points[:nearer], inverse).any():
            continue  # some image is nearer than in the best so far
        nearest = lengths[_on_lattice(points, inverse)][:6:2]  # each vector is there with its opposite
        total = float(nearest.sum()) + float(lengths[-1]) * (3 - len(nearest))
        score = (round(float(nearest[0]), 6), -round(total, 6))
        if score > best:
            best, chosen = score, matrix
    _, operation = minkowski_reduce(chosen @ vectors)
    reduced = np.asarray(np.rint(operation @ chosen), dtype=np.int64)
    return reduced if np.linalg.det(reduced) > 0 else -reduced


def _lattice_points(vectors: Floats, n_cells: int) -> tuple[Ints, Floats]:
    """Lattice vectors except 0 by length, as far as the images of any supercell that could be chosen."""
    primitive, operation = minkowski_reduce(vectors)
    longest = float(np.linalg.norm(primitive, axis=1).max())
    volume = abs(float(np.linalg.det(vectors)))
    # no lattice of volume V has a shortest vector beyond 1.123 V^(1/3), that of the densest packing of spheres
    reach = 1.3 * max((n_cells * volume) ** (1 / 3), longest)
    heights = volume / np.linalg.norm(np.cross(primitive[[1, 2, 0]], primitive[[2, 0, 1]]), axis=1)
    grids = [np.arange(-k, k + 1) for k in np.ceil(reach / heights).astype(int)]
    points = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[np.any(points != 0, axis=1)]
    lengths = np.linalg.norm(points @ primitive, axis=1)
    order = np.argsort(lengths, kind="stable")
    order = order[: np.searchsorted(lengths[order], reach)]
    return np.asarray(points[order] @ np.rint(operation), dtype=np.int64), lengths[order]


def _on_lattice(points: Ints, inverse: Floats) -> Bools:
    """Mask of the points that are whole numbers of the supercell's vectors."""
    inside = points @ inverse
    return np.asarray((np.abs(inside - np.rint(inside)) < 1e-6).all(axis=1))


def _hermite(n: int) -> Iterator[Ints]:
    """All sublattices of index n, as Hermite normal forms."""
    for a in range(1, n + 1):
        if n % a:
            continue
        for c in range(1, n // a + 1):
            if (n // a) % c:
                continue
            f = n // a // c
            for b in range(c):
                for d in range(f):
                    for e in range(f):
                        yield np.array([[a, b, d], [0, c, e], [0, 0, f]], dtype=np.int64)


def _sorted(atoms: Atoms) -> Atoms:
    """Atoms of a kind together, Li first, oxygen last, by site."""
    symbols = atoms.get_chemical_symbols()
    rank = {symbol: k for k, symbol in enumerate(["Li", *sorted(set(symbols) - {"Li", "O"}), "O"])}
    order = sorted(range(len(atoms)), key=lambda i: (rank[symbols[i]], i))
    chosen: Atoms = atoms[order]
    return chosen
