"""Compact supercells: of so many primitive cells, the one whose periodic images are furthest apart."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from ase.geometry import minkowski_reduce

from cgcnn_ase.core.arrays import Bools, Floats, Ints

# of more primitive cells there are too many shapes to try
MOST_CELLS = 128


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
