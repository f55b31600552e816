"""One relaxation that asks and is told: the structures to label are asked for, and what the reference says is told.

All that decides is the start, the settings, the labels of others and its own, in their order. So a session that was
interrupted is made again, told its labels, and goes on as it would have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats
from cgcnn_ase.graphs.geometry import Geometry, geometry
from cgcnn_ase.learning.labels import ReferenceLabel
from cgcnn_ase.learning.shared import SharedMemory
from cgcnn_ase.learning.walk import ReferenceRequest, UncertaintyLimits, largest_force, propose
from cgcnn_ase.potential.relax import fixed_atoms
from cgcnn_ase.structures.validation import validation_error

if TYPE_CHECKING:
    from ase import Atoms

MAX_FORCE_STD = 0.2
# std of forces that does no harm, in units of the largest force of the lowest label: the minimum is far
_OF_FORCE = 2.0


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
        return self._asked

    def _propose(self) -> ReferenceRequest:
        if not self.labels and (not self._others or self.memory.surface is None):
            return ReferenceRequest(self.structure, None, "the first structure", 0, [])
        surface = self.memory.corrected(self.labels, self._others, with_cell=self.with_cell)
        if self.lowest is not None:
            force = self.largest_force(self.lowest)
        else:
            force = float(np.linalg.norm(surface(self.structure).forces[~self.fixed], axis=1).max(initial=0.0))
        limit = max(self.options.max_force_std, _OF_FORCE * force)
        return propose(
            surface,
            self.structure,
            self.labels,
            UncertaintyLimits(limit, self.options.max_energy_std),
            fmax=self.options.fmax,
            fixed=self.fixed,
            with_cell=self.with_cell,
        )

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


def check_elements(numbers: Sequence[int], labels: Sequence[ReferenceLabel]) -> None:
    """Raise ValueError where labels have none of the elements."""
    if not labels:
        return
    known = {int(z) for label in labels for z in label.atoms.numbers}
    if not known & set(numbers):
        from cgcnn_ase.core.elements import symbols

        names = symbols()
        raise ValueError(
            f"the labels are of {', '.join(names[z] for z in sorted(known))}, and the structure has none of these "
            "elements: start another memory"
        )
