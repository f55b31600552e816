r"""Energy, forces and stress of structures by a model that is a smooth function of the positions, with their std.

Forces and stress come from the derivatives of the energy by the vectors of the edges. With g = dE / dr of the edge from
centre i to neighbour j, the force on an atom is :math:`\sum_j (g_{ij} - g_{ji})` and the stress
:math:`\sum_{ij} r_{ij} \otimes g_{ij} / V`, symmetric as the energy is invariant. Pairs of atoms within the cutoff are
searched once and used again while atoms and cell move a little.
"""

from copy import deepcopy
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import check_numbers, symbols
from cgcnn_ase.core.parallel import keep_freed_memory
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, Geometry, composition, crystal_index, n_atoms, to_device
from cgcnn_ase.graphs.neighbors import search
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import better_potential, is_pretrained
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.smooth import SmoothCGCNN
from cgcnn_ase.structures.validation import completed_cell
from cgcnn_ase.uncertainty import CalibratedPrediction
from cgcnn_ase.uncertainty.contacts import structure_geometry
from cgcnn_ase.uncertainty.protocol import MemberOutputs, Population

# atoms move and the cell changes by about this much together before pairs are searched again, Å
SKIN = 0.5


class NeighborList:
    """The graphs of one structure as it moves.

    Pairs up to ``cutoff + skin`` are kept with the lattice vectors between them. With the deformation F of the cell
    since the search, its smallest singular value s, and the largest displacement u of an atom beyond that deformation,
    no pair that was left out can be nearer than s (cutoff + skin) - 2 u: as long as that is the cutoff or more, the
    pairs are complete.

    Parameters
    ----------
    cutoff, skin
        Å.
    """

    def __init__(self, cutoff: float, skin: float = SKIN) -> None:
        self.cutoff, self.skin = cutoff, skin
        self.n_searches = 0
        self._last: Geometry | None = None

    def graph(self, structure: Geometry) -> CrystalGraph:
        """The graph of all pairs within the cutoff, its vectors in double precision.

        Errors are those of :func:`cgcnn_ase.graphs.builder.build_graph`.
        """
        if not self._complete(structure):
            self._search(structure)
        vectors = structure.positions.take(self._neighbors, axis=0) - structure.positions.take(self._centers, axis=0)
        vectors += self._images @ completed_cell(structure.cell, structure.pbc)
        squares = np.einsum("ec,ec->e", vectors, vectors)
        near = np.flatnonzero(squares < self.cutoff**2)
        centers, n_atoms = self._centers[near], len(structure.numbers)
        periodic = bool(structure.pbc.all())
        return CrystalGraph(
            numbers=torch.from_numpy(self._numbers),
            centers=torch.from_numpy(centers),
            neighbors=torch.from_numpy(self._neighbors[near]),
            distances=torch.from_numpy(np.sqrt(squares[near]).astype(np.float32)),
            angular=torch.zeros(len(near), 0),
            multiplicity=torch.ones(n_atoms),
            n_nodes=torch.tensor([n_atoms]),
            n_edges=torch.tensor([len(near)]),
            vectors=torch.from_numpy(vectors.take(near, axis=0)),
            volumes=torch.tensor([abs(float(np.linalg.det(structure.cell))) if periodic else np.nan]),
        )

    def _complete(self, new: Geometry) -> bool:
        """Return whether the pairs of the last search hold all that are within the cutoff now."""
        old = self._last
        if old is None or len(old.numbers) != len(new.numbers):
            return False
        if (old.numbers != new.numbers).any() or (old.pbc != new.pbc).any():
            return False
        before, after = completed_cell(old.cell, old.pbc), completed_cell(new.cell, new.pbc)
        deformation = np.linalg.solve(before, after)
        moved = new.positions - old.positions @ deformation
        largest = float(np.sqrt(np.einsum("ic,ic->i", moved, moved).max(initial=0.0)))
        least = float(np.linalg.svd(deformation, compute_uv=False).min())
        return bool(least * (self.cutoff + self.skin) - 2.0 * largest >= self.cutoff)

    def _search(self, structure: Geometry) -> None:
        if not len(structure.numbers):
            raise ValueError("structure has no atoms")
        positions, cell = np.array(structure.positions, dtype=float), np.array(structure.cell, dtype=float)
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise ValueError("a position or the cell is not finite")
        numbers: Ints = np.array(check_numbers(structure.numbers))
        bonds = search(positions, cell, structure.pbc, self.cutoff + self.skin)
        apart: Floats = bonds.vectors - (positions[bonds.neighbors] - positions[bonds.centers])
        self._images: Floats = np.rint(np.linalg.solve(completed_cell(cell, structure.pbc).T, apart.T).T)
        self._centers, self._neighbors, self._numbers = bonds.centers, bonds.neighbors, numbers
        self._last = Geometry(numbers, positions, cell, np.array(structure.pbc))
        self.n_searches += 1


