"""Contents of a data set (counts, distributions, leaking splits, provenance), and its values beside another's."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.dataset import Dataset
from cgcnn_ase.inspection.duplicates import Matches, MatchTolerances, find_common
from cgcnn_ase.inspection.element_offsets import ElementOffsets, fit_offsets

# text columns that say how a structure was calculated: values of different ones cannot be compared as they are
SCHEMES = ("functional", "corrections", "thermo_type")

_NAMED = 10


@dataclass(frozen=True)
class Distribution:
    """Numbers at a glance, in their own unit."""

    n: int
    mean: float
    std: float
    minimum: float
    q05: float
    median: float
    q95: float
    maximum: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Distribution | None":
        """That of the finite values; None where there are none."""
        x = np.asarray(values, dtype=np.float64)
        x = x[np.isfinite(x)]
        if not x.size:
            return None
        low, q05, median, q95, high = (float(q) for q in np.quantile(x, [0, 0.05, 0.5, 0.95, 1]))
        return cls(len(x), float(x.mean()), float(x.std()), low, q05, median, q95, high)


@dataclass(frozen=True)
class Column:
    """One column: numbers with their distribution, or text with its most frequent values."""

    kind: str  # "number" or "text"
    n_missing: int  # empty, or of numbers also not finite
    distribution: Distribution | None = None
    n_distinct: int | None = None
    most_frequent: dict[str, int] | None = None


@dataclass(frozen=True)
class Splits:
    """The parts of a data set, and the formulas that are in several of them."""

    sizes: dict[str, int]
    n_leaked_formulas: int
    n_leaked_structures: int  # structures with such a formula
    leaked_formulas: list[str]  # the first ones


@dataclass(frozen=True)
class DatasetReport:
    """Counts and distributions of a data set."""

    source: str
    n_structures: int
    n_repeated_ids: int  # rows whose id an earlier row has
    n_atoms: int
    n_formulas: int
    n_chemical_systems: int
    elements: dict[str, int]  # structures with each element, by atomic number
    n_components: dict[int, int]  # structures with so many elements
    sizes: Distribution | None  # atoms in a cell
    volumes: Distribution | None  # Å³ per atom
    columns: dict[str, Column]
    splits: Splits | None
    schemes: dict[str, dict[str, int]]  # how many structures were calculated how
    provenance: Mapping[str, object] | None

    def warnings(self) -> list[str]:
        """Sentences on what should be looked at before a model is trained on the data set."""
        warnings = []
        if self.n_repeated_ids:
            warnings.append(f"{self.n_repeated_ids:,} rows have the id of an earlier one")
        for name, kinds in self.schemes.items():
            if len(kinds) > 1:
                parts = ", ".join(f"{kind or 'not said'} ({n:,})" for kind, n in kinds.items())
                warnings.append(f"column {name} mixes {parts}: energies of different calculations cannot be compared")
        if self.splits is not None and self.splits.n_leaked_formulas:
            warnings.append(
                f"{self.splits.n_leaked_formulas:,} formulas, of {self.splits.n_leaked_structures:,} structures, are "
                f"in more than one split, such as {', '.join(self.splits.leaked_formulas[:3])}: test errors will look "
                "too small"
            )
        warnings += [
            f"column {name} is empty" for name, column in self.columns.items() if column.n_missing == self.n_structures
        ]
        return warnings

    def to_dict(self) -> dict[str, object]:
        """Field names and values, ready for JSON."""
        return asdict(self) | {"warnings": self.warnings()}


def dataset_report(table: Dataset) -> DatasetReport:
    """Count and describe what a data set holds."""
    present = table.fractions > 0
    n_components = Counter(present.sum(axis=1).tolist())
    return DatasetReport(
        source=str(table.source),
        n_structures=len(table),
        n_repeated_ids=len(table) - len(set(table.ids)),
        n_atoms=int(table.n_atoms.sum()),
        n_formulas=len(set(table.formulas)),
        n_chemical_systems=len(np.unique(present, axis=0)),
        elements={symbols()[z]: int(n) for z, n in enumerate(present.sum(axis=0)) if n},
        n_components={n: n_components[n] for n in sorted(n_components)},
        sizes=Distribution.of(table.n_atoms),
        volumes=Distribution.of(table.volumes),
        columns={str(name): _column(table, str(name)) for name in table.columns},
        splits=_splits(table),
        schemes={name: _frequent(table.columns[name], None) for name in SCHEMES if name in table.columns},
        provenance=table.provenance,
    )


def _column(table: Dataset, name: str) -> Column:
    if name in table.numeric:
        values = table.values(name)
        return Column("number", int(np.isnan(values).sum()), Distribution.of(values))
    text = table.columns[name]
    written = text[text != ""]
    return Column("text", int((text == "").sum()), None, int(written.nunique()), _frequent(written, _NAMED))


def _frequent(text: "pd.Series[str]", most: int | None) -> dict[str, int]:
    """Values and how often each is there, the most frequent first."""
    return dict(sorted(Counter(text.astype(str)).items(), key=lambda item: (-item[1], item[0]))[:most])


def _splits(table: Dataset) -> Splits | None:
    if "split" not in table.columns:
        return None
    split = table.columns["split"].astype(str)
    places: dict[str, set[str]] = {}
    for formula, name in zip(table.formulas, split, strict=True):
        places.setdefault(formula, set()).add(name)
    leaked = sorted(formula for formula, names in places.items() if len(names - {""}) > 1)
    among = set(leaked)
    return Splits(
        sizes=_frequent(split, None),
        n_leaked_formulas=len(leaked),
        n_leaked_structures=sum(formula in among for formula in table.formulas),
        leaked_formulas=leaked[:_NAMED],
    )


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
