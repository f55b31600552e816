"""One relaxation that asks and is told: it walks downhill to the edge of what is known, where the reference is asked.

All that decides is the start, the settings, the labels of others and its own, in their order. So a session that was
interrupted is made again, told its labels, and goes on as it would have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats
from cgcnn_ase.graphs.crystal_graph import Geometry, geometry
from cgcnn_ase.learning.corrected import CorrectedPoint, CorrectedSurface
from cgcnn_ase.learning.reference import ReferenceLabel, check_elements
from cgcnn_ase.learning.shared import SharedMemory
from cgcnn_ase.learning.surface import Pairs
from cgcnn_ase.potential.minimizer import Minimizer, Point
from cgcnn_ase.potential.relax import fixed_atoms
from cgcnn_ase.structures.validation import validation_error

if TYPE_CHECKING:
    from ase import Atoms

# part of fmax below which a minimum of the surface is looked for, and steps at most
_BELOW, _MAX_STEPS = 0.3, 100
# domain scores beyond that of the labels by this factor are outside
_WIDER = 1.25
# a walk ends before atoms are nearer than this, Å, or the volume has changed by this factor
_SHORTEST, _MAX_VOLUME = 0.5, 1.3
# a request nearer than this to a label is none, Å; a step from the lowest is made instead, of so many Å
_NEAR, _STEP = 2e-3, 0.05
# walks are allowed so long a way in any case, Å; an error of a force over the largest std that shortens the next
_MIN_RADIUS, _OFF = 0.02, 3.0


# std of forces that no label makes smaller, in units of the noise of the reference
_OF_NOISE = 3.0


class UncertaintyLimits(NamedTuple):
    """Largest std that a surface is trusted with."""

    max_force_std: float  # eV/Å
    max_energy_std: float | None = None  # eV/atom

    def beside_noise(self, force_noise: float) -> "UncertaintyLimits":
        """The limits where forces of the reference are uncertain by so much, eV/Å, however often it is asked."""
        return self._replace(max_force_std=max(self.max_force_std, _OF_NOISE * force_noise))

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
    """Walk downhill from the lowest label, or from the start where there is none, no farther than is trusted."""
    lowest = min(labels, key=lambda label: label.energy) if labels else None
    structure = start if lowest is None else lowest.structure
    minimizer = Minimizer(with_cell=with_cell, fixed=fixed)
    path: list[CorrectedPoint] = []
    first, radius = structure, trust_radius(labels)
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
        if (distance := _distance(structure, first)) > radius:
            structure = _between(first, structure, radius / distance)
            estimate, reason = surface(structure), "end of the trust radius"
            path.append(estimate)
            break
    longest = 2.0 * min(_STEP, radius)
    while lowest is not None and longest > _NEAR and any(_distance(structure, e.structure) < _NEAR for e in labels):
        longest *= 0.5  # shorter where that has been asked, too
        pairs = surface(lowest.structure).pairs
        structure = _off(_point_of(lowest), fixed, with_cell=with_cell, pairs=pairs, longest=longest)
        estimate, reason = surface(structure), "a step along the forces"
    return ReferenceRequest(structure, estimate, reason, len(path) - 1, path)


def trust_radius(labels: Sequence[ReferenceLabel]) -> float:
    """Longest way of a walk from the lowest label, Å, as the answers have told in their order.

    An answer is worse than foretold where the energy is higher than the lowest before, and a force is off by more than
    three times the largest std, or the answer before was higher, too. Then half the way of its walk is trusted; after
    a lower one twice as much as before. Without a bad answer there is no limit.
    """
    radius, n_higher = np.inf, 0
    for k in range(1, len(labels)):
        label, before = labels[k], min(labels[:k], key=lambda each: each.energy)
        n_higher = n_higher + 1 if label.energy > before.energy else 0
        is_off = label.force_std is not None and (label.force_error or 0.0) > _OFF * label.force_std
        if n_higher > 1 or (n_higher == 1 and is_off):
            radius = max(_MIN_RADIUS, 0.5 * min(radius, _distance(label.structure, before.structure)))
        elif n_higher == 0:
            radius *= 2.0
    return radius


def _volume_change(structure: Geometry, first: Geometry) -> float:
    """Factor, of at least 1, by which the volumes differ; 1 where not periodic in all directions."""
    if not structure.pbc.all():
        return 1.0
    change = abs(float(np.linalg.det(structure.cell) / np.linalg.det(first.cell)))
    return max(change, 1.0 / max(change, 1e-12))


def _distance(a: Geometry, b: Geometry) -> float:
    return float(max(np.abs(a.positions - b.positions).max(), np.abs(a.cell - b.cell).max()))


def _between(a: Geometry, b: Geometry, part: float) -> Geometry:
    """The structure at so large a part of the way from one to another."""
    return a._replace(
        positions=a.positions + part * (b.positions - a.positions), cell=a.cell + part * (b.cell - a.cell)
    )


def _off(point: Point, fixed: Bools, *, with_cell: bool, pairs: Pairs, longest: float) -> Geometry:
    """A short step along the springs' answer to the forces."""
    structure = Minimizer(with_cell=with_cell, fixed=fixed).next(point, pairs)
    length = float(np.linalg.norm(structure.positions - point.structure.positions, axis=1).max())
    return _between(point.structure, structure, min(1.0, longest / max(length, 1e-12)))


