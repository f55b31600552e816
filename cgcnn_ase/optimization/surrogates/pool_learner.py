"""Which of a pool to label next, so that the whole pool, and what is like it, is predicted best."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.graphs.builder import graphs_and_nodes
from cgcnn_ase.graphs.crystal_graph import crystal_index
from cgcnn_ase.graphs.geometry import geometry
from cgcnn_ase.nn.messages import segment_mean
from cgcnn_ase.optimization.surrogates.gaussian_process import found_kernel, regressor

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel


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


#: principal components of the vectors that are kept
_COMPONENTS = 24

#: labels that decide the kernel's parameters; of more, so many at random
_MAX_LABELS_TO_FIT_LEARNER = 150

#: of the pool, over which the variance is summed; of more, so many at random
_REFERENCE = 2000

#: bounds of the amplitude, the length (of components with a mean std of 1) and the variance of the noise
_AMPLITUDE, _LENGTH, _NOISE = (0.05, 50.0), (1.0, 100.0), (1e-3, 1.0)


class PoolLearner:
    r"""A Gaussian process on vectors, and the labels that it would learn most from.

    The kernel is a Matern 5/2 of the distance between the vectors' principal components, with white noise. A label is
    worth by how much it lowers the variance of the whole pool, :math:`\sum_j c_{ij}^2 / (c_{ii} + \sigma_n^2)` with c
    the posterior covariance (Cohn, Neural Networks 9, 1071 (1996); Seo et al., IJCNN 2000): an odd structure that is
    like no other is worth less than one that stands for many, unlike with the largest std. The labels themselves are
    not needed for that, so a batch is chosen one by one as if each were known.

    Parameters
    ----------
    vectors
        (n, D) of the pool, such as :func:`cgcnn_ase.optimization.surrogates.pool_learner.crystal_vectors`.
    seed
        Of the first labels and of what is drawn where there are many.

    Raises
    ------
    ValueError
        If the vectors are no table of finite numbers with at least two rows.
    ImportError
        If scikit-optimize is not installed.
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
        self._labels: dict[int, float] = {}

    @property
    def labelled(self) -> Ints:
        """Rows of the pool with a label, in the order in which they were told."""
        return np.array(list(self._labels), dtype=np.int64)

    def tell(self, rows: Sequence[int] | Ints, values: npt.ArrayLike) -> None:
        """Learn the labels of some rows.

        Raises
        ------
        ValueError
            If there is no such row, it has a label, or a value is not finite.
        """
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
        self._fit()

    def predict(self, vectors: npt.ArrayLike | None = None) -> tuple[Floats, Floats]:
        """Mean and std (without the noise of a label) of each of the pool, or of other vectors, (n,) each."""
        points = self.points if vectors is None else self._pca.transform(np.asarray(vectors, float)) / self._scale
        if not self._labels:
            raise ValueError("no label was told yet")
        mean, std = self._model.predict(points, return_std=True)
        return self._mean + self._width * mean, self._width * std

    def ask(self, n: int) -> Ints:
        """Rows to label next; at random while there are no labels. Fewer come where no more are left.

        Raises
        ------
        ValueError
            If n is not positive.
        """
        if n < 1:
            raise ValueError(f"the number of rows to ask for must be at least 1, not {n}")
        free = np.setdiff1d(np.arange(len(self.points)), self.labelled)
        rng = np.random.default_rng([self.seed, len(self._labels)])
        if not self._labels:
            return np.sort(rng.permutation(free)[:n])
        reference = self.points[np.sort(rng.permutation(len(self.points))[:_REFERENCE])]
        kernel, noise = self._model.kernel_, float(self._model.noise_)
        points = self.points[free]
        half = self._half(points)
        variance = kernel.diag(points) - (half**2).sum(axis=0)  # (f,)
        shared = kernel(points, reference) - half.T @ self._half(reference)  # (f, r)
        steps: list[Floats] = []
        chosen: list[int] = []
        while len(chosen) < min(n, len(free)):
            gain = (shared**2).sum(axis=1) / (np.maximum(variance, 0.0) + noise)
            gain[chosen] = -1.0
            best = int(gain.argmax())
            chosen.append(best)
            column = kernel(points, points[[best]])[:, 0] - half.T @ half[:, best]
            column -= sum((step * step[best] for step in steps), start=np.zeros(len(free)))
            root = np.sqrt(column[best] + noise)
            steps.append(column / root)
            shared = shared - np.outer(steps[-1], shared[best] / root)
            variance = variance - steps[-1] ** 2
        return np.asarray(free[chosen], dtype=np.int64)

    def _fit(self) -> None:
        """The kernel's parameters of the highest marginal likelihood, and with them all labels."""
        rows, values = self.labelled, np.array(list(self._labels.values()))
        self._mean, self._width = float(values.mean()), float(values.std()) or 1.0
        points, targets = self.points[rows], (values - self._mean) / self._width
        model = regressor(10.0, amplitude=_AMPLITUDE, length=_LENGTH, noise=_NOISE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a parameter at its bound is no concern
            if len(rows) > 2:
                some = np.random.default_rng(self.seed).permutation(len(rows))[:_MAX_LABELS_TO_FIT_LEARNER]
                model.set_params(optimizer="fmin_l_bfgs_b")
                model.fit(points[some], targets[some])
                model.set_params(kernel=found_kernel(model), optimizer=None)
            model.fit(points, targets)
        self._model = model

    def _half(self, points: Floats) -> Floats:
        r"""(t, n) :math:`L^{-1} k` with :math:`L L^T` the covariance of the labels."""
        from scipy.linalg import solve_triangular

        cross = self._model.kernel_(points, self._model.X_train_)
        return np.asarray(solve_triangular(self._model.L_, cross.T, lower=True, check_finite=False), dtype=float)
