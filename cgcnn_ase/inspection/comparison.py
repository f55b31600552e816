"""Hold the values of two data sets against one another on the structures that both hold."""

from dataclasses import dataclass

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.dataset import Dataset
from cgcnn_ase.inspection.duplicates import Matches, MatchTolerances, find_common
from cgcnn_ase.inspection.element_offsets import ElementOffsets, fit_offsets
from cgcnn_ase.inspection.report import Distribution


@dataclass(frozen=True)
class Common:
    """One crystal that both data sets hold, with both values (None where there is none)."""

    id: str
    other_id: str
    formula: str
    value: float | None
    other_value: float | None


@dataclass(frozen=True)
class Comparison:
    """Two data sets side by side; differences are those of the first less the other."""

    other: str
    target: str
    other_target: str
    common: list[Common]
    difference: Distribution | None  # of the values, where both have one
    mean_absolute: float | None
    offsets: ElementOffsets | None  # None where none were asked for
    residuals: Floats | None  # what the offsets leave, of the structures with both values
    matches: Matches

    @property
    def values(self) -> Floats:
        """Both values of the structures that have both, (n, 2)."""
        both = [(c.value, c.other_value) for c in self.common if c.value is not None and c.other_value is not None]
        return np.array(both, dtype=np.float64).reshape(-1, 2)

    def to_dict(self) -> dict[str, object]:
        """Field names and values, ready for JSON."""
        return {
            "other": self.other,
            "target": self.target,
            "other_target": self.other_target,
            "n_common": len(self.common),
            "difference": None if self.difference is None else vars(self.difference),
            "mean_absolute_difference": self.mean_absolute,
            "element_offsets": None if self.offsets is None else self.offsets.to_dict(),
            "not_compared": self.matches.not_compared,
            "common": [vars(c) for c in self.common],
        }


def is_energy_per_atom(target: str) -> bool:
    """True where a column's name says that it is an energy per atom, whose zero is a matter of the elements."""
    return "energy" in target and "per_atom" in target


def compare(
    table: Dataset,
    other: Dataset,
    target: str,
    other_target: str | None = None,
    *,
    align: bool | None = None,
    robust: bool = True,
    sameness: MatchTolerances | None = None,
    workers: int = 1,
    progress: bool = False,
) -> Comparison:
    """Find the structures that two data sets share and compare their values.

    Parameters
    ----------
    target, other_target
        Column of each data set; of the other by default the same name.
    align
        Fit one offset for each element to the differences (:func:`fit_offsets`); by default where the name of the
        target says that it is an energy per atom.
    robust
        Fit them by Huber's loss: two sources never differ by elements alone.

    Raises
    ------
    DatasetError
        If there is no such column, or no structure that both hold; to align, none that has both values.
    """
    other_target = other_target or target
    values, other_values = table.values(target), other.values(other_target)
    matches = find_common(table.structures, other.structures, sameness=sameness, workers=workers, progress=progress)
    pairs = matches.one_to_one(table.ids, other.ids, table.volumes, other.volumes)
    if not pairs:
        raise DatasetError(f"{table.source} and {other.source} have no structure in common")
    rows, other_rows = np.array(pairs).T
    difference = values[rows] - other_values[other_rows]
    known = np.isfinite(difference)
    align = is_energy_per_atom(target) if align is None else align
    if align and not known.any():
        raise DatasetError(
            f"{table.source} and {other.source}: none of the {len(pairs)} structures in common has both {target} and "
            f"{other_target}"
        )
    offsets = fit_offsets(table.fractions[rows][known], difference[known], robust=robust) if align else None
    return Comparison(
        other=str(other.source),
        target=target,
        other_target=other_target,
        common=[
            Common(table.ids[i], other.ids[j], table.formulas[i], _or_none(values[i]), _or_none(other_values[j]))
            for i, j in pairs
        ],
        difference=Distribution.of(difference),
        mean_absolute=float(np.abs(difference[known]).mean()) if known.any() else None,
        offsets=offsets,
        residuals=None if offsets is None else offsets.apply(table.fractions[rows][known], difference[known]),
        matches=matches,
    )


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