MAX_FORCE_STD = 0.2
# std of forces that does no harm, in units of the largest force of the lowest label: the minimum is far
_OF_FORCE = 2.0
# labels without progress after which forces that are noise, or any, end a relaxation; what counts as progress: a
# largest force smaller by this factor, or an energy lower by so much, eV/atom
_PATIENCE, _LONG_PATIENCE, _SMALLER, _LOWER = 5, 20, 0.9, 1e-3


@dataclass(frozen=True, kw_only=True)
class LearnedRelaxOptions:
    """How a structure is relaxed with a reference.

    ``max_force_std`` (eV/Å) and ``max_energy_std`` (eV/atom) are where the surface is left and the reference asked; as
    long as twice the largest force of the lowest label is more than ``max_force_std``, it stands in its place.
    ``max_calls`` is how often one structure may ask.
    """

    fmax: float = 0.05
    max_force_std: float = MAX_FORCE_STD
    max_energy_std: float | None = None
    fixed_cell: bool = False
    max_calls: int = 100

    def __post_init__(self) -> None:
        for name in ("fmax", "max_force_std", "max_energy_std"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, not {value:g}")
        if self.max_calls < 1:
            raise ValueError(f"max_calls must be 1 or more, not {self.max_calls}")


class LearnedRelaxation:
    """One structure on its way to a minimum that the reference has confirmed.

    Parameters
    ----------
    start
        The structure; atoms of an ASE ``FixAtoms`` stay.
    memory
        The potential, if any; sessions that share one, share what was computed from it.
    options
        See :class:`LearnedRelaxOptions`.
    trajectory
        Name of the structure in its labels.
    others
        Labels of other structures.

    Raises
    ------
    ValueError
        If the structure cannot be used, or the labels of others have none of its elements.

    Examples
    --------
    >>> session = LearnedRelaxation(atoms, SharedMemory(None), LearnedRelaxOptions())  # doctest: +SKIP
    >>> while (request := session.ask()) is not None:  # doctest: +SKIP
    ...     session.tell(*label_by_reference(request.structure))
    """

    def __init__(
        self,
        start: "Atoms",
        memory: SharedMemory,
        options: LearnedRelaxOptions,
        *,
        trajectory: str = "0",
        others: Sequence[ReferenceLabel] = (),
    ) -> None:
        if (problem := validation_error(start)) is not None:
            raise ValueError(problem)
        check_elements(start.numbers.tolist(), others)
        self.start, self.options, self.trajectory = start.copy(), options, trajectory
        self.start.calc = None
        self.structure = geometry(self.start)
        self.with_cell = bool(start.pbc.all()) and not options.fixed_cell
        self.fixed: Bools = fixed_atoms(start)
        self.labels: list[ReferenceLabel] = []
        self.memory, self._others = memory, list(others)
        self._asked: ReferenceRequest | None = None
        #: std of a component of the reference's forces, eV/Å, as the labels contradict each other; 0 where they do not
        self.force_noise = 0.0

    @property
    def lowest(self) -> ReferenceLabel | None:
        """The label with the lowest energy."""
        return min(self.labels, key=lambda label: label.energy) if self.labels else None

    def largest_force(self, label: ReferenceLabel) -> float:
        """Of a label, eV/Å, as ``fmax`` counts it."""
        return largest_force(label, with_cell=self.with_cell, fixed=self.fixed)

    @property
    def converged(self) -> ReferenceLabel | None:
        """The label of a minimum, by the reference's labels forces."""
        done = [label for label in self.labels if self.largest_force(label) <= self.options.fmax]
        return min(done, key=lambda label: label.energy) if done else None

    def ask(self) -> ReferenceRequest | None:
        """The structure to label next; None where the relaxation has ended, or has asked as often as it may."""
        if self.converged is not None or len(self.labels) >= self.options.max_calls:
            return None
        if self._asked is None:
            self._asked = self._propose()
        return None if self.stopped else self._asked

    @property
    def stopped(self) -> str:
        """Why it makes no sense to ask on, and what to do; empty where it does. To be read after :meth:`ask`."""
        if self.converged is not None:
            return ""
        n, fmax = self._without_progress(), self.options.fmax
        if self.force_noise > 0 and n >= _PATIENCE:
            off = float(np.median([label.force_error or 0.0 for label in self.labels[-n:]]))
            return (
                f"the reference's forces are rougher than fmax: labels near each other contradict each other, the last "
                f"{n} were off by {off:.2g} eV/Å from what those before them foretold, and came no nearer to a minimum "
                f"(fmax is {fmax:g} eV/Å). Converge the reference (cutoff, k points, self-consistency), or take a "
                "larger fmax"
            )
        if n >= _LONG_PATIENCE:
            return (
                f"the last {n} labels made neither the energy lower nor the forces smaller. Look whether the reference "
                "gives the same energies and forces at near structures, and try a larger fmax or another potential"
            )
        return ""

    def _without_progress(self) -> int:
        """How many labels were the last in a row that came no nearer to a minimum."""
        n, force, energy = 0, np.inf, np.inf
        for label in self.labels:
            largest = self.largest_force(label)
            is_nearer = largest < _SMALLER * force or label.energy < energy - _LOWER * len(self.fixed)
            n = 0 if is_nearer else n + 1
            force, energy = min(force, largest), min(energy, label.energy)
        return n

    def _propose(self) -> ReferenceRequest:
        if not self.labels and (not self._others or self.memory.surface is None):
            return ReferenceRequest(self.structure, None, "the first structure", 0, [])
        surface = self.memory.corrected(self.labels, self._others, with_cell=self.with_cell)
        if self.lowest is not None:
            force = self.largest_force(self.lowest)
        else:
            force = float(np.linalg.norm(surface(self.structure).forces[~self.fixed], axis=1).max(initial=0.0))
        self.force_noise = surface.force_noise
        limit = max(self.options.max_force_std, _OF_FORCE * force)
        request = propose(
            surface,
            self.structure,
            self.labels,
            UncertaintyLimits(limit, self.options.max_energy_std).beside_noise(surface.force_noise),
            fmax=self.options.fmax,
            fixed=self.fixed,
            with_cell=self.with_cell,
        )
        if surface.force_noise > 0:
            reason = f"{request.reason}; near labels contradict each other by {surface.force_noise:.2g} eV/Å"
            request = request._replace(reason=reason)
        return request

    def atoms_of(self, structure: Geometry) -> "Atoms":
        """The structure as ``ase.Atoms``, without constraints."""
        atoms: Atoms = self.start.copy()
        atoms.set_constraint()
        atoms.set_cell(structure.cell, scale_atoms=False)
        atoms.set_positions(structure.positions)
        return atoms

    def tell(self, energy: float, forces: Floats, stress: Floats | None = None) -> ReferenceLabel:
        """Take what the reference says of the structure that was asked for.

        Parameters
        ----------
        energy, forces, stress
            eV; (N, 3) eV/Å, of atoms that stay, too; (3, 3) eV/Å^3, needed where the cell moves.

        Raises
        ------
        ValueError
            If a number is not finite, or the stress is missing.
        """
        request = self.ask()
        if request is None:
            raise ValueError("nothing was asked: the relaxation has ended")
        if not np.isfinite(energy) or not np.isfinite(forces).all():
            raise ValueError(f"the reference gives an energy ({energy}) or forces that are not finite")
        if self.with_cell and (stress is None or not np.isfinite(stress).all()):
            raise ValueError("the cell moves, and the reference gives no stress: keep the cell (fixed_cell)")
        label = label_of(self.atoms_of(request.structure), request, self.trajectory, energy, forces, stress)
        self.add(label)
        return label

    def add(self, label: ReferenceLabel) -> None:
        """Take a label as it was made before."""
        self.labels.append(label)
        self._asked = None


def label_of(
    atoms: "Atoms", request: ReferenceRequest, trajectory: str, energy: float, forces: Floats, stress: Floats | None
) -> ReferenceLabel:
    """A label beside what was expected of it."""
    expected: dict[str, float] = {}
    if (estimate := request.estimate) is not None:
        expected = {
            "energy_error": estimate.energy - energy,
            "force_error": float(np.abs(estimate.forces - forces).max()),
            "force_std": float(estimate.forces_std.max()),
        }
    return ReferenceLabel(
        atoms=atoms,
        trajectory=trajectory,
        energy=float(energy),
        forces=np.asarray(forces, dtype=float),
        stress=stress,
        reason=request.reason,
        **expected,
    )
