r"""Forces and stress of a batch of structures, from the derivatives of the energy by the vectors of the edges.

With :math:`g_{ij} = dE / dr_{ij}` of the edge from centre i to neighbour j, the force on an atom is
:math:`\sum_j (g_{ij} - g_{ji})` and the stress :math:`\sum_{ij} r_{ij} \otimes g_{ij} / V`, symmetric as the energy
is invariant.
"""

import torch
from torch import Tensor

from cgcnn_ase.graphs.crystal_graph import CrystalGraph, crystal_index


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
