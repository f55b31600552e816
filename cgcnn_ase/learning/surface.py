"""Energy surfaces that a correction is added to: a potential of this package, or springs where there is none."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, Geometry
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.smooth import SmoothCGCNN
from cgcnn_ase.potential.minimizer import spring_matrix
from cgcnn_ase.potential.potential import NeighborList, Potential, edge_gradients, forces, stress, vectors_of

# reach of the springs, Å, and the std of forces that they are given, eV/Å: nothing is known
_SPRING_CUTOFF, _UNKNOWN = 5.0, 1.0

Pairs = tuple[Ints, Ints, Floats]  # centres, neighbours and distances (Å) of all pairs within a cutoff


class SurfacePoint(NamedTuple):
    """One structure of N atoms on a surface."""

    energy: float  # eV
    forces: Floats  # (N, 3) eV/Å
    stress: Floats  # (3, 3) eV/Å^3; NaN where not periodic in all directions
    forces_std: Floats  # (N,) eV/Å, by the surface itself, against what it has learned from
    domain_score: float  # 1 at the limit of what the surface knows
    domain_reason: str
    pairs: Pairs


class Features(NamedTuple):
    """Vectors after the last convolution, summed over the atoms of each element, and the derivatives of these sums."""

    energy: dict[int, Floats]  # (F,) by atomic number
    forces: dict[int, Floats]  # (N, 3, F)


Weights = dict[int, Floats]  # (F,) eV by atomic number: what an atom's vector is multiplied by to shift its energy


class Surface(Protocol):
    """Energies of structures before any correction."""

    def __call__(self, structure: Geometry) -> SurfacePoint:
        """Energy and derivatives of a structure."""

    def features(self, structure: Geometry) -> Features | None:
        """Sums that a shift multiplies; None where there are none."""

    def shifted(self, weights: Weights) -> "Surface":
        """The same with energies of atoms that are linear in their vectors added."""


class PotentialSurface:
    """A potential of this package; a shift adds what is linear in the vectors after its last convolution."""

    def __init__(self, model: CrystalModel) -> None:
        self.potential = Potential(model)
        self._neighbors = NeighborList(self.potential.cutoff)

    def __call__(self, structure: Geometry) -> SurfacePoint:
        """Energy, forces, stress, std and domain."""
        graph = self._neighbors.graph(structure)
        output = self.potential(graph)
        verdict = None
        if self.potential.model.calibration is not None:
            domains = self.potential.calibrated(output.members, graph).domain
            verdict = None if domains is None else domains[0]
        return SurfacePoint(
            float(output.energies[0]),
            output.forces,
            output.stress[0],
            output.forces_std,
            0.0 if verdict is None or verdict.score is None else verdict.score,
            "" if verdict is None else verdict.reason,
            (graph.centers.numpy(), graph.neighbors.numpy(), graph.distances.numpy()),
        )

    def features(self, structure: Geometry) -> Features:
        """Sums of the vectors of the atoms, of all networks one after the other, averaged as the networks are."""
        graph = self._neighbors.graph(structure)
        vectors, leaf = self._vectors(graph)
        energies, derivatives = {}, {}
        for z in np.unique(structure.numbers):
            sums = vectors[graph.numbers == z].sum(dim=0)
            gradients = [torch.autograd.grad(each, leaf, retain_graph=True)[0] for each in sums]
            energies[int(z)] = sums.detach().double().numpy()
            derivatives[int(z)] = np.stack([forces(graph, each.double()).numpy() for each in gradients], axis=2)
        return Features(energies, derivatives)

    def _vectors(self, graph: CrystalGraph) -> tuple[Tensor, Tensor]:
        """Vectors of the atoms of all networks, (N, F), as functions of the vectors of the edges, (E, 3) Å."""
        networks = self.potential.model.networks
        leaf = vectors_of(graph).detach().clone().to(networks[0].head.out.weight.dtype).requires_grad_()
        parts = []
        for network in networks:
            architecture = network.architecture
            assert isinstance(architecture, SmoothCGCNN)
            parts.append(architecture.convolved(graph, leaf, self.potential.engine))
        return torch.cat(parts, dim=1) / len(networks), leaf

    def shifted(self, weights: Weights) -> "ShiftedSurface":
        """The same with energies of atoms that are linear in their vectors added."""
        return ShiftedSurface(self, weights)

    def shift(self, structure: Geometry, weights: Weights) -> tuple[float, Floats, Floats]:
        """Energy, forces and stress that weights add."""
        graph = self._neighbors.graph(structure)
        vectors, leaf = self._vectors(graph)
        table = torch.zeros(MAX_NUMBER + 1, vectors.shape[1], dtype=vectors.dtype)
        for z, values in weights.items():
            table[z] = torch.from_numpy(values)
        energy = (vectors * table[graph.numbers]).sum()
        gradient = edge_gradients(energy, leaf).double()
        return float(energy.detach()), forces(graph, gradient).numpy(), stress(graph, gradient)[0].numpy()


class ShiftedSurface:
    """A potential with energies of atoms added that are linear in their vectors, for each element its own weights."""

    def __init__(self, before: PotentialSurface, weights: Weights) -> None:
        self.before, self.weights = before, weights

    def __call__(self, structure: Geometry) -> SurfacePoint:
        """Energy, forces and stress with the shift; std and domain without."""
        point = self.before(structure)
        energy, added, of_cell = self.before.shift(structure, self.weights)
        return point._replace(energy=point.energy + energy, forces=point.forces + added, stress=point.stress + of_cell)

    def features(self, structure: Geometry) -> Features:
        """As without the shift."""
        return self.before.features(structure)

    def shifted(self, weights: Weights) -> "ShiftedSurface":
        """The same with other weights in place of these."""
        return ShiftedSurface(self.before, weights)


class SpringSurface:
    """Springs between the atoms of a structure, at rest as it stands: a start where no potential is given."""

    def __init__(self, start: Geometry) -> None:
        self._start, self._neighbors = start, NeighborList(_SPRING_CUTOFF)
        graph = self._neighbors.graph(start)
        self._stiffness = spring_matrix(
            len(start.numbers), graph.centers.numpy(), graph.neighbors.numpy(), graph.distances.numpy()
        )

    def __call__(self, structure: Geometry) -> SurfacePoint:
        """Energy of the springs; they take part in a deformation of the cell, which so is pulled by nothing."""
        graph = self._neighbors.graph(structure)
        deformation = np.linalg.solve(self._start.cell, structure.cell) if structure.pbc.all() else np.eye(3)
        moved = np.linalg.solve(deformation.T, structure.positions.T).T - self._start.positions
        pull = self._stiffness @ moved
        n = len(moved)
        return SurfacePoint(
            0.5 * float((moved * pull).sum()),
            -np.linalg.solve(deformation, pull.T).T,
            np.zeros((3, 3)) if structure.pbc.all() else np.full((3, 3), np.nan),
            np.full(n, _UNKNOWN),
            0.0,
            "",
            (graph.centers.numpy(), graph.neighbors.numpy(), graph.distances.numpy()),
        )

    def features(self, structure: Geometry) -> None:  # noqa: ARG002 - springs have no vectors of atoms
        """Nothing that others could use."""
        return

    def shifted(self, weights: Weights) -> "SpringSurface":
        """Refused: there is nothing to shift."""
        raise ValueError(f"springs have no vectors of atoms to shift energies by, of {len(weights)} elements")