def vectors_of(graph: CrystalGraph) -> Tensor:
    """The vectors of the edges, (E, 3) Å; ValueError of a graph that was built without."""
    if graph.vectors is None or graph.volumes is None:
        raise ValueError("forces need the vectors of the edges and the volume: a graph with vectors=True")
    return graph.vectors


def sum_by_crystal(graph: CrystalGraph, of_atoms: Tensor) -> Tensor:
    """Sum over the atoms of each structure: (N, ...) -> (B, ...)."""
    total = of_atoms.new_zeros(len(graph.n_nodes), *of_atoms.shape[1:])
    return total.index_add(0, crystal_index(graph), of_atoms)


def forces(graph: CrystalGraph, gradients: Tensor) -> Tensor:
    """Forces on the atoms, (N, 3), from the derivatives by the vectors of the edges, (E, 3)."""
    zero = gradients.new_zeros(len(graph.numbers), 3)
    return zero.index_add(0, graph.centers, gradients).index_add(0, graph.neighbors, -gradients)


def stress(graph: CrystalGraph, gradients: Tensor) -> Tensor:
    """Stress, (B, 3, 3), the energy's derivative by the strain over the volume, in ASE's sign.

    NaN where the structure is not periodic in all directions.
    """
    vectors = vectors_of(graph).to(gradients.dtype)
    of_edge = crystal_index(graph).index_select(0, graph.centers)
    virial = gradients.new_zeros(len(graph.n_nodes), 3, 3)
    virial = virial.index_add(0, of_edge, vectors[:, :, None] * gradients[:, None, :])
    assert graph.volumes is not None
    return 0.5 * (virial + virial.mT) / graph.volumes.to(gradients.dtype)[:, None, None]


def edge_gradients(energy: Tensor, vectors: Tensor) -> Tensor:
    """Derivative of an energy by the vectors of the edges, (E, 3); zero where there are none."""
    if not energy.requires_grad:
        return torch.zeros_like(vectors)
    return torch.autograd.grad(energy, vectors, allow_unused=True, materialize_grads=True)[0]


class NotAPotentialError(ValueError):
    """The model's energy is not a smooth function of the positions, so it has no forces."""


class UnknownElementsError(ValueError):
    """The potential has not learned an element, and another that is pretrained has."""


class PotentialOutput(NamedTuple):
    """Energies and derivatives of a batch of B structures with N atoms together."""

    energies: Floats  # (B,) eV
    atom_energies: Floats  # (N,) eV, whose sums the energies are
    forces: Floats  # (N, 3) eV/Å
    forces_std: Floats  # (N,) eV/Å, one standard deviation of each component
    stress: Floats  # (B, 3, 3) eV/Å^3, ASE's sign; NaN where not periodic in all directions
    members: MemberOutputs  # energies per atom of each member, eV/atom


