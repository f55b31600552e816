"""Flag labels and structures that do not look like the rest of a data set, each with a reason in words.

Nothing is removed: an outlier is a mistake, another kind of calculation, or the most interesting crystal of all.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.data.dataset import Dataset
from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.inspection.element_offsets import MAD_TO_STD, fit_offsets
from cgcnn_ase.structures.validation import completed_cell

Kind = Literal["value", "composition", "model", "distance", "volume"]

# an expectation of each element is fitted where there are at least so many structures for each
_PER_ELEMENT = 3
# values that are needed to say what is usual
_FEWEST = 10
# a volume within this factor of what the elements suggest is not flagged: the sizes of ions do not just add up
_VOLUME_FACTOR = 2.0
# relative; a spread below it is that of rounding
_ROUNDING = 1e-9
# curium
_LAST_RADIUS = 96
# Å, at least: the search sets up cubes of this edge
_SEARCHED = 1.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits beyond which something is flagged."""

    value: float = 8.0  # robust standard deviations from the median
    composition: float = 8.0  # robust standard deviations from what the elements suggest
    model: float = 5.0  # standard deviations of a model's prediction
    distance: float = 0.6  # shortest distance in units of the two covalent radii, below this
    volume: float = 8.0  # robust standard deviations of the logarithm of volume per atom over that of the elements,
    # and at least a factor of two

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if not limit > 0:
                raise ValueError(f"the limit of {name} must be above 0, not {limit}")


