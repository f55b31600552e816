"""Walk one structure downhill, by a limited-memory BFGS with a preconditioner that knows who is bonded to whom.

Positions and cell move together. In each step r -> (r + u) exp(e) and cell -> cell exp(e), with u the displacements and
e a symmetric strain; the energy falls by the forces on u and by minus volume times stress on e.

The inverse Hessian starts from springs between neighbours (Packwood et al., J. Chem. Phys. 144, 164109, 2016), whose
strength falls off with the distance, and from one elastic modulus for the strain.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, expm

from cgcnn_ase.core.arrays import Bools, Floats, Ints
from cgcnn_ase.graphs.crystal_graph import Geometry

# steps of which the curvature is kept
MEMORY = 30
# longest step of an atom, Å, and largest of a strain
MAX_STEP, MAX_STRAIN = 0.2, 0.04
# stiffness of the spring of a nearest neighbour, eV/Å^2, how fast it falls off, and what every atom has besides
SPRING, DECAY, STABILIZER = 1.0, 3.0, 0.2
# atoms up to which all springs are solved for, and neighbours of an atom that together hold it as one spring, beyond
MAX_DENSE, USUAL = 1500, 8
# elastic modulus, eV/Å^3 (about 130 GPa)
MODULUS = 0.8
# an energy that has risen by more than this is taken back, eV per atom
RISE = 1e-4
# part of a step that is tried next at most after one that was taken back
SHORTER = 0.5


class Point(NamedTuple):
    """A structure with its energy and what pulls on it."""

    structure: Geometry
    energy: float  # eV
    forces: Floats  # (N, 3) eV/Å
    stress: Floats  # (3, 3) eV/Å^3


class _Pull(NamedTuple):
    """Minus the derivative of the energy by displacements and strain."""

    forces: Floats  # (N, 3) eV/Å
    virial: Floats  # (3, 3) eV

    def dot(self, step: "_Pull") -> float:
        """The work along a step."""
        return float((self.forces * step.forces).sum() + (self.virial * step.virial).sum())

    def plus(self, other: "_Pull", factor: float) -> "_Pull":
        """Sum of one and so many times another."""
        return _Pull(self.forces + factor * other.forces, self.virial + factor * other.virial)


class Minimizer:
    """The state of one relaxation: hand in energy, forces and stress, get the next structure.

    Parameters
    ----------
    with_cell
        Relax the cell, too.
    fixed
        (N,) atoms that stay where they are, in scaled positions where the cell moves.
    """

    def __init__(self, *, with_cell: bool, fixed: Bools) -> None:
        self.with_cell, self.fixed = with_cell, fixed
        self._history: deque[tuple[_Pull, _Pull]] = deque(maxlen=MEMORY)
        self._last: tuple[Point, _Pull, _Pull] | None = None  # a point, the pull on it and the step from it
        self._springs: Callable[[Floats], Floats] | None = None

    def largest_force(self, point: Point) -> float:
        """Largest force on an atom or, with the cell, row of virial / N, eV/Å: below fmax the structure is relaxed."""
        pull = self._pull(point)
        rows = [pull.forces, pull.virial / len(pull.forces)] if self.with_cell else [pull.forces]
        return max(float(np.sqrt((each**2).sum(axis=1).max(initial=0.0))) for each in rows)

    def next(self, point: Point, pairs: tuple[Ints, Ints, Floats]) -> Geometry:
        """Return where to look next; ``pairs`` are centres, neighbours and distances (Å) of the structure's graph."""
        pull = self._pull(point)
        if self._last is not None:
            before, old_pull, step = self._last
            change = old_pull.plus(pull, -1.0)
            if change.dot(step) > 1e-10:
                self._history.append((step, change))
            if point.energy > before.energy + RISE * len(pull.forces):
                # back, and on with the curvature that was met
                return self._step(before, old_pull, SHORTER * _length(step))
        if self._springs is None:
            self._springs = _springs(len(pull.forces), *pairs)
        return self._step(point, pull, MAX_STEP)

    def _step(self, point: Point, pull: _Pull, longest: float) -> Geometry:
        """Go from a point, no atom farther than ``longest``, Å."""
        direction = self._direction(pull, abs(float(np.linalg.det(point.structure.cell))))
        strain = float(np.abs(direction.virial).max())
        factor = min(1.0, longest / max(_length(direction), 1e-30), MAX_STRAIN / max(strain, 1e-30))
        step = _Pull(factor * direction.forces, factor * direction.virial)
        self._last = (point, pull, step)
        return _moved(point.structure, step)

    def _pull(self, point: Point) -> _Pull:
        forces = np.where(self.fixed[:, None], 0.0, point.forces)
        if not self.with_cell:
            return _Pull(forces, np.zeros((3, 3)))
        return _Pull(forces, -abs(float(np.linalg.det(point.structure.cell))) * point.stress)

    def _direction(self, pull: _Pull, volume: float) -> _Pull:
        """Inverse Hessian times pull, by the two loops of Nocedal (1980)."""
        q, factors = pull, []
        for step, change in reversed(self._history):
            rho = 1.0 / change.dot(step)
            factor = rho * step.dot(q)
            factors.append((rho, factor))
            q = q.plus(change, -factor)
        r = self._preconditioned(q, volume)
        for (step, change), (rho, factor) in zip(self._history, reversed(factors), strict=True):
            r = r.plus(step, factor - rho * change.dot(r))
        if pull.dot(r) <= 0.0:  # uphill: what was learned does not hold here
            self._history.clear()
            return self._preconditioned(pull, volume)
        return r

    def _preconditioned(self, pull: _Pull, volume: float) -> _Pull:
        assert self._springs is not None
        displacements = self._springs(pull.forces)
        displacements[self.fixed] = 0.0
        return _Pull(displacements, pull.virial / (MODULUS * volume) if self.with_cell else pull.virial)


