"""Shortest contacts, lonely atoms and volume of structures, read off their graphs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats, Ints
from cgcnn_ase.core.elements import MAX_NUMBER

if TYPE_CHECKING:
    from cgcnn_ase.graphs.crystal_graph import CrystalGraph

_N = MAX_NUMBER + 1
Pairs = TypeVar("Pairs", int, Ints)


class StructureGeometry(NamedTuple):
    """Contacts and volume of n structures, or of n sites with their own neighbours."""

    owner: Ints  # (c,) the structure or site that a contact is of; never decreases
    pair: Ints  # (c,) the two elements, smaller atomic number * 101 + larger
    shortest: Floats  # (c,) Å, shortest distance between atoms of these elements
    n_isolated: Ints  # (n,) atoms that have no neighbour
    log_volume: Floats  # (n,) logarithm of the volume, Å^3 per atom; NaN where not periodic in all directions

    def select(self, chosen: Bools) -> "StructureGeometry":
        """Those of some structures or sites, (n,) bool."""
        renumbered = np.cumsum(chosen) - 1
        has = chosen[self.owner]
        return StructureGeometry(
            renumbered[self.owner[has]],
            self.pair[has],
            self.shortest[has],
            self.n_isolated[chosen],
            self.log_volume[chosen],
        )


def structure_geometry(graph: "CrystalGraph", *, of_sites: bool = False) -> StructureGeometry | None:
    """Measure the structures of a batch, or each of its nodes with its own neighbours; None of graphs without lengths.

    Of two elements only the shortest distance among the graph's edges is kept. Equivalent atoms that share a node count
    as often as the cell has them.
    """
    from cgcnn_ase.graphs.crystal_graph import crystal_index, n_atoms  # imports torch, which the measures do without

    distances = graph.distances.numpy().astype(np.float64)
    if graph.volumes is None or np.isnan(distances).any():
        return None
    numbers, centers = graph.numbers.numpy(), graph.centers.numpy()
    crystal = crystal_index(graph).numpy()
    lonely = np.bincount(centers, minlength=len(numbers)) == 0
    log_volume = np.log(graph.volumes.numpy().astype(np.float64) / n_atoms(graph).numpy())
    if of_sites:
        owner, n_isolated, log_volume = centers, lonely.astype(np.int64), log_volume[crystal]
    else:
        atoms = np.where(lonely, graph.multiplicity.numpy(), 0)
        n_isolated = np.bincount(crystal, atoms, minlength=len(graph.n_nodes)).astype(np.int64)
        owner = crystal[centers]
    ends = np.stack([numbers[centers], numbers[graph.neighbors.numpy()]])
    key = owner * _N**2 + ends.min(axis=0) * _N + ends.max(axis=0)
    keys, where = np.unique(key, return_inverse=True)
    shortest = np.full(keys.size, np.inf)
    np.minimum.at(shortest, where, distances)
    return StructureGeometry(keys // _N**2, keys % _N**2, shortest, n_isolated, log_volume)


def join(parts: Sequence[StructureGeometry | None]) -> StructureGeometry | None:
    """Structures of several batches one after the other; None where one of them could not be measured."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known:
        return None
    first = np.cumsum([0, *(part.n_isolated.size for part in known)])
    owner = np.concatenate([part.owner + start for part, start in zip(known, first, strict=False)])
    rest = (np.concatenate(arrays) for arrays in list(zip(*known, strict=True))[1:])
    return StructureGeometry(owner, *rest)


def elements_of_pair(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """The two atomic numbers of a pair, or of each of several."""
    return pairs // _N, pairs % _N
