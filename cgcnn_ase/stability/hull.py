"""The lower convex hull of formation energies of one chemical system."""

from dataclasses import dataclass

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints

# parts of a decomposition below this are none
_SMALLEST = 1e-6
# volume of a facet without extent, on which no composition lies
_FLAT = 1e-12
# the energy component of a normal that points down
_DOWN = -1e-10


@dataclass(frozen=True, eq=False)
class Hull:
    """Planes below which nothing lies: the hull at a composition is the highest of them there.

    The first phases are the elements themselves, at 0.
    """

    fractions: Floats  # (m, d) atomic fractions of the phases, whose columns are the elements of the system
    energies: Floats  # (m,) formation energies, eV/atom
    planes: Floats  # (k, d): energy = fractions @ plane
    corners: Ints  # (k, d) phases on each plane

    @classmethod
    def of(cls, fractions: Floats, energies: Floats) -> "Hull":
        """The hull of phases with d elements, (m, d) fractions and (m,) eV/atom; the elements are added to them."""
        d = fractions.shape[1]
        from scipy.spatial import ConvexHull  # slow to import

        x = np.vstack([np.eye(d), fractions])
        e = np.concatenate([np.zeros(d), energies])
        inside = np.flatnonzero(e <= 0.0)  # what lies above the elements is on no hull
        if d == 1 or len(inside) == d:
            return cls(x, e, np.zeros((1, d)), np.arange(d)[None])
        # a point above all others: the rest may lie in a plane
        top = np.append(np.full(d - 1, 1.0 / d), 1.0 - 2.0 * e.min())
        points = np.vstack([np.column_stack([x[inside, 1:], e[inside]]), top])
        convex = ConvexHull(points)
        facets = convex.simplices[(convex.equations[:, -2] < _DOWN) & ~(convex.simplices == len(inside)).any(axis=1)]
        corners = inside[facets]
        corners = corners[np.abs(np.linalg.det(x[corners])) > _FLAT]
        return cls(x, e, np.linalg.solve(x[corners], e[corners][..., None])[..., 0], corners)

    def energy(self, fractions: Floats) -> tuple[Floats, Ints]:
        """Energy of the hull at compositions (n, d), (n,) eV/atom, and the plane that it lies on."""
        heights = fractions @ self.planes.T
        best = heights.argmax(axis=1)
        return heights[np.arange(len(best)), best], best

    def decomposition(self, fractions: Floats, plane: int) -> list[tuple[int, float]]:
        """Phases that a composition (d,) on a plane falls apart into, and the atoms in each of 1."""
        parts = np.linalg.solve(self.fractions[self.corners[plane]].T, fractions)
        return [(int(k), float(part)) for k, part in zip(self.corners[plane], parts, strict=True) if part > _SMALLEST]