def _length(step: _Pull) -> float:
    """Longest displacement of an atom, Å; 2 Å times the strain counts as one."""
    longest = float(np.sqrt((step.forces**2).sum(axis=1).max(initial=0.0)))
    return max(longest, 2.0 * float(np.abs(step.virial).max()))


def spring_matrix(n_atoms: int, centers: Ints, neighbors: Ints, distances: Floats) -> Floats:
    """Second derivatives of the energy of the springs between neighbours by the positions, (N, N) eV/Å^2.

    They are the same for each direction, and positive definite.
    """
    matrix = np.zeros((n_atoms, n_atoms))
    if len(distances):
        strength = SPRING * np.exp(-DECAY * (distances / np.median(_nearest(n_atoms, centers, distances)) - 1.0))
        np.subtract.at(matrix, (centers, neighbors), strength)
        np.fill_diagonal(matrix, 0.0)
        matrix = 0.5 * (matrix + matrix.T)
    np.fill_diagonal(matrix, STABILIZER - matrix.sum(axis=1))
    return matrix


def _springs(n_atoms: int, centers: Ints, neighbors: Ints, distances: Floats) -> Callable[[Floats], Floats]:
    """Return the displacements that forces, (N, 3), pull out of the springs, which are the same for each direction."""
    if n_atoms > MAX_DENSE:
        stiffness = STABILIZER + SPRING * np.bincount(centers, np.ones(len(centers)), n_atoms)[:, None] / USUAL
        return lambda forces: forces / stiffness
    factor = cho_factor(spring_matrix(n_atoms, centers, neighbors, distances), check_finite=False)
    return lambda forces: cho_solve(factor, forces, check_finite=False)


def _nearest(n_atoms: int, centers: Ints, distances: Floats) -> Floats:
    nearest = np.full(n_atoms, np.inf)
    np.minimum.at(nearest, centers, distances)
    finite: Floats = nearest[np.isfinite(nearest)]
    return finite


def _moved(structure: Geometry, step: _Pull) -> Geometry:
    """The structure after a step."""
    positions = structure.positions + step.forces
    if not step.virial.any():
        return structure._replace(positions=positions)
    strain = expm(step.virial)
    return structure._replace(positions=positions @ strain, cell=structure.cell @ strain)