@dataclass(frozen=True)
class Outlier:
    """One thing that is unusual of one structure."""

    id: str
    formula: str
    kind: Kind
    score: float  # in units of its limit: above 1
    reason: str

    def to_dict(self) -> dict[str, object]:
        """Field names and values."""
        return asdict(self)


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of a model for the structures of a data set, NaN where it has none."""

    name: str
    mean: Floats  # (n,), in the unit of the label
    std: Floats  # (n,)
    failed: tuple[str, ...] = ()  # what went wrong, of each structure that it does not predict


@dataclass(frozen=True)
class Outliers:
    """All outliers, the most unusual first, and in words what could not be judged."""

    entries: list[Outlier]
    not_judged: list[str]


def find_outliers(
    table: Dataset,
    target: str | None = None,
    *,
    model: ModelPredictions | None = None,
    limits: Limits | None = None,
    progress: bool = False,
) -> Outliers:
    """Look for unusual labels and structures, beyond the limits; a missing column of numbers is a `DatasetError`.

    The target is judged by itself (median and median absolute deviation), against a sum over the elements that is
    fitted robustly to all structures, and against a model's prediction. Without one only the geometry is judged.
    """
    limits = limits or Limits()
    not_judged: list[str] = []
    result = [*_distances(table, limits.distance, progress), *_volumes(table, limits.volume, not_judged)]
    if target is not None:
        values = table.values(target)
        result += _values(table, target, values, limits.value, not_judged)
        result += _compositions(table, target, values, limits.composition, not_judged)
        if model is not None:
            result += _predictions(table, target, values, model, limits.model)
            if model.failed:
                not_judged.append(f"{len(model.failed)} structures by {model.name}, such as {model.failed[0]}")
    return Outliers(sorted(result, key=lambda o: (-o.score, o.id, o.kind)), not_judged)


def _values(table: Dataset, target: str, values: Floats, limit: float, not_judged: list[str]) -> Iterator[Outlier]:
    known = values[np.isfinite(values)]
    if len(known) < _FEWEST:
        not_judged.append(f"the values of {target} by themselves: there are {len(known)}, fewer than {_FEWEST}")
        return
    median = float(np.median(known))
    spread = MAD_TO_STD * float(np.median(np.abs(known - median)))
    if not spread:
        not_judged.append(f"the values of {target} by themselves: at least half of them are {median:g}")
        return
    for k in np.flatnonzero(np.abs(values - median) > limit * spread).tolist():
        far = abs(values[k] - median) / spread
        reason = f"{target} is {values[k]:.4g}, {far:.1f} robust standard deviations from the median, {median:.4g}"
        yield _outlier(table, k, "value", far / limit, reason)


def _compositions(
    table: Dataset, target: str, values: Floats, limit: float, not_judged: list[str]
) -> Iterator[Outlier]:
    expected = _of_elements(table.fractions, values)
    if expected is None:
        not_judged.append(f"{target} against its elements: too few structures for the elements they have")
        return
    residual = values - expected
    spread = MAD_TO_STD * float(np.nanmedian(np.abs(residual)))
    if spread <= _ROUNDING * max(float(np.nanmax(np.abs(values))), 1.0):
        not_judged.append(f"{target} against its elements: at least half of the values are a plain sum over them")
        return
    for k in np.flatnonzero(np.abs(residual) > limit * spread).tolist():
        far = abs(residual[k]) / spread
        reason = (
            f"{target} is {values[k]:.4g} where its elements suggest {expected[k]:.4g}: "
            f"{far:.1f} robust standard deviations"
        )
        yield _outlier(table, k, "composition", far / limit, reason)


def _predictions(
    table: Dataset, target: str, values: Floats, model: ModelPredictions, limit: float
) -> Iterator[Outlier]:
    far = np.abs(values - model.mean) / model.std
    for k in np.flatnonzero(far > limit).tolist():
        reason = (
            f"{target} is {values[k]:.4g}, {model.name} says {model.mean[k]:.4g} ± {model.std[k]:.2g}: "
            f"{far[k]:.1f} standard deviations"
        )
        yield _outlier(table, k, "model", far[k] / limit, reason)


def _volumes(table: Dataset, limit: float, not_judged: list[str]) -> Iterator[Outlier]:
    volumes = table.volumes
    if not np.isfinite(volumes).any():
        not_judged.append("volumes: no structure repeats in all directions")
        return
    expected = _of_elements(table.fractions, volumes)
    if expected is None:
        not_judged.append("volumes: too few structures for the elements they have")
        return
    usable = np.isfinite(volumes) & (expected > 0)
    ratio = np.full(len(table), np.nan)
    ratio[usable] = np.log(volumes[usable] / expected[usable])
    spread = max(MAD_TO_STD * float(np.nanmedian(np.abs(ratio))), 1e-6)
    for k in np.flatnonzero(np.abs(ratio) > max(limit * spread, np.log(_VOLUME_FACTOR))).tolist():
        reason = (
            f"{volumes[k]:.3g} Å³ per atom where its elements suggest {expected[k]:.3g} Å³: "
            f"{abs(ratio[k]) / spread:.1f} robust standard deviations of the logarithm"
        )
        yield _outlier(table, k, "volume", abs(ratio[k]) / spread / limit, reason)


def _of_elements(fractions: Floats, values: Floats) -> Floats | None:
    """The sum over the elements of each structure that fits most structures, (n,); None where there are too few."""
    known = np.isfinite(values)
    if np.count_nonzero(known) < _PER_ELEMENT * max(int(fractions[known].any(axis=0).sum()), _FEWEST // 2):
        return None
    fitted = fit_offsets(fractions[known], values[known], robust=True)
    expected = np.full(len(values), np.nan)
    expected[known] = fitted.difference(fractions[known])
    return expected


def _distances(table: Dataset, limit: float, progress: bool) -> Iterator[Outlier]:
    names = symbols()
    structures = with_progress(table.structures, "Looking for near atoms", len(table), shown=progress)
    for k, structure in enumerate(structures):
        near = _nearest(structure, limit)
        if near is not None:
            first, second, distance, ratio = near
            reason = (
                f"{names[structure.numbers[first]]} and {names[structure.numbers[second]]} are {distance:.2f} Å apart, "
                f"{ratio:.2f} of the sum of their covalent radii"
            )
            yield _outlier(table, k, "distance", limit / ratio, reason)


def _nearest(structure: Geometry, limit: float) -> tuple[int, int, float, float] | None:
    """Of the pairs of atoms nearer than a limit in units of their covalent radii (Cordero et al., Dalton Trans. 2008,
    2832; none beyond curium) the nearest: indices, distance in Å, and that ratio.
    """
    from ase.data import covalent_radii
    from pymatgen.optimization.neighbors import find_points_in_spheres

    radii = np.where(structure.numbers <= _LAST_RADIUS, covalent_radii[structure.numbers], 0.0)
    points = np.ascontiguousarray(structure.positions, dtype=np.float64)
    cell = np.ascontiguousarray(completed_cell(structure.cell, structure.pbc), dtype=np.float64)
    periodic = np.ascontiguousarray(structure.pbc, dtype=np.int64)
    first, second, images, distances = find_points_in_spheres(
        points, points, max(2 * limit * float(radii.max()), _SEARCHED), periodic, cell
    )
    both = (radii[first] > 0) & (radii[second] > 0) & ((first != second) | images.any(axis=1))
    if not both.any():
        return None
    first, second, distances = first[both], second[both], distances[both]
    ratio = distances / (radii[first] + radii[second])
    k = int(np.argmin(ratio))
    return (int(first[k]), int(second[k]), float(distances[k]), float(ratio[k])) if ratio[k] < limit else None


def _outlier(table: Dataset, k: int, kind: Kind, score: float, reason: str) -> Outlier:
    return Outlier(table.ids[k], table.formulas[k], kind, float(score), reason)
