"""Walk downhill on a corrected surface, to a minimum or to the edge of what is known: there the reference is asked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools
from cgcnn_ase.graphs.geometry import Geometry
from cgcnn_ase.learning.corrected import CorrectedPoint, CorrectedSurface
from cgcnn_ase.learning.labels import ReferenceLabel
from cgcnn_ase.learning.surface import Pairs
from cgcnn_ase.potential.minimizer import Minimizer, Point

# part of fmax below which a minimum of the surface is looked for, and steps at most
_BELOW, _MAX_STEPS = 0.3, 100
# domain scores beyond that of the labels by this factor are outside
_WIDER = 1.25
# a walk ends before atoms are nearer than this, Å, or the volume has changed by this factor
_SHORTEST, _MAX_VOLUME = 0.5, 1.3
# a request nearer than this to a label is none, Å; a step from the lowest is made instead, of so many Å
_NEAR, _STEP = 2e-3, 0.05


class UncertaintyLimits(NamedTuple):
    """Largest std that a surface is trusted with."""

    max_force_std: float  # eV/Å
    max_energy_std: float | None = None  # eV/atom

    def excess(self, estimate: CorrectedPoint) -> str:
        """Why the reference must be asked, in words; empty where the surface knows."""
        worst = int(np.argmax(estimate.forces_std))
        if estimate.forces_std[worst] > self.max_force_std:
            return f"std of the force on atom {worst}: {estimate.forces_std[worst]:.3g} eV/Å"
        per_atom = estimate.energy_std / len(estimate.forces_std)
        if self.max_energy_std is not None and per_atom > self.max_energy_std:
            return f"std of the energy: {per_atom:.3g} eV/atom"
        if estimate.domain_excess > _WIDER:
            return f"out of domain: {estimate.domain_reason}"
        return ""


class ReferenceRequest(NamedTuple):
    """A structure that the reference should be asked about."""

    structure: Geometry
    estimate: CorrectedPoint | None  # None where nothing is known
    reason: str
    steps: int  # walked on the surface
    path: list[CorrectedPoint]


def largest_force(label: ReferenceLabel, *, with_cell: bool, fixed: Bools) -> float:
    """Largest force on an atom or, with the cell, row of virial / N, of a label, eV/Å."""
    return Minimizer(with_cell=with_cell, fixed=fixed).largest_force(_point_of(label))


def _point_of(label: ReferenceLabel) -> Point:
    stress = np.zeros((3, 3)) if label.stress is None else label.stress
    return Point(label.structure, label.energy, label.forces, stress)


def propose(
    surface: CorrectedSurface,
    start: Geometry,
    labels: Sequence[ReferenceLabel],
    limits: UncertaintyLimits,
    *,
    fmax: float,
    fixed: Bools,
    with_cell: bool,
) -> ReferenceRequest:
    """Walk downhill from the lowest label, or from the start where there is none."""
    lowest = min(labels, key=lambda label: label.energy) if labels else None
    structure = start if lowest is None else lowest.structure
    minimizer = Minimizer(with_cell=with_cell, fixed=fixed)
    path: list[CorrectedPoint] = []
    first = structure
    for step in range(_MAX_STEPS + 1):
        estimate = surface(structure)
        if path and estimate.pairs[2].min(initial=np.inf) < _SHORTEST:  # atoms would be upon each other
            structure, estimate, reason = path[-1].structure, path[-1], "end of the walk"
            break
        path.append(estimate)
        if (step > 0 or lowest is None) and (reason := limits.excess(estimate)):
            break
        point = Point(structure, estimate.energy, estimate.forces, estimate.stress)
        if minimizer.largest_force(point) < _BELOW * fmax:
            reason = "minimum"
            break
        following = minimizer.next(point, estimate.pairs)
        if step == _MAX_STEPS or _volume_change(following, first) > _MAX_VOLUME:
            reason = "end of the walk"
            break
        structure = following
    if lowest is not None and any(_distance(structure, label.structure) < _NEAR for label in labels):
        structure = _off(_point_of(lowest), fixed, with_cell=with_cell, pairs=surface(lowest.structure).pairs)
        estimate, reason = surface(structure), "a step along the forces"
    return ReferenceRequest(structure, estimate, reason, len(path) - 1, path)


def _volume_change(structure: Geometry, first: Geometry) -> float:
    """Factor, of at least 1, by which the volumes differ; 1 where not periodic in all directions."""
    if not structure.pbc.all():
        return 1.0
    change = abs(float(np.linalg.det(structure.cell) / np.linalg.det(first.cell)))
    return max(change, 1.0 / max(change, 1e-12))


def _distance(a: Geometry, b: Geometry) -> float:
    return float(max(np.abs(a.positions - b.positions).max(), np.abs(a.cell - b.cell).max()))


def _off(point: Point, fixed: Bools, *, with_cell: bool, pairs: Pairs) -> Geometry:
    """A short step along the springs' answer to the forces."""
    structure = Minimizer(with_cell=with_cell, fixed=fixed).next(point, pairs)
    moved = structure.positions - point.structure.positions
    length = float(np.linalg.norm(moved, axis=1).max())
    factor = min(1.0, _STEP / max(length, 1e-12))
    cell = point.structure.cell + factor * (structure.cell - point.structure.cell)
    return structure._replace(positions=point.structure.positions + factor * moved, cell=cell)
