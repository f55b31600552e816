"""Inspect a data set: its contents, duplicates and outliers, and a comparison with another."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.core.targets import is_name_of
from cgcnn_ase.data.dataset import Dataset, read_table
from cgcnn_ase.inspection.comparison import Comparison, compare
from cgcnn_ase.inspection.duplicates import Matches, MatchTolerances, find_duplicates
from cgcnn_ase.inspection.outliers import Limits, ModelPredictions, Outliers, find_outliers
from cgcnn_ase.inspection.report import DatasetReport, dataset_report

FORMAT_VERSION = 1


@dataclass(frozen=True)
class DuplicateGroup:
    """Structures of a data set that are the same crystal."""

    ids: list[str]
    formula: str
    values: list[float | None] | None  # of the target, where one is judged
    splits: list[str] | None  # the part of the data set that each is in

    @property
    def spread(self) -> float | None:
        """Largest value less the smallest; None with fewer than two."""
        known = [v for v in self.values or [] if v is not None]
        return max(known) - min(known) if len(known) > 1 else None


@dataclass(frozen=True)
class Inspection:
    """Everything that is known of a data set after an inspection."""

    report: DatasetReport
    target: str | None  # the column that was judged
    duplicates: list[DuplicateGroup] | None  # None where they were not looked for
    matches: Matches | None
    outliers: Outliers
    comparison: Comparison | None

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "report": self.report.to_dict(),
            "target": self.target,
            "duplicates": None
            if self.duplicates is None or self.matches is None
            else {
                "groups": [{**vars(group), "spread": group.spread} for group in self.duplicates],
                "n_compared": self.matches.n_compared,
                "not_compared": self.matches.not_compared,
                "n_without_cell": self.matches.n_without_cell,
            },
            "outliers": {
                "found": [outlier.to_dict() for outlier in self.outliers.entries],
                "not_judged": self.outliers.not_judged,
            },
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
        }


def inspect_dataset(
    data: str | Path,
    target: str | None = None,
    *,
    other: str | Path | None = None,
    other_target: str | None = None,
    model: str | None = None,
    align: bool | None = None,
    duplicates: bool = True,
    sameness: MatchTolerances | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    progress: bool = False,
) -> tuple[Dataset, Inspection]:
    """Inspect a data set; gives its table, too, for pictures.

    Parameters
    ----------
    data, other : path
        Data sets as :func:`cgcnn_ase.data.dataset.read_table` reads them; ``other`` is compared with.
    target, other_target : str, optional
        Column to judge and to compare; by default the only column of numbers, where there is one, and in the other data
        set that of the same name.
    model : str, optional
        Pretrained name or model folder whose predictions the target is held against; a column such as ``K_VRH`` or
        ``gap`` is held against the model's own name of it.
    align : bool, optional
        Fit offsets of the elements to the differences from ``other``; by default of energies per atom.
    duplicates : bool
        Whether to look for structures that are there twice.
    sameness, limits : MatchTolerances, Limits, optional
        When two structures are the same, and beyond what a value is flagged.
    workers : int
        Processes; the result does not depend on their number.
    progress : bool
        Show bars on stderr.

    Raises
    ------
    DatasetError
        If a data set cannot be read, there is no such column, or nothing is in both.
    ValueError
        If the model does not predict one number for a structure with its uncertainty, or predicts another property.
    """
    table = read_table(data)
    if target is None and len(table.numeric) == 1:
        target = table.numeric[0]
    if target is not None:
        table.values(target)
    elif other is not None or model is not None:
        raise DatasetError(f"{data}: name the column to {'compare' if other is not None else 'judge'}; there are "
                           f"{', '.join(table.numeric) or 'none of numbers'}")  # fmt: skip
    others = None if other is None else read_table(other)
    if others is not None:
        others.values(other_target or str(target))
    says = None if model is None else _ask(model, table, str(target), workers, progress)
    comparison = None
    if others is not None:
        comparison = compare(
            table, others, str(target), other_target, align=align, sameness=sameness, workers=workers, progress=progress
        )
    matches = None
    if duplicates:
        matches = find_duplicates(table.structures, sameness=sameness, workers=workers, progress=progress)
    return table, Inspection(
        report=dataset_report(table),
        target=target,
        duplicates=None if matches is None else _groups(table, matches, target),
        matches=matches,
        outliers=find_outliers(table, target, model=says, limits=limits, progress=progress),
        comparison=comparison,
    )


def _groups(table: Dataset, matches: Matches, target: str | None) -> list[DuplicateGroup]:
    """The groups whose values differ most first."""
    values = None if target is None else [float(v) if np.isfinite(v) else None for v in table.values(target)]
    splits = [str(name) for name in table.columns["split"]] if "split" in table.columns else None
    groups = [
        DuplicateGroup(
            [table.ids[k] for k in rows],
            table.formulas[rows[0]],
            None if values is None else [values[k] for k in rows],
            None if splits is None else [splits[k] for k in rows],
        )
        for rows in matches.groups()
    ]
    return sorted(groups, key=lambda group: (-(group.spread or 0.0), group.ids))


def _ask(model: str, table: Dataset, target: str, workers: int, progress: bool) -> ModelPredictions:
    """Predictions of a model for each structure."""
    from ase import Atoms

    from cgcnn_ase.models.registry import load_model
    from cgcnn_ase.prediction.predictor import Predictor

    loaded = load_model(model)
    loaded.check_level("crystal", "inspect")
    if loaded.target.task != "regression":
        raise ValueError(f"{model}: is a classifier; values are judged by a regression")
    if not is_name_of(target, loaded.target.name):
        raise ValueError(f"{model}: predicts {loaded.target.name}, the column to judge is {target}")
    structures = (Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc) for s in table.structures)
    mean, std = np.full(len(table), np.nan), np.full(len(table), np.nan)
    failed: list[str] = []
    predictions = Predictor(model, workers=workers).stream(structures)
    for k, prediction in enumerate(with_progress(predictions, "Predicting", len(table), shown=progress)):
        if prediction.value is None:
            failed.append(f"{table.ids[k]}: {prediction.error}")
        elif prediction.std is None:
            raise ValueError(f"{model}: has no calibrated uncertainty, in units of which values could be judged")
        else:
            mean[k], std[k] = prediction.value, prediction.std
    return ModelPredictions(loaded.name or str(model), mean, std, tuple(failed))
