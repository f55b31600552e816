"""One structure after the other along a trajectory: what a calculator asks of a potential, and when it must stop."""

import threading
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress

from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.potential.potential import NeighborList, Potential
from cgcnn_ase.prediction.inference import prediction_of
from cgcnn_ase.prediction.results import Prediction
from cgcnn_ase.structures import StructureRecord
from cgcnn_ase.uncertainty.protocol import Population

if TYPE_CHECKING:
    from ase import Atoms

OnExcess = Literal["raise", "warn"]


class UncertainForcesError(RuntimeError):
    """A trajectory has come to where the std of a force is larger than its user allows."""


class UncertainForcesWarning(UserWarning):
    """The same as a warning."""


class ForceGuard:
    """Stops or warns where the std of a force, eV/Å, is larger than allowed; None allows all."""

    def __init__(self, max_force_std: float | None, on_excess: OnExcess) -> None:
        if max_force_std is not None and not max_force_std > 0:
            raise ValueError(f"max_force_std must be above 0 eV/Å, not {max_force_std:g}")
        if on_excess not in get_args(OnExcess):
            raise ValueError(f"on_excess {on_excess!r}: allowed are {', '.join(get_args(OnExcess))}")
        self.max_force_std, self.on_excess = max_force_std, on_excess

    def check(self, model: CrystalModel) -> None:
        """Raise ValueError where there is a limit, and the model has no forces."""
        if self.max_force_std is not None and not model.is_potential:
            raise ValueError(f"max_force_std is of potentials, and the model {model.name!r} has no forces")

    def __call__(self, atoms: "Atoms", forces_std: Any) -> None:
        """Compare the largest std with the limit."""
        if self.max_force_std is None:
            return
        worst = int(np.argmax(forces_std))
        if forces_std[worst] <= self.max_force_std:
            return
        message = (
            f"the std of the force on atom {worst} ({atoms.symbols[worst]}) is {forces_std[worst]:.3g} eV/Å, above "
            f"max_force_std = {self.max_force_std:g}: the structure has left what the potential knows"
        )
        if self.on_excess == "raise":
            raise UncertainForcesError(message)
        warnings.warn(message, UncertainForcesWarning, stacklevel=4)


class PotentialSteps:
    """A potential with the neighbour list of each thread's last structure, which its next is likely to share."""

    def __init__(self, potential: Potential, population: Population) -> None:
        self.potential, self.population = potential, population
        self._of_thread = threading.local()

    @property
    def neighbors(self) -> NeighborList:
        """The neighbour list of this thread."""
        if not hasattr(self._of_thread, "neighbors"):
            self._of_thread.neighbors = NeighborList(self.potential.cutoff)
        neighbors: NeighborList = self._of_thread.neighbors
        return neighbors

    def __call__(self, atoms: "Atoms") -> tuple[Prediction, dict[str, object]]:
        """The energy per atom with its uncertainty, and energies, forces, ``forces_std`` and stress by name."""
        graph = self.neighbors.graph(geometry(atoms))
        output = self.potential(graph)
        calibrated = self.potential.calibrated(output.members, graph, self.population)
        prediction = prediction_of(self.potential.model, calibrated, StructureRecord("atoms", "<atoms>", atoms, None))
        results: dict[str, object] = {
            "energies": output.atom_energies,
            "forces": output.forces,
            "forces_std": output.forces_std,
        }
        if atoms.pbc.all():
            results["stress"] = full_3x3_to_voigt_6_stress(output.stress[0])
        return prediction.prediction, results

    def __getstate__(self) -> Mapping[str, object]:
        return {"potential": self.potential, "population": self.population}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["potential"], state["population"])  # type: ignore[misc]
