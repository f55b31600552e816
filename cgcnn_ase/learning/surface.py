"""Energy surfaces that a correction is added to: a potential of this package, or springs where there is none."""

from copy import deepcopy
from typing import NamedTuple, Protocol

import numpy as np
import torch

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.smooth import SmoothCGCNN
from cgcnn_ase.potential.minimizer import spring_matrix
from cgcnn_ase.potential.potential import NeighborList, Potential, forces, vectors_of

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
    """Sums over the atoms that the energy is a linear function of, and their derivatives."""

    energy: Floats  # (F,)
    forces: Floats  # (N, 3, F)


class Surface(Protocol):
    """Energies of structures before any correction."""

    def __call__(self, structure: Geometry) -> SurfacePoint:
        """Energy and derivatives of a structure."""

    def features(self, structure: Geometry) -> Features | None:
        """Sums that a shift of the last layer multiplies; None where there is no such layer."""

    def shifted(self, weights: Floats) -> "Surface":
        """The same with the last layer shifted by (F,) weights, eV."""


class PotentialSurface:
    """A potential of this package; its last layer is linear in the vectors of the atoms."""

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
        """Sums of the vectors of the atoms, of which the last layer makes the energy, averaged as the networks are."""
        graph = self._neighbors.graph(structure)
        networks = self.potential.model.networks
        energies, derivatives = [], []
        for network in networks:
            architecture = network.architecture
            assert isinstance(architecture, SmoothCGCNN)
            leaf = vectors_of(graph).to(network.head.out.weight.dtype).requires_grad_()
            sums = architecture.of_vectors(graph, leaf, self.potential.engine).sum(dim=0)
            for k in range(len(sums)):
                (gradient,) = torch.autograd.grad(sums[k], leaf, retain_graph=True)
                derivatives.append(forces(graph, gradient.double()).numpy())
            energies.append(sums.detach().double().numpy())
        n = len(networks)
        return Features(np.concatenate(energies) / n, np.stack(derivatives, axis=2) / n)

    def shifted(self, weights: Floats) -> "PotentialSurface":
        """Every head of every network has the weights added."""
        model = deepcopy(self.potential.model)
        scale = model.scaler.std
        for network, part in zip(model.networks, np.split(weights, len(model.networks)), strict=True):
            with torch.no_grad():
                network.head.out.weight += torch.from_numpy(part / scale).to(network.head.out.weight.dtype)
        return PotentialSurface(model)


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

    def features(self, structure: Geometry) -> None:  # noqa: ARG002 - springs have no last layer
        """Nothing that others could use."""
        return

    def shifted(self, weights: Floats) -> "SpringSurface":
        """Refused: there is nothing to shift."""
        raise ValueError(f"springs have no last layer to shift by {len(weights)} weights")
