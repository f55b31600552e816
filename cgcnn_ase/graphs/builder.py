"""From atoms to graphs: search, choose, describe, merge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from cgcnn_ase.elements import check_numbers
from cgcnn_ase.graphs.angular import N_ANGULAR, angular_moments
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.graphs.geometry import Geometry, geometry
from cgcnn_ase.graphs.neighbors import Bonds, IntArray, NeighborRule, bonds_of_all, pad_to
from cgcnn_ase.graphs.orbits import merge_equivalent

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """How a structure becomes a graph. It is part of a model: another graph needs another model.

    ``padding="first-atom"`` reproduces the original CGCNN: atoms with fewer than ``n_neighbors`` neighbours get edges
    to atom 0 at ``cutoff + 1`` Å. ``merge`` computes equivalent atoms once (see :mod:`cgcnn_ase.graphs.orbits`);
    predictions do not change.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rule: NeighborRule = "shell"
    cutoff: float = 8.0
    n_neighbors: int = 12
    tolerance: float = 0.01
    padding: Literal["none", "first-atom"] = "none"
    angular: bool = False
    merge: bool = False

    def __post_init__(self) -> None:
        if self.cutoff <= 0 or self.n_neighbors < 1 or self.tolerance < 0:
            raise ValueError(f"cutoff and n_neighbors must be positive and tolerance not negative: {self}")
        if self.angular and self.padding != "none":
            raise ValueError("edges that pad have no direction: angular=True needs padding='none'")

    @property
    def n_angular(self) -> int:
        """Columns of :attr:`CrystalGraph.angular`."""
        return N_ANGULAR if self.angular else 0


def build_graph(atoms: "Atoms | Geometry", config: GraphConfig) -> CrystalGraph:
    """The graph of one structure.

    Raises
    ------
    UnknownElementError
        If an element has no descriptor.
    ValueError
        If there are no atoms, a position or the cell is not finite, or the periodic cell vectors span no volume.
    """
    return build_graphs([atoms], config)


def build_graphs(structures: Sequence["Atoms | Geometry"], config: GraphConfig) -> CrystalGraph:
    """The graphs of several structures as one batch, in their order; raises as :func:`build_graph` does."""
    if not structures:
        raise ValueError("no structures to build graphs of")
    shapes = [s if isinstance(s, Geometry) else geometry(s) for s in structures]
    n_atoms = np.array([len(shape.numbers) for shape in shapes])
    crystal = np.repeat(np.arange(len(shapes)), n_atoms)
    numbers, bonds = _bonds(shapes, n_atoms, crystal, config)
    centers, neighbors, distances, vectors = bonds
    n_bonds = np.bincount(crystal[centers], minlength=len(shapes))
    if config.angular:
        angular = angular_moments(numbers, centers, neighbors, distances, vectors)
    else:
        angular = np.zeros((len(centers), 0), dtype=np.float32)

    sizes = np.ones(len(numbers), dtype=np.int64)
    if config.merge:
        merged = merge_equivalent(numbers + 128 * crystal, centers, neighbors, distances, angular)
        stays = np.zeros(len(numbers), dtype=bool)
        stays[merged.representatives] = True
        keep = stays[centers]
        n_bonds = np.bincount(crystal[centers[keep]], minlength=len(shapes))
        n_atoms = np.bincount(crystal[merged.representatives], minlength=len(shapes))
        numbers, sizes = numbers[merged.representatives], merged.sizes
        centers, neighbors = merged.node_of_atom[centers[keep]], merged.node_of_atom[neighbors[keep]]
        distances, angular = distances[keep], angular[keep]
    return CrystalGraph(
        numbers=torch.from_numpy(numbers),
        centers=torch.from_numpy(centers),
        neighbors=torch.from_numpy(neighbors),
        distances=torch.from_numpy(distances.astype(np.float32)),
        angular=torch.from_numpy(angular),
        multiplicity=torch.from_numpy(sizes.astype(np.float32)),
        n_nodes=torch.from_numpy(n_atoms.astype(np.int64)),
        n_edges=torch.from_numpy(n_bonds.astype(np.int64)),
        vectors=None if config.merge else torch.from_numpy(vectors.astype(np.float32)),
    )


def _bonds(
    shapes: Sequence[Geometry], n_atoms: IntArray, crystal: IntArray, config: GraphConfig
) -> tuple[IntArray, Bonds]:
    """Atomic numbers and bonds of all structures."""
    if not n_atoms.all():
        raise ValueError("structure has no atoms")
    for shape in shapes:
        if not np.isfinite(shape.positions).all():
            raise ValueError(f"position of atom {int(np.argmin(np.isfinite(shape.positions).all(1)))} is not finite")
        if not np.isfinite(shape.cell).all():
            raise ValueError("the cell is not finite")
    numbers = check_numbers(np.concatenate([shape.numbers for shape in shapes]))
    bonds = bonds_of_all(
        shapes, rule=config.rule, cutoff=config.cutoff, n_neighbors=config.n_neighbors, tolerance=config.tolerance
    )
    if config.padding == "first-atom":
        bonds = pad_to(bonds, (np.cumsum(n_atoms) - n_atoms)[crystal], config.n_neighbors, config.cutoff + 1.0)
    return numbers, bonds
