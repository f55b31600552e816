"""Pairs of atoms within a cutoff that are searched once and used again while atoms and cell move a little."""

import numpy as np
import torch

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import check_numbers
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.graphs.geometry import Geometry
from cgcnn_ase.graphs.neighbors import search
from cgcnn_ase.structures.validation import completed_cell

# atoms move and the cell changes by about this much together before pairs are searched again, Å
SKIN = 0.5


class NeighborList:
    """The graphs of one structure as it moves.

    Pairs up to ``cutoff + skin`` are kept with the lattice vectors between them. With the deformation F of the cell
    since the search, its smallest singular value s, and the largest displacement u of an atom beyond that deformation,
    no pair that was left out can be nearer than s (cutoff + skin) - 2 u: as long as that is the cutoff or more, the
    pairs are complete.

    Parameters
    ----------
    cutoff, skin
        Å.
    """

    def __init__(self, cutoff: float, skin: float = SKIN) -> None:
        self.cutoff, self.skin = cutoff, skin
        self.n_searches = 0
        self._last: Geometry | None = None

    def graph(self, structure: Geometry) -> CrystalGraph:
        """The graph of all pairs within the cutoff, its vectors in double precision.

        Errors are those of :func:`cgcnn_ase.graphs.builder.build_graph`.
        """
        if not self._complete(structure):
            self._search(structure)
        vectors = structure.positions.take(self._neighbors, axis=0) - structure.positions.take(self._centers, axis=0)
        vectors += self._images @ completed_cell(structure.cell, structure.pbc)
        squares = np.einsum("ec,ec->e", vectors, vectors)
        near = np.flatnonzero(squares < self.cutoff**2)
        centers, n_atoms = self._centers[near], len(structure.numbers)
        periodic = bool(structure.pbc.all())
        return CrystalGraph(
            numbers=torch.from_numpy(self._numbers),
            centers=torch.from_numpy(centers),
            neighbors=torch.from_numpy(self._neighbors[near]),
            distances=torch.from_numpy(np.sqrt(squares[near]).astype(np.float32)),
            angular=torch.zeros(len(near), 0),
            multiplicity=torch.ones(n_atoms),
            n_nodes=torch.tensor([n_atoms]),
            n_edges=torch.tensor([len(near)]),
            vectors=torch.from_numpy(vectors.take(near, axis=0)),
            volumes=torch.tensor([abs(float(np.linalg.det(structure.cell))) if periodic else np.nan]),
        )

    def _complete(self, new: Geometry) -> bool:
        """Return whether the pairs of the last search hold all that are within the cutoff now."""
        old = self._last
        if old is None or len(old.numbers) != len(new.numbers):
            return False
        if (old.numbers != new.numbers).any() or (old.pbc != new.pbc).any():
            return False
        before, after = completed_cell(old.cell, old.pbc), completed_cell(new.cell, new.pbc)
        deformation = np.linalg.solve(before, after)
        moved = new.positions - old.positions @ deformation
        largest = float(np.sqrt(np.einsum("ic,ic->i", moved, moved).max(initial=0.0)))
        least = float(np.linalg.svd(deformation, compute_uv=False).min())
        return bool(least * (self.cutoff + self.skin) - 2.0 * largest >= self.cutoff)

    def _search(self, structure: Geometry) -> None:
        if not len(structure.numbers):
            raise ValueError("structure has no atoms")
        positions, cell = np.array(structure.positions, dtype=float), np.array(structure.cell, dtype=float)
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise ValueError("a position or the cell is not finite")
        numbers: Ints = np.array(check_numbers(structure.numbers))
        bonds = search(positions, cell, structure.pbc, self.cutoff + self.skin)
        apart: Floats = bonds.vectors - (positions[bonds.neighbors] - positions[bonds.centers])
        self._images: Floats = np.rint(np.linalg.solve(completed_cell(cell, structure.pbc).T, apart.T).T)
        self._centers, self._neighbors, self._numbers = bonds.centers, bonds.neighbors, numbers
        self._last = Geometry(numbers, positions, cell, np.array(structure.pbc))
        self.n_searches += 1
