"""Energy, forces and stress of structures by a model that is a smooth function of the positions, with their std."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.parallel import keep_freed_memory
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, composition, n_atoms
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import better_potential, is_pretrained
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.smooth import SmoothCGCNN
from cgcnn_ase.potential.derivatives import edge_gradients, forces, stress, sum_by_crystal, vectors_of
from cgcnn_ase.uncertainty import CalibratedPrediction
from cgcnn_ase.uncertainty.contacts import structure_geometry
from cgcnn_ase.uncertainty.estimators import MemberOutputs
from cgcnn_ase.uncertainty.protocol import Population


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


class Potential:
    """A smooth model, ready to be differentiated.

    Parameters
    ----------
    model
        Of which ``is_potential`` is true; else a :class:`NotAPotentialError` is raised.
    engine
        See :func:`cgcnn_ase.nn.messages.build_edges`.
    """

    def __init__(self, model: CrystalModel, *, engine: Engine = "torch") -> None:
        if not model.is_potential:
            raise NotAPotentialError(
                f"the model {model.name!r} reads a graph of the nearest neighbours (rule {model.graph.rule!r}), whose "
                "energy jumps when neighbours change places, so it has no forces; cathode-potential has"
            )
        keep_freed_memory()
        self.model, self.engine = model.requires_grad_(False), engine

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
        vectors = vectors_of(graph)
        scale, shift = self.model.scaler.std, self.model.scaler.mean
        gradients = torch.zeros(len(vectors), 3, dtype=torch.float64)
        means, members, pooled, variances = [], [], [], []
        for network in self.model.networks:
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
        return PotentialOutput(
            energies=sum_by_crystal(graph, atom_energies).numpy(),
            atom_energies=atom_energies.numpy(),
            forces=forces(graph, gradients).numpy(),
            forces_std=torch.stack(variances).mean(dim=0).sqrt().numpy(),
            stress=stress(graph, gradients).numpy(),
            members=MemberOutputs(torch.cat(members), None, pooled[0]),
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
