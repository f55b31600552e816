r"""Coordinates in which a structure is about equally stiff in all directions, as one length scale must do for all.

Positions r and cell h of a trajectory are written with the deformation F from its first cell, h = h_0 F, and the
positions s that the atoms have before it, r = s F. With springs K between the atoms (those of
:mod:`cgcnn_ase.potential.minimizer`), K = L L^T, the coordinates are

.. math:: u = (L^T s, \; \sqrt{M V_0}\,(F - 1))

so that |u|^2 / 2 is about the energy of a displacement, eV.
"""

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.graphs.geometry import Geometry
from cgcnn_ase.learning.surface import Pairs
from cgcnn_ase.potential.minimizer import MODULUS, spring_matrix


class Coordinates:
    """Coordinates of all structures of one trajectory: N atoms of the same elements in the same order.

    Parameters
    ----------
    start
        The structure that deformations are counted from.
    pairs
        Its neighbours.
    with_cell
        Whether the cell moves, too: then there are 3 N + 9 coordinates, else 3 N.
    """

    def __init__(self, start: Geometry, pairs: Pairs, *, with_cell: bool) -> None:
        self.start, self.with_cell = start, with_cell
        self._lower: Floats = np.asarray(cholesky(spring_matrix(len(start.numbers), *pairs), lower=True), dtype=float)
        volume = abs(float(np.linalg.det(start.cell))) if with_cell else 1.0
        self._of_cell = float(np.sqrt(MODULUS * volume))

    @property
    def n(self) -> int:
        """Number of coordinates."""
        return 3 * len(self.start.numbers) + (9 if self.with_cell else 0)

    def _deformation(self, structure: Geometry) -> Floats:
        if not self.with_cell:
            return np.eye(3)
        deformation: Floats = np.asarray(np.linalg.solve(self.start.cell, structure.cell), dtype=float)
        return deformation

    def of(self, structure: Geometry) -> Floats:
        """Coordinates of a structure, (n,) √eV."""
        deformation = self._deformation(structure)
        before = np.asarray(np.linalg.solve(deformation.T, structure.positions.T).T, dtype=float)
        u: Floats = (self._lower.T @ before).ravel()
        return np.concatenate([u, (self._of_cell * (deformation - np.eye(3))).ravel()]) if self.with_cell else u

    def gradient(self, structure: Geometry, forces: Floats, stress: Floats) -> Floats:
        """Derivatives of the energy by the coordinates, (n,) √eV, from forces (eV/Å) and stress (eV/Å^3)."""
        deformation = self._deformation(structure)
        g = solve_triangular(self._lower, -forces @ deformation.T, lower=True).ravel()
        if not self.with_cell:
            return np.asarray(g)
        volume = abs(float(np.linalg.det(structure.cell)))
        return np.concatenate([g, (volume / self._of_cell * np.linalg.solve(deformation.T, stress)).ravel()])

    def forces_and_stress(self, structure: Geometry, gradient: Floats) -> tuple[Floats, Floats]:
        """Forces (N, 3) and stress (3, 3) that belong to derivatives by the coordinates; the inverse of the above."""
        n = len(self.start.numbers)
        deformation = self._deformation(structure)
        by_position = self._lower @ gradient[: 3 * n].reshape(n, 3)
        forces = -np.asarray(np.linalg.solve(deformation, by_position.T).T, dtype=float)
        if not self.with_cell:
            return forces, np.zeros((3, 3))
        volume = abs(float(np.linalg.det(structure.cell)))
        stress: Floats = self._of_cell / volume * deformation.T @ gradient[3 * n :].reshape(3, 3)
        return forces, 0.5 * (stress + stress.T)

    def force_variances(self, prior: float, explained: Floats) -> Floats:
        """Variance of each component of the forces, (N, 3), from that of the derivatives.

        Parameters
        ----------
        prior
            Variance of every derivative before any label.
        explained
            (R, n): the labels take ``explained.T @ explained`` off their covariance.
        """
        n = len(self.start.numbers)
        mapped = np.einsum("ij,rjc->ric", self._lower, explained[:, : 3 * n].reshape(-1, n, 3))
        before = prior * (self._lower**2).sum(axis=1)
        variances: Floats = np.clip(before[:, None] - (mapped**2).sum(axis=0), 0.0, None)
        return variances
