"""LearningCalculator: an ASE calculator that asks a reference where its potential does not know, and learns from it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from cgcnn_ase.graphs.crystal_graph import Geometry, geometry
from cgcnn_ase.learning.corrected import CorrectedPoint, CorrectedSurface
from cgcnn_ase.learning.learning_state import LearningState
from cgcnn_ase.learning.reference import ReferenceLabel, check_elements
from cgcnn_ase.learning.session import LearnedRelaxOptions, ReferenceRequest, UncertaintyLimits
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.potential.relax import fixed_atoms
from cgcnn_ase.potential.steps import UncertainForcesError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator
    from ase.md.md import MolecularDynamics

# a structure whose atoms are farther than this from those of a trajectory's last label is another trajectory, Å
_FAR = 3.0


class HasModel(Protocol):
    """A calculator of this package, such as ``CGCNNCalculator``."""

    model: CrystalModel


class LearningCalculator(Calculator):
    """Energy, forces and stress from a potential that a reference corrects while atoms move.

    Parameters
    ----------
    potential : CGCNNCalculator, CrystalModel, str, path or None
        The potential, or its name or folder. None starts from nothing, with springs between the atoms.
    reference : ASE calculator or None
        Asked about the first structure, about each whose std is too large, and about each whose forces vanish. None
        asks nothing: what would have been asked is an ``UncertainForcesError``, which ends the run.
    max_force_std, max_energy_std : float
        Std of a force (eV/Å) and of the energy (eV/atom) from which on the reference is asked.
    fmax : float
        Of the optimiser, or larger: a structure with no force above it may be a minimum, and is confirmed, eV/Å.
    folder : path, optional
        Where labels and state are kept, after each call. A run that was killed and is started again from its first
        structure takes the same path, and asks nothing twice.
    finetune_every, replay
        See :class:`cgcnn_ase.learning.learning_state.LearningState`.

    Notes
    -----
    ``results`` holds, besides ``energy``, ``free_energy``, ``forces`` and ``stress`` (of crystals whose reference gives
    one): ``energy_std`` (eV), ``forces_std`` (one number an atom, eV/Å), both 0 where the reference has answered, and
    ``source``, ``"reference"`` or ``"potential"``. Energies are the reference's. ``n_calls`` counts the labels.

    Examples
    --------
    >>> atoms.calc = LearningCalculator("cathode-potential", GPAW(mode=PW(400)), folder="labels")  # doctest: +SKIP
    >>> BFGS(atoms).run(fmax=0.05)  # doctest: +SKIP
    """

    name = "cgcnn-learning"
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 - as in ASE

    def __init__(
        self,
        potential: "HasModel | CrystalModel | str | Path | None",
        reference: "BaseCalculator | None",
        *,
        max_force_std: float = 0.1,
        max_energy_std: float | None = None,
        fmax: float = 0.05,
        folder: str | Path | None = None,
        finetune_every: int | None = None,
        replay: object = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        LearnedRelaxOptions(fmax=fmax, max_force_std=max_force_std, max_energy_std=max_energy_std)  # checks them
        self.state = LearningState(
            folder, model=_model_of(potential), reference=reference, finetune_every=finetune_every, replay=replay
        )
        self._limits, self.fmax = UncertaintyLimits(max_force_std, max_energy_std), fmax
        self._visible = 0  # labels that this run has come by; those behind it wait to be asked for
        self._surface: tuple[object, CorrectedSurface] | None = None
        has_stress = reference is None or "stress" in reference.implemented_properties
        self.implemented_properties = ["energy", "free_energy", "forces", "energy_std", "forces_std", "source"]
        if has_stress:
            self.implemented_properties.append("stress")

    @property
    def n_calls(self) -> int:
        """Labels that this run has asked for, or found."""
        return self._visible

    def calculate(
        self,
        atoms: "Atoms | None" = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Predict, or ask the reference; called by ASE.

        Raises
        ------
        ReferenceCalculationError
            If the reference has no answer; the labels so far are kept.
        UncertainForcesError
            If the reference would have to be asked, and there is none.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None
        structure = geometry(self.atoms)
        label = next((each for each in self._labels if each.is_of(structure)), None)
        if label is None:
            trajectory = self._trajectory_of(structure)
            point, reason = self._known(structure, trajectory)
            if reason and self._visible < len(self.state.labels):
                waiting = self.state.labels[self._visible]
                if waiting.is_of(structure):  # as an earlier run has asked
                    self._visible += 1
                    label = waiting
                else:  # another run than the one that made the labels: all of them count
                    self._visible = len(self.state.labels)
                    label = next((each for each in self._labels if each.is_of(structure)), None)
                    trajectory = self._trajectory_of(structure)
                    point, reason = self._known(structure, trajectory)
            if label is None and reason:
                label = self._ask(ReferenceRequest(structure, point, reason, 0, []), trajectory)
            if label is None:
                assert point is not None
                self._report(point)
                return
        self._report_label(label)

    @property
    def _labels(self) -> list[ReferenceLabel]:
        return self.state.labels[: self._visible]

    def _trajectory_of(self, structure: Geometry) -> str:
        """Name of the trajectory whose last label this structure has come from, or a new one."""
        last = {label.trajectory: label.structure for label in self._labels}
        for name, before in reversed(last.items()):
            same = len(before.numbers) == len(structure.numbers) and (before.numbers == structure.numbers).all()
            if same and np.abs(before.positions - structure.positions).max() < _FAR:
                return name
        return str(len(last))

    def _known(self, structure: Geometry, trajectory: str) -> tuple[CorrectedPoint | None, str]:
        """The structure on the corrected surface, and why the reference must be asked; empty where it need not."""
        labels = [label for label in self._labels if label.trajectory == trajectory]
        if not labels:
            check_elements(structure.numbers.tolist(), self._labels)
            if self.state.reference is not None or self.state.model is None:
                return None, "the first structure"
        if self._surface is None or self._surface[0] != (self._visible, trajectory):
            others = [label for label in self._labels if label.trajectory != trajectory]
            with_cell = bool(structure.pbc.all()) and all(label.stress is not None for label in labels)
            memory = self.state.memory(self._visible)
            surface = memory.corrected(labels, others, with_cell=with_cell)
            self._surface = ((self._visible, trajectory), surface)
        surface = self._surface[1]
        point = surface(structure)
        reason = self._limits.beside_noise(surface.force_noise).excess(point)
        if not reason and self._largest_force(point) <= self.fmax and self.state.reference is not None:
            reason = "forces vanish"
        return point, reason

    def _largest_force(self, point: CorrectedPoint) -> float:
        assert self.atoms is not None
        free = ~fixed_atoms(self.atoms, strict=False)
        return float(np.linalg.norm(point.forces[free], axis=1).max(initial=0.0))

    def _ask(self, request: ReferenceRequest, trajectory: str) -> ReferenceLabel:
        assert self.atoms is not None
        if self.state.reference is None:
            raise UncertainForcesError(
                f"{request.reason}: the structure has left what the potential knows, and there is no reference to ask"
            )
        atoms = self.atoms.copy()
        atoms.set_constraint()
        with_stress = "stress" in self.implemented_properties and bool(atoms.pbc.all())
        label = self.state.label(request, atoms, trajectory, with_stress=with_stress)
        self._visible += 1
        return label

    def _report(self, point: CorrectedPoint) -> None:
        self.results = {
            "energy": point.energy,
            "free_energy": point.energy,
            "forces": point.forces,
            "energy_std": point.energy_std,
            "forces_std": point.forces_std,
            "source": "potential",
        }
        if "stress" in self.implemented_properties and np.isfinite(point.stress).all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(point.stress)

    def _report_label(self, label: ReferenceLabel) -> None:
        self.results = {
            "energy": label.energy,
            "free_energy": label.energy,
            "forces": label.forces.copy(),
            "energy_std": 0.0,
            "forces_std": np.zeros(len(label.forces)),
            "source": "reference",
        }
        if label.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(label.stress)


def _model_of(potential: "HasModel | CrystalModel | str | Path | None") -> CrystalModel | None:
    if potential is None or isinstance(potential, CrystalModel):
        return potential
    return load_model(potential) if isinstance(potential, str | Path) else potential.model


def attach_log(dynamics: "MolecularDynamics", file: str | Path, interval: int = 1) -> None:
    """Write a row of a table at each ``interval`` steps of a run whose atoms have a :class:`LearningCalculator`.

    Columns: step, time (fs), temperature (K), energy (eV), largest std of a force (eV/Å), source, calls so far.
    """
    from ase import units

    path = Path(file)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerow(
            ["step", "time_fs", "temperature_K", "energy", "max_force_std", "source", "n_calls"]
        )  # fmt: skip

    def row() -> None:
        atoms: Any = dynamics.atoms
        results = atoms.calc.results
        with path.open("a", newline="") as stream:
            csv.writer(stream).writerow([
                dynamics.nsteps, dynamics.get_time() / units.fs, atoms.get_temperature(), results["energy"],
                float(np.max(results["forces_std"])), results["source"], atoms.calc.n_calls,
            ])  # fmt: skip

    dynamics.attach(row, interval=interval)
