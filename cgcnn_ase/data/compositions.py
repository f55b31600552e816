"""Compositions of the crystals of a store, and which of them have the same and must not be parted."""

import numpy as np
import numpy.typing as npt

from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.data.shards import GraphShards
from cgcnn_ase.graphs.crystal_graph import composition

_BATCH = 256


def compositions_of(
    graphs: GraphStore | GraphShards, rows: npt.NDArray[np.int64], *, of_sites: bool = False
) -> npt.NDArray[np.float32]:
    """Atomic fractions in each crystal, (n, 101), or once for each of its sites."""
    parts = [composition(graphs.batch(rows[k : k + _BATCH].tolist())).numpy() for k in range(0, len(rows), _BATCH)]
    fractions = np.concatenate(parts)
    return np.repeat(fractions, graphs.n_nodes.numpy()[rows], axis=0) if of_sites else fractions


def site_numbers_of(graphs: GraphStore | GraphShards, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Atomic numbers on the sites of some crystals, crystal by crystal."""
    return np.concatenate(
        [graphs.batch(rows[k : k + _BATCH].tolist()).numbers.numpy() for k in range(0, len(rows), _BATCH)]
    )


def composition_groups(graphs: GraphStore | GraphShards, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number for each of some crystals, the same for equal compositions, (n,)."""
    _, group = np.unique(np.round(compositions_of(graphs, rows), 5), axis=0, return_inverse=True)
    numbered: npt.NDArray[np.int64] = group.ravel()
    return numbered
