"""Pool-based learning: the labels by which the whole pool, and what is like it, is predicted best."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.graphs.builder import graphs_and_nodes
from cgcnn_ase.graphs.crystal_graph import crystal_index, geometry
from cgcnn_ase.nn.messages import segment_mean
from cgcnn_ase.optimization.surrogates.gaussian_process import MaternProcess

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel


# structures whose graphs are in memory at once
_AT_ONCE = 64
# of the last layers, whose vectors stand side by side
_LAYERS = 2
# principal components of the vectors that are kept
_COMPONENTS = 24
# of the pool, over which the variance is summed; of more, so many at random
_REFERENCE = 2000


def site_vectors(model: "CrystalModel", structures: "Sequence[Atoms]") -> list[Floats]:
    """(N, D) vectors of the atoms of each structure, in their order; what the model has learned decides what is close.

    Those of the last two layers of each member, and beside them their means over the structure: the site, and what it
    is a site of. A ValueError is raised where a structure has no such graph.
    """
    result: list[Floats] = []
    for first in range(0, len(structures), _AT_ONCE):
        part = structures[first : first + _AT_ONCE]
        built = graphs_and_nodes([geometry(atoms) for atoms in part], model.graph)
        index, n = crystal_index(built.graph), len(part)
        with torch.inference_mode():
            layers = [v for network in model.networks for v in network.architecture.atoms(built.graph)[-_LAYERS:]]
            sites = torch.cat(layers, dim=1)
            means = segment_mean(sites, built.graph.multiplicity, index, n)
        vectors = torch.cat([sites, means[index]], dim=1).double().numpy()[built.node_of_atom]
        result += np.split(vectors, np.cumsum([len(atoms) for atoms in part])[:-1])
    return result


def crystal_vectors(model: "CrystalModel", structures: "Sequence[Atoms]") -> Floats:
    """(n, D) the means of each structure's :func:`site_vectors`."""
    return np.stack([vectors[:, : vectors.shape[1] // 2].mean(axis=0) for vectors in site_vectors(model, structures)])


class PoolLearner:
    r"""A Gaussian process on vectors, and the labels that it would learn most from.

    The kernel is a Matern 5/2 of the distance between the vectors' principal components, with white noise. A label is
    worth by how much it lowers the variance of the whole pool, :math:`\sum_j c_{ij}^2 / (c_{ii} + \sigma_n^2)` with c
    the posterior covariance (Cohn, Neural Networks 9, 1071 (1996); Seo et al., IJCNN 2000): an odd structure that is
    like no other is worth less than one that stands for many, unlike with the largest std. The labels themselves are
    not needed for that, so a batch is chosen one by one as if each were known.

    The vectors of the pool, (n, D), are such as :func:`crystal_vectors` gives; the seed is of the first labels and of
    what is drawn where there are many.
    """

    def __init__(self, vectors: npt.ArrayLike, *, seed: int = 0) -> None:
        from sklearn.decomposition import PCA

        table = np.asarray(vectors, dtype=float)
        if table.ndim != 2 or len(table) < 2 or not np.isfinite(table).all():
            raise ValueError(
                f"vectors of shape {table.shape}; needed is a table of finite numbers with two rows or more"
            )
        self._pca = PCA(min(_COMPONENTS, *table.shape), random_state=seed).fit(table)
        parts = self._pca.transform(table)
        self._scale = float(parts.std(axis=0).mean()) or 1.0
        self.points = parts / self._scale  # (n, C)
        self.seed = seed
        # lengths are of components with a mean std of 1
        self.process = MaternProcess(
            amplitude=(0.05, 50.0), length=(1.0, 100.0), noise=(1e-3, 1.0), jitter=1e-10, max_labels=150
        )
        self._labels: dict[int, float] = {}

    @property
    def labelled(self) -> Ints:
        """Rows of the pool with a label, in the order in which they were told."""
        return np.array(list(self._labels), dtype=np.int64)

    def tell(self, rows: Sequence[int] | Ints, values: npt.ArrayLike) -> None:
        """Learn the labels of some rows: all, or none where one is of no such row, known, or not finite."""
        known = np.asarray(values, dtype=float)
        if known.shape != (len(rows),):
            raise ValueError(f"{len(rows)} rows and values of shape {known.shape}; needed is one value a row")
        new: dict[int, float] = {}
        for row, value in zip(np.asarray(rows).tolist(), known.tolist(), strict=True):
            if not 0 <= row < len(self.points):
                raise ValueError(f"row {row}: the pool has rows 0 to {len(self.points) - 1}")
            if row in self._labels or row in new:
                raise ValueError(f"row {row} has a label already")
            if not np.isfinite(value):
                raise ValueError(f"the label of row {row} is {value}; needed is a finite number")
            new[row] = value
        self._labels |= new
        labels = np.array(list(self._labels.values()))
        self.process.fit(self.points[self.labelled], labels, None, lengths=10.0, seed=self.seed)

    def predict(self, vectors: npt.ArrayLike | None = None) -> tuple[Floats, Floats]:
        """Mean and std (without the noise of a label) of each of the pool, or of other vectors, (n,) each."""
        points = self.points if vectors is None else self._pca.transform(np.asarray(vectors, float)) / self._scale
        if not self._labels:
            raise ValueError("no label was told yet")
        return self.process.moments(points, *self.process.project(points))

    def ask(self, n: int) -> Ints:
        """Return n rows to label next; at random while there are no labels. Fewer come where no more are left."""
        if n < 1:
            raise ValueError(f"the number of rows to ask for must be at least 1, not {n}")
        free = np.setdiff1d(np.arange(len(self.points)), self.labelled)
        rng = np.random.default_rng([self.seed, len(self._labels)])
        if not self._labels:
            return np.sort(rng.permutation(free)[:n])
        reference = self.points[np.sort(rng.permutation(len(self.points))[:_REFERENCE])]
        process, points = self.process, self.points[free]
        noise, (cross, half) = process.white**2, process.project(points)
        variance = process.moments(points, cross, half)[1] ** 2  # (f,)
        shared = process.covariance(points, reference, half, process.project(reference)[1])  # (f, r)
        steps: list[Floats] = []
        chosen: list[int] = []
        while len(chosen) < min(n, len(free)):
            gain = (shared**2).sum(axis=1) / (np.maximum(variance, 0.0) + noise)
            gain[chosen] = -1.0
            best = int(gain.argmax())
            chosen.append(best)
            column = process.covariance(points, points[[best]], half, half[:, [best]])[:, 0]
            column -= sum((step * step[best] for step in steps), start=np.zeros(len(free)))
            root = np.sqrt(column[best] + noise)
            steps.append(column / root)
            shared = shared - np.outer(steps[-1], shared[best] / root)
            variance = variance - steps[-1] ** 2
        return np.asarray(free[chosen], dtype=np.int64)
