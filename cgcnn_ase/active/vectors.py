"""What a network makes of atoms and crystals: vectors in which like sites and like crystals lie close together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.graphs.builder import graphs_and_nodes
from cgcnn_ase.graphs.crystal_graph import crystal_index
from cgcnn_ase.graphs.geometry import geometry
from cgcnn_ase.nn.messages import segment_mean

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.nn.model import CrystalModel

Floats = npt.NDArray[np.float64]

#: structures whose graphs are in memory at once
_AT_ONCE = 64
#: of the last layers, whose vectors stand side by side
_LAYERS = 2


def site_vectors(model: "CrystalModel", structures: "Sequence[Atoms]") -> list[Floats]:
    """Vectors of the atoms of each structure.

    Those of the last two layers of each member, and beside them their means over the structure: the site, and what it
    is a site of.

    Parameters
    ----------
    model
        Any; what it has learned decides what is close.
    structures
        With any numbers of atoms.

    Returns
    -------
    list of ndarray
        (N, D) for each structure, in the order of its atoms.

    Raises
    ------
    ValueError
        If a structure has no such graph.
    """
    found: list[Floats] = []
    for first in range(0, len(structures), _AT_ONCE):
        part = structures[first : first + _AT_ONCE]
        built = graphs_and_nodes([geometry(atoms) for atoms in part], model.graph)
        index, n = crystal_index(built.graph), len(part)
        with torch.inference_mode():
            layers = [v for network in model.networks for v in network.architecture.atoms(built.graph)[-_LAYERS:]]
            sites = torch.cat(layers, dim=1)
            means = segment_mean(sites, built.graph.multiplicity, index, n)
        vectors = torch.cat([sites, means[index]], dim=1).double().numpy()[built.node_of_atom]
        found += np.split(vectors, np.cumsum([len(atoms) for atoms in part])[:-1])
    return found


def crystal_vectors(model: "CrystalModel", structures: "Sequence[Atoms]") -> Floats:
    """(n, D) the means of each structure's :func:`site_vectors`."""
    return np.stack([vectors[:, : vectors.shape[1] // 2].mean(axis=0) for vectors in site_vectors(model, structures)])
