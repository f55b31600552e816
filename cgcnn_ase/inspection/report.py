"""Contents of a data set: counts, distributions, gaps, splits that leak, mixed calculations, its provenance."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.data.dataset import Dataset

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
