"""Shortest contacts, lonely atoms and volume of structures, read off their graphs; the usual volume per atom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Bools, Floats, Floats32, Ints
from cgcnn_ase.core.elements import MAX_NUMBER, atomic_radii, electronegativity_scale

if TYPE_CHECKING:
    from scipy.sparse import csr_array

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


# ridges on the coefficients of elements and of pairs of elements
_RIDGE, _PAIR_RIDGE = 0.01, 0.1
# pairs of elements that fewer structures have share what the elements themselves say
_MIN_STRUCTURES = 3
_N_REWEIGHTINGS = 5
_HUBER = 1.5


@dataclass(frozen=True, eq=False)
class VolumeModel:
    r"""Robust ridge regression of :math:`\log(V/N)` on the composition.

    The columns are a constant, mean, spread and variance of the electronegativity, the logarithm of the mean cube of
    the atomic radii, the atomic fractions :math:`x_a`, and :math:`2 x_a x_b` of each pair of elements. Structures far
    from the line weigh less (Huber, Ann. Math. Stat. 35, 73): a wrong volume in the training set moves nothing.
    """

    coefficients: Floats32  # (4 + 1 + 101 + P,)
    pairs: Ints  # (P,) pairs of elements, a * 101 + b with a < b

    @classmethod
    def fit(cls, composition: npt.ArrayLike, log_volume: Floats) -> "VolumeModel":
        """Fit to atomic fractions (n, 101) and log of Å^3 per atom (n,)."""
        x = np.asarray(composition, dtype=np.float64)
        known, counts = np.unique(_pairs(x)[1], return_counts=True)
        pairs = known[counts >= _MIN_STRUCTURES]
        columns = _columns(x, pairs)
        n_general = columns.shape[1] - _N - pairs.size
        ridge = np.concatenate([np.full(n_general, 1e-6), np.full(_N, _RIDGE), np.full(pairs.size, _PAIR_RIDGE)])
        weights = np.ones(len(x))
        for _ in range(_N_REWEIGHTINGS):
            weighted = columns.multiply(weights[:, None]).tocsr()
            normal = (weighted.T @ columns).toarray() + np.diag(ridge)
            coefficients = np.linalg.solve(normal, weighted.T @ log_volume)
            residual = np.abs(log_volume - columns @ coefficients)
            weights = np.minimum(1.0, _HUBER * 1.4826 * np.median(residual) / np.maximum(residual, 1e-12))
        return cls(coefficients.astype(np.float32), pairs)

    def predict(self, composition: npt.ArrayLike) -> Floats:
        """Logarithm of the usual volume, Å^3 per atom, for atomic fractions (n, 101)."""
        x = np.asarray(composition, dtype=np.float64)
        weight = self.coefficients.astype(np.float64)
        n_general = weight.size - _N - self.pairs.size
        value = np.column_stack([_general(x), x]) @ weight[: n_general + _N]
        if self.pairs.size:
            owner, pair, product = _pairs(x)
            index = np.minimum(np.searchsorted(self.pairs, pair), self.pairs.size - 1)
            of_pair = np.where(self.pairs[index] == pair, weight[n_general + _N :][index], 0.0)
            value += np.bincount(owner, of_pair * product, minlength=len(x))
        return np.asarray(value)

    def arrays(self) -> dict[str, AnyArray]:
        """The model as named arrays."""
        return {"coefficients": self.coefficients, "pairs": self.pairs.astype(np.int32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> "VolumeModel":
        """The inverse of :meth:`arrays`."""
        return cls(np.asarray(arrays["coefficients"], np.float32), np.asarray(arrays["pairs"]).astype(np.int64))


def _columns(x: Floats, pairs: Ints) -> "csr_array":
    """All columns, of which few are not zero."""
    from scipy.sparse import csr_array, hstack  # slow to import, and predictions do without

    owner, pair, product = _pairs(x)
    index = np.searchsorted(pairs, pair)
    has = np.isin(pair, pairs)
    of_pairs = csr_array((product[has], (owner[has], index[has])), shape=(len(x), pairs.size))
    return csr_array(hstack([csr_array(_general(x)), csr_array(x), of_pairs]))


def _general(x: Floats) -> Floats:
    scale = electronegativity_scale()
    radii = np.nan_to_num(atomic_radii(), nan=float(np.nanmean(atomic_radii())))
    mean = x @ scale
    variance = np.einsum("na,na->n", x, (scale - mean[:, None]) ** 2)
    size = np.log(np.maximum(x @ radii**3, 1e-6))
    return np.column_stack([np.ones(len(x)), mean, np.sqrt(variance), variance, size])


def _pairs(x: Floats) -> tuple[Ints, Ints, Floats]:
    """Of each pair of different elements in a structure: the structure, the pair, and 2 x_a x_b."""
    row, element = np.nonzero(x)
    counts = np.bincount(row, minlength=len(x))
    first = np.cumsum(counts) - counts
    owners, pairs, products = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for n in range(2, int(counts.max(initial=0)) + 1):
        of_n = np.flatnonzero(counts == n)
        i, j = np.triu_indices(n, 1)
        places = first[of_n][:, None] + np.arange(n)
        a, b = element[places[:, i]], element[places[:, j]]
        owner = np.repeat(of_n, i.size)
        owners.append(owner)
        pairs.append((a * _N + b).ravel())
        products.append(2 * x[owner, a.ravel()] * x[owner, b.ravel()])
    return np.concatenate(owners), np.concatenate(pairs), np.concatenate(products)