def checked_device(name: str) -> torch.device:
    """The device of this name, ``"auto"`` a GPU where torch finds one; ValueError if it is not there."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    allowed = ["cpu", "auto", *(["cuda"] if n_gpus else []), *(f"cuda:{k}" for k in range(n_gpus))]
    if name not in allowed:
        why = "" if n_gpus else "; torch finds no GPU on this machine"
        raise ValueError(f"device {name!r}: allowed here are {', '.join(allowed)}{why}")
    return torch.device(name)


class Potential:
    """A smooth model, ready to be differentiated.

    Parameters
    ----------
    model
        Of which ``is_potential`` is true; else a :class:`NotAPotentialError` is raised.
    engine
        See :func:`cgcnn_ase.nn.messages.build_edges`.
    device
        Where the network is evaluated: ``"cpu"``, ``"cuda"`` (or ``"cuda:1"``), or ``"auto"`` for a GPU where torch
        finds one. A device that is not there is a ValueError.
    """

    def __init__(self, model: CrystalModel, *, engine: Engine = "torch", device: str = "cpu") -> None:
        if not model.is_potential:
            raise NotAPotentialError(
                f"the model {model.name!r} reads a graph of the nearest neighbours (rule {model.graph.rule!r}), whose "
                "energy jumps when neighbours change places, so it has no forces; cathode-potential has"
            )
        keep_freed_memory()
        self.model, self.engine, self.device = model.requires_grad_(False), engine, checked_device(device)
        # on a GPU a copy: the model itself stays where it is
        on_cpu = self.device.type == "cpu"
        self.networks = model.networks if on_cpu else [deepcopy(each).to(self.device) for each in model.networks]

    @cached_property
    def _is_pretrained(self) -> bool:
        return is_pretrained(self.model)

    def check_elements(self, numbers: Ints) -> None:
        """Raise an :class:`UnknownElementsError` where another pretrained potential knows elements that this does not.

        Nothing is raised where there is no other: what such a structure gives is out of domain. The same is true of a
        potential of the user's own.
        """
        elements = frozenset(numbers.tolist())
        other = better_potential(self.model, elements) if self._is_pretrained else None
        if other is None:
            return
        assert self.model.calibration is not None
        unseen = ", ".join(symbols()[z] for z in sorted(elements - self.model.calibration.domain.elements))
        raise UnknownElementsError(
            f"contains {unseen}, which no training frame of {self.model.name} has; {other} knows all elements of the "
            f"structure: take the model {other}"
        )

    @property
    def cutoff(self) -> float:
        """Distance to which atoms see each other, Å."""
        return self.model.graph.cutoff

    def __call__(self, graph: CrystalGraph) -> PotentialOutput:
        """Differentiate the mean energy of all members.

        Energies of atoms are summed in double precision, so that differences of large cells are not rounded.
        """
        energies, atom_energies, on_atoms, variance, of_cell, values, embedding = (
            each.cpu() for each in self._tensors(to_device(graph, self.device))
        )
        return PotentialOutput(
            energies=energies.numpy(),
            atom_energies=atom_energies.numpy(),
            forces=on_atoms.numpy(),
            forces_std=variance.sqrt().numpy(),
            stress=of_cell.numpy(),
            members=MemberOutputs(values, None, embedding),
        )

    def _tensors(self, graph: CrystalGraph) -> tuple[Tensor, ...]:
        """The fields of :class:`PotentialOutput` on the device of the graph, the std squared, the members in two."""
        vectors = vectors_of(graph)
        scale, shift = self.model.scaler.std, self.model.scaler.mean
        gradients = vectors.new_zeros(len(vectors), 3, dtype=torch.float64)
        means, members, pooled, variances = [], [], [], []
        for network in self.networks:
            architecture = network.architecture
            assert isinstance(architecture, SmoothCGCNN)
            leaf = vectors.detach().to(network.head.out.weight.dtype).requires_grad_()
            h = architecture.of_vectors(graph, leaf, self.engine)
            of_heads = network.head.out(h)  # (N, H)
            mean = of_heads.mean(dim=1)
            gradients += edge_gradients(mean.sum(), leaf).double()
            h, of_heads = h.detach(), of_heads.detach().double()
            elements = architecture.element_energies.index_select(0, graph.numbers)
            energies = scale * (of_heads + elements[:, None]) + shift
            means.append(energies.mean(dim=1))
            members.append(sum_by_crystal(graph, energies).T / n_atoms(graph))
            pooled.append(architecture.pool(graph, [h]))
            variances.append((scale * architecture.force_error(h)[:, 0].exp()).double() ** 2)
        gradients *= scale / len(means)
        atom_energies = torch.stack(means).mean(dim=0)
        return (
            sum_by_crystal(graph, atom_energies),
            atom_energies,
            forces(graph, gradients),
            torch.stack(variances).mean(dim=0),
            stress(graph, gradients),
            torch.cat(members),
            pooled[0],
        )

    def calibrated(
        self, members: MemberOutputs, graph: CrystalGraph, population: Population = "known"
    ) -> CalibratedPrediction:
        """Energy per atom (eV/atom) with std, interval and domain, as calibrated as the model is."""
        fractions = composition(graph).numpy()
        prediction = self.model.calibrated(
            members, fractions, geometry=structure_geometry(graph), population=population
        )
        if prediction.domain is None:
            return prediction
        verdicts = []
        for verdict, row in zip(prediction.domain, fractions, strict=True):
            other = None if verdict.in_domain else better_potential(self.model, frozenset(np.flatnonzero(row).tolist()))
            advice = "" if other is None else f"; {other} knows all its elements"
            verdicts.append(verdict._replace(reason=f"{verdict.reason}{advice}"))
        return prediction._replace(domain=verdicts)
