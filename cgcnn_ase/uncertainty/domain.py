"""Domain of a model: is a structure like those that it was trained on?"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Floats, Floats32, Ints
from cgcnn_ase.core.elements import MAX_NUMBER, symbols
from cgcnn_ase.uncertainty.contacts import StructureGeometry
from cgcnn_ase.uncertainty.geometry_domain import GeometryDomain, GeometrySignals

# distances up to this percentile of the calibration set's are in the domain
PERCENTILE = 99
# the covariance is pulled towards a multiple of identity by at least this much: no direction is without variance
MIN_SHRINKAGE = 1e-4
# what the names of the arrays of the domain by geometry begin with
_GEOMETRY = "geometry."


class DomainVerdict(NamedTuple):
    """Answer for one structure; ``reason`` names all that is unlike the training set."""

    in_domain: bool
    distance: float  # of the embedding
    reason: str
    score: float  # the largest of all signals over their limits: 1 at the limit, above 1 outside


@dataclass(frozen=True, eq=False, kw_only=True)
class Domain:
    r"""The elements, the geometry and the region of embedding space that a model knows.

    The distance of an embedding x is Mahalanobis', :math:`d^2 = (x-\mu)^T \Sigma^{-1} (x-\mu)`, with mean and
    covariance of the training set's embeddings (Lee et al., arXiv:1807.03888), the covariance shrunk as by Ledoit and
    Wolf (J. Multivar. Anal. 88, 365). The limit is the 99th percentile of the distances of a held-out calibration set:
    one in a hundred structures like the training set's is flagged.
    """

    mean: Floats32  # (F,)
    whitening: Floats32  # (F, F); d = |(x - mean) @ whitening|
    limit: float
    elements: frozenset[int]  # atomic numbers in the training set
    site_elements: frozenset[int] = frozenset()  # of a target of sites: atomic numbers on the labelled sites
    geometry: GeometryDomain | None = None  # contacts and volumes; None of models made before they were checked

    @classmethod
    def fit(
        cls,
        training: npt.ArrayLike,
        calibration: npt.ArrayLike,
        *,
        elements: Collection[int],
        site_elements: Collection[int] = (),
        geometry: GeometryDomain | None = None,
    ) -> "Domain":
        """Learn the domain from embeddings of the training set (n, F) and of held-out structures (m, F).

        ``elements`` are the atomic numbers in the training set, ``site_elements``, of a target of sites, those on
        labelled sites; ``geometry`` is what is known of contacts and volumes. ValueError if the
        shapes do not fit, a value is not finite, or all training embeddings are the same.
        """
        train = _finite(training, name="training")
        held_out = _finite(calibration, name="calibration")
        if train.shape[1] != held_out.shape[1]:
            raise ValueError(f"training embeddings have {train.shape[1]} columns, calibration {held_out.shape[1]}")
        if len(train) < 2 or not len(held_out):
            raise ValueError("a domain needs at least two training embeddings and one calibration embedding")
        if not elements:
            raise ValueError("a domain needs the elements of the training set")
        mean = train.mean(axis=0)
        whitening = np.linalg.inv(np.linalg.cholesky(_shrunk_covariance(train - mean))).T
        domain = cls(
            mean=mean.astype(np.float32),
            whitening=whitening.astype(np.float32),
            limit=np.inf,
            elements=frozenset(int(z) for z in elements),
            site_elements=frozenset(int(z) for z in site_elements),
            geometry=geometry,
        )
        limit = np.float32(np.percentile(domain.distance(held_out), PERCENTILE))
        return replace(domain, limit=float(limit))

    def distance(self, embeddings: npt.ArrayLike) -> Floats:
        """The Mahalanobis distance of each embedding, (n,); NaN where the embedding is not finite."""
        x = np.asarray(embeddings, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.mean.size:
            raise ValueError(f"embeddings must have the shape (n, {self.mean.size}), got {x.shape}")
        finite = np.isfinite(x).all(axis=1, keepdims=True)
        white = (np.where(finite, x, np.nan) - self.mean) @ self.whitening.astype(np.float64)
        return np.asarray(np.sqrt(np.einsum("nf,nf->n", white, white)))

    def signals(self, geometry: StructureGeometry | None, composition: npt.ArrayLike) -> GeometrySignals | None:
        """Contacts and volumes of structures of these atomic fractions, (n, 101); None where they are not checked."""
        if self.geometry is None or geometry is None:
            return None
        return self.geometry.signals(geometry, composition)

    def check(
        self,
        embeddings: npt.ArrayLike,
        *,
        elements: Sequence[Collection[int]],
        site_numbers: Ints | None = None,
        geometry: StructureGeometry | None = None,
        signals: GeometrySignals | None = None,
    ) -> list[DomainVerdict]:
        """One verdict a structure, from its embedding (n, F) and the atomic numbers in it.

        Of sites: one a site, ``elements`` of its structure, ``site_numbers`` (n,) on the site itself. With ``geometry``
        go its :meth:`signals`.
        """
        distances = self.distance(embeddings)
        if len(elements) != distances.size:
            raise ValueError(f"{distances.size} embeddings but the elements of {len(elements)} structures")
        sites = [None] * distances.size if site_numbers is None else site_numbers.tolist()
        if self.geometry is None or geometry is None or signals is None:
            shapes: list[tuple[float, list[str]]] = [(0.0, [])] * distances.size
        else:
            scores = self.geometry.scores(signals, geometry).tolist()
            shapes = [
                (score, self.geometry.reasons(k, signals, geometry) if score > 1 else [])
                for k, score in enumerate(scores)
            ]
        rows = zip(distances.tolist(), elements, sites, shapes, strict=True)
        return [self._verdict(*row) for row in rows]

    def _verdict(
        self, distance: float, numbers: Collection[int], site: int | None, shape: tuple[float, list[str]]
    ) -> DomainVerdict:
        score, reasons = shape[0], []
        unseen = sorted({int(z) for z in numbers} - self.elements)
        if site is not None and self.site_elements and site not in self.site_elements:
            reasons.append(f"no training structure has a labelled site of {_listed([site])}")
        if unseen:
            reasons.append(f"contains {_listed(unseen)}, which no training structure has")
        n_unknown = len(unseen) or len(reasons)
        reasons += shape[1]
        if np.isnan(distance):
            reasons.append("embedding is not finite")
            n_unknown = n_unknown or 1
        elif distance > self.limit:
            compared = _beyond(distance, self.limit)
            reasons.append(f"embedding distance {compared}, the {PERCENTILE}th percentile of the calibration set")
        score = max(score, 0.0 if np.isnan(distance) else distance / self.limit, 1.0 + n_unknown if n_unknown else 0.0)
        return DomainVerdict(score <= 1, distance, "; ".join(reasons), score)

    def arrays(self) -> dict[str, AnyArray]:
        """The domain as named arrays, ready for a safetensors file."""
        geometry = {} if self.geometry is None else self.geometry.arrays()
        return {
            "mean": self.mean,
            "whitening": np.ascontiguousarray(self.whitening),
            "limit": np.array([self.limit], dtype=np.float32),
            "elements": np.array(sorted(self.elements), dtype=np.float32),
            **({"site_elements": np.array(sorted(self.site_elements), np.float32)} if self.site_elements else {}),
            **{f"{_GEOMETRY}{name}": array for name, array in geometry.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> "Domain":
        """The inverse of :meth:`arrays`; ValueError if an array is missing or the shapes do not fit."""
        missing = {"mean", "whitening", "limit", "elements"} - set(arrays)
        if missing:
            raise ValueError(f"the domain lacks {', '.join(sorted(missing))}")
        mean = np.asarray(arrays["mean"], dtype=np.float32)
        whitening = np.asarray(arrays["whitening"], dtype=np.float32)
        if mean.ndim != 1 or whitening.shape != (mean.size, mean.size):
            raise ValueError(f"the domain's mean {mean.shape} and whitening {whitening.shape} do not fit each other")
        return cls(
            mean=mean,
            whitening=whitening,
            limit=float(np.asarray(arrays["limit"], dtype=np.float32).reshape(())),
            elements=frozenset(int(z) for z in np.asarray(arrays["elements"]).ravel()),
            site_elements=frozenset(int(z) for z in np.asarray(arrays.get("site_elements", ())).ravel()),
            geometry=GeometryDomain.from_arrays(
                {name.removeprefix(_GEOMETRY): array for name, array in arrays.items() if name.startswith(_GEOMETRY)}
            ),
        )


def elements_of(composition: npt.ArrayLike) -> list[set[int]]:
    """Atomic numbers in each row of atomic fractions."""
    return [set(np.flatnonzero(row).tolist()) for row in np.asarray(composition)]


def _finite(embeddings: npt.ArrayLike, *, name: str) -> Floats:
    array = np.asarray(embeddings, dtype=np.float64)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name} embeddings must have the shape (n, F), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} embeddings hold values that are not finite")
    return array


def _shrunk_covariance(x: Floats) -> Floats:
    r"""Ledoit and Wolf: :math:`(1-a) S + a\,\mathrm{tr}(S)/F\,I` with the a of least expected squared error."""
    n, width = x.shape
    sample = x.T @ x / n
    target = np.trace(sample) / width * np.eye(width)
    if target[0, 0] <= 0:
        raise ValueError("all training embeddings are the same: no distance can be measured")
    to_target = np.sum((sample - target) ** 2)
    noise = (np.sum(np.einsum("nf,nf->n", x, x) ** 2) / n - np.sum(sample**2)) / n
    shrinkage = np.clip(noise / to_target, MIN_SHRINKAGE, 1.0) if to_target > 0 else 1.0
    return np.asarray((1 - shrinkage) * sample + shrinkage * target)


def _listed(numbers: Sequence[int]) -> str:
    names = [symbols()[z] if 0 < z <= MAX_NUMBER else f"element {z}" for z in numbers]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _beyond(distance: float, limit: float) -> str:
    """The two numbers with just enough digits to differ."""
    digits = next((d for d in range(1, 7) if round(distance, d) != round(limit, d)), 7)
    return f"{distance:.{digits}f} beyond {limit:.{digits}f}"
